"""The writer: carries out transactions, one at a time, on its own thread."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from tidings.limits import SQLITE_QUEUE_ENDS_MAX, SQLITE_STATEMENT_BYTES_MAX
from tidings.store.port import Append, Commit, CommitFailed, OutcomeUnknown, Trim
from tidings.store.sqlite import connections, schema
from tidings.store.sqlite.log import Log
from tidings.store.sqlite.rows import COLUMNS, StoredRow, encode_row

_VARIABLES_MAX: Final = 32_766
"""Most variables of one statement, SQLite's default since 3.32."""

_SEQUENCE_MAX: Final = 2**63 - 1

_T = TypeVar("_T")


class Writer:
    """Owns the write connection. Its methods block and belong on one thread."""

    def __init__(self, path: Path, page_bytes: int = schema.PAGE_BYTES) -> None:
        """Opens the file, which must be locked and inspected, and creates what an empty one lacks."""
        self._path = path
        self.connection = connections.open_writer(path)
        try:
            schema.prepare(self.connection, path, page_bytes)
            connections.bound_cache(self.connection)
            self.connection.execute("PRAGMA journal_mode = WAL")
            if self._move_log():
                schema.check_length(self.connection, path)
            self._log = Log(path, self.connection.execute("PRAGMA page_size").fetchone()[0])
        except BaseException:
            self.connection.close()
            raise
        self._ends: dict[int, tuple[int, int]] = {}  # last sequence and end of the bodies, by queue

    def close(self) -> None:
        """Closes the connection, as the last one of the file: that moves the log into it."""
        self.connection.close()
        self._log.close()

    def commit(self, commit: Commit) -> None:
        """Carries out a transaction; see the port.

        A row with a broken page cannot be removed, since that means walking its pages. So that one such row does
        not stop everything that comes with its trim, the transaction is then made without trims: what is not
        forgotten does no harm, and `tidings check` names the row.
        """
        rows, ends = self._place(commit.appends)
        try:
            try:
                self._execute(commit, rows)
            except sqlite3.DatabaseError as error:
                if _code(error) & 0xFF != sqlite3.SQLITE_CORRUPT or not commit.trims:
                    raise
                self._roll_back()
                commit = commit._replace(trims=())
                self._execute(commit, rows)
        except sqlite3.Error as error:
            self._ends.clear()
            if not self._survived(commit, rows, error):
                raise _failed(self._path, error) from error
        except BaseException:
            # A value that SQLite cannot take, which is a bug of the caller: the next transaction must be able to begin.
            self._ends.clear()
            self._roll_back()
            raise
        else:
            self._remember(commit, ends)
        self._log.bound(self.connection)

    def _place(self, appends: Sequence[Append]) -> tuple[list[StoredRow], dict[int, tuple[int, int]]]:
        # Gives each append its offset, and refuses one that does not continue its queue.
        self._look_up(list({append.queue for append in appends if append.queue not in self._ends}))
        ends: dict[int, tuple[int, int]] = {}
        rows = []
        for queue, stored in appends:
            last, offset_bytes = ends.get(queue) or self._ends.get(queue) or (stored.first_sequence - 1, 0)
            if stored.first_sequence != last + 1:
                raise AssertionError(f"queue {queue} ends at {last}; {stored} does not continue it")
            rows.append(encode_row(queue, offset_bytes, stored))
            ends[queue] = (stored.last_sequence, offset_bytes + len(stored.batch.body))
        return rows, ends

    def _look_up(self, queues: list[int]) -> None:
        for part in _parts(queues, 1):
            self._ends.update(
                (queue, (last, end_bytes))
                for queue, last, end_bytes in self.connection.execute(
                    f"""WITH wanted(queue) AS (VALUES {connections.values(len(part), 1)})
                    SELECT wanted.queue, last_sequence, offset_bytes + size_bytes FROM wanted
                    CROSS JOIN rows ON rows.queue = wanted.queue AND first_sequence =
                        (SELECT max(first_sequence) FROM rows WHERE queue = wanted.queue)""",
                    part,
                )
            )

    def _execute(self, commit: Commit, rows: list[StoredRow]) -> None:
        # One statement for all rows of a table. Every step of a statement releases the interpreter's lock and
        # waits to get it back, and beside a busy loop each wait takes a switch interval.
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        for part in _row_parts(rows):
            execute(
                f"INSERT INTO rows ({COLUMNS}) VALUES {connections.values(len(part), len(StoredRow._fields))}",
                [value for row in part for value in row],
            )
        for trims in _parts(commit.trims, 2):
            execute(
                f"""WITH trims(queue, to_sequence) AS (VALUES {connections.values(len(trims), 2)})
                DELETE FROM rows WHERE rowid IN (
                    SELECT rows.rowid FROM trims CROSS JOIN rows ON rows.queue = trims.queue
                    AND first_sequence <= to_sequence AND last_sequence <= to_sequence
                )""",
                [value for trim in trims for value in (trim.queue, min(trim.to_sequence, _SEQUENCE_MAX))],
            )
        for puts in _parts(commit.puts, 2):
            execute(
                f"""INSERT INTO records (key, value) VALUES {connections.values(len(puts), 2)}
                ON CONFLICT (key) DO UPDATE SET value = excluded.value""",
                [value for put in puts for value in put],
            )
        for keys in _parts(commit.deletes, 1):
            execute(f"DELETE FROM records WHERE key IN ({','.join('?' * len(keys))})", keys)
        execute("COMMIT")

    def _remember(self, commit: Commit, ends: dict[int, tuple[int, int]]) -> None:
        self._ends.update(ends)
        for queue, to_sequence in commit.trims:
            # A queue that was wholly trimmed may continue anywhere.
            if queue in self._ends and self._ends[queue][0] <= to_sequence:
                del self._ends[queue]
        if len(self._ends) > SQLITE_QUEUE_ENDS_MAX:
            self._ends.clear()

    def _survived(self, commit: Commit, rows: list[StoredRow], error: sqlite3.Error) -> bool:
        # Finds out whether a transaction that failed is in the file after all.
        try:
            self._roll_back()
            if _stopped_before_end(error):
                if _code(error) == sqlite3.SQLITE_FULL:
                    self._move_log()  # where the log's pages have their places in the file already, it gives space back
                return False
            if not self._move_log():
                raise sqlite3.OperationalError("the log could not be moved into the file")
            return self._holds(commit, rows)
        except sqlite3.Error as second:
            raise OutcomeUnknown(
                f"{self._path}: whether a transaction was stored could not be found out after {error}: {second};"
                " look at the disk"
            ) from error

    def _roll_back(self) -> None:
        # SQLite ends the transaction by itself after some errors. If it cannot end, a new connection starts
        # from what is in the file.
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.connection.close()
            self.connection = connections.open_writer(self._path)

    def _move_log(self) -> bool:
        # After this nothing is left in the log: what the connection sees is in the file, durable, and what an
        # interrupted commit left behind in the log is gone.
        try:
            return not self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            return False

    def _holds(self, commit: Commit, rows: list[StoredRow]) -> bool:
        # A transaction whose every effect is there was stored, or would have changed nothing.
        execute = self.connection.execute
        trimmed = dict(commit.trims)
        deleted = set(commit.deletes)
        put = {key: value for key, value in commit.puts if key not in deleted}
        find_row = "SELECT checksum FROM rows WHERE queue = ? AND first_sequence = ?"
        find_trimmed = """SELECT 1 FROM rows
            WHERE queue = ? AND first_sequence <= ? AND last_sequence <= ? ORDER BY first_sequence LIMIT 1"""
        find_record = "SELECT value FROM records WHERE key = ?"
        return (
            all(
                row.last_sequence <= trimmed.get(row.queue, 0)
                or execute(find_row, row[:2]).fetchone() == (row.checksum,)
                for row in rows
            )
            and not any(execute(find_trimmed, _twice(trim)).fetchone() for trim in commit.trims)
            and all(execute(find_record, (key,)).fetchone() == (value,) for key, value in put.items())
            and not any(execute(find_record, (key,)).fetchone() for key in deleted)
        )


