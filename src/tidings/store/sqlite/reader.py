"""The reader: everything that is looked up, on its own connection and thread."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from tidings.batch import StoredBatch
from tidings.limits import READ_ROWS_MAX
from tidings.store.port import Bounds, Damage, Row
from tidings.store.sqlite import connections, schema
from tidings.store.sqlite.rows import COLUMNS, StoredRow, Unreadable, decode_row

_QUEUES_MAX: Final = 32_766
"""Most queues asked for in one statement: SQLite's bound on variables."""

# The row that holds the first sequence above :after may begin at or before it. Where a row begins comes from the
# index; what a damaged row says about its end must neither hide it nor bring it back on the next page.
_ROWS_AFTER: Final = """FROM rows
    WHERE queue = :queue AND (first_sequence > :after OR last_sequence > :after) AND first_sequence >= coalesce(
        (SELECT max(first_sequence) FROM rows WHERE queue = :queue AND first_sequence <= :after + 1), 0)
    ORDER BY first_sequence"""

_SURVEY: Final = (
    f"SELECT first_sequence, last_sequence, time_ms, offset_bytes, size_bytes {_ROWS_AFTER} LIMIT :rows_max"
)

# The row at which the page is full has already been stepped to when that is seen: its body is not loaded.
_READ: Final = f"""WITH stop(offset_bytes) AS MATERIALIZED (SELECT offset_bytes {_ROWS_AFTER} LIMIT 1)
    SELECT {COLUMNS.removesuffix(", body")},
    CASE WHEN rows.offset_bytes < (SELECT offset_bytes FROM stop) + :limit_bytes
        OR rows.offset_bytes = (SELECT offset_bytes FROM stop) THEN body END
    {_ROWS_AFTER} LIMIT :rows_max"""

_BOUNDS: Final = """WITH wanted(queue) AS (VALUES {values})
    SELECT wanted.queue, head.first_sequence, tail.last_sequence,
        tail.offset_bytes + tail.size_bytes - head.offset_bytes, tail.time_ms
    FROM wanted
    CROSS JOIN rows AS head ON head.queue = wanted.queue
        AND head.first_sequence = (SELECT min(first_sequence) FROM rows WHERE queue = wanted.queue)
    CROSS JOIN rows AS tail ON tail.queue = wanted.queue
        AND tail.first_sequence = (SELECT max(first_sequence) FROM rows WHERE queue = wanted.queue)"""


