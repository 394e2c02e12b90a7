"""Opening a data file: what is not right is named and refused, and stays as it was."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 -- nothing else runs on a test's loop while it looks at files

import os
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tidings.errors import StoreDamaged, StoreForeign, StoreLocked, StoreNewer, StoreUnusable
from tidings.store.port import Commit
from tidings.store.sqlite import SqliteStore, check, schema
from tidings.testing.store_contract import append_all, make_rows

OWNER = """
import asyncio, sys
from tidings.store.sqlite import SqliteStore
from tidings.testing.store_contract import append_all, make_rows

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await store.commit(append_all(make_rows(2, 3)))
    print("open", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


async def fill(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(append_all(make_rows(2, 3)))
    await store.close()


async def assert_refused(path: Path, error: type[StoreUnusable], *texts: str) -> None:
    before = path.read_bytes() if path.is_file() else None
    store = SqliteStore(path)
    with pytest.raises(error) as caught:
        await store.open()
    assert type(caught.value) is error
    for text in (path.name, *texts):
        assert text in caught.value.text
    await store.close()  # closing what did not open is fine
    assert before == (path.read_bytes() if path.is_file() else None)


def change(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


async def test_a_new_file_is_made_and_opened_again(path: Path) -> None:
    await fill(path)
    store = SqliteStore(path)
    await store.open()
    assert await store.read(1, 0, 1000) == make_rows(2, 3)
    await store.close()


async def test_an_empty_file_becomes_a_data_file(path: Path) -> None:
    path.touch()
    await fill(path)
    assert check(path, print).rows == 2


async def test_a_missing_directory_is_refused_and_not_made(tmp_path: Path) -> None:
    await assert_refused(tmp_path / "nowhere" / "events.db", StoreUnusable, "does not exist")
    assert not (tmp_path / "nowhere").exists()


async def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.db").mkdir()
    await assert_refused(tmp_path / "events.db", StoreUnusable, "not a file")


@pytest.mark.parametrize("content", [b"x", b"# notes\n" * 100, b"SQLite format 2\0" + b"\0" * 200, b"\0" * 8192])
async def test_a_file_that_is_not_sqlite_is_foreign(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    await assert_refused(path, StoreForeign, "not a Tidings data file")
    assert os.listdir(path.parent) == [path.name]  # not even a lock is left beside it


@pytest.mark.parametrize("application_id", [0, 42])
async def test_another_program_s_database_is_foreign(path: Path, application_id: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE rows (a)")
    connection.execute(f"PRAGMA application_id = {application_id}")
    connection.commit()
    connection.close()
    await assert_refused(path, StoreForeign, f"{application_id:#010x}")


async def test_a_newer_format_is_refused_with_both_versions(path: Path) -> None:
    await fill(path)
    change(path, 60, (7).to_bytes(4, "big"))
    await assert_refused(path, StoreNewer, "version 7", "up to 1")


async def test_an_overwritten_beginning_is_damage(path: Path) -> None:
    await fill(path)
    change(path, 0, b"garbage!")
    await assert_refused(path, StoreDamaged, f"tidings check {path}")


async def test_an_overwritten_schema_is_damage(path: Path) -> None:
    await fill(path)
    change(path, 100, bytes(range(1, 251)) * 16)
    await assert_refused(path, StoreDamaged, f"tidings check {path}")


async def test_a_missing_table_is_damage(path: Path) -> None:
    await fill(path)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE records")
    connection.commit()
    connection.close()
    await assert_refused(path, StoreDamaged, "'records' is missing")


@pytest.mark.parametrize("length", [50, schema.PAGE_BYTES, 2 * schema.PAGE_BYTES + 99])
async def test_a_truncated_file_is_damage(path: Path, length: int) -> None:
    await fill(path)
    os.truncate(path, length)
    await assert_refused(path, StoreDamaged, f"tidings check {path}")
    problems: list[str] = []
    assert not check(path, problems.append).sound
    assert problems


async def test_a_file_without_permission_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The super-user may do everything, so the system's answer is given here.
    await fill(path)
    os.remove(path.with_name("events.db.lock"))
    monkeypatch.setattr(os, "access", lambda where, mode: Path(where) != path)
    await assert_refused(path, StoreUnusable, "permissions")
    monkeypatch.setattr(os, "access", lambda where, mode: Path(where) != path.parent)
    await assert_refused(path, StoreUnusable, str(path.parent))
    assert os.listdir(path.parent) == [path.name]


async def test_a_second_store_is_told_who_has_the_file(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreLocked, match=str(os.getpid())):
        await SqliteStore(path).open()
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(StoreLocked):
        await SqliteStore(link).open()
    with pytest.raises(StoreLocked):
        check(path, print)
    await store.commit(Commit(puts=[("a", b"\x01")]))  # the first one is unharmed
    await store.close()
    await fill(path)  # free again


async def test_a_killed_process_gives_the_lock_back_and_keeps_what_it_committed(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=rf"process {process.pid}\b.*tidings serve"):
            await SqliteStore(path).open()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert path.with_name("events.db-wal").stat().st_size > 0
    assert check(path, print).rows == 2  # reads the log, and leaves it
    assert path.with_name("events.db-wal").stat().st_size > 0
    store = SqliteStore(path)
    await store.open()
    assert await store.read(1, 0, 1000) == make_rows(2, 3)
    await store.close()


RESET_INDEX = """
import fcntl, sys
with open(sys.argv[1] + "-shm", "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
    except OSError:
        sys.exit(0)
sys.exit("the byte by which SQLite knows that nobody has the file open could be locked")
"""


async def test_other_programs_see_that_the_file_is_open(path: Path) -> None:
    # Closing any descriptor of a file gives up the locks of the whole process on it: SQLite's too.
    store = SqliteStore(path)
    await store.open()
    await store.commit(append_all(make_rows(2, 3)))
    with pytest.raises(StoreLocked):
        await SqliteStore(path).open()
    with pytest.raises(StoreLocked):
        check(path, print)
    await store.backup(str(path.with_name("copy.db")))
    command = [sys.executable, "-c", RESET_INDEX, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""
    await store.close()


async def test_using_a_store_that_is_not_open_is_a_bug(path: Path) -> None:
    store = SqliteStore(path)
    with pytest.raises(AssertionError, match="not open"):
        await store.get("a")
    await store.open()
    with pytest.raises(AssertionError, match="open already"):
        await store.open()
    await store.close()
    with pytest.raises(AssertionError, match="not open"):
        await store.commit(Commit())


def journal(pages_before: int) -> bytes:
    """Returns the header of an SQLite journal of a file that had so many pages."""
    return (schema._JOURNAL_MAGIC + struct.pack(">IIIII", 0, 1, pages_before, 512, schema.PAGE_BYTES)).ljust(512, b"\0")


async def test_a_file_whose_making_a_power_cut_ended_is_made_again(path: Path) -> None:
    # Its first page was not on disk yet, a later one was.
    path.write_bytes(bytes(schema.PAGE_BYTES) + b"\x0d" + bytes(schema.PAGE_BYTES - 1))
    side = path.with_name("events.db-journal")
    side.write_bytes(journal(pages_before=0))
    await fill(path)
    assert not side.exists()
    assert check(path, print).rows == 2


@pytest.mark.parametrize("beside", [b"", b"not a journal of SQLite", journal(3)])
async def test_a_file_of_zeros_that_was_not_being_made_is_foreign(path: Path, beside: bytes) -> None:
    path.write_bytes(bytes(2 * schema.PAGE_BYTES))
    side = path.with_name("events.db-journal")
    side.write_bytes(beside)
    await assert_refused(path, StoreForeign, "does not begin like")
    assert side.read_bytes() == beside
