"""The cursor: where one subscription stands in one queue.

    1 ......... settled_to .......................... position .......... committed
    all settled            some settled, `unsettled`            not looked at yet
                           are not; of these `due` are
                           to be delivered (again),
                           `parked` wait, the others
                           are in flight

A parked message failed and waits for its retry, or (time None) is on its way to the dead letters, or (time HELD) is
acked by a transaction that is not durable yet, or (time FOLLOWS) waits for another message of its key to be settled.

A cursor is in one of five states:

    LIVE      attached, at the tail: what is committed is delivered at once
    BEHIND    attached, reading pages from the store until it meets the tail; or held, and so never LIVE
    IDLE      away, nothing outstanding: follows the tail by itself, costs nothing
    WAITING   away, something is outstanding
    SCANNING  away, not known whether something is outstanding: pages are looked through in the background
"""

from __future__ import annotations

from enum import Enum, auto
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from tidings import limits
from tidings.batch import Batch, StoredBatch
from tidings.broker.keys import Keys
from tidings.model import Reading, reading_of
from tidings.ranges import Ranges

if TYPE_CHECKING:
    from tidings.broker.queues import Queue
    from tidings.broker.subscriptions import Subscription

HELD: Final = 2**63 - 1
"""The time of what is parked for a transaction: it never comes."""
FOLLOWS: Final = 2**63 - 2
"""The time of what is parked until the message before it of its key is settled: it never comes."""
NO_END: Final = 2**63 - 1
I = TypeVar("I")  # noqa: E741  what is kept of a message


class State(Enum):
    """How a cursor relates to the tail of its queue."""

    LIVE = auto()
    BEHIND = auto()
    IDLE = auto()
    WAITING = auto()
    SCANNING = auto()


class Taken(NamedTuple):
    """What a cursor took of a row: the part to send (None: nothing in it was wanted) and its ranges."""

    row: StoredBatch | None
    ranges: list[tuple[int, int]]
    redelivered: bool
    cut_short: bool


