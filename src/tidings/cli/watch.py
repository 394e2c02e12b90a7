"""`tidings watch`: what happens to the files of a directory, as messages."""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

import tidings
from tidings.cli.options import SERVER_DEFAULT, Server, connect, first_error, run_async
from tidings.cli.output import printable
from tidings.errors import InvalidOption, TimedOut
from tidings.model import Confirm, check_name

if TYPE_CHECKING:
    from watchfiles import Change

READY_MS: Final = 200
"""Time after which a watch that has seen nothing says so, which is how we learn that it has begun."""

STOP_TIMEOUT_S: Final = 5.0
"""Time that changes seen before a stop have to be confirmed."""

_SIDE_FILES: Final = ("-wal", "-shm", "-journal", ".lock")
_SQLITE_HEADER: Final = b"SQLite format 3\0"


def watch(
    directory: Annotated[str, Parameter(help="Directory to watch.")],
    /,
    *,
    queue: Annotated[str, Parameter(help="Queue to publish into.", metavar="NAME")] = "filesystem",
    server: Server = SERVER_DEFAULT,
) -> int:
    """Publish what happens to the files of a directory, and of those below it.

    Each change is one message, its event `add`, `update` or `delete`, its payload
    `{"path": absolute, "relative_path": below DIRECTORY, "size": bytes or null}`.
    Changes are also seen while the server is away, and published when it is back. Ctrl-C or SIGTERM stops.
    A Tidings data file in DIRECTORY is left out: publishing changes it.

    For example:

        tidings watch ./inbox
    """
    check_name(queue, "queue")  # now, and not with the first change
    root = Path(os.path.realpath(directory))
    if not root.is_dir():
        raise InvalidOption(f"{directory} is not a directory; make it first, or name another")
    # Watching needs an extra; asked for here, its absence is told before anything is connected.
    import watchfiles  # noqa: F401

    if run_async(_watch(server, root, queue)) == signal.SIGINT:
        raise KeyboardInterrupt  # as at every other verb, but once what was seen is published
    return 0


async def _watch(server: str, root: Path, queue: str) -> signal.Signals | None:
    """Watches until a signal comes, and returns that."""
    stop = asyncio.Event()
    stopped_by: list[signal.Signals] = []

    def stop_by(number: signal.Signals) -> None:
        stopped_by.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            asyncio.get_running_loop().add_signal_handler(number, stop_by, number)
        except NotImplementedError:
            break  # Windows: Ctrl-C arrives as KeyboardInterrupt instead
    async with connect(server) as client:
        try:
            await publish_changes(client, root, queue, stop)
        except PermissionError as error:
            raise InvalidOption(f"{root} cannot be watched: {error}; name one that this user may read all of") from None
    return stopped_by[0] if stopped_by else None


async def publish_changes(client: tidings.Client, root: Path, queue: str, stop: asyncio.Event) -> None:
    """Publishes changes below `root` until `stop` is set, and prints a line for each that is confirmed.

    Raises:
        TimedOut: after `stop`, changes that were seen could not be published in time.
    """
    from watchfiles import awatch

    announced = False
    # An empty step every now and then tells that the watch has begun; changes made from then on are seen.
    steps = awatch(
        root,
        watch_filter=lambda change, path: not is_data_file(path),
        stop_event=stop,
        rust_timeout=READY_MS,
        yield_on_timeout=True,
    )
    async for changes in steps:
        if not announced:
            announced = True
            print(f"watching {printable(str(root))}, publishing to {queue}", file=sys.stderr, flush=True)
        if changes:
            try:
                await _publish_step(client, root, queue, changes, stop)
            except BaseExceptionGroup as group:
                raise first_error(group) from None


async def _publish_step(
    client: tidings.Client, root: Path, queue: str, changes: Iterable["tuple[Change, str]"], stop: asyncio.Event
) -> None:
    """Publishes the changes of one step; a stop leaves them a few seconds, the server being away or not."""
    # A step is a set. By path, and for one path in the order of Change: add, update, delete.
    ordered = sorted(changes, key=lambda change: (change[1], change[0]))
    events = [(EVENTS[change.name], describe(root, path)) for change, path in ordered]
    async with asyncio.TaskGroup() as tasks:
        published = tasks.create_task(_publish_events(client, queue, events))
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait((published, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not published.done():
            await asyncio.wait((published,), timeout=STOP_TIMEOUT_S)
        stopping.cancel()
        if not published.done():
            published.cancel()
    if published.cancelled():
        raise TimedOut(f"stopped: the last {len(events)} changes were not all confirmed; the server is away")


async def _publish_events(client: tidings.Client, queue: str, events: list[tuple[str, dict[str, Any]]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        publishes = [tasks.create_task(client.publish(queue, event, payload)) for event, payload in events]
    for (event, payload), publish in zip(events, publishes, strict=True):
        print_change(event, payload, publish.result())


EVENTS: Final = {"added": "add", "modified": "update", "deleted": "delete"}
"""Our events by the names that watchfiles gives them."""


def print_change(event: str, payload: dict[str, Any], confirm: Confirm) -> None:
    """Prints one published change on one line."""
    size = "" if payload["size"] is None else f"  {payload['size']:,} bytes"
    print(f"{confirm.queue} {confirm.sequence}  {event:6}  {printable(payload['relative_path'])}{size}", flush=True)


def describe(root: Path, path: str) -> dict[str, Any]:
    """Returns the payload for a changed path; `size` is None for a directory and for what is gone."""
    size = None
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            size = status.st_size
    except OSError:
        pass  # gone, or not ours to look at: the change is told all the same
    return {"path": _text(path), "relative_path": _text(os.path.relpath(path, root)), "size": size}


def _text(path: str) -> str:
    """Returns a path that JSON can hold: bytes of a name that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_data_file(path: str) -> bool:
    """Whether a path belongs to a data file in use, which every published change would change again."""
    base = path
    for suffix in _SIDE_FILES:
        base = base.removesuffix(suffix)
    if not os.path.exists(base + ".lock"):
        return False
    try:
        with open(base, "rb") as file:
            header = file.read(len(_SQLITE_HEADER))
    except OSError:
        return False
    return header in (_SQLITE_HEADER, b"")  # empty: it is being made
