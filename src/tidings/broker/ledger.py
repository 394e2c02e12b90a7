"""The ledger: what is to be written next, joined into one transaction at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

from tidings import limits
from tidings.batch import Batch, StoredBatch, join
from tidings.broker.queues import Queue
from tidings.broker.recent_ids import IdPage
from tidings.broker.sessions import Pending, Producer
from tidings.transaction import Append, Commit, Trim

_PUTS_MAX = 4_096  # records in one transaction, so that a burst of changes does not delay confirms


class Recorded(Protocol):
    """Something that has a record."""

    @property
    def key(self) -> str:
        """The key of the record."""
        ...


class Answer(NamedTuple):
    """What to do once durability is reached, or (with the reason, and whether the disk is full) if it is not."""

    reached: Callable[[], None]
    failed: Callable[[str, bool], None]


class Arriving:
    """How much is on its way into a queue."""

    __slots__ = ("count", "size_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.size_bytes = 0


class Round:
    """A transaction under way."""

    def __init__(self) -> None:
        self.pending: list[Pending] = []
        self.rows: dict[Queue, list[StoredBatch]] = {}
        self.trims: list[Trim] = []
        self.changes: dict[str, Recorded] = {}
        self.together: list[Recorded] = []
        self.ids: dict[Queue, IdPage] = {}
        self.deletions: dict[str, None] = {}
        self.answers: list[Answer] = []


class Ledger:
    """Collects appends and changed records until the store is ready for them.

    Publishes and requests that wait for durability are urgent; changed cursors and the server's own messages
    ride along, or go by themselves after `CURSOR_DELAY_MS`.
    """

    def __init__(self, encode: Callable[[Recorded], bytes]) -> None:
        self.round: Round | None = None
        self.pending_bytes = 0
        """Bytes of clients' batches that are not stored yet, whether or not somebody still waits for their confirm."""
        self.arriving: dict[str, Arriving] = {}
        """How much of that is on its way into each queue, and of what the server itself publishes nothing."""
        self._encode = encode
        self._pending: list[Pending] = []
        self._own: list[Pending] = []
        self._hurry = False  # whether something beside clients' batches is to be stored as soon as they are
        self._changes: dict[str, Recorded] = {}
        self._together: dict[str, Recorded] = {}
        self._deletions: dict[str, None] = {}
        self._trims: list[Trim] = []
        self._answers: list[Answer] = []
        self._late: list[Answer] = []  # those that wait for records that a transaction had no room for
        self._awaited: set[str] = set()  # the keys of these records
        self._changed_ms: int | None = None

    def publish(self, pending: Pending) -> None:
        """Adds a client's batch."""
        self._pending.append(pending)
        self.pending_bytes += len(pending.batch.body)
        for part in _parts(pending):
            arriving = self.arriving.setdefault(part.queue, Arriving())
            arriving.count += part.batch.count
            arriving.size_bytes += len(part.batch.body)

    def take_back(self, producers: Collection[Producer]) -> list[Pending]:
        """Removes the batches of these that wait, and returns them."""
        taken = [pending for pending in self._pending if pending.producer in producers]
        if taken:
            self._pending = [pending for pending in self._pending if pending.producer not in producers]
            self._arrived(taken)
        return taken

    def _arrived(self, taken: Iterable[Pending]) -> None:
        """Counts batches of clients no more."""
        for pending in taken:
            self.pending_bytes -= len(pending.batch.body)
            for part in _parts(pending):
                arriving = self.arriving[part.queue]
                arriving.count -= part.batch.count
                arriving.size_bytes -= len(part.batch.body)
                if not arriving.count:
                    del self.arriving[part.queue]

    def is_counted_right(self) -> bool:
        """Whether `pending_bytes` and `arriving` are what they are when all is counted anew."""
        under_way = self.round.pending if self.round else []
        pending = [each for each in (*self._pending, *under_way) if each.producer]
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for part in (part for each in pending for part in _parts(each)):
            counts[part.queue] = counts.get(part.queue, 0) + part.batch.count
            sizes[part.queue] = sizes.get(part.queue, 0) + len(part.batch.body)
        return (
            self.pending_bytes == sum(len(each.batch.body) for each in pending)
            and counts == {queue: arriving.count for queue, arriving in self.arriving.items()}
            and sizes == {queue: arriving.size_bytes for queue, arriving in self.arriving.items()}
        )

    def publish_own(self, pending: Pending, now_ms: int, *, hurry: bool = False) -> None:
        """Adds a message of the server itself."""
        self._own.append(pending)
        self._hurry = self._hurry or hurry
        self._touch(now_ms)

    def publish_own_again(self, refused: list[Pending]) -> None:
        """Puts back messages of the server itself that were not stored: before what was published since."""
        self._own[:0] = refused

    def forget_own(self, queue: str) -> None:
        """Drops messages of the server itself to a queue that is gone for good, also those that are refused later."""
        self._own = [pending for pending in self._own if pending.queue != queue]
        if self.round is not None:
            self.round.pending = [each for each in self.round.pending if each.producer or each.queue != queue]

    def changed(self, item: Recorded, now_ms: int) -> None:
        """Takes note that the record of `item` is out of date."""
        key = item.key
        # Not always the same object: an edited dead letter is another one.
        (self._together if key in self._together else self._changes)[key] = item
        self._deletions.pop(key, None)
        self._touch(now_ms)

    def changed_together(self, items: Iterable[Recorded], now_ms: int) -> None:
        """Takes note that records are out of date that have to be written in one transaction."""
        for item in items:
            self._changes.pop(item.key, None)
            self._awaited.discard(item.key)
            self._together[item.key] = item
            self._deletions.pop(item.key, None)
        self._touch(now_ms)

    def deleted(self, key: str, now_ms: int) -> None:
        """Takes note that a record is to be removed."""
        self._changes.pop(key, None)
        self._together.pop(key, None)
        self._awaited.discard(key)
        self._deletions[key] = None
        self._touch(now_ms)

    def is_deleted(self, key: str) -> bool:
        """Whether a record is about to be removed."""
        return key in self._deletions or (self.round is not None and key in self.round.deletions)

    def trim(self, trim: Trim) -> None:
        """Adds rows to remove."""
        self._trims.append(trim)

    def when_durable(self, answer: Answer, *, hurry: bool = True) -> None:
        """Lets an answer wait until all that was added before it is durable."""
        self._answers.append(answer)
        self._hurry = self._hurry or hurry

    def unwritten(self, key: str) -> bytes | None:
        """Returns a record that is not known to be in the store yet, as it will be."""
        item = self._together.get(key) or self._changes.get(key) or (self.round and self.round.changes.get(key))
        return self._encode(item) if item else None

    def is_unwritten(self, key: str) -> bool:
        """Whether a record is not known to be in the store as it is now."""
        return key in self._together or key in self._changes or (self.round is not None and key in self.round.changes)

    def has_work(self) -> bool:
        """Whether anything is not written yet."""
        return bool(
            self.round
            or self._pending
            or self._own
            or self._changes
            or self._together
            or self._deletions
            or self._trims
            or self._answers
            or self._late
        )

    def deadline_ms(self) -> int | None:
        """Returns when changes that hurry nobody are to be written; None while the store is busy."""
        if self.round is not None or self._changed_ms is None:
            return None
        return self._changed_ms + limits.CURSOR_DELAY_MS

    def begin(self, now_ms: int, open_queue: Callable[[str], Queue]) -> Commit | None:
        """Starts the next round if there is reason for one; returns its transaction."""
        if self.round is not None:
            return None
        urgent = self._pending or self._hurry or self._late or self._trims
        deadline_ms = self.deadline_ms()
        if not urgent and (deadline_ms is None or now_ms < deadline_ms):
            return None
        self.round = round = Round()
        round.pending = self._take_pending()
        self._place(round, now_ms, open_queue)
        for key in round.changes:
            self._deletions.pop(key, None)  # of a publisher that said goodbye a moment ago, and is back
        round.trims, self._trims = self._trims, []
        round.together = list(self._together.values())
        round.changes.update(self._together)
        self._together = {}
        for key in list(self._changes)[:_PUTS_MAX]:
            round.changes[key] = self._changes.pop(key)
        round.deletions, self._deletions = self._deletions, {}
        self._take_answers(round)
        self._changed_ms = now_ms if self._changes or self._own else None
        return Commit(
            appends=[Append(queue.epoch, row) for queue, rows in round.rows.items() for row in rows],
            trims=round.trims,
            puts=[(item.key, self._encode(item)) for item in (*round.changes.values(), *round.ids.values())],
            deletes=list(round.deletions),
        )

    def end(self, *, stored: bool, now_ms: int) -> Round:
        """Ends the round. What was not stored of records and trims is due again; its batches are not."""
        round, self.round = self.round, None
        assert round is not None, "the store answered although nothing was ordered"
        self._arrived(pending for pending in round.pending if pending.producer)
        if not stored:
            kept = [item for item in round.together if item.key not in self._deletions]
            self.changed_together([self._changes.get(item.key, item) for item in kept], now_ms)
            for key, item in round.changes.items():
                if key not in self._deletions and key not in self._together:
                    self._changes.setdefault(key, item)
            for key in round.deletions:
                if key not in self._changes and key not in self._together:
                    self._deletions[key] = None
            # Some of what the late answers wait for may have been in this round.
            round.answers += self._late
            self._late, self._awaited = [], set()
            self._touch(now_ms)
        return round

    def _touch(self, now_ms: int) -> None:
        if self._changed_ms is None:
            self._changed_ms = now_ms

    def _take_answers(self, round: Round) -> None:
        """Lets answers go with a round once all records that were changed before them are written.

        With records left over they wait for exactly these, not for what changes later: else they might wait for ever.
        """
        self._awaited.difference_update(round.changes)
        if not self._awaited:
            round.answers, self._late = self._late, []
        if not self._changes:
            round.answers += self._answers
            self._answers = []
        elif self._answers and not self._late:
            self._late, self._answers = self._answers, []
            self._awaited = set(self._changes)

    def _take_pending(self) -> list[Pending]:
        """Takes what goes into the next round: all that waits, or of each publisher a batch in turn until it is full.

        So nobody waits behind what one fast publisher has sent; the batches of one publisher keep their order.
        """
        taken, self._pending = self._pending, []
        if sum(len(pending.batch.body) for pending in taken) > limits.COMMIT_BYTES_MAX:
            waiting, taken = taken, _in_turns(taken)
            chosen = set(map(id, taken))
            self._pending = [pending for pending in waiting if id(pending) not in chosen]
        own, self._own = self._own, []
        self._hurry = False
        return taken + own

    def _place(self, round: Round, now_ms: int, open_queue: Callable[[str], Queue]) -> None:
        """Gives the round's batches their sequences and joins them into rows."""
        by_queue: dict[str, list[Pending]] = {}
        for pending in round.pending:
            if pending.transaction is None:
                by_queue.setdefault(pending.queue, []).append(pending)
                continue
            for part in pending.transaction.parts:
                by_queue.setdefault(part.queue, []).append(part)
        for name, group in by_queue.items():
            queue = open_queue(name)
            has_ttl = queue.has_ttl or any(run.ttl_ms for pending in group for run in pending.batch.runs)
            if not queue.committed or has_ttl != queue.has_ttl:
                # Rows whose queue has no record would be lost, and those of a ttl not be looked for after a crash: the
                # first ones bring it along.
                queue.has_ttl = has_ttl
                queue.expire_after_ms = 0
                round.changes[queue.key] = queue
            time_ms = max(now_ms, queue.last_time_ms)
            sequence = queue.committed + 1
            rows: list[StoredBatch] = []
            parts: list[Batch] = []
            size = runs = 0
            for pending in group:
                batch: Batch | None = pending.batch
                # What is redriven a second time is no duplicate, though its id was seen lately.
                if pending.has_ids and queue.owner is None:
                    batch = self._sift(queue, pending, sequence, now_ms)
                self._note(round, queue, pending, sequence)
                if batch is None:
                    continue
                if parts and (
                    size + len(batch.body) > limits.ROW_SIZE_BYTES_MAX or runs + len(batch.runs) > limits.BATCH_RUNS_MAX
                ):
                    rows.append(StoredBatch(_first(rows, queue), time_ms, join(parts)))
                    parts, size, runs = [], 0, 0
                sequence += batch.count
                parts.append(batch)
                size += len(batch.body)
                runs += len(batch.runs)
            if parts:
                rows.append(StoredBatch(_first(rows, queue), time_ms, join(parts)))
                round.rows[queue] = rows
            page = queue.recent_ids.page_to_write()
            if page:
                round.ids[queue] = page
        for pending in round.pending:
            if pending.transaction:
                # Their acks are in this round because their batches are, and in no earlier one.
                round.changes.update((item.key, item) for item in pending.transaction.placed(pending))

    def _sift(self, queue: Queue, pending: Pending, sequence: int, now_ms: int) -> Batch | None:
        """Takes out of a batch what was published before under the same id."""
        for key in queue.recent_ids.expired(now_ms):
            self._deletions[key] = None
        batch, pending.duplicates = queue.recent_ids.sift(pending.batch, sequence, now_ms)
        return batch

    def _note(self, round: Round, queue: Queue, pending: Pending, sequence: int) -> None:
        """Remembers where a batch is, in case it is sent again."""
        pending.epoch, pending.first_sequence = queue.epoch, sequence
        producer = pending.producer
        if producer:
            producer.stored[pending.number] = (queue.epoch, sequence)
            if pending.duplicates:
                producer.duplicates[pending.number] = pending.duplicates
            round.changes[producer.key] = producer


def _in_turns(waiting: list[Pending]) -> list[Pending]:
    """Returns about a transaction's bytes of what waits, a batch of each publisher in turn."""
    turns: dict[Producer | None, deque[Pending]] = {}
    for pending in waiting:
        turns.setdefault(pending.producer, deque()).append(pending)
    taken: list[Pending] = []
    size_bytes = 0
    while turns and size_bytes < limits.COMMIT_BYTES_MAX:
        for producer, batches in list(turns.items()):
            taken.append(batches.popleft())
            size_bytes += len(taken[-1].batch.body)
            if not batches:
                del turns[producer]
            if size_bytes >= limits.COMMIT_BYTES_MAX:
                break
    return taken


def _parts(pending: Pending) -> Iterable[Pending]:
    return pending.transaction.parts if pending.transaction else (pending,)


def _first(rows: list[StoredBatch], queue: Queue) -> int:
    return (rows[-1].last_sequence if rows else queue.committed) + 1
