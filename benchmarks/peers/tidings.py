"""Tidings: its server from the command line and its public client, by message and by batch."""

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import tidings
from benchmarks.peers.peer import Handle, Peer, Server
from benchmarks.processes import START_TIMEOUT_S, started

EVENT = "created"


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Server]:
    """Starts `tidings serve` as anybody would."""
    store = f"sqlite:{directory / 'data.db'}"
    command = (sys.executable, "-m", "tidings", "serve", "--store", store, "--listen", "tidings://127.0.0.1:0")
    with started(command, directory) as process:
        yield Server(process.hear("ready", START_TIMEOUT_S).split()[0], process.id)


@contextlib.asynccontextmanager
async def connect(address: str, client_id: str, *, by_batch: bool) -> AsyncIterator["_Connection"]:
    """Connects the public client."""
    async with tidings.connect(address, client_id=client_id) as client:
        yield (_ByBatch if by_batch else _ByMessage)(client)


class _Connection:
    def __init__(self, client: tidings.Client) -> None:
        self._client = client

    async def prepare(self, queue: str, subscriptions: Sequence[str]) -> None:
        for name in subscriptions:
            async with self._client.subscribe(queue, EVENT, name=name):
                pass

    async def publish_many(self, queue: str, payloads: Iterable[bytes]) -> None:
        confirms = await self._client.publish_many(queue, EVENT, payloads)
        assert {confirm.durability for confirm in confirms} == {"disk"}

    async def publish(self, queue: str, payload: bytes) -> None:
        await self._client.publish(queue, EVENT, payload)

    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        raise NotImplementedError


class _ByMessage(_Connection):
    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        taken = size_bytes = 0
        async with self._client.subscribe(queue, EVENT, name=subscription) as messages:
            attached()
            async for message in messages:
                taken += 1
                size_bytes += len(message.data)
                if handle:
                    handle(message.data)
                if taken == count:
                    await messages.ack_to(message, wait=True)
                    break
                await message.ack()
        return size_bytes


class _ByBatch(_Connection):
    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        taken = size_bytes = 0
        async with self._client.subscribe(queue, EVENT, name=subscription) as messages:
            attached()
            async for batch in messages.batches():
                payloads = batch.payloads
                taken += len(payloads)
                size_bytes += sum(map(len, payloads))
                if handle:
                    for payload in payloads:
                        handle(payload)
                if taken >= count:
                    await messages.ack(1, batch.last_sequence, wait=True)
                    break
                await batch.ack()
        return size_bytes


def _peer(name: str, title: str, *, by_batch: bool) -> Peer:
    return Peer(
        name=name,
        title=title,
        durability="fsync before each confirm (SQLite, synchronous=FULL), many messages sharing one",
        syncs=True,
        messages_per_second=500_000,
        missing=lambda: "",
        version=lambda: f"tidings {tidings.__version__}",
        serve=serve,
        connect=partial(connect, by_batch=by_batch),
    )


PEERS = [
    _peer("tidings", "Tidings, by message", by_batch=False),
    _peer("tidings-batches", "Tidings, by batch", by_batch=True),
]
