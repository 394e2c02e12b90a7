"""Space: a full disk refuses and recovers, trimmed space is used again, the log stays bounded, backups are whole."""

# ruff: noqa: ASYNC240 -- nothing else runs on a test's loop while it looks at files

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tidings import limits
from tidings.batch import StoredBatch
from tidings.errors import InvalidOption
from tidings.store.port import Append, Commit, CommitFailed, Trim
from tidings.store.sqlite import SqliteStore, check, schema
from tidings.store.sqlite import store as store_module
from tidings.store.sqlite import writer as writer_module
from tidings.store.sqlite.log import Log
from tidings.store.sqlite.writer import Writer
from tidings.testing.store_contract import append_all, make_batch, make_rows

BODY_BYTES = 64 * 1024
ALL_BYTES = 1 << 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def row(sequence: int) -> Append:
    return Append(1, StoredBatch(sequence, sequence, make_batch(1, size_bytes=BODY_BYTES)))


def fill_up(writer: Writer, sequence: int = 1) -> tuple[int, CommitFailed]:
    """Appends rows until one is refused; returns its sequence and the error."""
    while True:
        try:
            writer.commit(Commit([row(sequence)], puts=[("last", b"%d" % sequence)]))
        except CommitFailed as error:
            return sequence, error
        sequence += 1


def test_a_full_disk_refuses_a_commit_wholly_and_goes_on_once_space_is_back(path: Path) -> None:
    writer = Writer(path)
    writer.connection.execute(f"PRAGMA max_page_count = {2 * 1024 * 1024 // schema.PAGE_BYTES}")
    refused, error = fill_up(writer)
    assert error.full
    assert "no space left" in error.text
    assert refused > 10
    held = writer.connection.execute("SELECT max(last_sequence) FROM rows").fetchone()
    last = writer.connection.execute("SELECT value FROM records").fetchone()
    assert (held, last) == ((refused - 1,), (b"%d" % (refused - 1),))

    writer.commit(Commit(trims=[Trim(1, 5)]))  # trims and small records still go
    writer.commit(Commit([row(refused)], puts=[("last", b"%d" % refused)]))
    writer.connection.execute("PRAGMA max_page_count = 1000000")
    writer.commit(Commit([row(refused + number) for number in range(1, 50)]))
    writer.close()
    assert check(path, print).rows == refused + 49 - 5


WITH_SMALL_FILES = """
import asyncio, resource, sys
from tidings.store.port import Commit, CommitFailed
from tidings.store.sqlite import SqliteStore
from tidings.testing.store_contract import append_all, make_rows

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    sequence = 1
    while True:
        try:
            await store.commit(append_all(make_rows(1, first=sequence, size_bytes=50_000)))
        except CommitFailed as error:
            print(sequence, error.full, flush=True)
            break
        sequence += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (await store.bounds([1]))[1].last_sequence == sequence - 1
    await store.commit(append_all(make_rows(1, first=sequence, size_bytes=50_000)))
    await store.close()

asyncio.run(main())
"""