def _parts(items: Sequence[_T], columns: int) -> Iterator[Sequence[_T]]:
    # Cuts what goes into one statement into parts that have variables enough.
    step = _VARIABLES_MAX // columns
    for start in range(0, len(items), step):
        yield items[start : start + step]


def _row_parts(rows: list[StoredRow]) -> Iterator[list[StoredRow]]:
    # As `_parts`, and by bytes, too: a statement keeps a copy of what it was last given for as long as it is cached.
    part: list[StoredRow] = []
    size_bytes = 0
    for row in rows:
        if part and (
            size_bytes + len(row.body) > SQLITE_STATEMENT_BYTES_MAX
            or (len(part) + 1) * len(StoredRow._fields) > _VARIABLES_MAX
        ):
            yield part
            part, size_bytes = [], 0
        part.append(row)
        size_bytes += len(row.body)
    if part:
        yield part


def _twice(trim: Trim) -> tuple[int, int, int]:
    to_sequence = min(trim.to_sequence, _SEQUENCE_MAX)
    return trim.queue, to_sequence, to_sequence


def _stopped_before_end(error: sqlite3.Error) -> bool:
    # The last thing that a commit writes is the frame that ends it. When there was no space for a frame, or it
    # could not be written, that one is not there. Only a failed fsync leaves the question open.
    # Errors that do not come from the disk (a constraint, a damaged page) stop a transaction before its end.
    code = _code(error)
    return code & 0xFF != sqlite3.SQLITE_IOERR or code == sqlite3.SQLITE_IOERR_WRITE


def _code(error: sqlite3.Error) -> int:
    # Errors that the module raises by itself (a wrong type, say) have no code: they come before anything is written.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)


def _failed(path: Path, error: sqlite3.Error) -> CommitFailed:
    code = _code(error) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return CommitFailed(f"{path}: no space left; nothing was stored, free some space", full=True)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CommitFailed(f"{path}: {error}; nothing was stored, `tidings check {path}` says what is damaged")
    return CommitFailed(f"{path}: {error}; nothing was stored")
