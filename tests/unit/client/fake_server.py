"""A server for tests of the client: speaks the protocol over TCP, keeps nothing, does what a test tells it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import msgspec

import tidings
from tidings.batch import encode_item
from tidings.model import BYTES, JSON, Run
from tidings.wire import (
    Ack,
    Backup,
    Call,
    Confirmed,
    Connection,
    Delete,
    Deliver,
    Done,
    Extend,
    Frame,
    Goodbye,
    Hello,
    List,
    Listing,
    Nack,
    Part,
    Publish,
    Role,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)


def delivery(
    handle: int,
    first_sequence: int,
    payloads: list[bytes],
    *,
    queue: str = "orders",
    event: str = "created",
    epoch: int = 1,
    content_type: str = BYTES,
    attempts: list[tuple[int, int]] | None = None,
) -> tuple[Deliver, bytes]:
    """Returns a delivery of one part with one run."""
    body = b"".join(encode_item(payload, None, None, None) for payload in payloads)
    part = Part(first_sequence, 1_700_000_000_000, [Run(event, len(payloads), len(body), content_type)])
    return Deliver(handle, queue, epoch, [part], bool(attempts), attempts or []), body


def json_delivery(handle: int, first_sequence: int, *payloads: object) -> tuple[Deliver, bytes]:
    """Returns a delivery of JSON payloads."""
    return delivery(handle, first_sequence, [msgspec.json.encode(each) for each in payloads], content_type=JSON)


class FakeConnection(asyncio.Protocol):
    """One connection at the server's side."""

    def __init__(self, server: "FakeServer") -> None:
        self.server = server
        self.connection = Connection(Role.SERVER, 0)
        self.frames: list[Frame] = []
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self.connection.receive_data(data, 0)
        for frame, body in self.connection.frames_received():
            self.frames.append(frame)
            self.server.received(self, frame, body)
        self.flush()
        self.server.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.ended.append(self)
        self.server.changed()

    def send(self, frame: Frame, body: bytes = b"") -> None:
        self.connection.send(frame, (body,) if body else ())
        self.flush()

    def flush(self) -> None:
        self.transport.writelines(self.connection.data_to_send(0))

    def of(self, kind: type) -> list[Frame]:
        """Returns the frames of one kind that came."""
        return [frame for frame in self.frames if type(frame) is kind]


class FakeServer:
    """Answers everything at once, unless a test mutes a kind of frame or gives another answer.

    `mute` are kinds that are not answered; `answers` replace the answer to a kind.
    """

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.ended: list[FakeConnection] = []
        self.mute: set[type] = set()
        self.answers: dict[type, Callable[[FakeConnection, Frame], None]] = {}
        self.call: Callable[[FakeConnection, Call, bytes], None] | None = None
        """Answers calls, whose bodies matter."""
        self.stored: dict[str, list[tuple[int, int]]] = {}
        self.bodies: list[bytes] = []
        self.url = ""
        self._changes: list[asyncio.Future[None]] = []
        self._last_sequences: dict[str, int] = {}
        self._confirms: dict[tuple[str, int], Confirmed] = {}
        self._producer = ""

    @property
    def latest(self) -> FakeConnection:
        """The connection made last."""
        return self.connections[-1]

    @property
    def received_frames(self) -> list[Frame]:
        """All frames of all connections."""
        return [frame for connection in self.connections for frame in connection.frames]

    def changed(self) -> None:
        for change in self._changes:
            if not change.done():
                change.set_result(None)
        self._changes.clear()

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until something holds."""
        async with asyncio.timeout(10):
            while not condition():
                change = asyncio.get_running_loop().create_future()
                self._changes.append(change)
                await change

    def received(self, connection: FakeConnection, frame: Frame, body: bytes) -> None:
        if type(frame) in self.mute:
            return
        if type(frame) in self.answers:
            self.answers[type(frame)](connection, frame)
            return
        send = connection.connection.send
        match frame:
            case Hello():
                self._producer = frame.producer
                send(Welcome(1, "token", "node", 10_000, "disk"))
            case Publish():
                send(self._store(frame, body))
            case Subscribe():
                send(Subscribed(frame.request, frame.name or f"me:{frame.queue}/{frame.event}", True, True))
            case Ack(request=request) | Nack(request=request) | Extend(request=request) if request:
                send(Done(request))
            case Call() if self.call is not None:
                self.call(connection, frame, body)
            case Unsubscribe() | Delete() | Backup():
                send(Done(frame.request))
            case List():
                send(Listing(frame.request, msgspec.Raw(msgspec.msgpack.encode([]))))
            case Goodbye():
                connection.transport.close()

    def _store(self, frame: Publish, body: bytes) -> Confirmed:
        known = self._confirms.get((self._producer, frame.number))
        if known is not None:
            return known
        count = sum(run.count for run in frame.runs)
        first = self._last_sequences.get(frame.queue, 0) + 1
        self._last_sequences[frame.queue] = first + count - 1
        self.stored.setdefault(frame.queue, []).append((frame.number, count))
        self.bodies.append(body)
        confirmed = Confirmed(frame.number, 1, first, "disk", [index for index, _ in enumerate(frame.runs, 1)])
        self._confirms[self._producer, frame.number] = confirmed
        return confirmed

    def cut(self) -> None:
        """Ends the latest connection without a farewell."""
        self.latest.transport.abort()

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator["FakeServer"]:
        """Listens while the context lasts."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: FakeConnection(self), "127.0.0.1", port)
        self.url = f"tidings://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for connection in self.connections:
                connection.transport.abort()


@dataclass
class Order:
    """What payloads are decoded as."""

    id: int


def handle(server: FakeServer) -> int:
    """Returns the handle of the subscription that was asked for last."""
    frame = server.latest.of(Subscribe)[-1]
    assert isinstance(frame, Subscribe)
    return frame.handle


def acked(server: FakeServer) -> list[tuple[int, int, int]]:
    return [each for frame in server.received_frames if isinstance(frame, Ack) for each in frame.ranges]


async def take(subscription: tidings.Subscription, count: int) -> list[tidings.Message]:
    messages: list[tidings.Message] = []
    async for message in subscription:
        messages.append(message)
        if len(messages) == count:
            break
    return messages