class Cursor:
    """One subscription's place in one queue."""

    __slots__ = (
        "_retries",
        "attempts",
        "awaited",
        "begin",
        "cut",
        "due",
        "end",
        "fetch_after",
        "fetch_to",
        "filter",
        "keys",
        "moves",
        "moving",
        "parked",
        "position",
        "queue",
        "reading",
        "recorded",
        "rewound",
        "settling",
        "skipped",
        "state",
        "subscription",
        "unsent",
        "unsettled",
    )

    def __init__(self, subscription: Subscription, queue: Queue, position: int) -> None:
        self.subscription = subscription
        self.queue = queue
        self.filter = queue.filter or subscription.filter
        self.position = position
        self.begin = position
        """What comes up to it was never meant for its subscription."""
        self.awaited = 0
        """How many wait for what becomes of its messages, see `receipts`."""
        self.unsettled = Ranges()
        self.due = Ranges()
        self.unsent: Ranges | None = None
        """What of that was never delivered, since its reader was to begin with it."""
        self.end = NO_END
        """Of a replay: the last sequence that is to be delivered."""
        self.attempts: dict[int, int] = {}
        """Failed attempts of unsettled messages, where there were any."""
        self.parked: dict[int, int | None] = {}
        """Unsettled messages that failed -> when they become due again; None: given up; HELD, FOLLOWS: see there."""
        self.keys: Keys | None = None
        """Which keys are busy; of a shared subscription once it meets a message with a key."""
        self.settling: Ranges | None = None
        """What the transaction under way settles: its record says so already, and here it is once it is durable."""
        self._retries: list[tuple[int, int]] = []  # heap of (time, sequence) of what is parked, and of what was
        self.state = State.WAITING
        self.fetch_after: int | None = None
        """After which sequence a page is being fetched; None if none is."""
        self.fetch_to = 0
        """The last sequence that such a page could hold: what is committed later is not missing from it."""
        self.recorded = position
        """What `settled_to` was when the cursor was last written."""
        self.reading: Reading = queue.epoch
        """The queue's epoch as its subscriber is told it; another one since each move."""
        self.moves = 0
        """How often it was moved."""
        self.moving = 0
        """How many moves are not durable yet; nothing is delivered before they are."""
        self.rewound = 0
        """How often it was rewound, in this life of the broker."""
        self.skipped = 0
        """How many messages it was moved past."""
        self.cut = 0
        """How many messages were cut from it, and told as gaps."""

    @property
    def key(self) -> str:
        """The key of the cursor's record."""
        return f"cursor/{self.subscription.number}/{self.queue.epoch}"

    @property
    def settled_to(self) -> int:
        """The cursor in the user's sense: all up to it is settled."""
        if self.unsettled:
            return self.unsettled.first - 1
        return self.queue.committed if self.state is State.IDLE else self.position

    @property
    def at_tail(self) -> bool:
        """Whether nothing is left to read."""
        return not self.due and self.position >= self.queue.committed

    @property
    def in_flight(self) -> int:
        """How many messages are sent and not settled."""
        return self.unsettled.count - self.due.count - len(self.parked)

    @property
    def waiting(self) -> int:
        """How many messages are neither settled nor in flight, nor on their way to be settled."""
        return self.due.count + len(self._waiting_parked()) + max(0, self.queue.committed - self.position)

    @property
    def oldest_waiting(self) -> int:
        """The first message that waits; the one after all, if none does."""
        return min(self.due.first if self.due else NO_END, *self._waiting_parked(), self.position + 1)

    def what_waits(self) -> Ranges:
        """Returns the messages that are neither settled nor in flight, nor on their way to be settled."""
        found = Ranges(self.due)
        for sequence in self._waiting_parked():
            found.add(sequence, sequence)
        if self.position < self.queue.committed:
            found.add(self.position + 1, self.queue.committed)
        return found

    def end_of_oldest(self, count: int) -> int:
        """Returns up to which sequence the oldest `count` of the messages that wait are."""
        return split(list(self.what_waits()), count)[0][-1][1]

    def _waiting_parked(self) -> list[int]:
        return [sequence for sequence, until_ms in self.parked.items() if until_ms not in (None, HELD)]

    def room(self, room: int) -> int:
        """Returns how many of `room` messages its queue lets be delivered."""
        most = self.queue.settings.in_flight_max
        return room if most is None or room <= 0 else min(room, self.queue.room(most))

    @property
    def is_held(self) -> bool:
        """Whether nothing new is to be delivered, although its subscriber may have room."""
        return self.moving > 0 or self.subscription.paused or self.queue.paused

    @property
    def known_to(self) -> int:
        """Up to where messages may have been delivered: a broker before this one may have done more than it wrote."""
        return max(self.position, self.queue.restored)

    def is_in_flight(self, sequence: int) -> bool:
        """Whether a message is sent and not settled."""
        return sequence in self.unsettled and sequence not in self.due and sequence not in self.parked

    def next_read(self) -> int:
        """Returns after which sequence the next page is to be read."""
        return self.due.first - 1 if self.due else self.position

    def take(self, row: StoredBatch, room: int) -> Taken:
        """Takes from a row what is wanted and due, at most `room` messages, and moves on past it."""
        first, last = row.first_sequence, row.last_sequence
        selected = self.filter.select(row.batch)
        # What most rows are: all of it is new and wanted, and there is room for it.
        whole = selected is row.batch and not self.due and self.position == first - 1 and last <= self.end
        if whole and last - first < room:
            self.unsettled.add(first, last)
            self.position = last
            return Taken(row, [(first, last)], redelivered=False, cut_short=False)
        pieces, more = in_pieces(self._to_deliver(row, selected))
        ranges, rest = split(pieces, room)
        rest += more
        taken = self.hand_out(row, selected, ranges)
        if rest:
            self.position = max(self.position, ranges[-1][1] if ranges else 0)
        else:
            self.position = max(self.position, row.last_sequence)
        return taken._replace(cut_short=True) if rest else taken

    def wanted(self, row: StoredBatch) -> tuple[Batch | None, list[tuple[int, int]]]:
        """Returns a row's messages that the filter wants, and which sequences are to be delivered now."""
        selected = self.filter.select(row.batch)
        return selected, self._to_deliver(row, selected)

    def _to_deliver(self, row: StoredBatch, selected: Batch | None) -> list[tuple[int, int]]:
        first, last = row.first_sequence, row.last_sequence
        wanted = [(first + low, first + high) for low, high in selected.present()] if selected else []
        if not self.filter.everything and self.due:
            self._forget_unwanted(first, min(last, self.position), wanted)
        again = self.due.within(first, min(last, self.position))
        begin, end = self.position + 1, self.end
        return again + [(max(low, begin), min(high, end)) for low, high in wanted if high >= begin <= end >= low]

    def hand_out(self, row: StoredBatch, selected: Batch | None, ranges: list[tuple[int, int]]) -> Taken:
        """Takes sequences of what is wanted of a row."""
        if not ranges:
            return Taken(None, [], redelivered=False, cut_short=False)
        redelivered = False
        for low, high in ranges:
            again = self.due.remove(low, high)
            if again and (self.keys is not None or self.unsent is not None):
                again -= self._first_ones(low, high)
            redelivered = redelivered or again > 0
            self.unsettled.add(low, high)
        first = row.first_sequence
        places = [(low - first, high - first) for low, high in ranges]
        part = selected if selected is not None and places == selected.present() else row.batch.keep(places)
        assert part is not None
        return Taken(
            row if part is row.batch else StoredBatch(first, row.time_ms, part), ranges, redelivered, cut_short=False
        )

    def _first_ones(self, first: int, last: int) -> int:
        """Returns how many of a range that was due are delivered for the first time."""
        by_key = 0 if self.keys is None else self.keys.delivered(first, last)
        from_begin = 0 if self.unsent is None else self.unsent.remove(first, last)
        if not self.unsent:
            self.unsent = None
        return max(by_key, from_begin)

    def pass_by(self, row: StoredBatch, rest: list[tuple[int, int]]) -> None:
        """Moves on past a row, up to what is left of it to be taken later."""
        self.position = max(self.position, rest[0][0] - 1 if rest else row.last_sequence)

    def settle(self, first: int, last: int) -> int:
        """Settles a range; returns how many of it were in flight."""
        removed = self.unsettled.remove(first, last)
        if removed and self.due:
            removed -= self.due.remove(first, last)
        if self.attempts:
            _forget(self.attempts, first, last)
        if self.parked:
            removed -= _forget(self.parked, first, last)
        if self.keys is not None:
            self._free(first, last)
        return removed

    def settle_in_flight(self, first: int, last: int) -> None:
        """Settles a range of which all is in flight."""
        self.unsettled.remove(first, last)
        if self.attempts:
            _forget(self.attempts, first, last)
        if self.keys is not None:
            self._free(first, last)

    def _free(self, first: int, last: int) -> None:
        """Makes due what waited for messages of its key that were settled."""
        assert self.keys is not None, "only keys are waited for"
        for sequence in self.keys.settled(first, last):
            if self.parked.get(sequence) == FOLLOWS:
                del self.parked[sequence]
                self.due.add(sequence, sequence)

    def skip(self, first: int, last: int) -> list[tuple[int, int]]:
        """Gives up sequences that cannot be read; returns those that were still to be delivered."""
        lost = self.due.within(first, min(last, self.position))
        if last > self.position:
            lost.append((max(first, self.position + 1), last))
        for low, high in lost:
            self.settle(low, high)
        self.position = max(self.position, last)
        return lost

    def cut_waiting(self, first: int, last: int) -> list[tuple[int, int]]:
        """Settles what waits in a range, which begins at the next message at the latest, and returns it.

        What is in flight is not among it, nor what is on its way to the dead letters or acked by a transaction.
        """
        assert first <= self.position + 1, "what is before it would be passed over"
        waiting = Ranges(self.due.within(first, last))
        for sequence in self._waiting_parked():
            if first <= sequence <= last:
                waiting.add(sequence, sequence)
        for low, high in waiting:
            self.settle(low, high)
        if last > self.position:
            waiting.add(self.position + 1, last)
            self.position = last
        return list(waiting)

    def move(self, target: int) -> int:
        """Makes `target` the cursor, so that all after it is delivered (again); returns how many it was moved past.

        What was delivered before counts no more: neither its attempts nor its acks. Nothing may be in flight.
        """
        past = self.unsettled.within(1, target)
        skipped = sum(last - first + 1 for first, last in past) + max(0, target - self.position)
        self.unsettled, self.due, self.unsent = Ranges(), Ranges(), None
        self.attempts, self.parked, self._retries, self.settling = {}, {}, [], None
        self.keys = None
        self.position = target
        self.begin = min(self.begin, target)
        self.skipped += skipped
        self.set_moves(self.moves + 1)
        return skipped

    def begin_with(self, wanted: Ranges, position: int) -> None:
        """Lets a new cursor begin with some messages, and then after a position."""
        self.position = self.begin = position
        self.unsettled, self.due, self.unsent = Ranges(wanted), Ranges(wanted), Ranges(wanted)

    def set_moves(self, moves: int) -> None:
        """Says how often it was moved."""
        self.moves = moves
        self.reading = reading_of(self.queue.epoch, moves)

    def rewind(self, first: int) -> None:
        """Makes due again what was settled from a sequence on; what waits or is in flight stays as it is."""
        self.rewound += 1
        at = first
        for low, high in [*self.unsettled.within(first, self.position), (self.position + 1, self.position + 1)]:
            if at < low:
                self.unsettled.add(at, low - 1)
                self.due.add(at, low - 1)
            at = high + 1

    def settle_ahead(self, first: int, last: int) -> None:
        """Settles a range that may reach beyond the position: the record was older than what was delivered."""
        self.reach(last)
        self.settle(first, last)

    def reach(self, sequence: int) -> None:
        """Makes the position at least this one; what it passes by is due."""
        if sequence > self.position:
            self.unsettled.add(self.position + 1, sequence)
            self.due.add(self.position + 1, sequence)
            self.position = sequence

    def fail(self, sequence: int) -> int:
        """Counts a failed attempt of a message that was in flight; returns how many there were."""
        failed = self.attempts[sequence] = self.attempts.get(sequence, 0) + 1
        return failed

    def park(self, sequence: int, until_ms: int | None) -> None:
        """Lets an unsettled message wait until a time, or (None) until it is given up."""
        self.due.remove(sequence, sequence)
        self.parked[sequence] = until_ms
        if until_ms is not None:
            heappush(self._retries, (until_ms, sequence))
            if len(self._retries) > 2 * len(self.parked) + 64:  # most of it was settled before its time
                self._retries = sorted(
                    (time_ms, waits) for waits, time_ms in self.parked.items() if time_ms not in (None, HELD, FOLLOWS)
                )

    def is_given_up(self, sequence: int) -> bool:
        """Whether a message is on its way to the dead letters."""
        return sequence in self.parked and self.parked[sequence] is None

    def hold(self, sequence: int) -> None:
        """Keeps a message that was in flight for the transaction that acks it."""
        self.parked[sequence] = HELD

    def let_follow(self, sequence: int) -> None:
        """Lets a message wait until the one before it of its key is settled."""
        self.due.remove(sequence, sequence)
        self.unsettled.add(sequence, sequence)
        self.parked[sequence] = FOLLOWS

    def release(self, sequence: int) -> None:
        """Makes a message due again whose transaction was refused."""
        if self.parked.get(sequence) == HELD:
            del self.parked[sequence]
            self.due.add(sequence, sequence)

    def unpark(self, now_ms: int) -> None:
        """Makes the parked messages due whose time has come."""
        while (until_ms := self.next_unpark_ms()) is not None and until_ms <= now_ms:
            sequence = heappop(self._retries)[1]
            del self.parked[sequence]
            self.due.add(sequence, sequence)

    def next_unpark_ms(self) -> int | None:
        """Returns when the next parked message becomes due."""
        retries = self._retries
        while retries and self.parked.get(retries[0][1]) != retries[0][0]:
            heappop(retries)
        return retries[0][0] if retries else None

    def take_back(self, held: list[tuple[int, int]] | None = None) -> None:
        """Makes what is in flight due again, all of it or what one of several holds; what is parked stays so."""
        for first, last in self.unsettled if held is None else held:
            self.due.add(first, last)
        if held is None:
            for sequence in self.parked:
                self.due.remove(sequence, sequence)

    def attempts_in(self, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Returns (sequence, attempt) of the messages in `ranges` that failed before."""
        if not self.attempts:
            return []
        return sorted(
            (sequence, failed + 1)
            for sequence, failed in self.attempts.items()
            if any(low <= sequence <= high for low, high in ranges)
        )

    def _forget_unwanted(self, first: int, last: int, wanted: list[tuple[int, int]]) -> None:
        # Only `reach` puts sequences here without knowing their events.
        keep = Ranges(wanted)
        for low, high in self.due.within(first, last):
            rest = Ranges([(low, high)])
            for inner in keep.within(low, high):
                rest.remove(*inner)
            for unwanted in list(rest):
                self.settle(*unwanted)


def _forget(kept: dict[int, I], first: int, last: int) -> int:
    """Removes a range of sequences; returns how many were there."""
    count = len(kept)
    if last - first < count:
        for sequence in range(first, last + 1):
            kept.pop(sequence, None)
    else:
        for sequence in [sequence for sequence in kept if first <= sequence <= last]:
            del kept[sequence]
    return count - len(kept)


def in_pieces(ranges: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Returns as many ranges as fit into one delivery, and the rest."""
    return ranges[: limits.DELIVERY_PIECES_MAX], ranges[limits.DELIVERY_PIECES_MAX :]


def split(ranges: list[tuple[int, int]], count: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Returns the first `count` sequences of ranges, and the rest."""
    for place, (first, last) in enumerate(ranges):
        if last - first + 1 > count:
            if count <= 0:
                return ranges[:place], ranges[place:]
            middle = first + count
            return [*ranges[:place], (first, middle - 1)], [(middle, last), *ranges[place + 1 :]]
        count -= last - first + 1
    return ranges, []
