"""Redis Streams: XADD in pipelines, XREADGROUP by thousands, XACK of many, with redis-py and its parser in C."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.peers.installed import missing, package_version, program_output
from benchmarks.peers.peer import Handle, Peer, Server
from benchmarks.processes import free_port, started, wait_for_port

PROGRAM = "redis-server"
PIPELINE_COUNT = 250
PIPELINES = 8
READ_COUNT = 1_000
CONNECTIONS_MAX = 5_000  # each command that waits has a connection of its own
BLOCK_MS = 5_000


@contextlib.contextmanager
def serve(directory: Path, *, sync: str) -> Iterator[Server]:
    """Starts redis-server with its append-only file in a directory."""
    port = free_port()
    options = {
        "bind": "127.0.0.1",
        "port": port,
        "dir": directory,
        "appendonly": "yes",
        "appendfsync": sync,
        "save": "",
        "auto-aof-rewrite-percentage": 0,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with started((PROGRAM, *words), directory) as process:
        wait_for_port(port, process)
        yield Server(str(port), process.id)


@contextlib.asynccontextmanager
async def connect(address: str, client_id: str) -> AsyncIterator["_Connection"]:
    """Connects redis-py."""
    from redis.asyncio import Redis

    client = Redis(host="127.0.0.1", port=int(address), socket_timeout=None, max_connections=CONNECTIONS_MAX)
    try:
        yield _Connection(client, client_id)
    finally:
        await client.aclose()


class _Connection:
    def __init__(self, client: Any, client_id: str) -> None:
        self._client = client
        self._client_id = client_id

    async def prepare(self, queue: str, subscriptions: Sequence[str]) -> None:
        for name in subscriptions:
            await self._client.xgroup_create(queue, name, id="0", mkstream=True)

    async def publish_many(self, queue: str, payloads: Iterable[bytes]) -> None:
        remaining = iter(payloads)

        async def publish() -> None:
            while chunk := list(islice(remaining, PIPELINE_COUNT)):
                pipeline = self._client.pipeline(transaction=False)
                for payload in chunk:
                    pipeline.execute_command("XADD", queue, "*", "p", payload)
                await pipeline.execute()

        # Several pipelines at once, each on a connection of its own, so that some are on their way during an fsync.
        async with asyncio.TaskGroup() as group:
            for _ in range(PIPELINES):
                group.create_task(publish())

    async def publish(self, queue: str, payload: bytes) -> None:
        await self._client.execute_command("XADD", queue, "*", "p", payload)

    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        taken = size_bytes = 0
        attached()
        while taken < count:
            found = await self._client.execute_command(
                "XREADGROUP", "GROUP", subscription, self._client_id,
                "COUNT", READ_COUNT, "BLOCK", BLOCK_MS, "STREAMS", queue, ">",
            )  # fmt: skip
            if not found:
                continue
            entries = next(iter(found.values()))[0] if isinstance(found, dict) else found[0][1]
            ids = []
            for entry_id, fields in entries:
                payload = fields[b"p"]
                ids.append(entry_id)
                size_bytes += len(payload)
                if handle:
                    handle(payload)
            taken += len(ids)
            await self._client.execute_command("XACK", queue, subscription, *ids)
        return size_bytes


def _peer(name: str, sync: str, durability: str, *, syncs: bool, messages_per_second: int) -> Peer:
    return Peer(
        name=name,
        title=f"Redis Streams, appendfsync {sync}",
        durability=durability,
        syncs=syncs,
        messages_per_second=messages_per_second,
        missing=lambda: missing(["redis", "hiredis"], [PROGRAM]),
        version=lambda: f"{program_output(PROGRAM, '--version').split(' sha=')[0]}, {package_version('redis')}",
        serve=partial(serve, sync=sync),
        connect=connect,
    )


PEERS = [
    _peer(
        "redis-always",
        "always",
        "fdatasync before each confirm, shared by what arrived together",
        syncs=True,
        messages_per_second=50_000,
    ),
    _peer(
        "redis-everysec",
        "everysec",
        "written to the system before each confirm, fdatasync every second",
        syncs=False,
        messages_per_second=50_000,
    ),
]
