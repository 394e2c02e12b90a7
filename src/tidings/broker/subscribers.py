"""The subscriber: a connection attached to a subscription, with its window and the clock of its deliveries."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tidings import limits
from tidings.broker.cursors import Cursor
from tidings.broker.pace import Pace
from tidings.errors import DeliveryTakenAway
from tidings.ranges import Ranges

if TYPE_CHECKING:
    from tidings.broker.inputs import Resume
    from tidings.broker.sessions import Session
    from tidings.broker.subscriptions import Subscription


class Subscriber:
    """What is known only while a connection is attached.

    Only the oldest `concurrency` unsettled deliveries run against the ack timeout: the others wait in the
    client's buffer, where nobody could have handled them yet.
    """

    __slots__ = (
        "_clock",
        "_extended",
        "_order",
        "_order_max",
        "behind",
        "concurrency",
        "created",
        "credit",
        "fetching",
        "handle",
        "in_flight",
        "in_flight_bytes",
        "pace",
        "request",
        "resume",
        "rewinds",
        "session",
        "starting",
        "subscription",
    )

    def __init__(
        self, subscription: Subscription, session: Session, handle: int, request: int, *, created: bool
    ) -> None:
        self.subscription = subscription
        self.session = session
        self.handle = handle
        self.request = request
        """The request that attached it."""
        self.concurrency = subscription.concurrency
        """How many messages its client handles at once."""
        self.created = created
        """Whether that request made the subscription."""
        self.starting = True
        """Until the client was told that it is attached, nothing is delivered."""
        self.resume: list[Resume] = []
        """What its client says of where it stood, until that is taken into account."""
        self.rewinds = False
        """Whether what was acked after what it received is to be delivered again."""
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.credit: int | None = None
        """How many messages it still asks for, if it pulls; how many are its turn, if it has a pace."""
        self.pace: Pace | None = None
        """Of a replay at a rate."""
        self.behind: dict[Cursor, None] = {}
        """Cursors in state BEHIND, the one to read next first."""
        self.fetching: dict[Cursor, None] = {}
        self._clock: dict[tuple[Cursor, int], int] = {}  # (cursor, sequence) -> when its time began
        self._extended: dict[tuple[Cursor, int], int] = {}  # of the extended ones: when they began at first
        # Ranges in the order of their delivery. None instead of an empty deque, which takes 760 bytes.
        self._order: deque[tuple[Cursor, int, int]] | None = None
        self._order_max = 1_024

    @property
    def takes(self) -> bool:
        """Whether its client may be sent something now, if there is room in the window."""
        return not (self.starting or self.session.send_buffer_full)

    def window(self) -> int:
        """Returns how many messages may be in flight to it."""
        most = self.session.in_flight_max
        return self.subscription.in_flight_max if most is None else min(self.subscription.in_flight_max, most)

    def room(self) -> int:
        """Returns how many messages may be sent now."""
        if self.in_flight_bytes >= limits.IN_FLIGHT_BYTES_MAX:
            return 0
        room = self.window() - self.in_flight
        most = self.session.in_flight_max
        if most is not None:
            room = min(room, most - sum(each.in_flight for each in self.session.subscribers.values()))
        return room if self.credit is None else min(room, self.credit)

    def has_room(self) -> bool:
        """Whether the window is open wide enough to be worth a page: not for a message at a time.

        Of one that pulls its client says what it is worth, and of one with a pace the clock.
        """
        if self.credit is not None:
            return self.room() > 0
        return self.room() >= max(1, self.window() // 4) and (
            self.in_flight_bytes <= limits.IN_FLIGHT_BYTES_MAX * 3 // 4
        )

    def delivered(self, cursor: Cursor, ranges: list[tuple[int, int]], size_bytes: int, now_ms: int) -> None:
        """Takes note of ranges that were sent."""
        order = self._order
        if order is None:
            order = self._order = deque()
        for first, last in ranges:
            self.in_flight += last - first + 1
            order.append((cursor, first, last))
            if self.credit is not None:
                self.credit -= last - first + 1
        self.in_flight_bytes += size_bytes
        if len(order) > self._order_max:
            self._compact(order)
        self.wind(now_ms)

    def meant(self, cursor: Cursor, first: int, last: int) -> list[tuple[int, int]]:
        """Returns what an ack of a range settles.

        One from 1 is cumulative: it means what its client was given, not what failed and waits to be delivered again.
        """
        if not (first == 1 < last and (cursor.due or cursor.parked)):
            return [(first, last)]
        given = Ranges([(first, last)])
        for low, high in cursor.due:
            given.remove(low, high)
        for sequence in cursor.parked:
            given.remove(sequence, sequence)
        return list(given)

    def not_held_by_others(self, cursor: Cursor, first: int, last: int) -> list[tuple[int, int]]:
        """Returns what of a range is not in flight to another subscriber; here there is none."""
        return [(first, last)]

    def holds_all(self, cursor: Cursor, first: int, last: int) -> bool:
        """Whether all of a range is known to be in flight to it; here that costs more than it saves."""
        return False

    def holds(self, cursor: Cursor, sequence: int) -> bool:
        """Whether a message is in flight to it."""
        return cursor.is_in_flight(sequence)

    def since_ms(self, cursor: Cursor, sequence: int) -> int | None:
        """Returns since when a delivery runs against the ack timeout; None if it does not."""
        return self._clock.get((cursor, sequence))

    def in_flight_of(self, cursor: Cursor) -> int:
        """Returns how many messages of a queue are in flight to it."""
        return cursor.in_flight

    def settled(self, cursor: Cursor, first: int, last: int, count: int, now_ms: int) -> None:
        """Takes note that `count` messages in flight, all inside a range, were settled or taken away."""
        self.release(cursor, first, last, count)
        self.wind(now_ms)

    def release(self, cursor: Cursor, first: int, last: int, count: int) -> None:
        """As `settled`, by who winds the clock afterwards."""
        if count:
            # The bytes of single messages are not known here; on average this is right, and empty is empty.
            self.in_flight_bytes -= self.in_flight_bytes * count // self.in_flight
            self.in_flight -= count
        clock = self._clock
        if last - first < len(clock):
            for sequence in range(first, last + 1):
                clock.pop((cursor, sequence), None)
        else:
            for key in [key for key in clock if key[0] is cursor and first <= key[1] <= last]:
                del clock[key]
        if self._extended:
            self._extended = {key: began_ms for key, began_ms in self._extended.items() if key in clock}

    def extend(self, cursor: Cursor, sequence: int, now_ms: int) -> None:
        """Gives a delivery that somebody is handling its whole time again, within `EXTEND_MS_MAX` in all."""
        key = cursor, sequence
        began_ms = self._clock.get(key)
        if began_ms is None:
            return  # its time does not run
        if now_ms - self._extended.setdefault(key, began_ms) < limits.EXTEND_MS_MAX:
            del self._clock[key]  # the clock is in the order of its times
            self._clock[key] = now_ms

    def wind(self, now_ms: int) -> None:
        """Starts the time of the oldest deliveries, up to `concurrency` of them."""
        order, clock = self._order, self._clock
        while order and len(clock) < self.concurrency:
            cursor, first, last = order[0]
            sequence = self._next_in_flight(cursor, first, last)
            if sequence is None:
                order.popleft()
                continue
            # What was given back before its time began, and delivered again, is twice in the order.
            clock.setdefault((cursor, sequence), now_ms)
            order[0] = (cursor, sequence + 1, last)
        if not order:
            self._order = None

    def deadline_ms(self) -> int | None:
        """Returns when the oldest delivery runs out of time."""
        # The clock is in the order of its times, since time never goes backwards.
        oldest_ms = next(iter(self._clock.values()), None)
        return None if oldest_ms is None else oldest_ms + self.subscription.ack_timeout_ms

    def overdue(self, now_ms: int) -> list[tuple[Cursor, int]]:
        """Returns the deliveries whose time has run out."""
        limit_ms = now_ms - self.subscription.ack_timeout_ms
        return [key for key, began_ms in self._clock.items() if began_ms <= limit_ms]

    def on_the_clock(self) -> list[tuple[Cursor, int]]:
        """Returns the deliveries that somebody may be handling."""
        return list(self._clock)

    def forget(self, cursor: Cursor) -> None:
        """Forgets a cursor whose queue was deleted."""
        count = self.in_flight_of(cursor)
        if count:
            self.in_flight_bytes -= self.in_flight_bytes * count // self.in_flight
            self.in_flight -= count
        self.behind.pop(cursor, None)
        self.fetching.pop(cursor, None)
        self._order = deque(entry for entry in self._order or () if entry[0] is not cursor)
        self._clock = {key: began_ms for key, began_ms in self._clock.items() if key[0] is not cursor}
        self._extended = {key: began_ms for key, began_ms in self._extended.items() if key[0] is not cursor}

    def _compact(self, order: deque[tuple[Cursor, int, int]]) -> None:
        self._order = order = deque(entry for entry in order if self._next_in_flight(*entry) is not None)
        self._order_max = max(1_024, 2 * len(order))

    def _next_in_flight(self, cursor: Cursor, first: int, last: int) -> int | None:
        """Returns the first of a range that is in flight; what follows the range, perhaps a whole history, is due."""
        found = cursor.unsettled.next(first)
        while found is not None and found <= last:
            if found in cursor.due:
                found = cursor.unsettled.next(cursor.due.next_outside(found))
            elif found in cursor.parked:
                found = cursor.unsettled.next(found + 1)
            else:
                return found
        return None


def attached(session: Session, handle: int, what: str) -> Subscriber:
    """Returns the subscriber of a session's handle.

    Raises:
        DeliveryTakenAway: there is none any more; `what` ("ack") was to be done with it.
    """
    subscriber = session.subscribers.get(handle)
    if subscriber is None:
        raise DeliveryTakenAway(
            f"{what} over handle {handle}: nothing is attached with it; what it delivered comes again"
        )
    return subscriber
