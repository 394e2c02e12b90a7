"""Publishing: from a client's batch to its confirm.

A batch waits in the ledger until the store is ready, gets its sequences with the transaction that stores it,
and is confirmed when that is durable. If the transaction fails, its sequences were never used.

Nothing overtakes a batch that was refused for the moment: what the client sent after it, before it heard of that, is
refused with it. The refusal may be lost with the connection, and then all of it is sent again in its order.
"""

from __future__ import annotations

from tidings import limits
from tidings.batch import Batch
from tidings.broker.effects import Confirm, Refuse, Transacted
from tidings.broker.inputs import Publish, Request, Transact
from tidings.broker.ledger import Round
from tidings.broker.quotas import Quotas
from tidings.broker.sessions import Pending, Producer, Session
from tidings.broker.state import BrokerState
from tidings.broker.waiting import check_room
from tidings.errors import (
    DiskFull,
    Draining,
    LimitReached,
    ProtocolViolation,
    QueueFull,
    StoreUnavailable,
    SystemQueue,
    TidingsError,
)
from tidings.model import check_name


class Publishing:
    """The rules of publishing, on the broker's state."""

    def __init__(self, state: BrokerState, quotas: Quotas) -> None:
        self._state = state
        self._quotas = quotas

    def publish(self, session: Session, input: Publish) -> None:
        """Takes a batch, or confirms it once more if it is stored already.

        Raises:
            SystemQueue, InvalidName, DiskFull, Draining, LimitReached, QuotaExceeded, ProtocolViolation: why it is
                refused.
        """
        if self.is_repeated(session, input, [input.batch]):
            return
        batches = [(input.queue, input.batch)]
        self.admit(session, input, batches)
        self.open(session, batches)
        self.take(Pending(session.connection, session.producer, input.number, input.queue, input.batch))

    def is_repeated(self, session: Session, input: Publish | Transact, batches: list[Batch]) -> bool:
        """Whether a number was sent before and not refused: then it is confirmed once it is stored, or once more.

        Raises:
            ProtocolViolation: the client said that it was answered.
        """
        producer, number = session.producer, input.number
        producer.forget_answered(input.answered)
        if number < producer.answered:
            raise ProtocolViolation(f"batch {number} comes after the client said that it was answered")
        pending = producer.pending.get(number)
        if pending:
            pending.connection = session.connection
            return True
        if number not in producer.stored and number not in producer.transactions:
            return False
        if (number in producer.transactions) != isinstance(input, Transact):
            raise ProtocolViolation(f"batch {number} was sent as something else before; each takes a new number")
        self._confirm(session.connection, producer, number, batches)
        return True

    def admit(self, session: Session, input: Publish | Transact, batches: list[tuple[str, Batch]]) -> None:
        """Raises why batches are not taken, if they are not; else they are counted where there are quotas."""
        producer = session.producer
        refusal = self._refusal(producer, input)
        try:
            for queue, batch in batches:
                self._check(queue, batch)
            if refusal:
                raise refusal
            self._quotas.admit(session, batches)
        except TidingsError as error:
            # A full queue says nothing of what the client publishes into others.
            if error.retryable and not isinstance(error, QueueFull):
                producer.refusal = input.number, error
            raise
        unanswered = len(producer.pending) + len(producer.stored) + len(producer.transactions)
        if unanswered > 4 * limits.UNCONFIRMED_BATCHES_MAX:
            raise LimitReached(
                f"more than {4 * limits.UNCONFIRMED_BATCHES_MAX} batches are not known to be answered;"
                " wait for answers, and tell with each publish below which number all were answered"
            )

    def open(self, session: Session, batches: list[tuple[str, Batch]]) -> None:
        """Makes the queues that are new. Only now: a batch that is refused makes no queue.

        Raises:
            InvalidName, LimitReached: a queue cannot be.
        """
        for name, batch in batches:
            queue = self._state.open_queue(name)
            for run in batch.runs:
                if run.event is not None:
                    queue.matching(run.event)
            session.queues[name] = None

    def take(self, pending: Pending) -> None:
        """Lets something wait for the store."""
        assert pending.producer is not None, "a client's own"
        pending.producer.pending[pending.number] = pending
        self._state.ledger.publish(pending)

    def publish_own(self, queue: str, batch: Batch, *, hurry: bool = False) -> None:
        """Publishes a message of the server itself; it rides along with others unless it is to hurry."""
        self._state.ledger.publish_own(Pending(None, None, 0, queue, batch), self._state.now_ms, hurry=hurry)

    def count_later(self, session: Session, queue: str, batch: Batch) -> None:
        """Counts what is to be published later.

        Raises:
            QuotaExceeded: it is too much for the moment.
        """
        self._quotas.admit(session, [(queue, batch)])

    def stored(self, round: Round) -> None:
        """Confirms the batches of a round."""
        for queue in round.ids:
            queue.recent_ids.round_ended(stored=True)
        for pending in round.pending:
            producer = pending.producer
            if producer is None:
                continue
            producer.pending.pop(pending.number, None)
            transaction = pending.transaction
            batches = [part.batch for part in transaction.parts] if transaction else [pending.batch]
            is_known = pending.number in producer.stored or pending.number in producer.transactions
            if pending.connection in self._state.sessions and is_known:
                self._confirm(pending.connection, producer, pending.number, batches)

    def refused(self, round: Round, reason: str, *, full: bool) -> list[Pending]:
        """Refuses the batches of a round that was not stored; the server's own are tried again.

        Returns what was refused: behind them also what the same clients sent later.
        """
        error = DiskFull(reason) if full else StoreUnavailable(reason)
        for queue in round.ids:
            queue.recent_ids.round_ended(stored=False)
        self._state.ledger.publish_own_again([pending for pending in round.pending if pending.producer is None])
        producers = dict.fromkeys(pending.producer for pending in round.pending if pending.producer)
        behind = self._state.ledger.take_back(producers)
        refused = [pending for pending in (*round.pending, *behind) if pending.producer]
        for pending in refused:
            producer = pending.producer
            assert producer is not None, "those of the server are not among them"
            producer.pending.pop(pending.number, None)
            producer.stored.pop(pending.number, None)
            producer.duplicates.pop(pending.number, None)
            producer.transactions.pop(pending.number, None)
            producer.refusal = pending.number, error
            if pending.connection in self._state.sessions:
                kind: Request = "transact" if pending.transaction else "publish"
                self._state.effects.append(Refuse(pending.connection, kind, pending.number, error))
        return refused

    def _refusal(self, producer: Producer, input: Publish | Transact) -> TidingsError | None:
        """Returns why a batch before this one was refused, if its client has not heard of that yet."""
        if producer.refusal is None:
            return None
        number, error = producer.refusal
        if input.number <= number or input.answered > number:
            producer.refusal = None  # sent again, or heard
            return None
        return error

    def _check(self, name: str, batch: Batch) -> None:
        state = self._state
        if name.startswith("$"):
            raise SystemQueue(f"queue {name!r} is the server's own; names that begin with '$' cannot be published into")
        if state.draining:
            raise Draining("the server is about to stop; connect again and publish then")
        if state.free_bytes is not None and state.free_bytes < limits.DISK_RESERVE_BYTES:
            raise DiskFull(
                f"free disk space of {state.free_bytes} bytes is below the reserve of {limits.DISK_RESERVE_BYTES}"
                " bytes; free some and publish again"
            )
        queue = state.queues.get(name)
        if queue is None:
            check_name(name, "queue")
        else:
            check_room(state, queue)
        for event in {run.event for run in batch.runs if run.event is not None}:
            if queue is None or not queue.knows_event(event):
                check_name(event, "event")

    def _confirm(self, connection: int, producer: Producer, number: int, batches: list[Batch]) -> None:
        parts = producer.transactions.get(number)
        if parts is None:
            duplicates = producer.duplicates.get(number, [])
            place = *producer.stored[number], duplicates
            self._state.effects.append(self._confirmed(connection, number, place, batches[0]))
            return
        # Not strict: a client that sends something else under a number it has used is its own problem.
        places = enumerate(zip(parts, batches, strict=False))
        confirms = [self._confirmed(connection, index, place, batch) for index, (place, batch) in places]
        self._state.effects.append(Transacted(connection, number, confirms))

    def _confirmed(
        self, connection: int, number: int, place: tuple[int, int, list[tuple[int, int]]], batch: Batch
    ) -> Confirm:
        epoch, first_sequence, duplicates = place
        queue = self._state.epochs.get(epoch)
        matching = [queue.matching(run.event) if queue and run.event else 0 for run in batch.runs]
        return Confirm(connection, number, epoch, first_sequence, matching, duplicates)
