"""SqliteStore: the store port over one file, with a thread that writes and a thread that reads."""

import asyncio
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tidings.batch import StoredBatch
from tidings.errors import InvalidOption, StoreForeign, StoreUnusable
from tidings.limits import BACKUP_STEP_BYTES
from tidings.store.port import Bounds, Commit, Damage, Row
from tidings.store.sqlite import schema
from tidings.store.sqlite.lock import FileLock
from tidings.store.sqlite.reader import Reader
from tidings.store.sqlite.thread import StoreThread
from tidings.store.sqlite.writer import Writer

_T = TypeVar("_T")

_BACKUP_PAUSE_SECONDS = 0.001
"""Pause between two steps of a backup, in which a commit that waits gets its turn."""


class SqliteStore:
    """Keeps everything in one file, fsynced before `commit` returns.

    Arguments:
        path: the data file; its directory must exist. Beside it are `-wal` and `-shm`, which belong to it while
            it is open and after a crash, and `.lock`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # The real path, so that two names of one file share a lock.
        self._path = Path(os.path.realpath(path))
        self._lock = FileLock(self._path)
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._write_thread: StoreThread | None = None
        self._read_thread: StoreThread | None = None
        self._backup_thread: StoreThread | None = None
        self._closing = False
        # Held by a commit, and by a backup for each of its steps.
        self._writing = threading.Lock()

    @property
    def path(self) -> Path:
        """The data file."""
        return self._path

    @property
    def durability(self) -> str:
        """A commit is on disk when it returns."""
        return "disk"

    async def open(self) -> None:
        """Opens the file, creating it if it does not exist; see the port."""
        if self._writer is not None:
            raise AssertionError(f"{self._path} is open already")
        await asyncio.get_running_loop().run_in_executor(None, self._open)
        self._closing = False
        self._backup_thread = StoreThread("tidings-backup")
        self._write_thread = StoreThread("tidings-write")
        self._read_thread = StoreThread("tidings-read")

    async def close(self) -> None:
        """Finishes what was begun and closes the file; may be called twice."""
        backup, read, write = self._backup_thread, self._read_thread, self._write_thread
        self._backup_thread = self._read_thread = self._write_thread = None
        self._closing = True
        if backup is None or read is None or write is None:
            self._close()  # it was not opened: there is next to nothing to do
            return
        # Each thread says itself that it is done. An executor could wait for it, but takes nothing any more while the
        # interpreter ends, which is when a broker in the process is stopped whose clients were not closed.
        await backup.run(_nothing)
        await read.run(_nothing)
        await write.run(self._close)
        for thread in (backup, read, write):
            thread.finish()

    def commit(self, commit: Commit) -> Awaitable[None]:
        """Makes a transaction durable, beginning at once; see the port."""
        return self._run(self._write_thread, self._commit, commit)

    async def read(self, queue: int, after: int, limit_bytes: int) -> list[StoredBatch | Damage]:
        """Returns rows that hold sequences above `after`; what is damaged is returned as such."""
        return await self._look_up(self._opened_reader().read, queue, after, limit_bytes)

    async def survey(self, queue: int, after: int, rows_max: int) -> list[Row]:
        """Returns rows that hold sequences above `after`, without bodies."""
        return await self._look_up(self._opened_reader().survey, queue, after, rows_max)

    async def locate(self, queue: int, time_ms: int) -> int | None:
        """Returns the first sequence of the first row taken at or after `time_ms`."""
        return await self._look_up(self._opened_reader().locate, queue, time_ms)

    async def bounds(self, queues: Sequence[int]) -> dict[int, Bounds]:
        """Returns the bounds of those of `queues` that hold rows."""
        return await self._look_up(self._opened_reader().bounds, queues)

    async def get(self, key: str) -> bytes | None:
        """Returns a record."""
        return await self._look_up(self._opened_reader().get, key)

    async def list(self, prefix: str, after: str = "", limit_bytes: int | None = None) -> list[tuple[str, bytes]]:
        """Returns the records whose keys start with `prefix` and come after `after`, in the order of their keys."""
        return await self._look_up(self._opened_reader().records, prefix, after, limit_bytes)

    def free_bytes(self) -> int:
        """Returns the free space where the file lives."""
        return shutil.disk_usage(self._path.parent).free

    async def backup(self, path: str) -> int:
        """Writes a consistent copy to a new file and returns its size in bytes.

        Commits go on between the steps, and the copy has all that were made before this returns its last step.
        If the caller is cancelled the copy is finished all the same; closing the store ends it early.

        Raises:
            InvalidOption: the file exists or cannot be written.
        """
        return await self._run(self._backup_thread, self._backup, Path(path))

    def _open(self) -> None:
        self._check_place()
        self._lock.acquire()
        try:
            schema.inspect(self._path)
            self._writer = Writer(self._path)
            self._reader = Reader(self._path)
        except BaseException as error:
            if isinstance(error, StoreForeign):
                self._lock.release(in_vain=True)
            self._close()
            if isinstance(error, sqlite3.Error | UnicodeDecodeError):
                raise _unusable(self._path, error) from error
            raise

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
        self._lock.release()

    def _check_place(self) -> None:
        directory = self._path.parent
        if not directory.is_dir():
            raise StoreUnusable(f"{self._path}: its directory does not exist; create it, or name another data file")
        if self._path.exists() and not self._path.is_file():
            raise StoreUnusable(f"{self._path} is not a file; name a file for the data")
        if self._path.exists() and not os.access(self._path, os.R_OK | os.W_OK):
            raise StoreUnusable(f"{self._path} cannot be written by this user; change its permissions")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise StoreUnusable(
                f"{self._path}: its directory cannot be written by this user; the data file needs others beside it"
            )

    def _commit(self, commit: Commit) -> None:
        assert self._writer is not None
        with self._writing:
            self._writer.commit(commit)

    def _backup(self, path: Path) -> int:
        try:
            partial = path.with_name(path.name + ".partial")
            exists = path.exists()
        except (OSError, ValueError) as error:  # no name at all, or too long a one
            raise InvalidOption(f"{str(path)!r} is not a path that a backup can be written to: {error}") from None
        if exists:
            raise InvalidOption(f"{path} exists; a backup does not overwrite, name a new file")
        try:
            partial.touch(exist_ok=False)
        except FileExistsError:
            raise InvalidOption(
                f"{partial} exists: a backup is under way, or was broken off; delete it then, or name another file"
            ) from None
        except OSError as error:
            raise InvalidOption(
                f"the backup {path} cannot be written: {error.strerror}; its directory must exist and let the server"
                " write"
            ) from None
        except ValueError as error:  # a NUL, which no name of a file has
            raise InvalidOption(f"the backup {str(partial)!r} cannot be written: {error}") from None
        try:
            self._copy(partial)
            size_bytes = partial.stat().st_size
            partial.rename(path)
            schema.sync_directory(path.parent)
            return size_bytes
        except (sqlite3.Error, OSError) as error:
            raise InvalidOption(f"the backup {path} could not be written: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def _copy(self, target: Path) -> None:
        # Over the writer's own connection: what it commits meanwhile reaches the copy too, where a change by
        # any other connection would make SQLite start over, and one long read would hold the log back.
        assert self._writer is not None
        copy = sqlite3.connect(target)
        try:
            source = self._writer.connection
            page_bytes = source.execute("PRAGMA page_size").fetchone()[0]

            def give_way(status: int, remaining: int, total: int) -> None:
                if self._closing:
                    raise OSError("the store was closed")
                self._writing.release()
                time.sleep(_BACKUP_PAUSE_SECONDS)
                self._writing.acquire()

            with self._writing:
                source.backup(copy, pages=BACKUP_STEP_BYTES // page_bytes, progress=give_way)
        finally:
            copy.close()

    async def _look_up(self, call: Callable[..., _T], *arguments: object) -> _T:
        try:
            return await self._run(self._read_thread, call, *arguments)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # A page that only shows its damage once it is read; rows of messages have been dealt with before.
            raise _unusable(self._path, error) from error

    def _run(self, thread: StoreThread | None, call: Callable[..., _T], *arguments: object) -> Awaitable[_T]:
        if thread is None:
            raise AssertionError(f"{self._path} is not open")
        return thread.run(call, *arguments)

    def _opened_reader(self) -> Reader:
        if self._reader is None:
            raise AssertionError(f"{self._path} is not open")
        return self._reader


def _nothing() -> None:
    """Is done as soon as all is that was asked of a thread before."""


def _unusable(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> StoreUnusable:
    if isinstance(error, UnicodeDecodeError):
        return schema.damaged(path, f"a text in it is not UTF-8: {error}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return schema.damaged(path, error)
    if code == sqlite3.SQLITE_FULL:
        return StoreUnusable(f"{path} cannot be used: no space left on its disk; free some space")
    return StoreUnusable(f"{path} cannot be used: {error}")
