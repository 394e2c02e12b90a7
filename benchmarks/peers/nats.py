"""NATS JetStream with nats-py: atomic batches or counted acks, and push consumers that ack the last of many.

With `sync_interval: always` each message published by itself costs an fsync, and 4,000 a second was all it took,
however many were on their way. A batch that is stored as one (`allow_atomic`, nats-server 2.12) costs one, which is
14 times faster; with the default interval single messages are the faster way.
"""

import asyncio
import contextlib
import json
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.peers.installed import missing, package_version, program_output
from benchmarks.peers.peer import Handle, Peer, Server
from benchmarks.processes import free_port, started, wait_for_port

UNCONFIRMED_MAX = 16_000
BATCH_COUNT = 1_000  # the most that the server takes in one
BATCHES = 4
IN_FLIGHT_MAX = 65_536
ACK_COUNT = 1_000
_PENDING_BYTES_MAX = 1024 * 1024 * 1024


def _program() -> str | None:
    # The wheel puts the server beside the interpreter.
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")


@contextlib.contextmanager
def serve(directory: Path, *, sync_interval: str) -> Iterator[Server]:
    """Starts nats-server with JetStream's files in a directory."""
    port = free_port()
    interval = f"sync_interval: {sync_interval}" if sync_interval else ""
    configuration = directory / "nats.conf"
    configuration.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{directory / "jetstream"}"\n{interval} }}\n'
    )
    with started((_program(), "--config", configuration), directory) as process:
        wait_for_port(port, process)
        yield Server(f"nats://127.0.0.1:{port}", process.id)


@contextlib.asynccontextmanager
async def connect(address: str, client_id: str, *, in_batches: bool) -> AsyncIterator["_Connection"]:
    """Connects nats-py."""
    import nats

    client = await nats.connect(address, name=client_id, pending_size=64 * 1024 * 1024)
    try:
        yield _Connection(client, in_batches=in_batches)
    finally:
        await client.close()


class _Connection:
    def __init__(self, client: Any, *, in_batches: bool) -> None:
        self._client = client
        self._in_batches = in_batches
        self._stream = client.jetstream(timeout=30)
        self._confirmed = 0
        self._error: bytes | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._inbox = ""

    async def prepare(self, queue: str, subscriptions: Sequence[str]) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

        stream = StreamConfig(name=queue, subjects=[queue], storage=StorageType.FILE, allow_atomic=self._in_batches)
        await self._stream.add_stream(stream)
        for name in subscriptions:
            configuration = ConsumerConfig(
                durable_name=name,
                deliver_subject=f"deliver.{queue}.{name}",
                ack_policy=AckPolicy.ALL,
                max_ack_pending=IN_FLIGHT_MAX,
            )
            await self._stream.add_consumer(queue, configuration)

    async def publish_many(self, queue: str, payloads: Iterable[bytes]) -> None:
        if self._in_batches:
            remaining = iter(payloads)
            async with asyncio.TaskGroup() as group:
                for _ in range(BATCHES):
                    group.create_task(self._publish_batches(queue, remaining))
        else:
            await self._publish_singly(queue, payloads)

    async def _publish_batches(self, queue: str, remaining: Iterator[bytes]) -> None:
        publish = self._client.publish
        while chunk := list(islice(remaining, BATCH_COUNT)):
            last = len(chunk)
            batch = uuid.uuid4().hex
            for number, payload in enumerate(chunk[:-1], 1):
                await publish(queue, payload, headers={"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)})
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(last), "Nats-Batch-Commit": "1"}
            confirm = await self._client.request(queue, chunk[-1], timeout=30, headers=headers)
            if json.loads(confirm.data).get("count", 0) != last:
                raise RuntimeError(f"a batch was refused: {confirm.data!r}")

    async def _publish_singly(self, queue: str, payloads: Iterable[bytes]) -> None:
        # A reply subject whose answers are counted costs half of what `publish_async` with its futures costs.
        if not self._inbox:
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(self._inbox, cb=self._take_confirm)
        published = self._confirmed = 0
        for payload in payloads:
            await self._client.publish(queue, payload, reply=self._inbox)
            published += 1
            if published - self._confirmed >= UNCONFIRMED_MAX:
                await self._reach(published - UNCONFIRMED_MAX // 2)
        await self._reach(published)

    async def _take_confirm(self, answer: Any) -> None:
        self._confirmed += 1
        if b'"error"' in answer.data:
            self._error = answer.data
        if self._waiter and not self._waiter.done() and (self._confirmed >= self._goal or self._error):
            self._waiter.set_result(None)

    async def _reach(self, goal: int) -> None:
        if self._confirmed < goal:
            self._goal = goal
            self._waiter = asyncio.get_running_loop().create_future()
            await self._client.flush()
            await self._waiter
        if self._error:
            raise RuntimeError(f"a publish was refused: {self._error!r}")

    async def publish(self, queue: str, payload: bytes) -> None:
        await self._stream.publish(queue, payload)

    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        taken = size_bytes = 0
        ended = asyncio.get_running_loop().create_future()

        async def take(message: Any) -> None:
            nonlocal taken, size_bytes
            taken += 1
            size_bytes += len(message.data)
            if handle:
                handle(message.data)
            if taken == count:
                await message.ack_sync(timeout=30)
                ended.set_result(None)
            elif taken % ACK_COUNT == 0:
                await message.ack()

        messages = await self._stream.subscribe_bind(
            stream=queue,
            config=(await self._stream.consumer_info(queue, subscription)).config,
            consumer=subscription,
            cb=take,
            manual_ack=True,
            pending_msgs_limit=4 * IN_FLIGHT_MAX,
            pending_bytes_limit=_PENDING_BYTES_MAX,
        )
        await self._client.flush()
        attached()
        await ended
        await messages.unsubscribe()
        return size_bytes


def _peer(name: str, title: str, sync_interval: str, durability: str, *, syncs: bool) -> Peer:
    return Peer(
        name=name,
        title=title,
        durability=durability,
        syncs=syncs,
        messages_per_second=40_000,
        missing=lambda: missing(["nats"], [_program() or "nats-server"]),
        version=lambda: f"{program_output(_program() or 'nats-server', '--version')}, {package_version('nats-py')}",
        serve=partial(serve, sync_interval=sync_interval),
        connect=partial(connect, in_batches=syncs),
    )


PEERS = [
    _peer(
        "nats-always",
        "NATS JetStream, sync_interval always",
        "always",
        "fsync before each confirm, shared by an atomic batch",
        syncs=True,
    ),
    _peer(
        "nats-default",
        "NATS JetStream, sync_interval default",
        "",
        "written to the system before each confirm, fsync every 2 minutes",
        syncs=False,
    ),
]
