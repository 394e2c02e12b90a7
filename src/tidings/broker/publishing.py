"""Publishing: from a client's batch to its confirm.

A batch waits in the ledger until the store is ready, gets its sequences with the transaction that stores it,
and is confirmed when that is durable. If the transaction fails, its sequences were never used.

Nothing overtakes a batch that was refused for the moment: what the client sent after it, before it heard of that, is
refused with it. The refusal may be lost with the connection, and then all of it is sent again in its order.
"""

from __future__ import annotations

from tidings import limits
from tidings.batch import Batch
from tidings.broker.effects import Confirm, Refuse
from tidings.broker.inputs import Publish
from tidings.broker.ledger import Round
from tidings.broker.sessions import Pending, Producer, Session
from tidings.broker.state import BrokerState
from tidings.errors import (
    DiskFull,
    Draining,
    LimitReached,
    ProtocolViolation,
    StoreUnavailable,
    SystemQueue,
    TidingsError,
)
from tidings.model import check_name


class Publishing:
    """The rules of publishing, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state

    def publish(self, session: Session, input: Publish) -> None:
        """Takes a batch, or confirms it once more if it is stored already.

        Raises:
            SystemQueue, InvalidName, DiskFull, Draining, LimitReached, ProtocolViolation: why it is refused.
        """
        state, producer = self._state, session.producer
        producer.forget_answered(input.answered)
        if input.number < producer.answered:
            raise ProtocolViolation(f"batch {input.number} comes after the client said that it was answered")
        stored = producer.stored.get(input.number)
        if stored:
            pending = producer.pending.get(input.number)
            if pending:
                pending.connection = session.connection
            else:
                self._confirm(session.connection, producer, input.number, input.batch)
            return
        waiting = producer.pending.get(input.number)
        if waiting:
            waiting.connection = session.connection
            return
        refusal = self._refusal(producer, input)
        try:
            self._check(input)
            if refusal:
                raise refusal
        except TidingsError as error:
            if error.retryable:
                producer.refusal = input.number, error
            raise
        if len(producer.pending) + len(producer.stored) > 4 * limits.UNCONFIRMED_BATCHES_MAX:
            raise LimitReached(
                f"more than {4 * limits.UNCONFIRMED_BATCHES_MAX} batches are not known to be answered;"
                " wait for answers, and tell with each publish below which number all were answered"
            )
        pending = Pending(session.connection, producer, input.number, input.queue, input.batch)
        producer.pending[input.number] = pending
        session.queues[input.queue] = None
        state.ledger.publish(pending)

    def publish_own(self, queue: str, batch: Batch, *, hurry: bool = False) -> None:
        """Publishes a message of the server itself; it rides along with others unless it is to hurry."""
        self._state.ledger.publish_own(Pending(None, None, 0, queue, batch), self._state.now_ms, hurry=hurry)

    def stored(self, round: Round) -> None:
        """Confirms the batches of a round."""
        for queue in round.ids:
            queue.recent_ids.round_ended(stored=True)
        for pending in round.pending:
            producer = pending.producer
            if producer is None:
                continue
            producer.pending.pop(pending.number, None)
            if pending.connection in self._state.sessions and pending.number in producer.stored:
                self._confirm(pending.connection, producer, pending.number, pending.batch)

    def refused(self, round: Round, reason: str, *, full: bool) -> None:
        """Refuses the batches of a round that was not stored; the server's own are tried again."""
        error = DiskFull(reason) if full else StoreUnavailable(reason)
        for queue in round.ids:
            queue.recent_ids.round_ended(stored=False)
        queues = self._state.queues
        own = [pending for pending in round.pending if pending.producer is None and pending.queue in queues]
        self._state.ledger.publish_own_again(own)
        producers = dict.fromkeys(pending.producer for pending in round.pending if pending.producer)
        behind = self._state.ledger.take_back(producers)
        for pending in (*round.pending, *behind):
            producer = pending.producer
            if producer is None:
                continue
            producer.pending.pop(pending.number, None)
            producer.stored.pop(pending.number, None)
            producer.duplicates.pop(pending.number, None)
            producer.refusal = pending.number, error
            if pending.connection in self._state.sessions:
                self._state.effects.append(Refuse(pending.connection, "publish", pending.number, error))

    def _refusal(self, producer: Producer, input: Publish) -> TidingsError | None:
        """Returns why a batch before this one was refused, if its client has not heard of that yet."""
        if producer.refusal is None:
            return None
        number, error = producer.refusal
        if input.number <= number or input.answered > number:
            producer.refusal = None  # sent again, or heard
            return None
        return error

    def _check(self, input: Publish) -> None:
        state = self._state
        if input.queue.startswith("$"):
            raise SystemQueue(
                f"queue {input.queue!r} is the server's own; names that begin with '$' cannot be published into"
            )
        if state.draining:
            raise Draining("the server is about to stop; connect again and publish then")
        if state.free_bytes is not None and state.free_bytes < limits.DISK_RESERVE_BYTES:
            raise DiskFull(
                f"free disk space of {state.free_bytes} bytes is below the reserve of {limits.DISK_RESERVE_BYTES}"
                " bytes; free some and publish again"
            )
        queue = state.queues.get(input.queue)
        events = {run.event for run in input.batch.runs if run.event is not None}
        for event in events:
            if queue is None or not queue.knows_event(event):
                check_name(event, "event")
        # Only now: a batch that is refused makes no queue.
        queue = state.queues.get(input.queue)
        unknown = [run.event for run in input.batch.runs if run.event and not (queue and queue.knows_event(run.event))]
        for event in unknown:
            check_name(event, "event")
        queue = state.open_queue(input.queue)
        for event in unknown:
            queue.matching(event)

    def _confirm(self, connection: int, producer: Producer, number: int, batch: Batch) -> None:
        epoch, first_sequence = producer.stored[number]
        queue = self._state.epochs.get(epoch)
        matching = [queue.matching(run.event) if queue and run.event else 0 for run in batch.runs]
        duplicates = producer.duplicates.get(number, [])
        self._state.effects.append(Confirm(connection, number, epoch, first_sequence, matching, duplicates))
