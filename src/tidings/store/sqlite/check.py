"""The check: reads everything in a data file and says what is wrong with it."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tidings.batch import Batch, decode_items
from tidings.errors import StoreDamaged, StoreForeign, StoreUnusable
from tidings.store.sqlite import schema
from tidings.store.sqlite.lock import FileLock
from tidings.store.sqlite.rows import COLUMNS, StoredRow, Unreadable, decode_row

_INTEGRITY_PROBLEMS_MAX: Final = 100
"""Most findings of SQLite's own check; one broken page can cause thousands."""

_LOST: Final = "subscribers will be told of a gap; restore a backup if you have one"
_REWRITE: Final = "stop the server, and restore a backup if you have one"


@dataclass
class CheckResult:
    """What a data file holds and how much of it is wrong."""

    queues: int = 0
    rows: int = 0
    messages: int = 0
    size_bytes: int = 0
    records: int = 0
    problems: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check(path: str | os.PathLike[str], report: Callable[[str], None]) -> CheckResult:
    """Verifies a data file: SQLite's structures, every row, the order of every queue, every record.

    Changes nothing. It reads the whole file, and nobody else may have it open meanwhile.

    Arguments:
        path: the data file.
        report: is called with each problem: which queue (by its epoch), which sequences, what to do.

    Raises:
        StoreUnusable: there is no such file, it is not ours, from a newer version, or locked.
    """
    file = Path(os.path.realpath(path))
    if not file.is_file():
        raise StoreUnusable(f"there is no data file {file}")
    return _Check(file, report).run()


class _Check:
    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path = path
        self._report = report
        self._result = CheckResult()

    def run(self) -> CheckResult:
        lock = FileLock(self._path)
        lock.acquire()
        try:
            schema.inspect(self._path)
            self._check_file()
        except StoreForeign:
            lock.release(in_vain=True)
            raise
        except StoreDamaged as error:
            self._problem(f"{error.text.partition('; `tidings check')[0]}; {_REWRITE}")
        finally:
            lock.release()
        return self._result

    def _check_file(self) -> None:
        # Read only, so that what is looked at stays as it is; a log that a crash left behind is read with it.
        # Without one the file is all there is, and SQLite need not make the log's files beside it.
        mode = "mode=ro" if self._log_bytes() else "immutable=1"
        connection = sqlite3.connect(f"{self._path.as_uri()}?{mode}", uri=True, isolation_level=None)
        try:
            schema.check_tables(connection, self._path)
            self._check_length(connection)
            self._check_integrity(connection)
            self._check_rows(connection)
            self._check_records(connection)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self._problem(f"{self._path} cannot be read further: {error}; {_REWRITE}")
        finally:
            connection.close()

    def _log_bytes(self) -> int:
        log = self._path.with_name(self._path.name + "-wal")
        return log.stat().st_size if log.exists() else 0

    def _check_length(self, connection: sqlite3.Connection) -> None:
        if self._log_bytes():
            return  # pages at the end of the file may be in the log still
        try:
            schema.check_length(connection, self._path)
        except StoreDamaged as error:
            self._problem(f"{error.text.partition('; `tidings check')[0]}; {_REWRITE}")

    def _check_integrity(self, connection: sqlite3.Connection) -> None:
        try:
            for (finding,) in connection.execute(f"PRAGMA integrity_check({_INTEGRITY_PROBLEMS_MAX})"):
                if finding != "ok":
                    self._problem(f"SQLite finds: {' '.join(finding.split())}; {_REWRITE}")
        except sqlite3.DatabaseError as error:
            self._problem(f"SQLite finds: {error}; {_REWRITE}")

    def _check_rows(self, connection: sqlite3.Connection) -> None:
        before: StoredRow | None = None
        # The index alone names the rows, so that one which cannot be read does not end the walk.
        for queue, first in connection.execute("SELECT queue, first_sequence FROM rows ORDER BY queue, first_sequence"):
            if before is None or before.queue != queue:
                self._result.queues += 1
                before = None
            self._result.rows += 1
            row = self._read_row(connection, queue, first)
            if row is not None:
                self._check_place(row, before)
                self._result.messages += row.last_sequence - row.first_sequence + 1
                self._result.size_bytes += len(row.body)
            before = row
        # A queue whose rows before are unreadable would be counted again.
        self._result.queues = connection.execute("SELECT count(DISTINCT queue) FROM rows").fetchone()[0]

    def _read_row(self, connection: sqlite3.Connection, queue: int, first: int) -> StoredRow | None:
        statement = f"SELECT {COLUMNS} FROM rows WHERE queue = ? AND first_sequence = ?"
        try:
            values = connection.execute(statement, (queue, first)).fetchone()
            if values is None:
                raise Unreadable("the index names it, the table does not have it")
            row = StoredRow._make(values)
            for problem in _problems(decode_row(row).batch):
                raise Unreadable(problem)
        except (sqlite3.DatabaseError, Unreadable) as error:
            last = self._end_of(connection, queue, first)
            self._problem(f"queue {queue}, sequences {first} to {last}: {error}; {_LOST}")
            return None
        return row

    def _end_of(self, connection: sqlite3.Connection, queue: int, first: int) -> str:
        follower = connection.execute(
            "SELECT min(first_sequence) FROM rows WHERE queue = ? AND first_sequence > ?", (queue, first)
        ).fetchone()[0]
        return "the end" if follower is None else str(follower - 1)

    def _check_place(self, row: StoredRow, before: StoredRow | None) -> None:
        where = f"queue {row.queue}, sequences {row.first_sequence} to {row.last_sequence}"
        if row.size_bytes != len(row.body):
            self._problem(f"{where}: a body of {len(row.body)} bytes where {row.size_bytes} are named; {_LOST}")
        if before is None:
            return
        if row.first_sequence != before.last_sequence + 1:
            self._problem(f"{where}: the row before ends at {before.last_sequence}; {_LOST}")
        if row.offset_bytes != before.offset_bytes + before.size_bytes:
            self._problem(
                f"{where}: begins at byte {row.offset_bytes} of its queue, the row before ends at"
                f" {before.offset_bytes + before.size_bytes}; sizes in listings are wrong, nothing is lost"
            )

    def _check_records(self, connection: sqlite3.Connection) -> None:
        for key, value in connection.execute("SELECT key, value FROM records ORDER BY key"):
            self._result.records += 1
            try:
                msgspec.msgpack.decode(value)
            except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
                self._problem(f"record {key!r} cannot be decoded: {error}; {_REWRITE}")

    def _problem(self, text: str) -> None:
        self._result.problems += 1
        self._report(text)


def _problems(batch: Batch) -> Iterator[str]:
    # A row joins many batches, so the limits of one batch (`Batch.validate`) do not apply to it.
    offset = 0
    for index, run in enumerate(batch.runs):
        if run.event is not None:
            try:
                decode_items(run.count, run.flags, batch.body[offset : offset + run.size])
            except msgspec.MsgspecError as error:
                yield f"run {index} (event {run.event!r}) is not {run.count} messages: {error}"
        offset += run.size
    if offset != len(batch.body):
        yield f"the runs describe {offset} bytes, the body has {len(batch.body)}"
