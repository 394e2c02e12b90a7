"""Bad input over HTTP: what is malformed, too large, too slow or never read ends cleanly, and the others go on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from tests.unit.gateways.http.conftest import DEADLINE_S, http_client, serving
from tidings import limits
from tidings.gateways.http.connection import HttpConnection

HOST = b"Host: 127.0.0.1\r\n"


class Raw:
    """A connection that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """Returns the status of the next answer."""
        line = await self.reader.readline()
        return int(line.split()[1])

    async def rest(self) -> bytes:
        """Returns all that comes until the server closes."""
        return await self.reader.read()


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Raw]:
    address = urlsplit(url)
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            yield Raw(reader, writer)
        finally:
            writer.close()


@pytest.fixture(autouse=True)
async def goes_on(http: httpx.AsyncClient) -> AsyncIterator[None]:
    """After each of the tests the server does what it did before."""
    yield
    answer = await http.post("/queues/afterwards/events/e", json=1)
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0\xff\x16\x03\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
        b"POST /queues/q/events/e HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"POST /queues/q/events/e HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST /queues/q/events/e HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"POST /queues/q/events/e HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_closed(url: str, http: httpx.AsyncClient, request_bytes: bytes) -> None:
    async with raw(url) as connection:
        await connection.send(request_bytes)
        connection.writer.write_eof()
        answer = await connection.rest()
    assert not answer or answer.split()[1].startswith(b"4"), answer
    assert (await http.get("/queues/q")).status_code == 404


async def test_a_head_without_an_end_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_HEAD_TIMEOUT_MS", 100)
    async with raw(url) as connection:
        await connection.send(b"GET /health HTTP/1.1\r\nHost: 127.0")
        assert await connection.status() == 408
        await connection.rest()


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[bytes]:
    """What HTTP connections received, packet by packet."""
    received = asyncio.Queue[bytes]()
    receive = HttpConnection.data_received

    def noted(self: HttpConnection, data: bytes) -> None:
        received.put_nowait(data)
        receive(self, data)

    monkeypatch.setattr(HttpConnection, "data_received", noted)
    return received


async def send_in_two(connection: Raw, packets: asyncio.Queue[bytes], first: bytes, second: bytes) -> None:
    """Sends two pieces, the second one once the first was received."""
    await connection.send(first)
    assert await packets.get() == first
    await connection.send(second)


@pytest.mark.parametrize("cut", [10, 90])
async def test_a_body_counts_for_no_head_that_comes_in_pieces(
    url: str, packets: asyncio.Queue[bytes], cut: int
) -> None:
    body = b"x" * 100_000
    request = b"POST /queues/orders/events/e HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with raw(url) as connection:
        await send_in_two(connection, packets, request[:cut], request[cut:])
        assert await connection.status() == 201


async def test_a_head_is_as_large_in_pieces_as_it_is_whole(url: str, packets: asyncio.Queue[bytes]) -> None:
    head = b"GET /health HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (limits.HTTP_HEAD_BYTES_MAX - 100) + b"\r\n\r\n"
    async with raw(url) as connection:
        await send_in_two(connection, packets, head[:20_000], head[20_000:])
        assert await connection.status() == 200


async def test_a_head_that_is_too_large_is_refused_while_it_comes(url: str) -> None:
    async with raw(url) as connection:
        await connection.send(b"GET /health HTTP/1.1\r\n" + HOST + b"X: ")
        status = asyncio.create_task(connection.status())
        while not status.done():
            connection.writer.write(b"x" * 1_000)
            await asyncio.sleep(0)
        assert status.result() == 431


