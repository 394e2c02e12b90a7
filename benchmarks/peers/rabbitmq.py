"""RabbitMQ: quorum queues with pika's asynchronous confirms and multiple acks, streams with rstream's batches."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.peers.installed import missing, package_version
from benchmarks.peers.peer import Handle, Peer, Server
from benchmarks.processes import free_port, started, wait_for_port

# Debian's program in PATH changes the user and uses the system's directories; the one behind it does neither.
PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
UNCONFIRMED_MAX = 4_000
YIELD_COUNT = 100
PREFETCH_COUNT = 4_000
ACK_COUNT = 500
BATCH_COUNT = 1_000
BATCHES_UNCONFIRMED_MAX = 8
CREDIT = 50
_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
stream.listeners.tcp.1 = 127.0.0.1:{stream}
stream.advertised_host = 127.0.0.1
stream.advertised_port = {stream}
log.console = false
log.file.level = warning
"""


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Server]:
    """Starts a node of RabbitMQ under a name of its own, with its own port mapper, files and cookie."""
    amqp, stream, distribution, mapper = (free_port() for _ in range(4))
    (directory / "rabbitmq.conf").write_text(_CONFIGURATION.format(amqp=amqp, stream=stream))
    (directory / "enabled_plugins").write_text("[rabbitmq_stream].\n")
    environment = {
        "HOME": str(directory),
        "RUNNING_UNDER_SYSTEMD": "yes",  # only so that the start script becomes the server instead of waiting for it
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"benchmark{amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_PID_FILE": str(directory / "process"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(directory / "feature_flags"),
    }
    # The port mapper would be started by the node as a daemon that stays; started here it ends with the run.
    with started(("epmd", "-port", mapper, "-address", "127.0.0.1"), directory) as port_mapper:
        wait_for_port(mapper, port_mapper)
        with started((PROGRAM,), directory, environment) as process:
            wait_for_port(amqp, process)
            wait_for_port(stream, process)
            yield Server(f"{amqp} {stream}", process.id)


# --- quorum queues ---


@contextlib.asynccontextmanager
async def connect_quorum(address: str, client_id: str) -> AsyncIterator["_Quorum"]:
    """Connects pika; its callbacks are faster than the futures of aio-pika."""
    import pika
    from pika.adapters.asyncio_connection import AsyncioConnection

    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Any] = loop.create_future()
    closed: asyncio.Future[None] = loop.create_future()
    connection = AsyncioConnection(
        pika.ConnectionParameters("127.0.0.1", int(address.split()[0])),
        on_open_callback=opened.set_result,
        on_open_error_callback=lambda _, error: opened.set_exception(error),
        on_close_callback=lambda *_: closed.set_result(None),
        custom_ioloop=loop,
    )
    await opened
    try:
        quorum = _Quorum(connection)
        await quorum.open()
        yield quorum
    finally:
        if connection.is_open:
            connection.close()
            await closed


