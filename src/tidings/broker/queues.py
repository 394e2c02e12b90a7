"""The queue: a named, ordered, retained sequence of messages, and the cursors of those who read it.

A *side queue* belongs to one subscription: what was redriven from its dead letters goes through it, so that a
message comes back to the subscription that failed and to no other. Its name is `$redriven/NUMBER/QUEUE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from tidings.batch import StoredBatch
from tidings.broker.cursors import Cursor, State
from tidings.broker.filters import Filter
from tidings.broker.marks import Marks
from tidings.broker.recent_ids import RecentIds
from tidings.model import PRESENCE_QUEUE, HeaderFilter, QueueSettings
from tidings.ranges import Ranges

_EVENTS_REMEMBERED_MAX = 1_024
if TYPE_CHECKING:
    from tidings.broker.quotas import Quota

_EVERYTHING = Filter("*", "#")
_What: TypeAlias = tuple[str, tuple[HeaderFilter, ...]]  # of a filter: the event pattern, and what it says of headers


def side_queue_name(number: int, queue: str) -> str:
    """Returns the name of the side queue of a subscription for messages that were published into a queue."""
    return f"$redriven/{number}/{queue}"


class Queue:
    """One life of a queue.

    `last_sequence` equals `committed` but while a round that appends to it is under way.
    """

    def __init__(self, name: str, epoch: int, created_ms: int) -> None:
        self.name = name
        self.epoch = epoch
        self.created_ms = created_ms
        self.first_sequence = 1
        self.committed = 0
        """The last durable sequence."""
        self.restored = 0
        """The last one that was stored by a broker before this one: who had them delivered is not known here."""
        self.last_time_ms = created_ms
        self.size_bytes = 0
        self.owner: int | None = None
        """Of a side queue: the number of the only subscription that reads it."""
        self.filter: Filter | None = None
        """Of a side queue: what is wanted of it, whatever its reader's filter says."""
        self.recent_ids = RecentIds(epoch)
        """Which message ids it has seen lately."""
        self.paused = False
        """Whether nobody gets anything new of it until somebody resumes it."""
        self.settings = QueueSettings()
        """What is asked of it."""
        self.quota: Quota | None = None
        """The rates of that, where there are any."""
        self.marks: Marks | None = None
        """How large and old what it holds is, where that matters."""
        self.purged_to = 0
        """Up to this sequence nothing is delivered any more, whether or not it is trimmed yet."""
        self.deleted = Ranges()
        """Single messages after that which somebody deleted."""
        self.has_ttl = False
        """Whether messages were published into it that have a ttl of their own."""
        self.expire_after_ms = 0
        """When it is worth to look again whether what waits is gone."""
        self.trim_after_ms = 0
        """When it is worth to look for something to trim again."""
        self.followed_to = 0
        """Where it ended when its idle cursors were looked at last."""
        self.cursors: dict[Cursor, None] = {}
        self.live: dict[Cursor, None] = {}
        self.behind: dict[Cursor, None] = {}
        self._idle: dict[_What, dict[Cursor, None]] = {}
        self._idle_wide: dict[_What, None] = {}  # of these all but plain names
        self._matching: dict[str, int] = {}  # event -> number of subscriptions that want it
        if name.startswith("$redriven/"):
            self.owner = int(name.split("/", 2)[1])
            self.filter = _EVERYTHING

    @property
    def key(self) -> str:
        """The key of the queue's record."""
        return f"queue/{self.epoch}"

    @property
    def first_kept(self) -> int:
        """The first sequence that a new reader may still get."""
        return max(self.first_sequence, self.purged_to + 1)

    @property
    def messages(self) -> int:
        """How many messages it holds."""
        return self.committed - self.first_kept + 1 - self.deleted.count

    def trimmed_to(self, sequence: int) -> None:
        """Takes note that rows are gone up to a sequence."""
        self.first_sequence = max(self.first_sequence, sequence + 1)
        self.deleted.remove(1, sequence)
        if self.marks is not None:
            self.marks.forget(sequence)

    @property
    def is_system(self) -> bool:
        """Whether the queue is the server's own."""
        return self.name.startswith("$")

    @property
    def is_presence(self) -> bool:
        """Whether this is the one queue that keeps nothing for its subscriptions."""
        return self.name == PRESENCE_QUEUE

    @property
    def shown_as(self) -> str:
        """The queue's name in deliveries: of a side queue, where its messages were published first."""
        return self.name if self.owner is None else self.name.split("/", 2)[2]

    def add(self, cursor: Cursor) -> None:
        """Lets a cursor belong to this queue."""
        self.cursors[cursor] = None
        self._matching.clear()

    def remove(self, cursor: Cursor) -> None:
        """Forgets a cursor."""
        self.set_state(cursor, State.WAITING)
        self.cursors.pop(cursor, None)
        self._matching.clear()

    def matching(self, event: str) -> int:
        """Returns the number of subscriptions, connected or away, that want this event."""
        count = self._matching.get(event)
        if count is None:
            if len(self._matching) >= _EVENTS_REMEMBERED_MAX:
                self._matching.clear()
            count = sum(cursor.filter.wants_event(event) for cursor in self.cursors)
            self._matching[event] = count
        return count

    def knows_event(self, event: str) -> bool:
        """Whether `matching` was asked about this event lately, so that its name is known to be valid."""
        return event in self._matching

    def set_state(self, cursor: Cursor, state: State) -> None:
        """The only way a cursor changes its state: keeps the sets of live and idle cursors true."""
        if cursor.state is State.LIVE:
            self.live.pop(cursor, None)
        elif cursor.state is State.BEHIND:
            self.behind.pop(cursor, None)
        elif cursor.state is State.IDLE:
            cursor.position = self.committed
            what = _what(cursor.filter)
            followers = self._idle[what]
            followers.pop(cursor, None)
            if not followers:
                del self._idle[what]
                self._idle_wide.pop(what, None)
        cursor.state = state
        if state is State.LIVE:
            self.live[cursor] = None
        elif state is State.BEHIND:
            self.behind[cursor] = None
        elif state is State.IDLE:
            pattern, headers = what = _what(cursor.filter)
            self._idle.setdefault(what, {})[cursor] = None
            if "*" in pattern or "#" in pattern or headers:
                self._idle_wide[what] = None

    def wanted_by_idle(self, rows: Sequence[StoredBatch]) -> list[Cursor]:
        """Returns the idle cursors that want something of these rows."""
        if not self._idle:
            return []
        events = {run.event: None for row in rows for run in row.batch.runs if run.event is not None}
        found: list[Cursor] = []
        for event in events:
            found.extend(self._idle.get((event, ()), ()))
        for what in self._idle_wide:
            followers = self._idle[what]
            chosen = next(iter(followers)).filter
            if any(chosen.wants_event(event) for event in events) and (
                not chosen.headers or any(chosen.wants_any(row.batch) for row in rows)
            ):
                found.extend(followers)
        return found

    def room(self, most: int) -> int:
        """Returns how many more of its messages may be in flight if `most` may, to all who read it."""
        return most - sum(cursor.in_flight for attached in (self.live, self.behind) for cursor in attached)

    def slowest(self) -> Cursor | None:
        """Returns the durable cursor that holds the most back; None if nothing is outstanding."""
        held = [c for c in self.cursors if c.state is not State.IDLE and c.subscription.durable]
        slowest = min(held, key=lambda cursor: cursor.settled_to, default=None)
        return slowest if slowest and slowest.settled_to < self.committed else None


def _what(chosen: Filter) -> _What:
    return chosen.event, chosen.headers
