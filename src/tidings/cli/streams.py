"""Standard input and output without standing still: the connection's heartbeats go on while a pipe is full or empty."""

import asyncio
import os
import select
from collections.abc import Callable
from typing import Final, NamedTuple

READ_SIZE_BYTES: Final = 256 * 1024
"""Bytes asked of standard input at a time."""

_WRITE_SIZE_BYTES: Final = getattr(select, "PIPE_BUF", 512)
"""What a pipe that polls as writable takes without blocking (POSIX: PIPE_BUF, at least 512)."""


class Line(NamedTuple):
    """A line of input without its end, and its number from 1. `data` None: it exceeded the limit and was skipped."""

    number: int
    data: bytes | None
    size_bytes: int


class LineSplitter:
    """Cuts bytes as they come into lines; a line over `size_bytes_max` is counted, not kept."""

    def __init__(self, size_bytes_max: int) -> None:
        self._size_bytes_max = size_bytes_max
        self._number = 1
        self._pieces: list[bytes] = []  # of the line that has not ended yet
        self._size_bytes = 0

    def feed(self, data: bytes) -> list[Line]:
        """Returns the lines that `data` ended."""
        first, *others = data.split(b"\n")
        self._keep(first)
        lines = []
        for piece in others:
            lines.append(self._end())
            self._keep(piece)
        return lines

    def finish(self) -> list[Line]:
        """Returns the last line if it has no end."""
        return [self._end()] if self._size_bytes else []

    def _keep(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if self._size_bytes > self._size_bytes_max:
            self._pieces.clear()
        elif piece:
            self._pieces.append(piece)

    def _end(self) -> Line:
        kept = self._size_bytes <= self._size_bytes_max
        data = b"".join(self._pieces).removesuffix(b"\r") if kept else None
        line = Line(self._number, data, self._size_bytes)
        self._number += 1
        self._pieces = []
        self._size_bytes = 0
        return line


async def read_available(descriptor: int) -> bytes:
    """Returns what there is to read, at least one byte; b"" at the end. Cancelling loses nothing."""
    await _until_ready(descriptor, asyncio.get_running_loop().add_reader, asyncio.get_running_loop().remove_reader)
    return os.read(descriptor, READ_SIZE_BYTES)


async def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`, waiting for a slow reader. Cancelled, it may have written a part.

    Raises:
        BrokenPipeError: the reader went away.
    """
    loop = asyncio.get_running_loop()
    rest = memoryview(data)
    while rest:
        if not _writable_now(descriptor):
            await _until_ready(descriptor, loop.add_writer, loop.remove_writer)
        rest = rest[os.write(descriptor, rest[:_WRITE_SIZE_BYTES]) :]


def _writable_now(descriptor: int) -> bool:
    try:
        poll = select.poll()
    except AttributeError:
        return True  # Windows has no poll; writing may block there
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


async def _until_ready(
    descriptor: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]
) -> None:
    ready = asyncio.Event()
    try:
        add(descriptor, ready.set)
    except (PermissionError, NotImplementedError):
        return  # files cannot be watched and never keep anybody waiting; Windows cannot watch pipes
    try:
        await ready.wait()
    finally:
        remove(descriptor)
