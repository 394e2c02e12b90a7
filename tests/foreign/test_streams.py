"""EventSource and WebSocket as others made them: on Node.js, in a browser, and `websockets`."""

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import tidings
from tests.foreign.programs import Browser, NodeProgram, needs_browser, needs_node
from tests.foreign.work import publish, settled
from tests.integration.processes import DEADLINE_S, Server, eventually

COUNT = 10_000

# Each prints what happens to it; `path` stands in front.
STREAM = """
const source = new EventSource(url + path);
source.onopen = () => print(["open", null]);
source.onerror = (error) => print(["error", error.code ?? null]);
source.addEventListener("$gap", (event) => print(["gap", JSON.parse(event.data)]));
source.addEventListener("created", (event) => print(["created", [event.lastEventId, JSON.parse(event.data).payload]]));
"""


class Node(NodeProgram):
    """A script with EventSource and WebSocket."""

    def __init__(self, server: Server, source: str, *, log: Path, path: str = "") -> None:
        super().__init__("streams.mjs", f"const path = {json.dumps(path)};\n{source}", server.http_url, log=log)


@needs_node
async def test_a_reader_that_was_away_goes_on_with_its_last_id_over_a_killed_server(
    server: Server, tmp_path: Path
) -> None:
    with Node(server, STREAM, log=tmp_path / "node.log", path="/queues/orders/events") as node:
        node.next("open")
        await publish(server, 1, 10)
        got = [node.next("created") for _ in range(10)]
        assert [payload for _, payload in got] == list(range(1, 11))
        node.kill()
    await publish(server, 11, COUNT + 10)
    server.kill()
    server.start()
    path = f"/queues/orders/events?position={got[-1][0]}"
    with Node(server, STREAM, log=tmp_path / "node.log", path=path) as node:
        node.next("open")
        assert [node.next("created")[1] for _ in range(COUNT)] == list(range(11, COUNT + 11)), "each, once, in order"


@needs_node
async def test_a_reader_that_stays_connects_again_by_itself_and_misses_nothing(server: Server, tmp_path: Path) -> None:
    with Node(server, STREAM, log=tmp_path / "node.log", path="/queues/orders/events") as node:
        node.next("open")
        await publish(server, 1, 1_000)
        assert [node.next("created")[1] for _ in range(1_000)] == list(range(1, 1_001))
        server.kill()
        node.next("error")
        server.start()
        await publish(server, 1_001, 2_000)
        while (found := node.read_json())[0] == "error":
            pass  # the server was not there yet
        assert found[0] == "open"
        assert [node.next("created")[1] for _ in range(1_000)] == list(range(1_001, 2_001)), "each, once, in order"


@needs_node
async def test_one_cursor_begun_over_server_sent_events_goes_on_over_websocket_and_in_python(
    server: Server, tmp_path: Path
) -> None:
    path = "/subscriptions/billing/events?queue=orders&ack=write"
    with Node(server, STREAM, log=tmp_path / "node.log", path=path) as node:
        node.next("open")
        await publish(server, 1, 5)
        assert [node.next("created")[1] for _ in range(5)] == [1, 2, 3, 4, 5]
        await settled(server, "billing")
    await publish(server, 6, 15)
    server.kill()
    server.start()
    source = """
        const socket = new WebSocket(url.replace("http", "ws") + "/ws");
        const send = (frame) => socket.send(JSON.stringify(frame));
        socket.onopen = () => send({type: "subscribe", name: "billing"});
        socket.onmessage = ({data}) => {
            const frame = JSON.parse(data);
            if (frame.type === "done") { print(["done", null]); socket.close(); return; }
            if (frame.type !== "message") return;
            const {payload, position} = frame.message;
            if (payload > 10) return;
            print(["message", payload]);
            const last = payload === 10 ? {request: 1} : {};
            send({type: "ack", subscription: frame.subscription, position, ...last});
        };
    """
    with Node(server, source, log=tmp_path / "node.log") as node:
        assert [node.next("message") for _ in range(5)] == [6, 7, 8, 9, 10]
        node.next("done")
        await eventually(lambda: not node.running)
    async with tidings.connect(server.url) as client, asyncio.timeout(DEADLINE_S):
        found = []
        async with client.subscribe("orders", name="billing") as subscription:
            async for message in subscription:
                found.append(message.payload)
                await message.ack()
                if message.payload == 15:
                    break
        assert found == [11, 12, 13, 14, 15]


