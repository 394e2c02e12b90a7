"""Peeking: messages are looked at as their queue holds them, without a subscription, and nothing changes by it."""

from __future__ import annotations

from tidings import limits
from tidings.batch import StoredBatch, decode_items
from tidings.broker.effects import Answered
from tidings.broker.filters import Filter
from tidings.broker.gone import gone_of
from tidings.broker.lookups import Rows
from tidings.broker.queues import Queue
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.calls import Peek
from tidings.errors import InvalidOption, NotFound
from tidings.model import MessageInfo
from tidings.ranges import Ranges

_EVERYTHING = Filter("#", "#")


class _Look:
    """One peek under way: what was found, and how much there is still room for."""

    def __init__(self, session: Session, request: int, count_max: int) -> None:
        self.session = session
        self.request = request
        self.found: list[MessageInfo] = []
        self._count_max = count_max
        self._size_bytes = 0

    def add(self, queue: Queue, row: StoredBatch, first: int, now_ms: int) -> bool:
        """Adds what a row holds from a sequence on; returns whether there is no room for more."""
        gone = Ranges((low, high) for low, high, _ in gone_of(row, queue, _EVERYTHING, now_ms))
        sequence, offset = row.first_sequence, 0
        for run in row.batch.runs:
            piece = row.batch.body[offset : offset + run.size]
            offset += run.size
            if run.event is None or sequence + run.count <= first:
                sequence += run.count
                continue
            for payload, id, key, headers in decode_items(run.count, run.flags, piece):
                if sequence >= first and sequence not in gone:
                    self._size_bytes += len(payload) + sum(map(len, (headers or {}).values()))
                    if len(self.found) >= self._count_max or (
                        self.found and self._size_bytes > limits.DELIVERY_BODY_SIZE_BYTES_MAX // 2
                    ):
                        return True
                    self.found.append(
                        MessageInfo(
                            queue=queue.name,
                            epoch=queue.epoch,
                            sequence=sequence,
                            event=run.event,
                            payload=payload,
                            content_type=run.content_type,
                            id=id,
                            key=key,
                            headers=headers or {},
                            published=row.time_ms,
                        )
                    )
                sequence += 1
        return False


class Peeking:
    """The rules of peeks, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state

    def peek(self, session: Session, request: int, call: Peek) -> None:
        """Answers with messages of a queue.

        Raises:
            NotFound: there is no such queue.
            InvalidOption: the start is not known, or a number out of its range.
        """
        queue = self._state.queues.get(call.queue)
        if queue is None or queue.owner is not None:
            raise NotFound(f"there is no queue {call.queue!r}; `tidings queues` lists them")
        if not 1 <= call.count_max <= limits.PEEK_COUNT_MAX:
            raise InvalidOption(f"count_max is {call.count_max}; it can be 1 to {limits.PEEK_COUNT_MAX}")
        look = _Look(session, request, call.count_max)
        if call.start == "earliest":
            self._read(queue, look, queue.first_kept)
        elif call.start == "latest":
            self._read(queue, look, _last_ones(queue, call.count_max))
        elif call.start == "sequence" and call.value >= 1:
            self._read(queue, look, call.value)
        elif call.start == "time":

            def found(sequence: int | None) -> None:
                self._read(queue, look, queue.committed + 1 if sequence is None else sequence)

            self._state.effects.append(self._state.lookups.sequence_at(queue.epoch, call.value, found))
        else:
            raise InvalidOption(
                f"{call.start!r} with {call.value} is no place in a queue; there are 'earliest', 'latest', 'sequence'"
                " from 1 and 'time'"
            )

    def _read(self, queue: Queue, look: _Look, first: int) -> None:
        """Reads on from a sequence until there is enough, or the queue ends."""
        state = self._state
        first = max(first, queue.first_kept)
        if first > queue.committed or state.epochs.get(queue.epoch) is not queue:
            state.effects.append(Answered(look.session.connection, look.request, look.found))
            return

        def found(rows: Rows) -> None:
            full = not rows
            for row in rows:
                # Damaged rows are left out; the sequences show it.
                full = full or (isinstance(row, StoredBatch) and look.add(queue, row, first, state.now_ms))
            end = queue.committed if full else rows[-1].last_sequence
            self._read(queue, look, max(first, end + 1))

        state.effects.append(state.lookups.rows(queue.epoch, first - 1, limits.FETCH_SIZE_BYTES, found))


def _last_ones(queue: Queue, count: int) -> int:
    """Returns where the last so many messages begin that are there."""
    first = queue.committed + 1
    while first > queue.first_kept and count > 0:
        first -= 1
        count -= first not in queue.deleted
    return first
