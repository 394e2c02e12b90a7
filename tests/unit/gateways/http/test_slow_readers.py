"""Readers of streams that never read: what waits for them is bounded, and in the end they are cut off."""

import asyncio
import base64
import json
import os
import socket

import pytest

import tidings
from tests.integration.processes import eventually
from tidings import limits
from tidings.client import Client
from tidings.gateways.http.connection import HttpConnection
from tidings.gateways.http.websocket_connection import WebSocketConnection
from tidings.node.attachment import Attachment, Ranges

PAYLOAD = "x" * 100_000
COUNT = 300
SOCKET_BYTES_MAX = 6 * 1024 * 1024
"""What the system's buffers of one connection on this machine may hold, at most."""


class Stalled:
    """A connection of which only the head of the answer is read."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = (host, int(port))
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self._socket.setblocking(False)

    async def begin(self, path: str, *fields: str) -> None:
        """Sends a request, and waits for the head of its answer."""
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, self._address)
        head = "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *fields, "\r\n"])
        await loop.sock_sendall(self._socket, head.encode())
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += await loop.sock_recv(self._socket, 1)

    async def upgrade(self) -> None:
        """Begins as a WebSocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        fields = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
        await self.begin("/ws", *fields)

    async def send(self, frame: dict[str, object], times: int = 1) -> None:
        """Sends a frame over WebSocket, masked with zeros; waits while the server does not read."""
        text = json.dumps(frame).encode().ljust(200)
        await self.send_bytes((b"\x81" + bytes([0x80 | 126]) + len(text).to_bytes(2, "big") + bytes(4) + text) * times)

    async def send_bytes(self, data: bytes) -> None:
        """Sends bytes as they are."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    def close(self) -> None:
        """Ends it."""
        self._socket.close()


async def stalled(url: str, door: str) -> Stalled:
    """Attaches to the subscription "slow" and reads nothing."""
    connection = Stalled(url)
    if door == "events":
        await connection.begin("/subscriptions/slow/events?queue=orders")
    else:
        await connection.upgrade()
        await connection.send({"type": "subscribe", "queue": "orders", "name": "slow"})
    return connection


async def publish_all(client: Client) -> None:
    """Publishes 30 MB for it."""

    async def there() -> bool:
        return len(await client.subscriptions()) == 1

    await eventually(there, what="the subscription is there")
    for number in range(COUNT):
        await client.publish("orders", "created", [number, PAYLOAD])


@pytest.mark.parametrize("door", ["events", "websocket"])
async def test_of_what_is_published_little_is_taken_for_a_reader_that_never_reads(
    url: str, native: str, door: str
) -> None:
    connection = await stalled(url, door)
    async with tidings.connect(native) as client:
        await publish_all(client)
        [info] = await client.subscriptions()
        assert (info.connected, info.lag) == (True, COUNT)
        most_bytes = 2 * limits.SEND_BUFFER_BYTES_MAX + 2 * limits.FETCH_SIZE_BYTES + limits.ROW_SIZE_BYTES_MAX
        assert info.in_flight * len(PAYLOAD) <= most_bytes + SOCKET_BYTES_MAX, "of 30 MB"
    connection.close()


@pytest.mark.parametrize("door", ["events", "websocket"])
async def test_a_reader_that_never_reads_is_cut_off_and_all_of_it_goes_to_the_next(
    url: str, native: str, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_WRITE_TIMEOUT_MS", 300)
    connection = await stalled(url, door)
    async with tidings.connect(native) as client:
        await publish_all(client)

        async def cut_off() -> bool:
            return [info.connected for info in await client.subscriptions()] == [False]

        await eventually(cut_off, what="it is cut off")
        found = []
        async with client.subscribe("orders", name="slow") as subscription:
            async for message in subscription:
                found.append(message.payload[0])
                await message.ack()
                if len(found) == COUNT:
                    break
        assert found == list(range(COUNT))
    connection.close()


async def test_a_websocket_that_only_asks_is_not_read_any_more_and_harms_nobody(url: str, native: str) -> None:
    connection = Stalled(url)
    await connection.upgrade()
    for _ in range(10_000):
        try:
            async with asyncio.timeout(2):
                await connection.send({"type": "ping", "request": "x" * 100}, times=1_000)
        except TimeoutError:
            break
    else:
        pytest.fail("two gigabytes of requests were read, and of their answers nothing was taken")
    async with tidings.connect(native) as client:
        await client.publish("orders", "created", 1)
    connection.close()


async def test_a_websocket_that_only_pings_makes_no_pongs_wait(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [0]
    handle = WebSocketConnection.handle_ping

    def noted(self: WebSocketConnection) -> None:
        handle(self)
        waiting.append(self.transport.get_write_buffer_size())

    monkeypatch.setattr(WebSocketConnection, "handle_ping", noted)
    connection = Stalled(url)
    await connection.upgrade()
    ping = b"\x89" + bytes([0x80 | 125]) + bytes(4) + b"x" * 125
    for _ in range(30):
        await connection.send_bytes(ping * 3_000)
    assert max(waiting) < limits.SEND_BUFFER_BYTES_MAX, "of 12 MB"
    connection.close()


async def test_what_cannot_be_written_any_more_is_not_acked_on_write(
    url: str, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[bool] = []
    acked_late: list[int] = []
    lose, ack = HttpConnection.connection_lost, Attachment.ack_soon

    def noted(self: HttpConnection, exc: Exception | None) -> None:
        lost.append(self.flow.write_paused)
        lose(self, exc)

    def noted_ack(self: Attachment, ranges: Ranges) -> None:
        if lost:
            acked_late.append(len(ranges))
        ack(self, ranges)

    connection = Stalled(url)
    await connection.begin("/subscriptions/slow/events?queue=orders&ack=write")
    async with tidings.connect(native) as client:
        await publish_all(client)
        monkeypatch.setattr(HttpConnection, "connection_lost", noted)
        monkeypatch.setattr(Attachment, "ack_soon", noted_ack)
        connection.close()

        async def gone() -> bool:
            return [info.connected for info in await client.subscriptions()] == [False]

        await eventually(gone, what="its connection is lost")
    assert lost == [True], "while something waited to be written"
    assert acked_late == []
