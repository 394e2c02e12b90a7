"""One message per line of standard input: read ahead, published in batches, counted, and told at the end."""

import asyncio
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

import tidings
from tidings.cli.options import connect, first_error
from tidings.cli.output import print_json
from tidings.cli.streams import Line, LineSplitter, read_available
from tidings.errors import TidingsError
from tidings.limits import PAYLOAD_SIZE_BYTES_MAX
from tidings.model import JSON, Confirm

READ_AHEAD: Final = 16
"""Reads of 256 KiB that may wait while earlier lines are being confirmed: 4 MiB, enough to keep a disk busy."""


class Progress(Protocol):
    """Something that shows how far it is."""

    def __call__(self, *, messages: int, input_bytes: int) -> None:
        """Shows what is confirmed, and how many bytes of the input that took."""


@dataclass(slots=True)
class Summary:
    """What was confirmed, so far or in all."""

    queue: str
    event: str
    messages: int = 0
    bytes: int = 0
    first_sequence: int | None = None
    last_sequence: int | None = None
    lines: int = 0
    skipped: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, confirms: Sequence[Confirm], size_bytes: int) -> None:
        """Counts messages that are stored."""
        for confirm in confirms:
            self.messages += confirm.count
            if self.first_sequence is None:
                self.first_sequence = confirm.sequence
            self.last_sequence = confirm.sequence + confirm.count - 1
        self.bytes += size_bytes

    def as_entry(self) -> dict[str, Any]:
        """Returns the summary as it is printed."""
        names = ("queue", "event", "messages", "bytes", "first_sequence", "last_sequence", "skipped")
        entry = {name: getattr(self, name) for name in names}
        return {**entry, "seconds": round(time.perf_counter() - self.started, 3)}


async def run(server: str, queue: str, event: str, *, content_type: str) -> int:
    """Publishes standard input and prints the summary, also when it was cut short; returns the exit code."""
    summary = Summary(queue, event)
    descriptor = sys.stdin.fileno()
    try:
        async with connect(server) as client:
            with _progress(descriptor) as progress:
                await publish_input(client, descriptor, summary, content_type=content_type, progress=progress)
    except (TidingsError, asyncio.CancelledError):
        if summary.lines:
            print(f"stopped: lines after {summary.lines:,} are not confirmed", file=sys.stderr)
        raise
    finally:
        print_json(summary.as_entry())
    if summary.skipped:
        print(f"{summary.skipped:,} of {summary.lines:,} lines were skipped, see above", file=sys.stderr)
    return 1 if summary.skipped else 0


async def publish_input(
    client: tidings.Client, descriptor: int, summary: Summary, *, content_type: str, progress: Progress
) -> None:
    """Publishes each line that can be read from `descriptor`; memory is bounded whatever the input's size.

    Lines are published in order. While some are being confirmed, more are read, and go together afterwards.
    """
    reads: asyncio.Queue[list[Line] | None] = asyncio.Queue(READ_AHEAD)
    input_bytes = 0
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_read(descriptor, reads))
            while lines := await _take(reads):
                payloads = [data for line in lines if (data := _check(line, content_type, summary)) is not None]
                if payloads:
                    confirms = await client.publish_many(
                        summary.queue, summary.event, payloads, content_type=content_type
                    )
                    summary.add(confirms, sum(map(len, payloads)))
                summary.lines = lines[-1].number
                input_bytes += sum(line.size_bytes + 1 for line in lines)
                progress(messages=summary.messages, input_bytes=input_bytes)
    except BaseExceptionGroup as group:
        raise first_error(group) from None


async def _read(descriptor: int, reads: "asyncio.Queue[list[Line] | None]") -> None:
    splitter = LineSplitter(PAYLOAD_SIZE_BYTES_MAX + len("\r"))
    while data := await read_available(descriptor):
        if lines := splitter.feed(data):
            await reads.put(lines)
        # A file is always ready: without this, reading it would not let the publisher have its turn.
        await asyncio.sleep(0)
    if lines := splitter.finish():
        await reads.put(lines)
    await reads.put(None)


async def _take(reads: "asyncio.Queue[list[Line] | None]") -> list[Line]:
    """Returns all lines that wait, at least one; none at the end of the input."""
    lines = await reads.get()
    if lines is None:
        return []
    while not reads.empty():
        more = reads.get_nowait()
        if more is None:
            reads.put_nowait(None)  # the next call tells the end
            break
        lines.extend(more)
    return lines


def _check(line: Line, content_type: str, summary: Summary) -> bytes | None:
    """Returns a line's payload; None if there is none, which is told unless the line is empty."""
    reason = None
    if line.data is None:
        reason = f"{line.size_bytes:,} bytes exceed the limit of {PAYLOAD_SIZE_BYTES_MAX:,} bytes"
    elif content_type == JSON:
        if not line.data.strip():
            return None
        try:
            msgspec.json.decode(line.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = f"not valid JSON: {error}"
    else:
        try:
            line.data.decode()
        except UnicodeDecodeError:
            reason = "not valid UTF-8"
    if reason is None:
        return line.data
    summary.skipped += 1
    print(f"line {line.number}: {reason}; skipped", file=sys.stderr)
    return None


@contextmanager
def _progress(descriptor: int) -> Iterator[Progress]:
    """A progress bar on standard error if that is a terminal, otherwise nothing."""
    if not sys.stderr.isatty():
        yield _no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    status = os.fstat(descriptor)
    total = status.st_size if stat.S_ISREG(status.st_mode) else None  # a pipe does not know its length
    columns = (TextColumn("{task.fields[messages]:,} messages"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, messages=0)

        def show(*, messages: int, input_bytes: int) -> None:
            bar.update(task, completed=input_bytes, messages=messages)

        yield show


def _no_progress(*, messages: int, input_bytes: int) -> None:
    """Shows nothing."""
