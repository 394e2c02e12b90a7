"""The lock: one process at a time has a data file open, and the others are told which one."""

import os
import sys
from pathlib import Path
from typing import Final

from tidings.errors import StoreLocked, StoreUnusable

_LOCK_OFFSET: Final = 1 << 30
"""Where the locked byte is on Windows: behind the process id, which others must be able to read."""

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCK_OFFSET, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """An exclusive lock on a side file of a data file, taken by the operating system.

    The system takes it back however the process ends. The side file holds the owner's process id and stays where
    it is, unless it was made for nothing.

    The lock comes before any look at the data file: on Unix, closing a descriptor of a file gives up all locks that
    the process has on it, and another store in this process may have some.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._side = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None
        self._made = False

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            StoreLocked: another process (or another store in this one) has it.
            StoreUnusable: the side file cannot be made.
        """
        self._made = not self._side.exists()
        try:
            descriptor = os.open(self._side, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise StoreUnusable(f"the lock file {self._side} cannot be opened: {error.strerror}") from None
        try:
            _try_lock(descriptor)
        except OSError:
            # The system says "would block" or "access denied", depending on which one it is: it is taken.
            os.lseek(descriptor, 0, os.SEEK_SET)
            owner = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise StoreLocked(
                f"{self._path} is open in process {owner or '(unknown)'}, and one process at a time can have it;"
                f" stop that one, or run `tidings serve --store sqlite:{self._path}` once and connect to that server"
            ) from None
        if not self._side.exists() or not os.path.samestat(os.fstat(descriptor), self._side.stat()):
            # Its owner has just removed it as made in vain; a lock on it would keep nobody out.
            os.close(descriptor)
            raise StoreLocked(f"{self._path} was just released by another process; try again")
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b"%d\n" % os.getpid())
        self._descriptor = descriptor

    def release(self, *, in_vain: bool = False) -> None:
        """Gives the lock back; may be called twice.

        Arguments:
            in_vain: the data file is not one: a side file that was made for it is removed.
        """
        if self._descriptor is None:
            return
        if in_vain and self._made:
            try:
                self._side.unlink(missing_ok=True)
            except OSError:
                pass  # Windows does not remove open files; then an empty promise stays beside a foreign file
        os.close(self._descriptor)
        self._descriptor = None