class Reader:
    """Owns the read connection. Its methods block and belong on one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.connection = connections.open_reader(path)

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()

    def read(self, queue: int, after: int, limit_bytes: int) -> list[StoredBatch | Damage]:
        """Returns rows that hold sequences above `after`; see the port."""
        named = {"queue": queue, "after": after, "limit_bytes": limit_bytes, "rows_max": READ_ROWS_MAX}
        rows: list[StoredBatch | Damage] = []
        cursor = self.connection.cursor()
        try:
            for values in cursor.execute(_READ, named):
                row = StoredRow._make(values)
                if row.body is None:
                    break
                found = self._decode(queue, row)
                if found.last_sequence <= (rows[-1].last_sequence if rows else after):
                    # An index out of order. Whoever goes on after the last row would be given it again without end.
                    if rows:
                        break
                    raise schema.damaged(self._path, f"queue {queue}: row {found.first_sequence} comes after {after}")
                rows.append(found)
        except sqlite3.DatabaseError:
            # Some page of a row cannot be right. Rows before it are good; that one is looked at alone.
            return rows or self._read_singly(queue, after)
        finally:
            cursor.close()
        return rows

    def survey(self, queue: int, after: int, rows_max: int) -> list[Row]:
        """Returns rows that hold sequences above `after`, without bodies."""
        named = {"queue": queue, "after": after, "rows_max": rows_max}
        return [Row._make(self._numbers(queue, values)) for values in self.connection.execute(_SURVEY, named)]

    def locate(self, queue: int, time_ms: int) -> int | None:
        """Returns the first sequence of the first row taken at or after `time_ms`.

        A binary search over the sequences: times in a queue do not go backwards.
        """
        ends = self.bounds([queue]).get(queue)
        if ends is None or ends.last_time_ms < time_ms:
            return None
        low, high = ends.first_sequence, ends.last_sequence
        found = None
        while low <= high:
            middle = (low + high) // 2
            rows = self.survey(queue, middle - 1, 1)
            if not rows:  # trimmed since, which leaves nothing at or below the middle
                return None
            row = rows[0]
            if row.time_ms >= time_ms:
                found, high = row.first_sequence, min(middle, row.first_sequence) - 1
            else:
                low = row.last_sequence + 1
        return found

    def bounds(self, queues: Sequence[int]) -> dict[int, Bounds]:
        """Returns the bounds of those of `queues` that hold rows, all at one point in time."""
        found: dict[int, Bounds] = {}
        self.connection.execute("BEGIN")
        try:
            for start in range(0, len(queues), _QUEUES_MAX):
                part = queues[start : start + _QUEUES_MAX]
                statement = _BOUNDS.format(values=connections.values(len(part), 1))
                for queue, *values in self.connection.execute(statement, part).fetchall():
                    found[queue] = Bounds._make(self._numbers(queue, values))
        finally:
            self.connection.execute("COMMIT")
        return found

    def get(self, key: str) -> bytes | None:
        """Returns a record."""
        row = self.connection.execute("SELECT value FROM records WHERE key = ?", (key,)).fetchone()
        if row and not isinstance(row[0], bytes):
            raise schema.damaged(self._path, f"record {key!r} is not bytes")
        return row[0] if row else None

    def records(self, prefix: str, after: str, limit_bytes: int | None) -> list[tuple[str, bytes]]:
        """Returns the records whose keys start with `prefix` and come after `after`, about so many bytes of them."""
        found: list[tuple[str, bytes]] = []
        size = 0
        where = "key > ?" if after >= prefix and after else "key >= ?"
        query = f"SELECT key, value FROM records WHERE {where} ORDER BY key"
        cursor = self.connection.execute(query, (max(prefix, after),))
        for key, value in cursor:
            if not isinstance(key, str) or not isinstance(value, bytes):
                raise schema.damaged(self._path, "a record is not a text and its bytes")
            if not key.startswith(prefix):
                break
            found.append((key, value))
            size += len(value)
            if limit_bytes is not None and size >= limit_bytes:
                break
        cursor.close()
        return found

    def _numbers(self, queue: int, values: Sequence[object]) -> Sequence[int]:
        # SQLite puts any kind of value into any column, and a damaged row can have them all.
        if not all(isinstance(value, int) for value in values):
            raise schema.damaged(self._path, f"a row of queue {queue} has something else where a number was")
        return cast("Sequence[int]", values)

    def _decode(self, queue: int, row: StoredRow) -> StoredBatch | Damage:
        try:
            return decode_row(row)
        except Unreadable as error:
            return self._damage(queue, row.first_sequence, f"row {row.first_sequence}: {error}")

    def _read_singly(self, queue: int, after: int) -> list[StoredBatch | Damage]:
        # The index alone says where a row begins, the next one where it ends.
        try:
            first = self._begin_of(queue, after)
            if first is None:
                return []
            try:
                values = self.connection.execute(
                    f"SELECT {COLUMNS} FROM rows WHERE queue = ? AND first_sequence = ?", (queue, first)
                ).fetchone()
            except sqlite3.DatabaseError as error:
                return [self._damage(queue, first, f"row {first}: {error}", after)]
            if values is None:
                return [
                    self._damage(queue, first, f"row {first}: the index names it, the table does not have it", after)
                ]
            return [self._decode(queue, StoredRow._make(values))]
        except sqlite3.DatabaseError as error:
            raise schema.damaged(self._path, error) from error

    def _begin_of(self, queue: int, after: int) -> int | None:
        # The first sequence of the row that holds `after` + 1. Rows are dense, so it is the last one that begins
        # at or before it, if it does not end before; where that cannot be read it is taken to reach so far.
        index = "SELECT {0}(first_sequence) FROM rows WHERE queue = ? AND first_sequence {1} ?"
        follower = self.connection.execute(index.format("min", ">"), (queue, after + 1)).fetchone()[0]
        first = self.connection.execute(index.format("max", "<="), (queue, after + 1)).fetchone()[0]
        if first is None:
            return None if follower is None else int(follower)
        try:
            found = self.connection.execute(
                "SELECT last_sequence FROM rows WHERE queue = ? AND first_sequence = ?", (queue, first)
            ).fetchone()
            last = found[0] if found is not None else None
        except sqlite3.DatabaseError:
            last = None
        if not isinstance(last, int) or last > after:
            return int(first)
        return None if follower is None else int(follower)

    def _damage(self, queue: int, first: int, reason: str, after: int = 0) -> Damage:
        if not isinstance(first, int):
            raise schema.damaged(self._path, f"a row of queue {queue} begins at {first!r}, which is no sequence")
        index = "SELECT min(first_sequence) FROM rows WHERE queue = ? AND first_sequence > ?"
        follower = self.connection.execute(index, (queue, first)).fetchone()[0]
        if follower is not None:
            return Damage(first, follower - 1, reason)
        # The last row of its queue: only itself could say where it ends.
        last = max(first, after + 1)
        try:
            stored = self.connection.execute(
                "SELECT last_sequence FROM rows WHERE queue = ? AND first_sequence = ?", (queue, first)
            ).fetchone()
            if stored is not None and isinstance(stored[0], int):  # index and table may tell different stories
                last = max(last, stored[0])
        except sqlite3.DatabaseError:
            pass  # the reason already says that the row cannot be read
        return Damage(first, last, reason)
