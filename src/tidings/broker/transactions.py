"""Transactions: messages to several queues and acks that are stored together, or not at all.

1. Everything in a transaction is checked before any of it is taken: what is wrong with one part refuses all.
2. Until it is durable, what it acks is held: not in flight any more, not due, and not settled.
3. Its messages, the cursors that it moves and its number are in one transaction of the store, and in no earlier one.
4. Sent again under its number it is confirmed once more. One that was not stored and lost its connection is refused
   when it comes again with acks, since its deliveries were taken away meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidings import limits
from tidings.broker.cursors import HELD, Cursor, State
from tidings.broker.deliveries import Deliveries
from tidings.broker.inputs import Transact
from tidings.broker.publishing import Publishing
from tidings.broker.retries import in_flight, taken_away
from tidings.broker.sessions import Pending, Session
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber, attached
from tidings.errors import InvalidOption, LimitReached
from tidings.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidings.broker.ledger import Recorded, Round


class Transaction:
    """What one transaction consists of: a batch for each queue, and the messages it settles, by cursor."""

    def __init__(self, parts: list[Pending], held: dict[Cursor, list[int]]) -> None:
        self.parts = parts
        self.held = held

    def placed(self, pending: Pending) -> Iterable[Recorded]:
        """Yields what has to be recorded together with its messages, which have their sequences now."""
        producer = pending.producer
        assert producer is not None, "only clients have transactions"
        producer.transactions[pending.number] = [
            (part.epoch, part.first_sequence, part.duplicates) for part in self.parts
        ]
        yield producer
        for cursor, sequences in self.held.items():
            if not _is_known(cursor):
                continue
            cursor.settling = cursor.settling or Ranges()
            for sequence in sequences:
                if cursor.parked.get(sequence) == HELD:  # else the subscription was moved meanwhile
                    cursor.settling.add(sequence, sequence)
            if cursor.subscription.durable:
                yield cursor


class Transactions:
    """The rules of transactions, on the broker's state."""

    def __init__(self, state: BrokerState, publishing: Publishing, deliveries: Deliveries) -> None:
        self._state = state
        self._publishing = publishing
        self._deliveries = deliveries

    def transact(self, session: Session, input: Transact) -> None:
        """Takes a transaction, or confirms it once more if it is stored already.

        Raises:
            SystemQueue, InvalidName, DiskFull, Draining, LimitReached, ProtocolViolation: as for a publish.
            DeliveryTakenAway: a message that it acks is not in flight to this client any more.
            InvalidOption: it is empty, or a range is malformed.
        """
        if self._publishing.is_repeated(session, input, [batch for _, batch in input.batches]):
            return
        _check_size(input)
        found = [(attached(session, handle, "ack"), place) for handle, *place in input.acks]
        acked = [self._in_flight(subscriber, (epoch, first, last)) for subscriber, (epoch, first, last) in found]
        self._publishing.admit(session, input, input.batches)
        self._publishing.open(session, input.batches)
        held: dict[Cursor, list[int]] = {}
        for (subscriber, _), messages in zip(found, acked, strict=True):
            self._hold(subscriber, messages, held)
        pending = Pending(session.connection, session.producer, input.number, "", input.batch)
        parts = [Pending(None, None, 0, queue, batch) for queue, batch in input.batches]
        pending.transaction = Transaction(parts, held)
        self._publishing.take(pending)

    def stored(self, round: Round) -> None:
        """Settles what the transactions of a round acked."""
        for pending in round.pending:
            for cursor, sequences in pending.transaction.held.items() if pending.transaction else ():
                cursor.settling = None
                for sequence in sequences:
                    if cursor.parked.get(sequence) == HELD:
                        cursor.settle(sequence, sequence)
                cursor.subscription.last_ack_ms = self._state.now_ms
                if cursor.awaited:
                    self._state.moved[cursor] = None
                self._go_on(cursor)

    def refused(self, refused: list[Pending]) -> None:
        """Lets be delivered again what was acked by transactions that were not stored."""
        for pending in refused:
            for cursor, sequences in pending.transaction.held.items() if pending.transaction else ():
                cursor.settling = None
                for sequence in sequences:
                    cursor.release(sequence)
                self._go_on(cursor)

    def _in_flight(self, subscriber: Subscriber, place: tuple[int, int, int]) -> list[tuple[Cursor, int]]:
        found, missing = in_flight(subscriber, [place])
        if missing:
            raise taken_away("ack", subscriber.subscription, missing)
        return found

    def _hold(self, subscriber: Subscriber, messages: list[tuple[Cursor, int]], held: dict[Cursor, list[int]]) -> None:
        for cursor, sequence in messages:
            if subscriber.holds(cursor, sequence):  # else it is acked twice by this transaction
                cursor.hold(sequence)
                held.setdefault(cursor, []).append(sequence)
                subscriber.settled(cursor, sequence, sequence, 1, self._state.now_ms)
        self._state.watch(subscriber)
        self._deliveries.pump(subscriber.subscription)

    def _go_on(self, cursor: Cursor) -> None:
        if not _is_known(cursor):
            return
        if cursor.subscription.subscriber:
            self._deliveries.go_on(cursor)
        elif cursor.state is State.WAITING:
            self._state.rest(cursor)


def _is_known(cursor: Cursor) -> bool:
    """Whether neither its queue nor its subscription was deleted."""
    return cursor.subscription.cursors.get(cursor.queue.epoch) is cursor


def _check_size(input: Transact) -> None:
    if not input.batches and not input.acks:
        raise InvalidOption("the transaction is empty; publish or ack something in it")
    if len(input.batches) > limits.TRANSACTION_QUEUES_MAX:
        raise LimitReached(
            f"the transaction publishes into {len(input.batches)} queues; it can be"
            f" {limits.TRANSACTION_QUEUES_MAX}, make several transactions of it"
        )
    count = sum(last - first + 1 for _, _, first, last in input.acks if last >= first)
    if count > limits.TRANSACTION_ACKS_MAX or len(input.acks) > limits.TRANSACTION_ACKS_MAX:
        raise LimitReached(
            f"the transaction acks {count} messages; it can be {limits.TRANSACTION_ACKS_MAX},"
            " make several transactions of it"
        )
