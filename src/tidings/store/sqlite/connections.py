"""Connections: how the writer, the reader and `tidings check` open the data file."""

import sqlite3
from pathlib import Path

from tidings.limits import SQLITE_CACHE_BYTES, SQLITE_LOG_WAIT_MS, SQLITE_STATEMENTS_MAX


def open_writer(path: Path) -> sqlite3.Connection:
    """Opens the one connection that writes; its settings make a commit durable on return."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=SQLITE_STATEMENTS_MAX
    )
    for pragma in (
        # An fsync on every commit, and on macOS one that reaches the disk.
        "synchronous = FULL",
        "fullfsync = ON",
        "checkpoint_fullfsync = ON",
        # Debian compiles it in, and overwriting what is deleted doubles the writing.
        "secure_delete = OFF",
        # The writer moves the log by itself: the automatic way lets it grow without end under steady load.
        "wal_autocheckpoint = 0",
        f"busy_timeout = {SQLITE_LOG_WAIT_MS}",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    bound_cache(connection)
    return connection


def bound_cache(connection: sqlite3.Connection) -> None:
    """Bounds the page cache; to be called again when the size of a page has changed.

    SQLite turns bytes into pages by the size that a page had before, 4 KiB in a file without pages.
    """
    connection.execute(f"PRAGMA cache_size = -{SQLITE_CACHE_BYTES // 1024}")


def open_reader(path: Path) -> sqlite3.Connection:
    """Opens a connection that only reads; it sees what was committed when its statement started."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    # The reader shares the file with nobody who locks it for long; a recovery of the log may take a moment.
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def values(rows: int, columns: int) -> str:
    """Returns the placeholders of a statement with many rows: `(?,?),(?,?)`."""
    row = "(" + ",".join("?" * columns) + ")"
    return ",".join([row] * rows)
