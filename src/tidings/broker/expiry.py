"""Expiry: what is gone is cut from the backlogs of those who are away, too, so that nothing is kept for it.

A message that expired is not delivered (see `gone`). Whoever reads is told of it in its place; a subscription that
reads nothing would hold it for ever. So queues are looked at in turns, the oldest rows that wait in each, a page at a
time: what is gone of them, before all that is not, is cut and told.
"""

from __future__ import annotations

from typing import Final

from tidings import limits
from tidings.batch import StoredBatch
from tidings.broker.cursors import Cursor, State
from tidings.broker.deliveries import Deliveries
from tidings.broker.gone import expires_ms
from tidings.broker.lookups import Rows
from tidings.broker.queues import Queue
from tidings.broker.retention import Turns
from tidings.broker.state import BrokerState

_NEVER: Final = 2**62


class Expiry:
    """The rules of what waits and is gone, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries
        self._turns = Turns(state)
        self._is_looking = False

    def tick(self) -> None:
        """Looks for something that is gone."""
        if not self._is_looking:
            self._look()

    def _look(self) -> None:
        state = self._state
        for queue in self._turns.take():
            may_be_gone = queue.has_ttl or queue.settings.ttl_ms is not None or queue.deleted
            if may_be_gone and state.now_ms >= queue.expire_after_ms and self._read(queue):
                return

    def _read(self, queue: Queue) -> bool:
        slowest = queue.slowest()
        if slowest is None:
            return False

        def found(rows: Rows) -> None:
            self._is_looking = False
            if self._state.epochs.get(queue.epoch) is queue:
                self._found(queue, rows)
            self._look()

        self._is_looking = True
        after = slowest.settled_to
        self._state.effects.append(self._state.lookups.rows(queue.epoch, after, limits.FETCH_SIZE_BYTES, found))
        return True

    def _found(self, queue: Queue, rows: Rows) -> None:
        state = self._state
        good: list[StoredBatch] = []
        for row in rows:
            if not isinstance(row, StoredBatch) or row.last_sequence > queue.committed:
                break  # whoever reads it is told of damage; what is not known yet is looked at later
            good.append(row)
        queue.expire_after_ms = state.now_ms + limits.EXPIRY_PAUSE_MS
        if not good:
            return
        before = queue.slowest()
        settled_to = before.settled_to if before else queue.committed
        for cursor in list(queue.cursors):
            if self._waits_in(cursor, good):
                self._deliveries.cut_gone(cursor, [row for row in good if row.last_sequence > cursor.settled_to])
        after = queue.slowest()
        if after is not None and after.settled_to > settled_to:
            queue.expire_after_ms = state.now_ms  # and the next page
            return
        queue.expire_after_ms = min(queue.expire_after_ms, _next_ms(good[0], queue, state.now_ms))

    def _waits_in(self, cursor: Cursor, rows: list[StoredBatch]) -> bool:
        """Whether something of rows may wait for a durable subscription, and it has nothing left before them."""
        if (
            not cursor.subscription.durable
            or cursor.state is State.IDLE
            or cursor.subscription.locating
            or cursor.moving
        ):
            return False
        return rows[0].first_sequence - 1 <= cursor.position and cursor.settled_to < rows[-1].last_sequence


def _next_ms(row: StoredBatch, queue: Queue, now_ms: int) -> int:
    """Returns when the next message of a row expires."""
    times = [expires_ms(row, run, queue) for run in row.batch.runs]
    return min((time_ms for time_ms in times if time_ms is not None and time_ms > now_ms), default=_NEVER)
