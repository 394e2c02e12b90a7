"""Publishing, pure: messages joined into numbered batches that are kept until they are answered.

A batch goes one way:

    open --full, or its turn to be sent--> sealed --room on the wire--> numbered, unanswered --answer--> gone

What is published to a queue goes into its open batch, so the order of a queue's messages is the order of the
calls. An open batch keeps growing while 256 others wait for their answers or the connection is away. Once a batch
has a number, it may have been stored: after a reconnect all numbered batches are sent again, in order, with the
same numbers, and the server recognises those it has.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from tidings import limits
from tidings.client.waiters import Waiter, refuse
from tidings.errors import ProtocolViolation, TidingsError
from tidings.model import Confirm, Run
from tidings.wire import Confirmed, Publish

_PART_SIZE_BYTES_MIN: Final = 16 * 1024
"""Mean size from which the parts of a body are sent singly."""


class Entry:
    """What one call contributed to a batch: `count` messages of one kind, `size` bytes."""

    __slots__ = ("batch", "content_type", "count", "event", "flags", "parts", "run", "size", "waiter")

    def __init__(
        self,
        batch: "OutgoingBatch",
        event: str,
        content_type: str,
        flags: int,
        count: int,
        body: bytes,
        waiter: Waiter[Confirm],
    ) -> None:
        self.batch = batch
        self.event = event
        self.content_type = content_type
        self.flags = flags
        self.count = count
        self.size = len(body)
        self.parts = [body]
        self.waiter = waiter
        self.run = 0

    @property
    def numbered(self) -> bool:
        """Whether it was on the wire, so that it may have been stored."""
        return self.batch.number > 0

    @property
    def answered(self) -> bool:
        """Whether nothing of it waits any more."""
        return self.batch.answered or not self.count


class OutgoingBatch:
    """A batch that grows, until it gets its number."""

    __slots__ = ("answered", "count", "entries", "number", "parts", "queue", "run_count", "runs", "size")

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.number = 0
        self.answered = False
        self.entries: list[Entry] = []
        self.count = 0
        self.size = 0
        self.run_count = 0
        self.runs: list[Run] = []
        self.parts: list[bytes] = []

    def takes(self, count: int, size: int) -> bool:
        """Returns whether so much more may be joined to it."""
        return (
            self.size + size <= limits.BATCH_SIZE_BYTES_MAX
            and self.count + count <= limits.BATCH_COUNT_MAX
            and self.run_count < limits.BATCH_RUNS_MAX
        )

    def number_as(self, number: int) -> None:
        """Closes it: what was withdrawn is left out, runs and the parts of the body are made."""
        self.number = number
        self.entries = [entry for entry in self.entries if entry.count]
        parts: list[bytes] = []
        runs: list[Run] = []
        event: str | None = None
        content_type, flags, count, size = "", 0, 0, 0
        for entry in self.entries:
            if entry.event != event or entry.content_type != content_type or entry.flags != flags:
                if count:
                    runs.append(Run(event, count, size, content_type, flags))
                event, content_type, flags, count, size = entry.event, entry.content_type, entry.flags, 0, 0
            entry.run = len(runs)
            count += entry.count
            size += entry.size
            parts += entry.parts
            entry.parts = []
        runs.append(Run(event, count, size, content_type, flags))
        self.runs = runs
        # Large parts go to the socket as they are. To join them is to touch fresh memory for each batch, which costs
        # more than all the rest of publishing; many small ones cost more singly.
        self.parts = parts if self.size >= len(parts) * _PART_SIZE_BYTES_MIN else [b"".join(parts)]


class Publisher:
    """The unanswered messages of one client."""

    def __init__(self) -> None:
        self.buffered_bytes = 0
        """Bytes of all messages that are not answered yet."""
        self._open: dict[str, OutgoingBatch] = {}
        self._sealed: deque[OutgoingBatch] = deque()
        self._unanswered: dict[int, OutgoingBatch] = {}
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
        batch.count += count
        batch.size += size
        entries = batch.entries
        last = entries[-1] if entries else None
        alike = last and last.event == event and last.content_type == content_type and last.flags == flags
        if last and alike and last.waiter is waiter and last.count:
            last.count += count
            last.size += size
            last.parts.append(body)
            return last
        if not alike:
            batch.run_count += 1
        entry = Entry(batch, event, content_type, flags, count, body, waiter)
        entries.append(entry)
        return entry

    def withdraw(self, entry: Entry) -> bool:
        """Takes back what was never on the wire; returns whether that was still possible."""
        batch = entry.batch
        if batch.number:
            return False
        batch.count -= entry.count
        batch.size -= entry.size
        self.buffered_bytes -= entry.size
        entry.count = entry.size = 0
        entry.parts = []
        if not batch.count and self._open.get(batch.queue) is batch:
            del self._open[batch.queue]
        return True

    def frames(self) -> Iterator[tuple[Publish, list[bytes]]]:
        """Yields what may go on the wire now, oldest first, each with the parts of its body."""
        while len(self._unanswered) < limits.UNCONFIRMED_BATCHES_MAX:
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

    def frames_again(self) -> Iterator[tuple[Publish, list[bytes]]]:
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
        if len(frame.subscriptions) != len(batch.runs):
            raise ProtocolViolation(
                f"the confirm of batch {frame.number} has {len(frame.subscriptions)} runs, it was sent with"
                f" {len(batch.runs)}"
            )
        self._answered(batch)
        if frame.duplicates:
            _confirm_with_duplicates(batch, frame)
            return
        sequence = frame.first_sequence
        entries = batch.entries
        index = 0
        while index < len(entries):
            entry = entries[index]
            waiter, count = entry.waiter, entry.count
            index += 1
            while index < len(entries) and entries[index].waiter is waiter:
                count += entries[index].count
                index += 1
            if not waiter.done():
                subscriptions = frame.subscriptions[entry.run]
                waiter.set_result(Confirm(batch.queue, sequence, frame.epoch, count, frame.durability, subscriptions))
            sequence += count

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

    def _frame(self, batch: OutgoingBatch) -> Publish:
        return Publish(batch.number, next(iter(self._unanswered)), batch.queue, batch.runs)

    def _answered(self, batch: OutgoingBatch) -> None:
        del self._unanswered[batch.number]
        batch.answered = True
        self.buffered_bytes -= batch.size


def _confirm_with_duplicates(batch: OutgoingBatch, frame: Confirmed) -> None:
    """Answers a batch of which some messages were stored before: each of these had an id, and an entry of its own."""
    duplicates = dict(frame.duplicates)
    sequence, place = frame.first_sequence, 0
    for entry in batch.entries:
        duplicate_of = duplicates.get(place)
        if not entry.waiter.done():
            subscriptions = frame.subscriptions[entry.run]
            at = sequence if duplicate_of is None else duplicate_of
            confirm = Confirm(batch.queue, at, frame.epoch, entry.count, frame.durability, subscriptions, duplicate_of)
            entry.waiter.set_result(confirm)
        place += entry.count
        if duplicate_of is None:
            sequence += entry.count