@needs_browser
async def test_a_page_reads_acks_and_speaks_over_both(server: Server, tmp_path: Path) -> None:
    async with Browser(tmp_path) as browser:
        await browser.open(f"{server.http_url}/health")
        await browser.run("""
            window.found = [];
            window.source = new EventSource("/subscriptions/page/events?queue=orders");
            source.addEventListener("created", async (event) => {
                const message = JSON.parse(event.data);
                const acked = await fetch("/subscriptions/page/ack", {
                    method: "POST",
                    headers: {"content-type": "application/json"},
                    body: JSON.stringify({positions: [event.lastEventId]}),
                });
                found.push([message.payload, acked.status]);
            });
            window.answers = [];
            window.socket = new WebSocket("/ws".replace("/", location.origin.replace("http", "ws") + "/"));
            socket.onmessage = ({data}) => answers.push(JSON.parse(data));
            Promise.all([
                new Promise((done) => (source.onopen = done)),
                new Promise((done) => (socket.onopen = done)),
            ]).then(() => 0);
        """)
        await browser.run("""
            socket.send(JSON.stringify({
                type: "publish", request: 1, queue: "orders", event: "created", payload: {id: 7},
            }))
        """)

        async def page_has(*found: object) -> bool:
            return await browser.run("found") == list(found)  # type: ignore[no-any-return]

        await eventually(lambda: page_has([{"id": 7}, 204]))
        [confirmed] = await browser.run("answers")
        assert (confirmed["type"], confirmed["sequence"], confirmed["durability"]) == ("confirmed", 1, "disk")
        await settled(server, "page")
        server.kill()
        server.start()
        await publish(server, 1, 3)
        await eventually(lambda: page_has([{"id": 7}, 204], [1, 204], [2, 204], [3, 204]))


@needs_browser
async def test_a_page_of_a_stranger_reads_nothing(server: Server, tmp_path: Path) -> None:
    await publish(server, 1, 3)
    (tmp_path / "page.html").write_text("<title>elsewhere</title>")
    async with Browser(tmp_path) as browser:
        await browser.open((tmp_path / "page.html").as_uri())
        outcomes = await browser.run(f"""
            Promise.all([
                new Promise((done) => {{
                    const url = "{server.http_url}/queues/orders/events";
                    const source = new EventSource(url + "?from=earliest&catch_all=true");
                    source.onmessage = () => done("read");
                    source.onerror = () => done("refused " + source.readyState);
                }}),
                new Promise((done) => {{
                    const socket = new WebSocket("{server.http_url.replace("http", "ws")}/ws");
                    socket.onopen = () => done("open");
                    socket.onerror = () => done("refused");
                }}),
            ])
        """)
        assert outcomes == ["refused 2", "refused"], "2 is CLOSED: it does not try again"


async def test_websockets_from_pypi_is_away_while_the_server_is_killed(server: Server) -> None:
    url = server.http_url.replace("http", "ws") + "/ws?client_id=billing"
    async with connect(url, proxy=None) as socket:
        await socket.send(json.dumps({"type": "subscribe", "request": 1, "queue": "orders", "event": "created"}))
        name = json.loads(await socket.recv())["subscription"]
    await publish(server, 1, COUNT)
    server.kill()
    server.start()
    async with connect(url, proxy=None) as socket, asyncio.timeout(DEADLINE_S):
        await socket.send(json.dumps({"type": "subscribe", "name": name}))
        assert json.loads(await socket.recv())["type"] == "subscribed"
        for number in range(1, COUNT + 1):
            message = json.loads(await socket.recv())["message"]
            assert (message["payload"], message["attempt"]) == (number, 1)


async def test_a_server_that_drains_tells_who_is_connected_to_come_back(server: Server) -> None:
    url = server.http_url.replace("http", "ws") + "/ws"
    async with connect(url, proxy=None) as socket, httpx.AsyncClient(base_url=server.http_url, trust_env=False) as http:
        await socket.send(json.dumps({"type": "subscribe", "queue": "orders"}))
        assert json.loads(await socket.recv())["type"] == "subscribed"
        async with http.stream("GET", "/queues/orders/events") as response, asyncio.timeout(DEADLINE_S):
            chunks = response.aiter_text()
            assert (await anext(chunks)).startswith("retry: ")
            server.process.signal(signal.SIGTERM)
            assert [chunk async for chunk in chunks if chunk != ":\n\n"] == [], "it ends as a stream does"
        assert json.loads(await socket.recv())["code"] == "draining"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4503, "draining")
    assert server.terminate() == 0
