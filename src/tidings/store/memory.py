"""The memory store: the reference implementation of the port, for tests and `memory:`."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

from tidings.batch import StoredBatch
from tidings.limits import READ_ROWS_MAX
from tidings.store.port import Append, Bounds, Commit, Damage, Row, Trim


class _Queue:
    """The rows of one queue, with the bytes that were appended before each."""

    __slots__ = ("offsets", "rows")

    def __init__(self) -> None:
        self.rows: list[StoredBatch] = []
        self.offsets: list[int] = []

    @property
    def end_bytes(self) -> int:
        return self.offsets[-1] + len(self.rows[-1].batch.body) if self.rows else 0

    def append(self, stored: StoredBatch) -> None:
        self.offsets.append(self.end_bytes)
        self.rows.append(stored)

    def trim(self, to_sequence: int) -> None:
        count = bisect_right(self.rows, to_sequence, key=lambda row: row.last_sequence)
        del self.rows[:count], self.offsets[:count]

    def index_after(self, sequence: int) -> int:
        return bisect_right(self.rows, sequence, key=lambda row: row.last_sequence)


class MemoryStore:
    """Keeps everything in dictionaries; closing it forgets nothing, the end of the process forgets all."""

    def __init__(self) -> None:
        self._queues: dict[int, _Queue] = {}
        self._records: dict[str, bytes] = {}
        self._keys: list[str] = []  # of the records, sorted

    @property
    def durability(self) -> str:
        """What is here does not survive the process."""
        return "memory"

    async def open(self) -> None:
        """Does nothing: there is nothing to open."""

    async def close(self) -> None:
        """Does nothing: the content stays as long as this object."""

    async def commit(self, commit: Commit) -> None:
        """Applies a transaction; an append that does not continue its queue raises AssertionError first."""
        self._check(commit.appends)
        for append in commit.appends:
            self._append(append)
        for trim in commit.trims:
            self._trim(trim)
        for key, value in commit.puts:
            self._put(key, value)
        for key in commit.deletes:
            self._delete(key)

    async def read(self, queue: int, after: int, limit_bytes: int) -> list[StoredBatch | Damage]:
        """Returns rows that hold sequences above `after`."""
        if queue not in self._queues:
            return []
        held = self._queues[queue]
        start = held.index_after(after)
        rows: list[StoredBatch | Damage] = []
        for row, offset in zip(held.rows[start : start + READ_ROWS_MAX], held.offsets[start:], strict=False):
            if rows and offset >= held.offsets[start] + limit_bytes:
                break
            rows.append(row)
        return rows

    async def survey(self, queue: int, after: int, rows_max: int) -> list[Row]:
        """Returns rows that hold sequences above `after`, without bodies."""
        if queue not in self._queues:
            return []
        held = self._queues[queue]
        start = held.index_after(after)
        return [
            Row(row.first_sequence, row.last_sequence, row.time_ms, offset, len(row.batch.body))
            for row, offset in zip(held.rows[start : start + rows_max], held.offsets[start:], strict=False)
        ]

    async def locate(self, queue: int, time_ms: int) -> int | None:
        """Returns the first sequence of the first row taken at or after `time_ms`."""
        rows = self._queues[queue].rows if queue in self._queues else []
        return next((row.first_sequence for row in rows if row.time_ms >= time_ms), None)

    async def bounds(self, queues: Sequence[int]) -> dict[int, Bounds]:
        """Returns the bounds of those of `queues` that hold rows."""
        return {
            queue: Bounds(
                held.rows[0].first_sequence,
                held.rows[-1].last_sequence,
                held.end_bytes - held.offsets[0],
                held.rows[-1].time_ms,
            )
            for queue in queues
            if (held := self._queues.get(queue))
        }

    async def get(self, key: str) -> bytes | None:
        """Returns a record."""
        return self._records.get(key)

    async def list(self, prefix: str, after: str = "", limit_bytes: int | None = None) -> list[tuple[str, bytes]]:
        """Returns the records whose keys start with `prefix` and come after `after`, in order."""
        keys = self._keys
        at = max(bisect_left(keys, prefix), bisect_right(keys, after) if after else 0)
        found: list[tuple[str, bytes]] = []
        size = 0
        while at < len(keys) and keys[at].startswith(prefix) and (limit_bytes is None or size < limit_bytes):
            found.append((keys[at], self._records[keys[at]]))
            size += len(found[-1][1])
            at += 1
        return found

    def _check(self, appends: Sequence[Append]) -> None:
        ends: dict[int, int] = {}
        for queue, stored in appends:
            if queue in self._queues:
                ends.setdefault(queue, self._queues[queue].rows[-1].last_sequence)
            end = ends.get(queue, stored.first_sequence - 1)
            if stored.first_sequence != end + 1:
                raise AssertionError(f"queue {queue} ends at {end}; {stored} does not continue it")
            ends[queue] = stored.last_sequence

    def _append(self, append: Append) -> None:
        self._queues.setdefault(append.queue, _Queue()).append(append.stored)

    def _trim(self, trim: Trim) -> None:
        held = self._queues.get(trim.queue)
        if held is None:
            return
        held.trim(trim.to_sequence)
        if not held.rows:
            del self._queues[trim.queue]

    def _put(self, key: str, value: bytes) -> None:
        if key not in self._records:
            insort(self._keys, key)
        self._records[key] = value

    def _delete(self, key: str) -> None:
        if self._records.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
