"""The standard clients of Socket.IO, as they are: on Node.js, in a browser, and python-socketio's."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import socketio

import tidings
from tests.foreign.programs import PACKAGES, Browser, NodeProgram, needs_browser, needs_node
from tests.foreign.work import publish, settled
from tests.integration.processes import DEADLINE_S, Server, eventually

COUNT = 10_000

# Each prints what happens to it. `auth` and `options` stand in front.
NATURAL = """
const socket = io(url + "/orders", {auth, ...options});
socket.on("connect", () => print(["connect", socket.recovered]));
socket.on("connect_error", error => print(["connect_error", error.message, error.data]));
socket.on("disconnect", reason => print(["disconnect", reason]));
socket.on("created", (payload, last) => {
    print(["created", Buffer.isBuffer(payload) ? [...payload] : payload]);
    if (typeof last == "function") last();
});
"""


def script(source: str, *, auth: str = "{}", options: str = "{}") -> str:
    """Returns a script for `socketio.mjs`."""
    return f"const auth = {auth}, options = {options};\n{source}"


class Node(NodeProgram):
    """A script with Socket.IO's client."""

    def __init__(self, server: Server, source: str, *, log: Path) -> None:
        super().__init__("socketio.mjs", source, server.http_url, log=log)


@needs_node
async def test_a_subscriber_goes_on_where_it_stopped_after_an_absence_and_a_kill(
    server: Server, tmp_path: Path
) -> None:
    source = script(NATURAL, auth='{clientId: "billing"}')
    with Node(server, source, log=tmp_path / "node.log") as node:
        assert node.next("connect") is False
        await publish(server, 1, 10)
        assert [node.next("created") for _ in range(10)] == list(range(1, 11))
        await settled(server, "billing:orders/#")
        node.kill()
    await publish(server, 11, COUNT + 10)
    server.kill()
    server.start()
    with Node(server, source, log=tmp_path / "node.log") as node:
        assert node.next("connect") is False, "another process has no state to recover"
        assert [node.next("created") for _ in range(COUNT)] == list(range(11, COUNT + 11))
        await settled(server, "billing:orders/#")


@needs_node
@pytest.mark.parametrize("auth", ['{clientId: "billing"}', "{}"], ids=["durable", "anonymous"])
async def test_a_client_that_runs_on_recovers_over_a_killed_server(server: Server, tmp_path: Path, auth: str) -> None:
    with Node(server, script(NATURAL, auth=auth), log=tmp_path / "node.log") as node:
        assert node.next("connect") is False
        await publish(server, 1, 1_000)
        assert [node.next("created") for _ in range(1_000)] == list(range(1, 1_001))
        server.kill()
        assert node.next("disconnect") == "transport close"
        server.start()
        await publish(server, 1_001, 2_000)
        while (found := node.read_json())[0] == "connect_error":
            pass  # the server was not there yet
        assert found == ["connect", True]
        assert [node.next("created") for _ in range(1_000)] == list(range(1_001, 2_001)), "each once"


@needs_node
async def test_a_tidings_client_and_a_socketio_client_continue_one_cursor(server: Server, tmp_path: Path) -> None:
    source = script(NATURAL, auth='{clientId: "billing"}')
    with Node(server, source, log=tmp_path / "node.log") as node:
        node.next("connect")
        await publish(server, 1, 5)
        assert [node.next("created") for _ in range(5)] == [1, 2, 3, 4, 5]
        await settled(server, "billing:orders/#")
    await publish(server, 6, 15)
    async with tidings.connect(server.url, client_id="billing") as client, asyncio.timeout(DEADLINE_S):
        async for message in client.subscribe("orders"):
            await message.ack()
            if message.payload == 10:
                break
    python = socketio.AsyncClient()
    got: asyncio.Queue[int] = asyncio.Queue()
    python.on("created", got.put, namespace="/orders")
    await python.connect(
        server.http_url,
        auth={"clientId": "billing", "recovery": False},
        namespaces=["/orders"],
        wait_timeout=DEADLINE_S,
    )
    async with asyncio.timeout(DEADLINE_S):
        assert [await got.get() for _ in range(5)] == [11, 12, 13, 14, 15]
    await settled(server, "billing:orders/#")
    await python.disconnect()


@needs_node
@pytest.mark.parametrize("transports", ['["polling"]', '["websocket"]', '["polling", "websocket"]'])
async def test_every_transport_carries_json_and_bytes_both_ways(
    server: Server, tmp_path: Path, transports: str
) -> None:
    talk = """
    const found = [];
    socket.on("created", payload => { found.push(payload); if (found.length == 203) print(["transport", name()]); });
    const name = () => socket.io.engine.transport.name;
    const publish = () => {
        for (let number = 0; number < 200; number++) socket.emit("created", number);
        socket.emit("created", Buffer.alloc(300000, 7), confirm => print(["confirm", confirm.sequence]));
        socket.emit("created", new Uint8Array([0, 255]), confirm => print(["confirm", confirm.sequence]));
        socket.emit("created", {text: "\\u001e €", big: [1.5, null]}, confirm => print(["confirm", confirm.sequence]));
    };
    const wanted = options.transports[options.transports.length - 1];
    socket.on("connect", () => name() == wanted ? publish() : socket.io.engine.once("upgrade", publish));
    """
    source = script(NATURAL + talk, options=f"{{transports: {transports}}}")
    with Node(server, source, log=tmp_path / "node.log") as node:
        seen: dict[str, list[Any]] = {}
        while "transport" not in seen or len(seen.get("created", ())) < 203 or len(seen.get("confirm", ())) < 3:
            kind, value = node.read_json()
            seen.setdefault(kind, []).append(value)
    assert seen["created"] == [*range(200), [7] * 300_000, [0, 255], {"text": "\x1e €", "big": [1.5, None]}]
    assert seen["confirm"] == [201, 202, 203]
    assert seen["transport"] == ["polling" if transports == '["polling"]' else "websocket"]