class _Quorum:
    """Every subscription is a quorum queue, bound to the exchange that stands for the queue."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._publishing: Any = None
        self._published = 0
        self._confirmed = 0  # all tags up to it
        self._confirmed_above: set[int] = set()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def open(self) -> None:
        """Opens the channel for publishing, with confirms."""
        self._publishing = await self._channel()
        confirming = asyncio.get_running_loop().create_future()
        self._publishing.confirm_delivery(self._take_confirm, callback=confirming.set_result)
        await confirming

    async def _channel(self) -> Any:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._connection.channel(on_open_callback=opened.set_result)
        return await opened

    async def prepare(self, queue: str, subscriptions: Sequence[str]) -> None:
        channel = await self._channel()
        await _answered(channel.exchange_declare, exchange=queue, exchange_type="fanout", durable=True)
        for name in subscriptions:
            arguments = {"x-queue-type": "quorum"}
            await _answered(channel.queue_declare, queue=f"{queue}.{name}", durable=True, arguments=arguments)
            await _answered(channel.queue_bind, queue=f"{queue}.{name}", exchange=queue)
        channel.close()

    async def publish_many(self, queue: str, payloads: Iterable[bytes]) -> None:
        channel = self._publishing
        persistent = _persistent()
        for payload in payloads:
            channel.basic_publish(queue, "", payload, persistent)
            self._published += 1
            if self._published % YIELD_COUNT == 0:
                await asyncio.sleep(0)
                if self._published - self._confirmed >= UNCONFIRMED_MAX:
                    await self._reach(self._published - UNCONFIRMED_MAX // 2)
        await self._reach(self._published)

    async def publish(self, queue: str, payload: bytes) -> None:
        self._publishing.basic_publish(queue, "", payload, _persistent())
        self._published += 1
        await self._reach(self._published)

    async def _reach(self, tag: int) -> None:
        if self._confirmed < tag:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((tag, waiter))
            await waiter

    def _take_confirm(self, frame: Any) -> None:
        method = frame.method
        if method.NAME != "Basic.Ack":
            raise RuntimeError("a publish was refused")
        if method.multiple:
            self._confirmed = max(self._confirmed, method.delivery_tag)
        else:
            self._confirmed_above.add(method.delivery_tag)
        while self._confirmed + 1 in self._confirmed_above:
            self._confirmed += 1
            self._confirmed_above.discard(self._confirmed)
        while self._waiting and self._waiting[0][0] <= self._confirmed:
            self._waiting.popleft()[1].set_result(None)

    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        channel = await self._channel()
        await _answered(channel.basic_qos, prefetch_count=PREFETCH_COUNT)
        ended = asyncio.get_running_loop().create_future()
        taken = size_bytes = 0

        def take(_channel: Any, method: Any, _properties: Any, payload: bytes) -> None:
            nonlocal taken, size_bytes
            taken += 1
            size_bytes += len(payload)
            if handle:
                handle(payload)
            if taken == count or taken % ACK_COUNT == 0:
                channel.basic_ack(method.delivery_tag, multiple=True)
            if taken == count:
                ended.set_result(None)

        started_consuming = asyncio.get_running_loop().create_future()
        channel.basic_consume(f"{queue}.{subscription}", take, callback=started_consuming.set_result)
        await started_consuming
        attached()
        await ended
        await _answered(channel.basic_qos, prefetch_count=PREFETCH_COUNT)  # its answer comes after the last ack
        return size_bytes


def _persistent() -> Any:
    from pika.spec import BasicProperties

    return BasicProperties(delivery_mode=2)


async def _answered(method: Callable[..., Any], **arguments: Any) -> None:
    answer = asyncio.get_running_loop().create_future()
    method(callback=answer.set_result, **arguments)
    await answer


# --- streams ---


@contextlib.asynccontextmanager
async def connect_stream(address: str, client_id: str) -> AsyncIterator["_Stream"]:
    """Connects rstream; each subscription has a consumer of its own, since one does not read a stream twice."""
    from rstream import Producer

    where: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": int(address.split()[1]),
        "username": "guest",
        "password": "guest",
    }
    async with Producer(**where, connection_name=client_id) as producer:
        yield _Stream(where, producer)


class _Stream:
    def __init__(self, where: dict[str, Any], producer: Any) -> None:
        self._where = where
        self._producer = producer
        self._unconfirmed = 0
        self._room = asyncio.Event()

    async def prepare(self, queue: str, subscriptions: Sequence[str]) -> None:
        await self._producer.create_stream(queue, exists_ok=True)

    async def publish_many(self, queue: str, payloads: Iterable[bytes]) -> None:
        remaining = iter(payloads)
        while batch := list(islice(remaining, BATCH_COUNT)):
            while self._unconfirmed >= BATCHES_UNCONFIRMED_MAX * BATCH_COUNT:
                await self._confirmation()
            self._unconfirmed += len(batch)
            await self._producer.send_batch(queue, batch, on_publish_confirm=self._take_confirm)
        while self._unconfirmed:
            await self._confirmation()

    async def _confirmation(self) -> None:
        self._room.clear()
        await self._room.wait()

    def _take_confirm(self, confirmation: Any) -> None:
        if not confirmation.is_confirmed:
            raise RuntimeError("a publish was refused")
        self._unconfirmed -= 1
        self._room.set()

    async def publish(self, queue: str, payload: bytes) -> None:
        await self._producer.send_wait(queue, payload)

    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        from rstream import Consumer, ConsumerOffsetSpecification, OffsetType

        ended = asyncio.get_running_loop().create_future()
        taken = size_bytes = 0

        async def store(context: Any) -> None:
            # What a stream has for an ack: the place where this subscription goes on.
            await context.consumer.store_offset(queue, subscription, context.offset)

        def take(payload: bytes, context: Any) -> Any:
            nonlocal taken, size_bytes
            taken += 1
            size_bytes += len(payload)
            if handle:
                handle(payload)
            if taken == count:
                ended.set_result(context)
            return store(context) if taken % ACK_COUNT == 0 else None

        async with Consumer(**self._where) as consumer:
            first = ConsumerOffsetSpecification(OffsetType.FIRST, None)
            await consumer.subscribe(
                queue, take, decoder=bytes, offset_specification=first, initial_credit=CREDIT,
                subscriber_name=subscription,
            )  # fmt: skip
            attached()
            context = await ended
            await store(context)
            while await consumer.query_offset(queue, subscription) != context.offset:  # noqa: ASYNC110
                await asyncio.sleep(0)  # the server does not answer to a stored offset, it can only be asked
        return size_bytes


def _version(package: str) -> str:
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    server = found[-1].name.replace("_server-", " ") if found else "rabbitmq"
    return f"{server}, {package_version(package)}"


PEERS = [
    Peer(
        name="rabbitmq-quorum",
        title="RabbitMQ quorum queue",
        durability="fdatasync before each confirm, shared by what arrived together",
        syncs=True,
        messages_per_second=18_000,
        missing=lambda: missing(["pika"], [PROGRAM, "epmd"]),
        version=lambda: _version("pika"),
        serve=serve,
        connect=connect_quorum,
    ),
    Peer(
        name="rabbitmq-stream",
        title="RabbitMQ stream",
        durability="written to the system before each confirm, no fsync",
        syncs=False,
        messages_per_second=110_000,
        missing=lambda: missing(["rstream"], [PROGRAM, "epmd"]),
        version=lambda: _version("rstream"),
        serve=serve,
        connect=connect_stream,
    ),
]
