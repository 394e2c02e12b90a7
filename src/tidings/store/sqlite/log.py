"""The write-ahead log: how long it is, and moving it into the data file before it grows past its bound."""

import mmap
import os
import sqlite3
import struct
from pathlib import Path
from typing import Final

from tidings.limits import SQLITE_LOG_BYTES_MAX

_FRAME_HEADER_BYTES: Final = 24
_INDEX_HEADER: Final = struct.Struct("=16xI")


class Log:
    """Bounds the log of one writer connection, which must be open while this is."""

    def __init__(self, path: Path, page_bytes: int, bytes_max: int = SQLITE_LOG_BYTES_MAX) -> None:
        # Opened once, and closed only after the connections: on Unix, closing any descriptor of a file gives up all
        # locks that the process holds on it, also those by which SQLite keeps other programs from resetting the index.
        self._descriptor = os.open(path.with_name(path.name + "-shm"), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._index = mmap.mmap(self._descriptor, _INDEX_HEADER.size, access=mmap.ACCESS_READ)
        self._frame_bytes = page_bytes + _FRAME_HEADER_BYTES
        self._bytes_max = bytes_max
        self._move_at_bytes = bytes_max

    def close(self) -> None:
        """Lets go of the index; the connections must be closed before."""
        self._index.close()
        os.close(self._descriptor)

    def length_bytes(self) -> int:
        """Returns the bytes of the log that are in use; the file itself keeps its longest length.

        The log's index, which SQLite shares between its connections, begins with a header that has the number
        of valid frames at byte 16, in the machine's order (https://sqlite.org/walformat.html, section 2.1).
        """
        return int(_INDEX_HEADER.unpack_from(self._index)[0]) * self._frame_bytes

    def bound(self, connection: sqlite3.Connection) -> None:
        """Moves the log into the data file if it has passed its bound; the next commit starts it again.

        A reader in the middle of a long statement can prevent that. Then the log is tried again when it has
        grown by a quarter, and every time after that.
        """
        length_bytes = self.length_bytes()
        if length_bytes < self._move_at_bytes:
            return
        try:
            busy = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]
        except sqlite3.OperationalError:
            # No space in the data file, or an I/O error. What is committed stays in the log, durable as it is.
            busy = True
        self._move_at_bytes = length_bytes + self._bytes_max // 4 if busy else self._bytes_max