@needs_node
async def test_handlers_acknowledge_by_themselves_where_they_are_asked_to(server: Server, tmp_path: Path) -> None:
    source = script(NATURAL, auth='{clientId: "billing", ack: "manual"}')
    with Node(server, source, log=tmp_path / "node.log") as node:
        node.next("connect")
        await publish(server, 1, 3_000)
        assert [node.next("created") for _ in range(3_000)] == list(range(1, 3_001))
        await settled(server, "billing:orders/#")


@needs_node
async def test_verbs_of_the_default_namespace(server: Server, tmp_path: Path) -> None:
    source = """
    const socket = io(url, {auth: {clientId: "billing"}});
    socket.on("message", (message, ack) => {
        print(["message", [message.sequence, message.attempt, message.payload, message.headers]]);
        ack(message.attempt == 1 && message.payload == 2 ? {nack: true, delay_ms: 0} : undefined);
    });
    socket.on("connect", async () => {
        print(["ok", await socket.emitWithAck("subscribe", {queue: "orders", event: "created", as: "mine"})]);
        for (const payload of [1, 2, 3]) {
            const message = {queue: "orders", event: "created", payload, headers: {n: `${payload}`}};
            await socket.emitWithAck("publish", message);
        }
        print(["refused", (await socket.emitWithAck("publish", {queue: "no good", event: "x"})).error.code]);
        print(["clients", (await socket.emitWithAck("clients")).clients.map(client => client.client_id)]);
        print(["queues", (await socket.emitWithAck("queues")).queues.map(queue => queue.name)]);
        print(["subscriptions", (await socket.emitWithAck("subscriptions")).subscriptions.map(each => each.name)]);
    });
    """
    with Node(server, script(source), log=tmp_path / "node.log") as node:
        seen = [node.read_json() for _ in range(9)]
    messages = sorted([value for kind, value in seen if kind == "message"])
    assert messages == [
        [1, 1, 1, {"n": "1"}],
        [2, 1, 2, {"n": "2"}],
        [2, 2, 2, {"n": "2"}],
        [3, 1, 3, {"n": "3"}],
    ]
    others = {kind: value for kind, value in seen if kind != "message"}
    assert others["ok"] == {"subscription": "mine", "durable": True, "created": True}
    assert others["refused"] == "invalid_name"
    assert others["clients"] == ["billing"]
    assert "orders" in others["queues"]
    assert others["subscriptions"] == ["mine"]


@needs_node
@needs_browser
async def test_a_page_publishes_and_gets_what_it_missed_offline(server: Server, tmp_path: Path) -> None:
    library = (PACKAGES / "socket.io-client" / "dist" / "socket.io.min.js").read_text()
    async with Browser(tmp_path) as browser:
        await browser.open(f"{server.http_url}/health")
        await browser.run(library + "; 0")
        found = await browser.run("""
            window.found = [];
            window.socket = io("/orders", {auth: {clientId: "page"}});
            socket.on("created", payload => found.push(payload instanceof ArrayBuffer ? payload.byteLength : payload));
            new Promise(done => socket.on("connect", done))
                .then(() => socket.emitWithAck("created", {id: 7}))
                .then(() => socket.emitWithAck("created", new Uint8Array([1, 2, 3])))
                .then(confirm => confirm.sequence);
        """)
        assert found == 2

        async def page_has(*payloads: object) -> bool:
            return await browser.run("found") == list(payloads)  # type: ignore[no-any-return]

        await eventually(lambda: page_has({"id": 7}, 3))
        await browser.run("socket.io.engine.close(); 0")  # as a lost network does; it comes back by itself
        await publish(server, 1, 3)
        await eventually(lambda: page_has({"id": 7}, 3, 1, 2, 3))
        assert await browser.run("socket.recovered")


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], None], ids=["polling", "websocket", "upgrade"])
async def test_a_client_in_python_uses_both_forms(server: Server, transports: list[str] | None) -> None:
    client = socketio.AsyncClient()
    got: asyncio.Queue[Any] = asyncio.Queue()
    client.on("created", got.put, namespace="/orders")

    @client.on("message")  # type: ignore[untyped-decorator]
    async def message(message: dict[str, Any]) -> None:
        await got.put(message["payload"])

    await client.connect(
        server.http_url,
        auth={"clientId": "billing", "recovery": False},
        namespaces=["/", "/orders"],
        transports=transports,
        wait_timeout=DEADLINE_S,
    )
    async with asyncio.timeout(DEADLINE_S):
        confirm = await client.call("created", {"id": 7}, namespace="/orders")
        assert (confirm["sequence"], confirm["durability"]) == (1, "disk")
        assert await got.get() == {"id": 7}
        ok = await client.call("subscribe", {"queue": "users", "as": "mine"})
        assert ok["created"]
        confirm = await client.call("publish", {"queue": "users", "event": "seen", "payload": b"\0\1"})
        assert confirm["subscriptions"] == 1
        assert await got.get() == b"\0\1"
    await settled(server, "mine")
    await client.disconnect()
