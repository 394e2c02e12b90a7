"""Retention: history is trimmed in the background, in small steps, one queue at a time.

What every durable subscription has settled is history; it stays as long as the queue's settings say: for a time, up
to a size, up to a number of messages, whichever ends first. `$presence` is history from the start. Deleted queues go
the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

from tidings import limits
from tidings.broker.cursors import State
from tidings.broker.effects import Survey
from tidings.broker.inputs import Surveyed
from tidings.broker.queues import Queue
from tidings.broker.state import BrokerState
from tidings.transaction import Row, Trim

_LOOKED_AT_MAX = 1_000  # queues looked at in one tick
_CURSORS_MAX = 20_000  # of their cursors about so many: each is looked at, a microsecond or less
_STEP_BYTES_MAX = 8 * 1024 * 1024
_PAUSE_MS = 2_000  # until a queue that had nothing to trim is looked at again
_EVERYTHING = 2**62


class Turns:
    """Gives every queue its turn, some at a time."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._rest: list[Queue] = []

    def take(self) -> Iterator[Queue]:
        """Yields the next queues; those that are not asked for come next time."""
        self._rest = self._rest or list(self._state.queues.values())
        cursors = 0
        for _ in range(min(_LOOKED_AT_MAX, len(self._rest))):
            queue = self._rest.pop()
            if queue.epoch in self._state.epochs:
                yield queue
                cursors += len(queue.cursors)
            if cursors >= _CURSORS_MAX:
                return


class Retention:
    """The rules of trimming, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._surveying: int | None = None
        self._trimming: tuple[Trim, int] | None = None
        self._to_look_at = Turns(state)
        self._to_follow = Turns(state)
        state.deadlines.set(("trim", 0), state.now_ms + limits.TRIM_INTERVAL_MS)

    def tick(self) -> None:
        """Looks for something to trim."""
        self._state.deadlines.set(("trim", 0), self._state.now_ms + limits.TRIM_INTERVAL_MS)
        if self._surveying is None and self._trimming is None:
            self._look()

    def surveyed(self, input: Surveyed) -> None:
        """Decides which of the oldest rows go."""
        if input.epoch != self._surveying:
            return
        self._surveying = None
        queue = self._state.epochs.get(input.epoch)
        if queue:
            # A store may be unable to remove rows that are damaged; they are not asked for again.
            rows = [row for row in input.rows if row.last_sequence >= queue.first_sequence]
            last, size_bytes = self._decide(queue, rows, input.settled_bytes)
        else:
            last, size_bytes = (input.rows[-1].last_sequence if input.rows else 0), 0
            if last and last <= self._state.trash[input.epoch]:
                last = 0
            self._state.trash[input.epoch] = last
        if last:
            trim = Trim(input.epoch, last)
            self._trimming = (trim, size_bytes)
            self._state.ledger.trim(trim)
        elif queue:
            queue.trim_after_ms = self._state.now_ms + _PAUSE_MS
            self._look()
        elif input.rows:
            del self._state.trash[input.epoch]  # tried again after a restart
            self._look()
        elif self._state.ledger.round is None:  # a round under way may still add rows to a queue just deleted
            del self._state.trash[input.epoch]
            self._state.ledger.deleted(f"trash/{input.epoch}", self._state.now_ms)
            self._look()

    def trimmed(self, trims: list[Trim], *, stored: bool) -> None:
        """Takes note that the step is done, and takes the next one."""
        if not trims or self._trimming is None:
            return
        (trim, size_bytes), self._trimming = self._trimming, None
        queue = self._state.epochs.get(trim.queue)
        if not stored:
            return  # looked at again at the next tick
        if queue:
            queue.trimmed_to(trim.to_sequence)
            queue.size_bytes -= size_bytes
            self._survey(queue)
        else:
            self._look()

    def first_kept(self, queue: Queue) -> int:
        """Returns the first sequence of a queue that is not trimmed, nor about to be."""
        trim = self._trimming[0] if self._trimming else None
        if trim is None or trim.queue != queue.epoch:
            return queue.first_kept
        return max(queue.first_kept, trim.to_sequence + 1)

    def follow(self) -> None:
        """Writes idle cursors that have moved far, so that little is to be looked through after a restart.

        Forgets message ids whose time is over, too.
        """
        for queue in self._to_follow.take():
            for key in queue.recent_ids.expired(self._state.now_ms):
                self._state.ledger.deleted(key, self._state.now_ms)
            if queue.committed - queue.followed_to >= limits.FOLLOW_PERSIST_MESSAGES // 4:
                queue.followed_to = queue.committed
                for cursor in queue.cursors:
                    if cursor.state is State.IDLE:
                        self._state.followed(cursor)

    def _look(self) -> None:
        state = self._state
        for epoch in state.trash:
            self._surveying = epoch
            state.effects.append(Survey(epoch, _EVERYTHING))
            return
        for queue in self._to_look_at.take():
            if state.now_ms >= queue.trim_after_ms and self._survey(queue):
                return

    def _survey(self, queue: Queue) -> bool:
        settled_to = _settled_to(queue)
        if settled_to < queue.first_sequence:
            queue.trim_after_ms = self._state.now_ms + _PAUSE_MS
            return False
        self._surveying = queue.epoch
        self._state.effects.append(Survey(queue.epoch, settled_to))
        return True

    def _decide(self, queue: Queue, rows: list[Row], settled_bytes: int) -> tuple[int, int]:
        settled_to = _settled_to(queue)
        age_ms, size_bytes_max, messages_max = _kept(queue)
        excess = settled_bytes - size_bytes_max
        oldest_ms = self._state.now_ms - age_ms
        ttl_ms = queue.settings.ttl_ms
        expired_ms = self._state.now_ms - (_EVERYTHING if ttl_ms is None else ttl_ms)
        last = size_bytes = 0
        for row in rows:
            if row.last_sequence > settled_to or size_bytes > _STEP_BYTES_MAX:
                break
            is_surplus = excess > size_bytes or settled_to - row.last_sequence >= messages_max
            is_surplus = is_surplus or row.last_sequence <= queue.purged_to or row.time_ms <= expired_ms
            if row.time_ms >= oldest_ms and not is_surplus:
                break
            last = row.last_sequence
            size_bytes += row.size_bytes
        if last:
            # Together with the trim, whatever else waits: of a queue without rows only its record knows where it ends.
            self._state.ledger.changed_together([queue], self._state.now_ms)
        return last, size_bytes


def _kept(queue: Queue) -> tuple[int, int, int]:
    """Returns for how long (ms), up to how many bytes and how many messages history stays."""
    if queue.owner is not None:
        return 0, 0, 0  # nobody but its subscription could ever read it again
    if queue.is_presence:
        return limits.HISTORY_AGE_MS, limits.PRESENCE_HISTORY_BYTES, _EVERYTHING
    asked = queue.settings
    found = (asked.history_age_ms, asked.history_bytes, asked.history_messages)
    age_ms, size_bytes, messages = (_EVERYTHING if value is None else value for value in found)
    return age_ms, size_bytes, messages


def _settled_to(queue: Queue) -> int:
    slowest = None if queue.is_presence else queue.slowest()
    return slowest.settled_to if slowest else queue.committed
