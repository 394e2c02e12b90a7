"""What is on its way to the server, pure: batches and transactions, which are filled, numbered and answered."""

from collections.abc import Iterable
from typing import Any, Final

from tidings import limits
from tidings.client.confirm import Confirm
from tidings.client.waiters import Waiter
from tidings.errors import LimitReached, ProtocolViolation
from tidings.model import Run
from tidings.ranges import Ranges
from tidings.wire import Confirmed, Publish, Transact, Transacted

_TTL_SHIFT: Final = 3
"""Behind the client's back the ttl of a message rides above its flags: so what is alike is found as without it."""
_PART_SIZE_BYTES_MIN: Final = 16 * 1024
"""Mean size from which the parts of a body are sent singly."""


class Entry:
    """What one call contributed to a batch: `count` messages of one kind, `size` bytes."""

    __slots__ = ("batch", "content_type", "count", "event", "flags", "parts", "run", "size", "waiter")

    def __init__(
        self,
        batch: "OutgoingBatch | OutgoingTransaction",
        event: str,
        content_type: str,
        flags: int,
        count: int,
        body: bytes,
        waiter: Waiter[Any],
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

    __slots__ = ("answered", "count", "entries", "number", "parts", "queue", "run_count", "runs", "size", "withdrawn")

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.number = 0
        self.answered = False
        self.entries: list[Entry] = []
        self.count = 0
        self.size = 0
        self.run_count = 0
        self.withdrawn = 0
        self.runs: list[Run] = []
        self.parts: list[bytes] = []

    def takes(self, count: int, size: int) -> bool:
        """Returns whether so much more may be joined to it."""
        return (
            self.size + size <= limits.BATCH_SIZE_BYTES_MAX
            and self.count + count <= limits.BATCH_COUNT_MAX
            and self.run_count < limits.BATCH_RUNS_MAX
        )

    def add(self, event: str, content_type: str, flags: int, count: int, body: bytes, waiter: Waiter[Confirm]) -> Entry:
        """Joins messages of one kind to it; those with the waiter of the last ones become one with them."""
        size = len(body)
        self.count += count
        self.size += size
        last = self.entries[-1] if self.entries else None
        alike = last and last.event == event and last.content_type == content_type and last.flags == flags
        if last and alike and last.waiter is waiter and last.count:
            last.count += count
            last.size += size
            last.parts.append(body)
            return last
        if not alike:
            self.run_count += 1
        entry = Entry(self, event, content_type, flags, count, body, waiter)
        self.entries.append(entry)
        return entry

    def withdraw(self, entry: Entry) -> None:
        """Takes out what an entry contributed."""
        if not entry.count:
            return
        self.count -= entry.count
        self.size -= entry.size
        entry.count = entry.size = 0
        entry.parts = []
        self.withdrawn += 1
        if self.withdrawn * 2 > len(self.entries):  # in a long outage many may come and go while one stays
            self.entries = [entry for entry in self.entries if entry.count]
            self.withdrawn = 0

    def frame(self, answered: int) -> Publish:
        """Returns what goes on the wire, before its parts."""
        return Publish(self.number, answered, self.queue, self.runs)

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
                    runs.append(_run(event, count, size, content_type, flags))
                event, content_type, flags, count, size = entry.event, entry.content_type, entry.flags, 0, 0
            entry.run = len(runs)
            count += entry.count
            size += entry.size
            parts += entry.parts
            entry.parts = []
        runs.append(_run(event, count, size, content_type, flags))
        self.runs = runs
        # Large parts go to the socket as they are. To join them is to touch fresh memory for each batch, which costs
        # more than all the rest of publishing; many small ones cost more singly.
        self.parts = parts if self.size >= len(parts) * _PART_SIZE_BYTES_MIN else [b"".join(parts)]


def flags_with_ttl(flags: int, ttl_ms: int | None) -> int:
    """Returns the flags of messages with their ttl, as entries have them."""
    return flags | (ttl_ms or 0) << _TTL_SHIFT


def _run(event: str | None, count: int, size: int, content_type: str, flags: int) -> Run:
    return Run(event, count, size, content_type, flags & (1 << _TTL_SHIFT) - 1, flags >> _TTL_SHIFT)


class Slot:
    """A waiter that keeps the confirm of one message of a transaction until all of them are answered."""

    confirm: Confirm | None = None

    def done(self) -> bool:
        """Returns whether it has its confirm."""
        return self.confirm is not None

    def set_result(self, confirm: Confirm, /) -> None:
        """Takes the confirm."""
        self.confirm = confirm

    def set_exception(self, exception: BaseException, /) -> None:
        """A transaction is refused as a whole, never a message of it."""
        raise AssertionError("one message of a transaction was refused")


class OutgoingTransaction:
    """Messages for several queues, and acks, that the server stores together or not at all.

    It goes the way of a batch: numbered when it goes on the wire, kept until it is answered.
    """

    def __init__(self) -> None:
        self.queue = ""  # it is never open for more, as the batch of a queue is
        self.number = 0
        self.answered = False
        self.count = 1
        self.size = 0
        self.run_count = 0
        self.message_count = 0
        self.parts: list[bytes] = []
        self.entries: list[Entry] = []
        self._batches: dict[str, OutgoingBatch] = {}
        self._slots: list[Slot] = []
        self._acks: dict[tuple[int, int], Ranges] = {}

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self._slots or self._acks)

    def add(self, queue: str, event: str, content_type: str, flags: int, body: bytes) -> None:
        """Adds an encoded message.

        Raises:
            LimitReached: there is no room for it; nothing was added.
        """
        size = self.size + len(body)
        if self._slots and size > limits.BATCH_BODY_SIZE_BYTES_MAX:
            raise _too_large(f"{size} bytes", f"{limits.BATCH_BODY_SIZE_BYTES_MAX} bytes")
        if self.message_count >= limits.BATCH_COUNT_MAX:
            raise _too_large(f"more than {self.message_count} messages", f"{limits.BATCH_COUNT_MAX}")
        if self.run_count >= limits.BATCH_RUNS_MAX:
            raise _too_large(f"more than {self.run_count} changes of event or queue", f"{limits.BATCH_RUNS_MAX}")
        batch = self._batches.get(queue)
        if batch is None:
            if len(self._batches) >= limits.TRANSACTION_QUEUES_MAX:
                raise _too_large(f"more than {len(self._batches)} queues", f"{limits.TRANSACTION_QUEUES_MAX}")
            batch = self._batches[queue] = OutgoingBatch(queue)
        slot = Slot()
        self._slots.append(slot)
        before = batch.run_count
        batch.add(event, content_type, flags, 1, body, slot)
        self.run_count += batch.run_count - before
        self.message_count += 1
        self.size = size

    def ack(self, handle: int, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Adds (epoch, first, last) of a subscription to what is settled.

        Raises:
            LimitReached: there is no room for it; nothing was added.
        """
        ranges = list(ranges)
        count = sum(acked.count for acked in self._acks.values()) + sum(last - first + 1 for _, first, last in ranges)
        if count > limits.TRANSACTION_ACKS_MAX:
            raise _too_large(f"{count} acks", f"{limits.TRANSACTION_ACKS_MAX}")
        for epoch, first, last in ranges:
            self._acks.setdefault((handle, epoch), Ranges()).add(first, last)

    def acks(self) -> list[tuple[int, int, int, int]]:
        """Returns what is settled as (handle, epoch, first, last)."""
        return [(*place, first, last) for place, acked in self._acks.items() for first, last in acked]

    def close(self, waiter: Waiter[list[Confirm]]) -> Entry:
        """Lets nothing more be added; the waiter gets the confirms of its messages, in the order of the calls."""
        entry = Entry(self, "", "", 0, 1, b"", waiter)
        entry.size = self.size
        self.entries = [entry]
        return entry

    def withdraw(self, entry: Entry) -> None:
        """Takes out all of it: it has one entry."""
        self.count = self.size = entry.count = entry.size = 0
        self.entries = []

    def number_as(self, number: int) -> None:
        """Makes what goes on the wire."""
        self.number = number
        for batch in self._batches.values():
            batch.number_as(number)
            self.parts += batch.parts
            batch.parts = []

    def frame(self, answered: int) -> Transact:
        """Returns what goes on the wire, before its parts."""
        batches = [(queue, batch.runs) for queue, batch in self._batches.items()]
        return Transact(self.number, answered, batches, self.acks())

    def confirmed(self, frame: Transacted) -> None:
        """Answers whoever waits for it.

        Raises:
            ProtocolViolation: the confirms do not fit its batches.
        """
        batches = self._batches.values()
        told = [len(confirm.subscriptions) for confirm in frame.confirms]
        if told != [len(batch.runs) for batch in batches]:
            raise ProtocolViolation(
                f"the confirm of transaction {frame.number} does not fit its {len(batches)} batches"
            )
        for batch, confirmed in zip(batches, frame.confirms, strict=True):
            confirm(batch, confirmed)
        confirms = [slot.confirm for slot in self._slots if slot.confirm is not None]
        if not self.entries[0].waiter.done():
            self.entries[0].waiter.set_result(confirms)


def confirm(batch: OutgoingBatch, frame: Confirmed) -> None:
    """Answers everybody who published into a batch."""
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


def _too_large(found: str, allowed: str) -> LimitReached:
    return LimitReached(f"the transaction would have {found}, the limit is {allowed}; commit it and begin another")


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
