"""Requests: long polling, going over to WebSocket, what belongs to no connection, and clients that behave badly."""

import asyncio
import json

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.integration.processes import eventually
from tests.unit.gateways.socketio.raw import DEADLINE_S, RawClient
from tests.unit.gateways.socketio.test_forms import lag, publisher
from tidings import limits
from tidings.gateways.socketio.engine import Engine, Timing
from tidings.gateways.socketio.engine_packets import Packet
from tidings.node import Draft
from tidings.server import Server

POLLING = "/socket.io/?EIO=4&transport=polling"


@pytest_asyncio.fixture
async def http(url: str):  # type: ignore[no-untyped-def]  # an async generator
    """An HTTP client of the server."""
    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False) as client:
        yield client


class Poller:
    """A connection over long polling."""

    def __init__(self, http: httpx.AsyncClient, sid: str) -> None:
        self.http, self.sid = http, sid
        self.path = f"{POLLING}&sid={sid}"

    async def poll(self) -> str:
        """Returns the body of a GET."""
        answer = await self.http.get(self.path)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        return answer.text

    async def packets(self, count: int) -> list[str]:
        """Returns that many packets, of as many bodies as they come in."""
        found: list[str] = []
        while len(found) < count:
            found += (await self.poll()).split("\x1e")
        assert len(found) == count, found
        return found

    async def push(self, body: str) -> None:
        """Sends the body of a POST."""
        answer = await self.http.post(self.path, content=body.encode())
        assert (answer.status_code, answer.text) == (200, "ok")


async def opened(http: httpx.AsyncClient) -> Poller:
    """Returns a new connection."""
    answer = await http.get(POLLING)
    assert answer.text[0] == "0"
    handshake = json.loads(answer.text[1:])
    assert handshake["upgrades"] == ["websocket"]
    return Poller(http, handshake["sid"])


async def test_a_session_over_long_polling(http: httpx.AsyncClient, server: Server) -> None:
    poller = await opened(http)
    await poller.push('40/orders,{"clientId":"billing"}')
    assert (await poller.poll()).startswith('40/orders,{"sid":')
    polling = asyncio.ensure_future(poller.packets(3))
    writer = await publisher(server)
    await writer.publish("orders", [Draft("created", b"%d" % number) for number in range(3)])
    assert [packet[:22] for packet in await polling] == [f'42/orders,["created",{n}' for n in range(3)]
    assert await lag(server, "billing:orders/#") == 3
    polling = asyncio.ensure_future(poller.poll())
    await eventually(lambda: _settled(server), what="the next GET proves that the answer of the one before has arrived")
    await poller.push('42/orders,1["created",{"_":1}]\x1e42/orders,2["created"]')
    assert (await polling).startswith("43/orders,1[{")
    await poller.push("1")
    assert (await http.get(poller.path)).status_code == 400
    [entry] = [entry for entry in (await writer.list("clients")).entries if entry.client_id]
    assert not entry.connected


async def _settled(server: Server) -> bool:
    return await lag(server, "billing:orders/#") == 0


async def test_bytes_over_long_polling(http: httpx.AsyncClient) -> None:
    poller = await opened(http)
    await poller.push('40/orders,{"recovery":false}\x1e451-/orders,["e",{"_placeholder":true,"num":0}]\x1ebAQIDBA==')
    entered, head, attachment = await poller.packets(3)
    assert entered.startswith("40/orders")
    assert (head, attachment) == ('451-/orders,["e",{"_placeholder":true,"num":0}]', "bAQIDBA==")


async def test_it_goes_over_to_websocket_without_loss(http: httpx.AsyncClient, url: str, server: Server) -> None:
    poller = await opened(http)
    await poller.push("40/orders,")
    await poller.poll()
    waiting = asyncio.ensure_future(poller.poll())
    address = f"{url.replace('http', 'ws', 1)}/socket.io/?EIO=4&transport=websocket&sid={poller.sid}"
    async with connect(address, proxy=None) as socket, asyncio.timeout(DEADLINE_S):
        await socket.send("2probe")
        assert await socket.recv() == "3probe"
        assert await waiting == "6", "the GET that waits is let go"
        writer = await publisher(server)
        await writer.publish("orders", [Draft("created", b"1")])
        async with connect(address, proxy=None) as second:
            await second.wait_closed()
            assert second.close_code == 1008, "there is one already"
        await socket.send("5")
        assert str(await socket.recv()).startswith('42/orders,["created",1')
        assert (await http.get(poller.path)).status_code == 400
        await socket.send('42/orders,1["created",2]')
        assert str(await socket.recv()).startswith("43/orders,1[")


