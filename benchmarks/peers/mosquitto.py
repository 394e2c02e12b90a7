"""Mosquitto: MQTT 5 with QoS 1 and persistent sessions, with gmqtt."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.installed import missing, package_version, program_output
from benchmarks.peers.peer import Handle, Peer, Server
from benchmarks.processes import free_port, started, wait_for_port

UNCONFIRMED_MAX = 10_000
RECEIVE_MAX = 65_535
SESSION_EXPIRY_S = 24 * 3600
_CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {directory}/
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
"""


def _program() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Server]:
    """Starts mosquitto with its persistence file in a directory."""
    port = free_port()
    configuration = directory / "mosquitto.conf"
    configuration.write_text(_CONFIGURATION.format(port=port, directory=directory))
    # Started by root it would become the user "mosquitto", who may not write here; it says so and goes on as root.
    with started((_program(), "-c", configuration), directory) as process:
        wait_for_port(port, process)
        yield Server(str(port), process.id)


@contextlib.asynccontextmanager
async def connect(address: str, client_id: str) -> AsyncIterator["_Connection"]:
    """Connects gmqtt for publishing; each subscription is a session and so gets a connection of its own."""
    confirms = _confirms()
    client = _new_client(f"{client_id}-publisher", clean=True, storage=confirms)
    await client.connect("127.0.0.1", int(address))
    try:
        yield _Connection(int(address), client, confirms)
    finally:
        await client.disconnect()


def _new_client(client_id: str, *, clean: bool, storage: Any = None) -> Any:
    from gmqtt import Client

    return Client(
        client_id,
        clean_session=clean,
        persistent_storage=storage,
        session_expiry_interval=0 if clean else SESSION_EXPIRY_S,
        receive_maximum=RECEIVE_MAX,
    )


def _confirms() -> Any:
    """Returns a storage of unconfirmed messages that tells when one was confirmed."""
    from gmqtt.storage import PersistentStorage

    class Confirms(PersistentStorage):
        def __init__(self) -> None:
            super().__init__()
            self.last_id = 0
            self.waiters: dict[int, asyncio.Future[None]] = {}
            self.room: asyncio.Future[None] | None = None

        def push_message(self, mid: int, raw_package: bytes) -> None:
            super().push_message(mid, raw_package)
            self.last_id = mid

        def remove_message_by_mid(self, mid: int) -> None:
            super().remove_message_by_mid(mid)
            if self.waiters and (waiter := self.waiters.pop(mid, None)):
                waiter.set_result(None)
            if self.room and len(self._messages) < UNCONFIRMED_MAX // 2:
                self.room.set_result(None)
                self.room = None

        @property
        def count(self) -> int:
            return len(self._messages)

    return Confirms()


class _Connection:
    def __init__(self, port: int, client: Any, confirms: Any) -> None:
        self._port = port
        self._client = client
        self._confirms = confirms

    async def prepare(self, queue: str, subscriptions: Sequence[str]) -> None:
        for name in subscriptions:
            session = await self._attach(queue, name, lambda *_: 0)
            await session.disconnect()

    async def _attach(self, queue: str, name: str, on_message: Callable[..., int]) -> Any:
        session = _new_client(name, clean=False)
        subscribed = asyncio.Event()
        session.on_message = on_message
        session.on_subscribe = lambda *_: subscribed.set()
        await session.connect("127.0.0.1", self._port)
        session.subscribe(queue, qos=1)
        await subscribed.wait()
        return session

    async def publish_many(self, queue: str, payloads: Iterable[bytes]) -> None:
        confirms = self._confirms
        for number, payload in enumerate(payloads):
            self._client.publish(queue, payload, qos=1)
            if confirms.count >= UNCONFIRMED_MAX:
                confirms.room = asyncio.get_running_loop().create_future()
                await confirms.room
            elif number % 200 == 0:
                await asyncio.sleep(0)
        await confirms.wait_empty()

    async def publish(self, queue: str, payload: bytes) -> None:
        confirmed = asyncio.get_running_loop().create_future()
        self._client.publish(queue, payload, qos=1)
        self._confirms.waiters[self._confirms.last_id] = confirmed
        await confirmed

    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        taken = size_bytes = 0
        ended = asyncio.Event()

        def take(_client: Any, _topic: str, payload: bytes, _qos: int, _properties: Any) -> int:
            nonlocal taken, size_bytes
            taken += 1
            size_bytes += len(payload)
            if handle:
                handle(payload)
            if taken == count:
                ended.set()
            return 0

        session = await self._attach(queue, subscription, take)
        attached()
        await ended.wait()
        await session.disconnect()
        return size_bytes


PEERS = [
    Peer(
        name="mosquitto",
        title="Mosquitto, MQTT 5, QoS 1",
        durability="in memory; saved to disk every 30 minutes and at the end",
        syncs=False,
        messages_per_second=30_000,
        missing=lambda: missing(["gmqtt"], [_program() or "mosquitto"]),
        version=lambda: f"{program_output(_program() or 'mosquitto', '-h')}, {package_version('gmqtt')}",
        serve=serve,
        connect=connect,
    )
]
