"""The data file: its layout, and what is looked at before it is used.

    bytes 0..99 of the file     SQLite's header: application id "Tdng" at 68, format version at 60

    rows        one row per queue and commit              bytes
    ├── queue           epoch of the queue                1..8
    ├── first_sequence  of the row's first message        1..8    key: (queue, first_sequence)
    ├── last_sequence   of its last                       1..8
    ├── time_ms         when it was taken                 6
    ├── offset_bytes    bodies appended before it         1..8
    ├── size_bytes      of its body                       1..4
    ├── checksum        CRC-32, see rows.py               1..6
    ├── runs            MessagePack array of runs         10 and more
    └── body            the messages, back to back        up to some MiB

    records     one row per record
    ├── key             text, the primary key
    └── value           MessagePack

Integers are SQLite's (big-endian, as short as they fit). The small columns come first, so that whoever does not
want a body never touches its overflow pages. `rows` keeps SQLite's row number: rows are added at the end of the
table and leave at its beginning, whatever their queue, and each page is filled and freed once.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final

from tidings.errors import StoreDamaged, StoreForeign, StoreNewer, StoreUnusable

APPLICATION_ID: Final = int.from_bytes(b"Tdng", "big")
FORMAT_VERSION: Final = 1

PAGE_BYTES: Final = 16384
"""Page size of new files; benchmarks/sqlite_store.py compares others.

Bodies of 256 KiB trim in three fifths of the time that 4 KiB pages take; commits of small rows, which write whole
pages, write more bytes but were not measurably slower.
"""

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100

_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")

_TABLES: Final = {
    "rows": """CREATE TABLE rows (
    queue INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    offset_bytes INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    runs BLOB NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (queue, first_sequence)
)""",
    "records": """CREATE TABLE records (
    key TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID""",
}


def damaged(path: Path, reason: object) -> StoreDamaged:
    """Returns the error for a file that is ours but broken."""
    return StoreDamaged(f"{path} is damaged: {reason}; `tidings check {path}` says where")


def inspect(path: Path) -> None:
    """Looks at a file's header without changing anything; a missing or empty file is fine.

    Raises:
        StoreForeign: it is something else.
        StoreNewer: a newer version of Tidings wrote it.
        StoreDamaged: its header is cut off.
        StoreUnusable: it cannot be read or written where it is.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be read: {error.strerror}") from None
    if not header or (not any(header) and _was_being_created(path)):
        return
    if len(header) < _HEADER_BYTES:
        if _MAGIC.startswith(header[: len(_MAGIC)]):
            raise damaged(path, f"it ends after {len(header)} bytes")
        raise _foreign(path, "not an SQLite file")
    found = int.from_bytes(header[68:72], "big")
    if not header.startswith(_MAGIC):
        if found == APPLICATION_ID:
            raise damaged(path, "its first bytes were overwritten")
        raise _foreign(path, "it does not begin like an SQLite file")
    if found != APPLICATION_ID:
        raise _foreign(path, f"its application id is {found:#010x}, ours is {APPLICATION_ID:#010x}")
    if (version := int.from_bytes(header[60:64], "big")) > FORMAT_VERSION:
        raise StoreNewer(
            f"{path} has format version {version}, this Tidings knows versions up to {FORMAT_VERSION};"
            " use the newer Tidings that wrote it"
        )


def prepare(connection: sqlite3.Connection, path: Path, page_bytes: int = PAGE_BYTES) -> None:
    """Makes sure that a file, open for writing and locked, has our tables; creates them in an empty one.

    Raises:
        StoreDamaged: the tables are not what they should be, or the file is shorter than it says.
    """
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    if not found and connection.execute("PRAGMA application_id").fetchone()[0] in (0, APPLICATION_ID):
        _create(connection, path, page_bytes)
        return
    check_tables(connection, path)


def check_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Compares the tables with what they should be.

    Raises:
        StoreDamaged: a table is missing or different.
    """
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    for name, statement in _TABLES.items():
        if found.get(name) != statement:
            raise damaged(path, f"its table {name!r} is {'missing' if name not in found else 'not as we made it'}")


def check_length(connection: sqlite3.Connection, path: Path) -> None:
    """Compares the length of the file with its number of pages; the log must have been moved into it before.

    Raises:
        StoreDamaged: the file is cut off.
    """
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    expected = pages * connection.execute("PRAGMA page_size").fetchone()[0]
    if (length := path.stat().st_size) < expected:
        raise damaged(path, f"it should have {expected} bytes and has {length}")


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable, where the system knows how to."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _was_being_created(path: Path) -> bool:
    # Power failed in the first transaction: SQLite's journal says that the file had no pages before it (32 bits at
    # byte 16, https://sqlite.org/fileformat.html, section 3), and opening the file makes it empty again.
    try:
        with path.with_name(path.name + "-journal").open("rb") as journal:
            header = journal.read(20)
    except OSError:
        return False
    return header.startswith(_JOURNAL_MAGIC) and header[16:] == bytes(4)


def _create(connection: sqlite3.Connection, path: Path, page_bytes: int) -> None:
    # In one transaction of the old journal, so that the ids are in the file itself before anything else is:
    # with the write-ahead log they could be in the log alone, where `inspect` does not look.
    connection.execute(f"PRAGMA page_size = {page_bytes}")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    for statement in _TABLES.values():
        connection.execute(statement)
    connection.execute("COMMIT")
    sync_directory(path.parent)


def _foreign(path: Path, reason: str) -> StoreForeign:
    return StoreForeign(f"{path} is not a Tidings data file ({reason}); name another file, this one was not touched")