async def test_a_probe_that_ends_leaves_long_polling_as_it_was(http: httpx.AsyncClient, url: str) -> None:
    poller = await opened(http)
    address = f"{url.replace('http', 'ws', 1)}/socket.io/?EIO=4&transport=websocket&sid={poller.sid}"
    for said in ("2probe", "4nonsense"):
        async with connect(address, proxy=None) as socket, asyncio.timeout(DEADLINE_S):
            await socket.send(said)
            if said == "4nonsense":
                await socket.wait_closed()
    await poller.push("40")
    assert (await poller.poll()).startswith("40{")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/socket.io/", 0),
        ("GET", "/socket.io/?EIO=4&transport=carrier", 0),
        ("GET", "/socket.io/?EIO=4&transport=websocket", 0),
        ("GET", "/socket.io/?EIO=3&transport=polling", 5),
        ("GET", "/socket.io/?transport=polling", 5),
        ("POST", POLLING, 2),
        ("PUT", POLLING, 2),
        ("GET", f"{POLLING}&sid=nobody", 1),
        ("POST", f"{POLLING}&sid=nobody", 1),
    ],
)
async def test_requests_of_no_connection_are_refused_as_by_the_reference(
    http: httpx.AsyncClient, method: str, path: str, code: int
) -> None:
    answer = await http.request(method, path, content=b"40" if method != "GET" else None)
    assert answer.status_code == 400
    assert answer.json()["code"] == code


@pytest.mark.parametrize("body", [b"", b"abc", b"4\xff", b"b***", b"5", b"0", b'42["before connecting"]', b"40\x1e40"])
async def test_a_body_that_is_wrong_ends_its_connection(http: httpx.AsyncClient, body: bytes) -> None:
    poller = await opened(http)
    answer = await http.post(poller.path, content=body)
    assert answer.status_code == 400
    assert answer.json()["message"]
    assert (await http.get(poller.path)).status_code == 400


async def test_a_body_that_is_too_large_is_refused(http: httpx.AsyncClient) -> None:
    poller = await opened(http)
    answer = await http.post(poller.path, content=b"4" * (limits.WEBSOCKET_FRAME_BYTES_MAX + 1))
    assert answer.status_code == 413


async def test_two_requests_at_a_time_end_the_connection(http: httpx.AsyncClient) -> None:
    poller = await opened(http)
    answers = await asyncio.gather(http.get(poller.path), http.get(poller.path))
    assert sorted(answer.status_code for answer in answers) == [200, 400], "whichever of them comes first"
    assert (await http.get(poller.path)).status_code == 400


async def test_one_that_drops_its_get_is_gone(http: httpx.AsyncClient, server: Server) -> None:
    poller = await opened(http)
    await poller.push('40/orders,{"clientId":"billing"}')
    await poller.poll()
    with pytest.raises(httpx.ReadTimeout):
        await http.get(poller.path, timeout=0.1)
    writer = await publisher(server)

    async def gone() -> bool:
        [entry] = [entry for entry in (await writer.list("clients")).entries if entry.client_id]
        return not entry.connected

    await eventually(gone, what="the client id is free at once")


