"""Publishing, pure: messages joined into numbered batches that are kept until they are answered.

A batch goes one way:

    open --full, or its turn to be sent--> sealed --room on the wire--> numbered, unanswered --answer--> gone

What is published to a queue goes into its open batch, so the order of a queue's messages is the order of the
calls. An open batch keeps growing while 256 others wait for their answers or the connection is away. Once a batch
has a number, it may have been stored: after a reconnect all numbered batches are sent again, in order, with the
same numbers, and the server recognises those it has. A transaction is numbered among them, and seals what is open.
"""

from collections import deque
from collections.abc import Iterator

from tidings import limits
from tidings.client.confirm import Confirm
from tidings.client.outgoing import Entry, OutgoingBatch, OutgoingTransaction, confirm
from tidings.client.waiters import Waiter, refuse
from tidings.errors import ProtocolViolation, TidingsError
from tidings.wire import Confirmed, Publish, Transact, Transacted


class Publisher:
    """The unanswered messages of one client."""

    def __init__(self) -> None:
        self.buffered_bytes = 0
        """Bytes of all messages that are not answered yet."""
        self._open: dict[str, OutgoingBatch] = {}
        self._sealed: deque[OutgoingBatch | OutgoingTransaction] = deque()
        self._unanswered: dict[int, OutgoingBatch | OutgoingTransaction] = {}
        self._next_number = 1

    @property
    def waiting(self) -> bool:
        """Whether anything is not on the wire yet."""
        return bool(self._open or self._sealed)

    @property
    def awaited(self) -> bool:
        """Whether anybody still waits for the answer to a message."""
        batches = (*self._unanswered.values(), *self._sealed, *self._open.values())
        return any(entry.count and not entry.waiter.done() for batch in batches for entry in batch.entries)

    def add(
        self,
        queue: str,
        event: str,
        content_type: str,
        flags: int,
        count: int,
        body: bytes,
        waiter: Waiter[Confirm],
    ) -> Entry:
        """Joins `count` encoded messages of one kind to the queue's open batch.

        Consecutive additions with the same waiter are answered by one confirm for each batch.
        """
        size = len(body)
        self.buffered_bytes += size
        batch = self._open.get(queue)
        if batch is None or not batch.takes(count, size):
            if batch is not None:
                self._sealed.append(batch)
            batch = self._open[queue] = OutgoingBatch(queue)
        return batch.add(event, content_type, flags, count, body, waiter)

    def add_transaction(self, transaction: OutgoingTransaction, waiter: Waiter[list[Confirm]]) -> Entry:
        """Adds a transaction, after all that was published before it."""
        self.buffered_bytes += transaction.size
        self._sealed.extend(self._open.values())
        self._open.clear()
        self._sealed.append(transaction)
        return transaction.close(waiter)

    def withdraw(self, entry: Entry) -> bool:
        """Takes back what was never on the wire; returns whether that was still possible."""
        batch = entry.batch
        if batch.number:
            return False
        self.buffered_bytes -= entry.size
        batch.withdraw(entry)
        if not batch.count:
            if self._open.get(batch.queue) is batch:
                del self._open[batch.queue]
            elif batch in self._sealed:
                self._sealed.remove(batch)
        return True

    def frames(self) -> Iterator[tuple[Publish | Transact, list[bytes]]]:
        """Yields what may go on the wire now, oldest first, each with the parts of its body."""
        while len(self._unanswered) < limits.UNCONFIRMED_BATCHES_MAX:
            batch: OutgoingBatch | OutgoingTransaction
            if self._sealed:
                batch = self._sealed.popleft()
            elif self._open:
                batch = self._open.pop(next(iter(self._open)))
            else:
                return
            if batch.count:
                batch.number_as(self._next_number)
                self._next_number += 1
                self._unanswered[batch.number] = batch
                yield self._frame(batch), batch.parts

    def frames_again(self) -> Iterator[tuple[Publish | Transact, list[bytes]]]:
        """Yields all batches that were on the wire and have no answer, in the order of their numbers."""
        for batch in self._unanswered.values():
            yield self._frame(batch), batch.parts

    def confirmed(self, frame: Confirmed) -> None:
        """Answers everybody who published into the batch.

        Raises:
            ProtocolViolation: the confirm does not fit the batch.
        """
        batch = self._unanswered.get(frame.number)
        if batch is None:
            return  # confirmed twice: once for each time it was sent
        if isinstance(batch, OutgoingTransaction):
            raise ProtocolViolation(f"the confirm of transaction {frame.number} is that of a batch")
        if len(frame.subscriptions) != len(batch.runs):
            raise ProtocolViolation(
                f"the confirm of batch {frame.number} has {len(frame.subscriptions)} runs, it was sent with"
                f" {len(batch.runs)}"
            )
        self._answered(batch)
        confirm(batch, frame)

    def transacted(self, frame: Transacted) -> OutgoingTransaction | None:
        """Answers whoever waits for a transaction, and returns it; None if it was answered before.

        Raises:
            ProtocolViolation: the answer does not fit what was sent.
        """
        transaction = self._unanswered.get(frame.number)
        if transaction is None:
            return None
        if isinstance(transaction, OutgoingBatch):
            raise ProtocolViolation(f"the confirm of batch {frame.number} is that of a transaction")
        self._answered(transaction)
        transaction.confirmed(frame)
        return transaction

    def refused(self, number: int, error: TidingsError) -> None:
        """Gives the error to everybody who published into the batch; nothing of it was stored."""
        batch = self._unanswered.get(number)
        if batch is not None:
            self._answered(batch)
            for entry in batch.entries:
                refuse(entry.waiter, type(error)(*error.args))

    def fail(self, error: TidingsError) -> None:
        """Gives up everything: what was on the wire may have been stored, and the error says so."""
        for batch in self._unanswered.values():
            for entry in batch.entries:
                refuse(entry.waiter, type(error)(f"{error.text}; the message was under way and may have been stored"))
        for batch in (*self._sealed, *self._open.values()):
            for entry in batch.entries:
                refuse(entry.waiter, type(error)(f"{error.text}; the message was never sent"))
        self._unanswered.clear()
        self._sealed.clear()
        self._open.clear()
        self.buffered_bytes = 0

    def _frame(self, batch: OutgoingBatch | OutgoingTransaction) -> Publish | Transact:
        return batch.frame(next(iter(self._unanswered)))

    def _answered(self, batch: OutgoingBatch | OutgoingTransaction) -> None:
        del self._unanswered[batch.number]
        batch.answered = True
        self.buffered_bytes -= batch.size