def test_a_write_that_the_system_refuses_is_known_not_to_be_stored(path: Path) -> None:
    # A file may not grow further: the system answers with an error that is not "disk full".
    command = [sys.executable, "-c", WITH_SMALL_FILES, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert output.returncode == 0, output.stderr
    refused, full = output.stdout.split()
    assert full == "False"
    assert check(path, print).rows == int(refused) > 5


def test_a_failed_transaction_that_was_stored_after_all_is_found(path: Path) -> None:
    # What `_holds` decides after an fsync that failed: whether every effect of a transaction is there.
    writer = Writer(path)
    writer.commit(append_all(make_rows(2, 2))._replace(puts=[("gone", b"1")]))
    commit = Commit([Append(1, make_rows(3, first=5)[0])], [Trim(1, 2)], [("a", b"1")], ["gone"])
    rows, _ = writer._place(commit.appends)
    assert not writer._holds(commit, rows)
    for part in (commit._replace(appends=()), commit._replace(trims=(), puts=(), deletes=())):
        assert not writer._holds(part, rows if part.appends else [])
    for only in (Commit(trims=commit.trims), Commit(puts=commit.puts), Commit(deletes=commit.deletes)):
        assert not writer._holds(only, [])
    writer.commit(commit)
    assert writer._holds(commit, rows)
    assert not writer._holds(Commit(puts=[("a", b"2")]), [])
    writer.close()


def test_only_a_failed_fsync_leaves_a_question() -> None:
    answers = {}
    for name in ("SQLITE_FULL", "SQLITE_CORRUPT", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_READ"):
        error = sqlite3.OperationalError(name)
        error.sqlite_errorcode = getattr(sqlite3, name)
        answers[name] = writer_module._stopped_before_end(error)
    assert [name for name, answer in answers.items() if not answer] == ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_READ"]


def test_a_file_does_not_grow_while_rows_are_trimmed_as_fast_as_they_come(path: Path) -> None:
    writer = Writer(path)
    writer._log = Log(path, schema.PAGE_BYTES, 1024 * 1024)
    sizes = []
    for sequence in range(1, 301):
        writer.commit(Commit([row(sequence)], [Trim(1, sequence - 20)]))
        pages = writer.connection.execute("PRAGMA page_count").fetchone()[0]
        sizes.append(pages * schema.PAGE_BYTES)
    assert sizes[-1] <= sizes[40] + 2 * BODY_BYTES
    assert sizes[-1] < 30 * BODY_BYTES
    writer.close()
    assert path.stat().st_size == sizes[-1]


def test_the_log_stays_bounded_and_waits_for_readers(path: Path) -> None:
    bound = 1024 * 1024
    writer = Writer(path)
    log = writer._log = Log(path, schema.PAGE_BYTES, bound)
    lengths = []
    for sequence in range(1, 101):
        writer.commit(Commit([row(sequence)]))
        lengths.append(log.length_bytes())
    commit_bytes = 2 * BODY_BYTES
    assert max(lengths) < bound + commit_bytes
    assert min(lengths[50:]) < commit_bytes  # it was started again
    assert path.with_name("events.db-wal").stat().st_size < bound + commit_bytes

    reader = SqliteReaderInTheMiddle(path)
    for sequence in range(101, 151):
        writer.commit(Commit([row(sequence)]))
    assert log.length_bytes() > bound + commit_bytes  # the reader holds it, and commits go on
    reader.finish()
    for sequence in range(151, 171):
        writer.commit(Commit([row(sequence)]))
    assert log.length_bytes() < bound + commit_bytes
    writer.close()
    assert check(path, print).rows == 170


class SqliteReaderInTheMiddle:
    """A reader that has begun to read and does not go on."""

    def __init__(self, path: Path) -> None:
        from tidings.store.sqlite.connections import open_reader

        self._connection = open_reader(path)
        self._connection.execute("BEGIN")
        self._connection.execute("SELECT count(*) FROM rows").fetchone()

    def finish(self) -> None:
        self._connection.close()


async def test_a_backup_is_a_data_file_with_everything_committed_before(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(Commit([row(sequence) for sequence in range(1, 101)], puts=[("a", b"\x01")]))
    target = path.with_name("copy.db")
    size_bytes = await store.backup(str(target))
    assert target.stat().st_size == size_bytes
    await store.commit(Commit([row(101)]))
    await store.close()
    assert check(target, print).rows == 100
    copy = SqliteStore(target)
    await copy.open()
    assert await copy.get("a") == b"\x01"
    await copy.commit(Commit([row(101)]))
    await copy.close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["copy.db", "copy.db.lock", "events.db", "events.db.lock"]


async def test_commits_go_on_during_a_backup_and_the_copy_is_consistent(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(Commit([row(sequence) for sequence in range(1, 301)]))
    target = path.with_name("copy.db")
    copying = asyncio.ensure_future(store.backup(str(target)))
    sequence = 300
    during = 0
    while not copying.done():
        sequence += 1
        await store.commit(Commit([row(sequence)], [Trim(1, sequence - 250)], [("last", bytes([sequence % 128]))]))
        during += not copying.done()
    await copying
    assert during > 1
    await store.close()
    result = check(target, print)
    assert result.sound
    assert result.rows >= 249


async def test_a_backup_overwrites_nothing(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    target = path.with_name("copy.db")
    target.write_text("precious")
    with pytest.raises(InvalidOption, match="exists"):
        await store.backup(str(target))
    assert target.read_text() == "precious"
    with pytest.raises(InvalidOption, match="cannot be written"):
        await store.backup(str(path.parent / "nowhere" / "copy.db"))
    with pytest.raises(InvalidOption, match="exists"):
        await store.backup(str(path))
    await store.close()


async def test_closing_the_store_ends_a_backup(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BACKUP_STEP_BYTES", schema.PAGE_BYTES)  # thousands of steps
    store = SqliteStore(path)
    await store.open()
    await store.commit(Commit([row(sequence) for sequence in range(1, 301)]))
    copying = asyncio.ensure_future(store.backup(str(path.with_name("copy.db"))))
    while not path.with_name("copy.db.partial").exists():  # noqa: ASYNC110 -- another thread makes it
        await asyncio.sleep(0)
    await store.close()
    with pytest.raises(InvalidOption, match="closed"):
        await copying
    assert sorted(p.name for p in path.parent.iterdir()) == ["events.db", "events.db.lock"]


async def test_a_value_that_cannot_be_stored_does_not_stop_the_writer(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(UnicodeEncodeError):
        await store.commit(append_all(make_rows(1))._replace(puts=[("\ud800", b"\x01")]))
    assert await store.bounds([1]) == {}
    await store.commit(append_all(make_rows(1)))
    await store.close()


async def test_a_row_that_cannot_be_removed_does_not_stop_the_rest(
    path: Path, body_page: Callable[[bytearray, bytes], int]
) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(Commit([row(1), row(2)]))
    await store.close()
    content = bytearray(path.read_bytes())
    page = body_page(content, b"x")
    content[page : page + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    await store.open()
    # A trim walks the chain of pages of what it frees.
    await store.commit(Commit([row(3)], [Trim(1, 1)], [("a", b"\x01")]))
    assert await store.read(1, 2, 1) == [row(3).stored]
    assert await store.get("a") == b"\x01"
    assert (await store.bounds([1]))[1].first_sequence == 1
    await store.close()


async def test_free_space_is_told(path: Path) -> None:
    store = SqliteStore(path)
    assert store.free_bytes() > 0


async def test_many_rows_of_many_queues_go_into_one_statement(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    held = make_rows(1)[0]
    await store.commit(Commit([Append(queue, held) for queue in range(9000)]))
    assert len(await store.bounds(range(9000))) == 9000
    await store.commit(Commit(trims=[Trim(queue, 1) for queue in range(1, 9000)]))
    assert list(await store.bounds(range(9000))) == [0]
    await store.close()


async def test_ends_of_queues_are_looked_up_again_when_too_many_are_remembered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "SQLITE_QUEUE_ENDS_MAX", 3)
    store = SqliteStore(path)
    await store.open()
    for first in range(1, 5):
        for queue in range(10):
            await store.commit(append_all(make_rows(1, first=first), queue=queue))
    with pytest.raises(AssertionError):
        await store.commit(append_all(make_rows(1, first=4), queue=2))
    assert {bounds.last_sequence for bounds in (await store.bounds(range(10))).values()} == {4}
    await store.close()


def test_settings_make_a_commit_durable(path: Path) -> None:
    writer = Writer(path)
    found = {
        name: writer.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "journal_mode", "secure_delete", "fullfsync", "wal_autocheckpoint", "page_size")
    }
    writer.close()
    assert found == {
        "synchronous": 2,
        "journal_mode": "wal",
        "secure_delete": 0,
        "fullfsync": 1,
        "wal_autocheckpoint": 0,
        "page_size": schema.PAGE_BYTES,
    }
    assert limits.SQLITE_LOG_BYTES_MAX >= 2 * limits.COMMIT_BYTES_MAX
