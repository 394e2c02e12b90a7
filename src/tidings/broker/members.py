"""Members: the subscribers of a shared subscription, each with what is in flight to it.

1. Each message goes to one of them: to whoever has the least in flight, so that who is fast gets more.
2. With a single active subscriber all messages go to who has been attached the longest; the others wait.
3. What is in flight to a member that leaves is due again at once, and goes to the others.
4. An ack of what another member holds meanwhile does not count: the delivery was taken away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tidings import limits
from tidings.broker.cursors import Cursor
from tidings.broker.subscribers import Subscriber
from tidings.ranges import Ranges

if TYPE_CHECKING:
    from tidings.broker.sessions import Session
    from tidings.broker.subscriptions import Subscription


class Member(Subscriber):
    """One of several subscribers, with what of each queue is in flight to it."""

    __slots__ = ("_held", "served")

    def __init__(
        self, subscription: Subscription, session: Session, handle: int, request: int, *, created: bool
    ) -> None:
        super().__init__(subscription, session, handle, request, created=created)
        self._held: dict[Cursor, Ranges] = {}
        self.served = 0
        """When it was given something for the last time, in turns of its subscription."""

    def window(self) -> int:
        """Returns how many messages may be in flight to it: fewer while many wait for others of their key."""
        members = self.subscription.subscriber
        crowded = isinstance(members, Members) and members.crowded
        window = super().window()
        return min(window, limits.CROWDED_IN_FLIGHT_MAX) if crowded else window

    def held(self, cursor: Cursor) -> Ranges:
        """Returns what of a queue is in flight to it; not to be changed."""
        return self._held.get(cursor) or Ranges()

    def delivered(self, cursor: Cursor, ranges: list[tuple[int, int]], size_bytes: int, now_ms: int) -> None:
        """Takes note of ranges that were sent."""
        held = self._held.setdefault(cursor, Ranges())
        for first, last in ranges:
            held.add(first, last)
        super().delivered(cursor, ranges, size_bytes, now_ms)

    def release(self, cursor: Cursor, first: int, last: int, count: int) -> None:
        """Takes note that `count` messages in flight, all inside a range, were settled or taken away."""
        held = self._held.get(cursor)
        if held is not None:
            held.remove(first, last)
            if not held:
                del self._held[cursor]
        super().release(cursor, first, last, count)

    def holds_all(self, cursor: Cursor, first: int, last: int) -> bool:
        """Whether all of a range is known to be in flight to it."""
        held = self._held.get(cursor)
        return held is not None and held.covers(first, last)

    def meant(self, cursor: Cursor, first: int, last: int) -> list[tuple[int, int]]:
        """Returns what an ack of a range settles: never what is in flight to another member.

        One from 1 is cumulative: it means what its client was given.
        """
        mine = self.held(cursor).within(first, last)
        if mine == [(first, last)] or first == 1 < last:
            return mine
        return self.not_held_by_others(cursor, first, last)

    def not_held_by_others(self, cursor: Cursor, first: int, last: int) -> list[tuple[int, int]]:
        """Returns what of a range is not in flight to another member."""
        rest = Ranges([(first, last)])
        for other in self.subscription.attached():
            if isinstance(other, Member) and other is not self:
                for low, high in other.held(cursor).within(first, last):
                    rest.remove(low, high)
        return list(rest)

    def holds(self, cursor: Cursor, sequence: int) -> bool:
        """Whether a message is in flight to it."""
        return sequence in self.held(cursor)

    def in_flight_of(self, cursor: Cursor) -> int:
        """Returns how many messages of a queue are in flight to it."""
        return self.held(cursor).count

    def forget(self, cursor: Cursor) -> None:
        """Forgets a cursor whose queue was deleted."""
        super().forget(cursor)
        self._held.pop(cursor, None)

    def _next_in_flight(self, cursor: Cursor, first: int, last: int) -> int | None:
        found = self.held(cursor).next(first)
        return found if found is not None and found <= last else None


class Members:
    """All who are attached to a shared subscription. To the rules of reading they are one subscriber."""

    __slots__ = ("_each", "_turn", "behind", "crowded", "fetching", "subscription")

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.behind: dict[Cursor, None] = {}
        """Cursors in state BEHIND, the one to read next first."""
        self.fetching: dict[Cursor, None] = {}
        self._each: dict[Member, None] = {}  # who has been attached the longest first
        self._turn = 0
        self.crowded = False
        """Whether so many messages wait for others of their key that it is of no use to read on."""

    def __iter__(self) -> Iterator[Member]:
        return iter(self._each)

    def __len__(self) -> int:
        return len(self._each)

    def add(self, member: Member) -> None:
        """Takes on a member."""
        self._each[member] = None

    def remove(self, member: Member) -> None:
        """Lets go of a member."""
        del self._each[member]

    def served(self, member: Member) -> None:
        """Takes note that a member was given something, so that of equals the others are next."""
        self._turn += 1
        member.served = self._turn

    def look_for_a_crowd(self, waiting: int, in_flight: int) -> None:
        """Decides whether windows are small, from how many messages wait for others of their key.

        The more keys are busy, the more of what is read finds its own busy, has to wait and to be read again. Windows
        stay small until next to nothing waits though they are full: else they would go up and down all the time.
        """
        if waiting > in_flight // 8:
            self.crowded = True
        elif 64 * waiting < in_flight >= len(self._each) * limits.CROWDED_IN_FLIGHT_MAX // 2:
            self.crowded = False

    @property
    def active(self) -> list[Member]:
        """Those to whom messages may go now."""
        if self.subscription.single_active:
            first = next((member for member in self._each if not member.starting), None)
            return [first] if first is not None and first.takes else []
        return [member for member in self._each if member.takes]

    @property
    def takes(self) -> bool:
        """Whether one of them may be sent something now, if there is room in its window."""
        return bool(self.active)

    @property
    def starting(self) -> bool:
        """Whether none of them was told yet that it is attached."""
        return all(member.starting for member in self._each)

    @property
    def in_flight(self) -> int:
        """How many messages are in flight to all of them."""
        return sum(member.in_flight for member in self._each)

    def has_room(self) -> bool:
        """Whether the window of one is open wide enough to be worth a page."""
        return any(member.has_room() for member in self.active)

    def wind(self, now_ms: int) -> None:
        """Starts the time of the oldest deliveries of each."""
        for member in self._each:
            member.wind(now_ms)

    def forget(self, cursor: Cursor) -> None:
        """Forgets a cursor whose queue was deleted."""
        self.behind.pop(cursor, None)
        self.fetching.pop(cursor, None)
        for member in self._each:
            member.forget(cursor)