async def test_foreign_pages_may_not_and_allowed_ones_may(http: httpx.AsyncClient, url: str) -> None:
    assert (await http.get(POLLING, headers={"Origin": "https://evil.example"})).status_code == 403
    answer = await http.get(POLLING, headers={"Origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    with pytest.raises(InvalidStatus):
        async with RawClient(url, headers={"Origin": "https://evil.example"}):
            pass
    async with RawClient(url, headers={"Origin": "https://app.example"}) as client:
        assert (await client.enter())["sid"]


@pytest.mark.parametrize("frame", ["abc", "", "4", "4abc", '42["e"]', "5", "2probe2", b"bytes", "42" + "[" * 50_000])
async def test_a_frame_that_is_wrong_ends_its_connection_and_no_other(url: str, frame: str | bytes) -> None:
    async with RawClient(url) as client, RawClient(url) as other:
        await other.enter("/orders", events=[])
        await client.send(frame)
        if frame != "2probe2":  # a ping of revision 3, which is answered
            await client.closed()
        assert (await other.ask("/orders", "created", 1))["sequence"] == 1


async def test_one_that_never_reads_is_delivered_no_more_than_fits(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing")
        client.socket.transport.pause_reading()
        payload = b'"%s"' % (b"x" * 250_000)
        for _ in range(120):
            await writer.publish("orders", [Draft("created", payload)])
        assert server._socketio is not None
        [session] = server._socketio._sessions.values()
        assert session.engine.waiting_bytes < 2 * limits.SOCKETIO_FILL_BYTES + 2 * len(payload)
        assert session.conversation is not None
        assert session.conversation._waiting_bytes < limits.SEND_BUFFER_BYTES_MAX + 2 * limits.FETCH_SIZE_BYTES
        assert await lag(server, "billing:orders/#") == 120
        client.socket.transport.resume_reading()
        for _ in range(120):
            assert (await client.event("/orders"))[0] == "created"


async def test_little_is_taken_at_a_time_however_much_is_there(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing")
    writer = await publisher(server)
    await writer.publish("orders", [Draft("created", b'"%s"' % (b"x" * 200))] * 5_000)
    found: list[int] = []
    frames_to_send = Engine.frames_to_send

    def watched(engine: Engine, now_ms: int) -> list[str | bytes]:
        found.append(engine.waiting_bytes)
        return frames_to_send(engine, now_ms)

    monkeypatch.setattr(Engine, "frames_to_send", watched)
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing")
        for _ in range(5_000):
            await client.event("/orders")
    assert limits.SOCKETIO_FILL_BYTES <= max(found) < limits.SOCKETIO_FILL_BYTES + 1_000


async def test_one_that_is_silent_is_given_up(url: str, server: Server) -> None:
    assert server._socketio is not None
    server._socketio._timing = server._socketio._timing._replace(ping_interval_ms=50, ping_timeout_ms=50)
    async with RawClient(url, answers=False) as client:
        await client.enter("/orders", clientId="billing")
        await client.closed()
    async with RawClient(url) as client:
        assert (await client.enter("/orders", clientId="billing"))["sid"]


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes waited to be sent at any time."""
    seen = [0]
    put = Engine._put

    def noted(engine: Engine, packet: Packet) -> None:
        put(engine, packet)
        seen.append(engine.waiting_bytes)

    monkeypatch.setattr(Engine, "_put", noted)
    return seen


@pytest.mark.parametrize("piece", ["2" + "x" * 1_000_000, '42["' + "x" * 1_000_000 + '"]'], ids=["ping", "refused"])
async def test_a_client_that_does_not_read_its_answers_is_not_asked_for_more(
    url: str, waiting: list[int], piece: str
) -> None:
    async with RawClient(url) as client:
        await client.enter()
        client.socket.transport.pause_reading()
        sending = asyncio.create_task(client.send(*[piece] * 60))
        await asyncio.wait((sending,), timeout=1)  # it never ends; where more is taken than can be told it does
        client.socket.transport.resume_reading()
        for _ in range(60):
            assert len(await client.receive()) > 1_000_000
        await sending
    assert max(waiting) < 2 * limits.SEND_BUFFER_BYTES_MAX + len(piece)


async def test_who_asked_and_is_gone_is_answered_into_nothing_and_what_it_published_counts(
    url: str, server: Server, waiting: list[int]
) -> None:
    writer = await publisher(server)
    for number in range(100):
        await writer.publish("x" * 200 + str(number), [Draft("created", b"0")])
    async with RawClient(url) as client:
        await client.enter()
        client.socket.transport.pause_reading()
        frames = ['421["queues"]'] * 500 + ['42["publish",{"queue":"last","event":"e"}]']
        # At once, so that the server has all of it: short frames, masked with zeros.
        masked = [b"\x81" + bytes([0x80 | len(frame)]) + bytes(4) + frame.encode() for frame in frames]
        client.socket.transport.write(b"".join(masked))
        await eventually(lambda: max(waiting) > limits.SEND_BUFFER_BYTES_MAX, what="it is answered no more")
        client.socket.transport.abort()

    async def published() -> bool:
        return bool((await writer.list("queues", name="last")).entries)

    await eventually(published, what="what it sent last is stored")
    assert max(waiting) < 3 * limits.SEND_BUFFER_BYTES_MAX, "of 20 MB"


async def test_a_post_waits_until_the_answers_of_those_before_were_taken(http: httpx.AsyncClient) -> None:
    poller = await opened(http)
    piece = "2" + "x" * (limits.SEND_BUFFER_BYTES_MAX + 1)
    await poller.push(piece)
    second = asyncio.create_task(poller.push(piece))
    assert await poller.poll() == "3" + piece[1:]
    await second
    assert await poller.poll() == "3" + piece[1:]


async def test_a_post_that_waits_ends_with_its_connection(
    http: httpx.AsyncClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = server._socketio
    assert gateway is not None
    gateway._timing = Timing(ping_interval_ms=50, ping_timeout_ms=50)
    poller = await opened(http)
    piece = "2" + "x" * (limits.SEND_BUFFER_BYTES_MAX + 1)
    await poller.push(piece)
    answer = await http.post(poller.path, content=piece)
    assert answer.status_code == 400
    assert not gateway._sessions