async def test_a_body_that_takes_too_long_is_given_up(
    url: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_BODY_TIMEOUT_MS", 100)
    async with raw(url) as connection:
        await connection.send(b"POST /queues/q/events/e HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nslow")
        assert await connection.status() == 408
        assert b"problem+json" in await connection.rest(), "it says why, and closes"
    assert (await http.get("/queues/q")).status_code == 404


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_refused_before_all_of_it_came(url: str, chunked: bool) -> None:
    size = limits.HTTP_BODY_BYTES_MAX + 1
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % size
    async with raw(url) as connection:
        await connection.send(b"POST /queues/q/events/e HTTP/1.1\r\n" + HOST + framing + b"\r\n")
        status = asyncio.create_task(connection.status())
        chunk = b"x" * 65_536
        for _ in range(size // len(chunk) + 1):
            if status.done() or connection.writer.is_closing():
                break
            connection.writer.write(b"10000\r\n" + chunk + b"\r\n" if chunked else chunk)
            await asyncio.sleep(0)
        assert await status == 413


async def test_a_client_that_never_reads_is_cut_off(
    url: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_WRITE_TIMEOUT_MS", 100)
    await http.put("/subscriptions/s", json={"queue": "q"})
    for _ in range(16):
        await http.post("/queues/q/events/e", content=b'"' + b"x" * 1_000_000 + b'"')
    address = urlsplit(url)
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await _until(http, connections=2)
        # The system takes some MiB of an answer that nobody reads; so many requests have more.
        writer.write(8 * (b"GET /subscriptions/s/messages?max=16 HTTP/1.1\r\n" + HOST + b"\r\n"))
        await _until(http, connections=1)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        whole = b"".join([piece async for piece in _pieces(reader)])
        assert not whole.endswith(b"}"), "the end of the answer was not kept for it"
        writer.close()


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(65_536):
        yield piece


async def _until(http: httpx.AsyncClient, *, connections: int) -> None:
    """Waits until the server has so many connections; one is that of `http`."""
    while f"tidings_http_connections {connections}.0" not in (await http.get("/metrics")).text:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_connection_that_is_dropped_in_a_body_publishes_nothing(url: str, http: httpx.AsyncClient) -> None:
    async with raw(url) as connection:
        await connection.send(b"POST /queues/q/events/e HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nhalf")
        connection.writer.transport.abort()
    await http.post("/queues/other/events/e", json=1)
    assert (await http.get("/queues/q")).status_code == 404


@pytest.mark.parametrize("path", ["/queues/q/events/e", "/socket.io/?EIO=4&transport=polling&sid={}"])
async def test_a_body_that_is_half_there_is_not_waited_for_when_the_server_stops(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "HTTP_DRAIN_TIMEOUT_MS", 3_600_000)
    async with AsyncExitStack() as connections:
        async with serving() as (url, _):
            async with http_client(url) as client:
                opened = await client.get("/socket.io/?EIO=4&transport=polling")
            sid = json.loads(opened.text[1:])["sid"]
            half = await connections.enter_async_context(raw(url))
            await half.send(f"POST {path.format(sid)} HTTP/1.1\r\n".encode() + HOST)
            await half.send(b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n")
            assert await half.status() == 100, "its body is waited for"
            await half.send(b"half")
        assert b"503 Service Unavailable" in await half.rest()
    assert "Traceback" not in caplog.text


async def test_what_is_sent_after_an_answer_is_the_next_request(url: str) -> None:
    async with raw(url) as connection:
        one = b"POST /queues/piped/events/e HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\n1"
        await connection.send(one * 3 + b"GET /health HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        answers = await connection.rest()
    assert [answers.count(f'"sequence":{number}'.encode()) for number in (1, 2, 3)] == [1, 1, 1]
    assert b"alive" in answers


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAMAAABkAAQC\r\n"


@pytest.mark.parametrize("wanted", [b"h2c", b"websocket"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("length", "body"),
    [(b"Content-Length: 2", b"42"), (b"Transfer-Encoding: chunked", b"1\r\n4\r\n1\r\n2\r\n0\r\n\r\n")],
)
async def test_an_upgrade_that_is_offered_with_a_body_loses_nothing(
    url: str, http: httpx.AsyncClient, wanted: bytes, together: bool, length: bytes, body: bytes
) -> None:
    head = b"POST /queues/q/events/e HTTP/1.1\r\n" + HOST + UPGRADE % wanted + length + b"\r\n\r\n"
    async with raw(url) as connection:
        if together:
            await connection.send((head + body) * 500)
        else:
            for _ in range(2):
                await connection.send(head)
                await http.get("/health")  # so that the head has come before the body
                await connection.send(body)
        await connection.send(b"GET /health HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        assert b"alive" in await connection.rest()
    messages = (await http.get("/queues/q/messages", params={"max": 1_000})).json()["messages"]
    assert [message["payload"] for message in messages] == [42] * (500 if together else 2)


@pytest.mark.parametrize("name", ["x%0d%0aSet-Cookie:a", "x%0aInjected:1", "%00", "..%2f..", "%2e%2e", "a%5cb"])
async def test_no_name_gets_out_of_its_place_or_into_a_header(http: httpx.AsyncClient, name: str) -> None:
    for path in (f"/queues/{name}", f"/subscriptions/{name}", f"/schedules/{name}"):
        request = http.build_request("DELETE", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = await http.send(request)
        assert answer.status_code in (400, 404, 405), path
        assert answer.headers["content-type"] == "application/problem+json"
        assert not {"set-cookie", "injected"} & set(answer.headers)
