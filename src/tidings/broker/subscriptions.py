"""The subscription: the server's named state of one reader."""

from __future__ import annotations

from typing import NamedTuple

from tidings import limits
from tidings.broker.cursors import Cursor
from tidings.broker.dead_letters import DeadLetter, Redriving
from tidings.broker.filters import Filter
from tidings.broker.members import Member, Members
from tidings.broker.subscribers import Subscriber
from tidings.model import Reading, epoch_of


class MissedGap(NamedTuple):
    """Something that was cut from a backlog and that its subscriber has not acked yet."""

    queue: str
    reading: Reading
    first_sequence: int
    last_sequence: int
    reason: str


class Subscription:
    """A filter, a cursor for each queue it matches, and at most one subscriber: a shared one has members instead."""

    __slots__ = (
        "_dead_at",
        "ack_timeout_ms",
        "asked",
        "attempts_max",
        "backoff_max_ms",
        "backoff_min_ms",
        "client_id",
        "concurrency",
        "created_ms",
        "cursors",
        "dead",
        "durable",
        "dying",
        "end_told",
        "expires_after_ms",
        "filter",
        "gaps",
        "in_flight_max",
        "is_stored",
        "last_ack_ms",
        "last_seen_ms",
        "left_in_drain",
        "locating",
        "name",
        "next_dead",
        "number",
        "paused",
        "redriving",
        "shared",
        "single_active",
        "subscriber",
        "untold",
    )

    def __init__(
        self, number: int, name: str, client_id: str | None, filter: Filter, *, durable: bool, created_ms: int
    ) -> None:
        self.number = number
        self.name = name
        self.client_id = client_id
        self.filter = filter
        self.durable = durable
        self.created_ms = created_ms
        self.is_stored = False
        """Whether a durable one is known to be on disk: nobody is told of it before."""
        self.in_flight_max = limits.IN_FLIGHT_DEFAULT
        self.concurrency = 1
        self.ack_timeout_ms = limits.ACK_TIMEOUT_MS
        self.attempts_max = limits.ATTEMPTS_MAX
        self.backoff_min_ms = limits.BACKOFF_MIN_MS
        self.backoff_max_ms = limits.BACKOFF_MAX_MS
        self.expires_after_ms: int | None = None
        self.last_seen_ms = created_ms
        self.left_in_drain = False
        """Whether its last subscriber left because the server ends."""
        self.last_ack_ms: int | None = None
        self.paused = False
        """Whether it gets nothing new until somebody resumes it."""
        self.gaps: list[MissedGap] = []
        self.untold = 0
        """How many of them, the latest, nobody was told of yet."""
        self.cursors: dict[int, Cursor] = {}
        self.shared = False
        """Whether several subscribers may be attached, each message going to one of them."""
        self.single_active = False
        """Whether of a shared one's subscribers only one is delivered to, until it leaves."""
        self.subscriber: Subscriber | Members | None = None
        self.asked: list[tuple[Subscriber, int]] | None = None
        """Requests of those who pull, answered when all that is there was delivered."""
        self.end_told: bool | None = None
        """Of a replay, which is of a part of one queue: whether its client was told that it is at its end."""
        self.locating = 0
        """Start positions of a new one that are still being looked up."""
        self.dead: dict[int, DeadLetter] = {}
        """Its dead letters by number, in their order."""
        self.next_dead = 1
        """The number of the next dead letter."""
        self.redriving: list[Redriving] = []
        """What is under way from its dead letters back to it."""
        self.dying = 0
        """How many messages are on their way to the dead letters."""
        self._dead_at: dict[tuple[int, int], int] = {}

    @property
    def key(self) -> str:
        """The key of the subscription's record."""
        return f"subscription/{self.number}"

    def attach(self, subscriber: Subscriber) -> None:
        """Attaches a subscriber."""
        if isinstance(subscriber, Member):
            if not isinstance(self.subscriber, Members):
                self.subscriber = Members(self)
            self.subscriber.add(subscriber)
        else:
            self.subscriber = subscriber

    def detach(self, subscriber: Subscriber) -> None:
        """Lets go of a subscriber; after the last one there is none."""
        if isinstance(self.subscriber, Members) and isinstance(subscriber, Member):
            self.subscriber.remove(subscriber)
            if len(self.subscriber):
                return
        self.subscriber = None

    def attached(self) -> list[Subscriber]:
        """Returns who is attached, the longest first."""
        if isinstance(self.subscriber, Members):
            return list(self.subscriber)
        return [] if self.subscriber is None else [self.subscriber]

    def remember(self, gap: MissedGap, *, told: bool) -> None:
        """Keeps a gap until it is acked; one that continues the last one is joined to it, unless that was told."""
        self.untold = 0 if told else self.untold + 1
        if self.gaps and self.untold > 1:
            before = self.gaps[-1]
            joined = before._replace(last_sequence=gap.last_sequence)
            if gap == joined._replace(first_sequence=before.last_sequence + 1):
                self.gaps = [*self.gaps[:-1], joined]
                return
        self.gaps = [*self.gaps, gap][-limits.GAPS_MAX :]

    def forget_gaps(self, reading: Reading, first: int, last: int) -> bool:
        """Forgets what of its gaps is in a range of a reading; returns whether anything was."""
        kept: list[MissedGap] = []
        for gap in self.gaps:
            if gap.reading != reading or gap.last_sequence < first or gap.first_sequence > last:
                kept.append(gap)
                continue
            if gap.first_sequence < first:
                kept.append(gap._replace(last_sequence=first - 1))
            if gap.last_sequence > last:
                kept.append(gap._replace(first_sequence=last + 1))
        changed = kept != self.gaps
        self.untold = min(self.untold, len(kept))
        self.gaps = kept
        return changed

    def forget_gaps_after(self, epoch: int, after: int) -> bool:
        """Forgets gaps after a place in a queue, of all readings of it; returns whether there were any."""
        found = [gap for gap in self.gaps if epoch_of(gap.reading) == epoch and gap.last_sequence > after]
        for gap in found:
            self.forget_gaps(gap.reading, after + 1, gap.last_sequence)
        return bool(found)

    def bury(self, letter: DeadLetter) -> None:
        """Takes on a dead letter."""
        self.dead[letter.number] = letter
        self._dead_at[letter.epoch, letter.sequence] = letter.number
        self.next_dead = max(self.next_dead, letter.number + 1)

    def unbury(self, letter: DeadLetter) -> None:
        """Lets go of a dead letter that was deleted or redriven."""
        del self.dead[letter.number]
        place = letter.epoch, letter.sequence
        if self._dead_at.get(place) == letter.number:  # else its message was delivered again, and died again
            del self._dead_at[place]

    def dead_within(self, epoch: int, first: int, last: int) -> list[DeadLetter]:
        """Returns the dead letters of a range of a queue, of each message the latest, in whichever reading it died."""
        if not self._dead_at:
            return []
        if last - first < len(self._dead_at):
            numbers = (self._dead_at.get((epoch, sequence)) for sequence in range(first, last + 1))
            return [self.dead[number] for number in numbers if number is not None]
        places = self._dead_at.items()
        return [self.dead[number] for (at, sequence), number in places if at == epoch and first <= sequence <= last]

    def outstanding(self) -> int:
        """Returns the sum of its lags: an upper bound of what waits for it."""
        return sum(cursor.queue.committed - cursor.settled_to for cursor in self.cursors.values())
