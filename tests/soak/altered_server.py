"""Runs the command `tidings` with parts of it replaced: `altered_server.py NAME[,NAME] serve ...`.

Most names plant a bug, so that a check can be seen to fail; `small_log` and `no_reserve` only bring about what is rare.
"""

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from tidings import limits
from tidings.broker.cursors import Cursor
from tidings.cli.main import run
from tidings.gateways.native.gateway import NativeGateway
from tidings.gateways.native.peer import NativePeer
from tidings.store.port import Commit, CommitFailed
from tidings.store.sqlite import connections
from tidings.store.sqlite.log import Log
from tidings.store.sqlite.store import SqliteStore

PROGRAM = Path(__file__).resolve()


def altered(*names: str) -> tuple[Path, str]:
    """Returns what python runs instead of `-m tidings`."""
    return PROGRAM, ",".join(names)


def _small_log() -> None:
    Log.__init__.__defaults__ = (256 * 1024,)  # type: ignore[attr-defined]


def _no_reserve() -> None:
    limits.DISK_RESERVE_BYTES = 0  # type: ignore[misc]


def _synchronous(level: str) -> None:
    open_writer = connections.open_writer

    def open_carelessly(path: Path) -> sqlite3.Connection:
        connection = open_writer(path)
        connection.execute(f"PRAGMA synchronous = {level}")
        return connection

    connections.open_writer = open_carelessly


def _confirm_early() -> None:
    # The transaction is written a moment after it was reported as durable.
    commit = SqliteStore.commit
    latest: list[asyncio.Task[None]] = []

    async def commit_later(store: SqliteStore, transaction: Commit) -> None:
        before = latest[-1:]

        async def write() -> None:
            await asyncio.gather(*before)
            await asyncio.sleep(0.02)
            await commit(store, transaction)

        latest[:] = [asyncio.create_task(write())]

    SqliteStore.commit = commit_later  # type: ignore[method-assign]


def _confirm_refused() -> None:
    # What the disk did not take is reported as stored.
    commit = SqliteStore.commit

    async def commit_anyway(store: SqliteStore, transaction: Commit) -> None:
        try:
            await commit(store, transaction)
        except CommitFailed:
            pass

    SqliteStore.commit = commit_anyway  # type: ignore[method-assign]


def _forget_unacked() -> None:
    # What was in flight to a connection that ended counts as handled.
    def settle_all(cursor: Cursor) -> None:
        cursor.settle(1, cursor.position)

    Cursor.take_back = settle_all  # type: ignore[method-assign]


def _keep_connections() -> None:
    # Connections that ended are never let go.
    kept: list[NativePeer] = []
    connection_made = NativePeer.connection_made

    def connection_made_for_ever(peer: NativePeer, transport: asyncio.BaseTransport) -> None:
        connection_made(peer, transport)
        kept.append(peer)

    NativePeer.connection_made = connection_made_for_ever  # type: ignore[method-assign]
    NativePeer.connection_lost = lambda peer, exc: None  # type: ignore[method-assign, assignment]


def _lose_a_byte() -> None:
    # A chunk of one byte is taken for nothing once in a while.
    data_received = NativePeer.data_received
    seen = [0]

    def data_received_but_one(peer: NativePeer, data: bytes) -> None:
        seen[0] += len(data) == 1
        if len(data) > 1 or seen[0] % 50:
            data_received(peer, data)

    NativePeer.data_received = data_received_but_one  # type: ignore[method-assign]


def _stop_accepting() -> None:
    # The first connection that comes to nothing ends accepting.
    gateways: list[NativeGateway] = []
    enter = NativeGateway.__aenter__
    connection_lost = NativePeer.connection_lost

    async def remember(gateway: NativeGateway) -> NativeGateway:
        gateways.append(gateway)
        return await enter(gateway)

    def connection_lost_for_all(peer: NativePeer, exc: Exception | None) -> None:
        connection_lost(peer, exc)
        gateways[0].stop_accepting()

    NativeGateway.__aenter__ = remember  # type: ignore[method-assign]
    NativePeer.connection_lost = connection_lost_for_all  # type: ignore[method-assign]


ALTERATIONS: dict[str, Callable[[], None]] = {
    "small_log": _small_log,
    "no_reserve": _no_reserve,
    "synchronous_off": lambda: _synchronous("OFF"),
    "synchronous_normal": lambda: _synchronous("NORMAL"),
    "confirm_early": _confirm_early,
    "confirm_refused": _confirm_refused,
    "forget_unacked": _forget_unacked,
    "keep_connections": _keep_connections,
    "lose_a_byte": _lose_a_byte,
    "stop_accepting": _stop_accepting,
}

if __name__ == "__main__":
    for name in sys.argv.pop(1).split(","):
        ALTERATIONS[name]()
    sys.exit(run())
