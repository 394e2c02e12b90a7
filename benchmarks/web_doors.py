"""The web doors beside the reference: deliveries, publishes over HTTP, memory of idle connections, the native door.

    python -m benchmarks.web_doors [PART]... [--runs N] [--connections N] [--directory PATH]

Parts, all by default:

- *deliveries*: one publisher, 1 and 1,000 clients that each get every message (a JSON string of 128 characters), over
  Socket.IO, WebSocket and Server-Sent Events, from a server on disk; beside it `socket.io` on Node.js and
  python-socketio, which broadcast from memory without a confirm. Time runs from the word to the publisher until the
  last client has the last message. All are read by the same program, which takes bytes from raw sockets, counts the
  messages by a character that each has once, and answers pings.
- *http*: `POST /queues/bench/events/created` of 128 bytes on 1 and on 50 connections that are kept, each awaiting its
  confirm; beside it the native door with as many publishers, and an empty ASGI application on uvicorn.
- *memory*: what each of 2,000 idle connections adds to the server's resident memory, subscribed to one queue.
- *native*: end to end over the native door, alone, and beside 500 idle clients of each web door.

`socket.io` comes with `make foreign`, python-socketio with the development tools; what is missing is skipped.
"""

import argparse
import asyncio
import base64
import json
import os
import selectors
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import tidings
from benchmarks import machine
from benchmarks.processes import Failed, Process, free_port, started, wait_for_port
from benchmarks.shared_work import settled

QUEUE, EVENT = "bench", "created"
PAYLOAD = "!" + "x" * 127
MARK = b"!"  # once in each message, and in no length of a frame
TIMEOUT_S = 120.0
WARM_UP = 100
SETTLE_S = 2.0
KIB = 1024
NODE_PACKAGES = Path(__file__).parents[1] / "tests" / "foreign"

NODE_SERVER = """
import { createServer } from "http";
import { Server } from "socket.io";
const http = createServer(), io = new Server(http);
http.listen(+process.argv[1], "127.0.0.1", () => console.log("ready"));
process.stdin.on("data", async line => {
    const count = JSON.parse(line);
    for (let number = 0; number < count; number++) {
        io.emit("created", process.argv[2]);
        if (number % 20 == 19) await new Promise(setImmediate);
    }
});
"""

PYTHON_SERVER = """
import asyncio, json, sys, socketio, uvicorn
io = socketio.AsyncServer(async_mode="asgi")
async def main():
    config = uvicorn.Config(socketio.ASGIApp(io), port=int(sys.argv[1]), log_level="error", ws="websockets-sansio")
    serving = asyncio.create_task(uvicorn.Server(config).serve())
    while line := await asyncio.to_thread(sys.stdin.readline):
        for number in range(json.loads(line)):
            await io.emit("created", sys.argv[2])
    await serving
asyncio.run(main())
"""

EMPTY_SERVER = """
import sys, uvicorn
async def app(scope, receive, send):
    while (await receive()).get("more_body"): pass
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off", access_log=False)
"""


# --- clients: raw sockets ---


def handshake(path: str, connection: str = "Upgrade") -> bytes:
    """Returns the head of a WebSocket handshake, or of a GET."""
    more = ""
    if connection == "Upgrade":
        key = base64.b64encode(os.urandom(16)).decode()
        more = f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: {connection}\r\n{more}\r\n".encode()


def frame(text: str) -> bytes:
    """Returns a masked text frame of at most 125 bytes; the mask is zeros."""
    data = text.encode()
    return bytes([0x81, 0x80 | len(data)]) + bytes(4) + data


def expect(connection: socket.socket, wanted: bytes) -> None:
    """Reads up to some bytes."""
    got = b""
    while wanted not in got:
        data = connection.recv(65_536)
        if not data:
            raise Failed(f"the server closed a connection instead of saying {wanted!r}: {got[-200:]!r}")
        got += data


def open_socketio(connection: socket.socket) -> None:
    connection.sendall(handshake("/socket.io/?EIO=4&transport=websocket"))
    expect(connection, b'"sid"')
    connection.sendall(frame("40/bench,"))
    expect(connection, b"40/bench,")


def open_socketio_main(connection: socket.socket) -> None:
    connection.sendall(handshake("/socket.io/?EIO=4&transport=websocket"))
    expect(connection, b'"sid"')
    connection.sendall(frame("40"))
    expect(connection, b'40{"sid"')


def open_websocket(connection: socket.socket) -> None:
    connection.sendall(handshake("/ws"))
    expect(connection, b"\r\n\r\n")
    connection.sendall(frame('{"type":"subscribe","queue":"bench","ack":"write"}'))
    expect(connection, b'"subscribed"')


def open_sse(connection: socket.socket) -> None:
    connection.sendall(handshake("/queues/bench/events", "keep-alive"))
    expect(connection, b"retry:")


OPENERS: dict[str, Callable[[socket.socket], None]] = {
    "socketio": open_socketio,
    "socketio-main": open_socketio_main,
    "websocket": open_websocket,
    "sse": open_sse,
}
PING, PONG = b"\x81\x012", frame("3")


def connected(port: int, door: str, count: int) -> list[socket.socket]:
    """Returns that many clients of a door, each subscribed."""
    found = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        OPENERS[door](connection)
        found.append(connection)
    return found


def reader(port: str, door: str, clients: str, messages: str) -> None:
    """Reads until every client has all messages."""
    connections = connected(int(port), door, int(clients))
    missing = int(clients) * int(messages)
    print("attached", flush=True)
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, bytearray())
        while missing > 0:
            events = selector.select(TIMEOUT_S)
            if not events:
                raise SystemExit(f"{missing} messages did not come")
            for key, _ in events:
                data = key.fileobj.recv(262_144)  # type: ignore[union-attr]
                if not data:
                    raise SystemExit("the server closed a connection")
                missing -= data.count(MARK)
                if PING in key.data + data:  # with the end of what came before: it may be cut
                    key.fileobj.send(PONG)  # type: ignore[union-attr]
                key.data[:] = data[-2:]
    print("received", flush=True)


async def publisher(url: str, messages: str) -> None:
    """Publishes through the native door."""
    async with tidings.connect(url) as client:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await client.publish_many(QUEUE, EVENT, [PAYLOAD] * int(messages))
        await asyncio.to_thread(sys.stdin.readline)


async def poster(port: str, connections: str, requests: str) -> None:
    """Posts on kept connections, each awaiting its answer."""
    body = json.dumps(PAYLOAD).encode()[:128]
    head = f"POST /queues/{QUEUE}/events/{EVENT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def post(count: int) -> None:
        reading, writing = await asyncio.open_connection("127.0.0.1", int(port))
        for _ in range(count):
            writing.write(request)
            answer = await reading.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 201"), answer
            length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reading.readexactly(int(length))
        writing.close()

    start_s = time.monotonic()
    await asyncio.gather(*[post(int(requests) // int(connections)) for _ in range(int(connections))])
    print("figures", json.dumps(int(requests) / (time.monotonic() - start_s)), flush=True)


async def native_poster(url: str, connections: str, requests: str) -> None:
    """Does the same over the native door."""

    async def post(count: int) -> None:
        async with tidings.connect(url) as client:
            for _ in range(count):
                await client.publish(QUEUE, EVENT, PAYLOAD)

    start_s = time.monotonic()
    await asyncio.gather(*[post(int(requests) // int(connections)) for _ in range(int(connections))])
    print("figures", json.dumps(int(requests) / (time.monotonic() - start_s)), flush=True)


PARTS = {"publisher": publisher, "poster": poster, "native_poster": native_poster}


# --- servers ---


@contextmanager
def tidings_server(directory: Path, *, http: bool = True) -> Iterator[tuple[Process, str, int]]:
    """Starts a server on disk; yields it, its native URL and its HTTP port."""
    command = [sys.executable, "-m", "tidings", "serve", "--store", f"sqlite:{directory / 'data.db'}"]
    command += ["--listen", "tidings://127.0.0.1:0"]
    if http:
        command += ["--listen", "http://127.0.0.1:0"]
    with started(command, directory) as process:
        urls = process.hear("ready", TIMEOUT_S).split()
        yield process, urls[0], int(urls[1].rpartition(":")[2]) if http else 0


@contextmanager
def other_server(name: str, directory: Path) -> Iterator[tuple[Process, int]]:
    """Starts a server that broadcasts from memory, or answers nothing; yields it and its port."""
    port = free_port()
    if name == "node":
        command = ["node", "--input-type=module", "-e", NODE_SERVER, str(port), PAYLOAD]
    else:
        command = [sys.executable, "-c", PYTHON_SERVER if name == "python" else EMPTY_SERVER, str(port), PAYLOAD]
    place = os.getcwd()
    os.chdir(NODE_PACKAGES if name == "node" else place)  # where Node.js looks for packages
    try:
        with started(command, directory) as process:
            os.chdir(place)
            wait_for_port(port, process)
            yield process, port
    finally:
        os.chdir(place)


def others() -> dict[str, str]:
    """Returns the peers that are installed here, and what tables call them."""
    found = {}
    if shutil.which("node") and (NODE_PACKAGES / "node_modules" / "socket.io").is_dir():
        found["node"] = "socket.io on Node.js, from memory"
    try:
        import socketio  # noqa: F401  # whether it is there
    except ImportError:
        return found
    return found | {"python": "python-socketio, from memory"}


def part(name: str, *arguments: object) -> tuple[object, ...]:
    return (sys.executable, "-m", "benchmarks.web_doors", "--part", name, *arguments)


# --- what is measured ---


def deliveries(directory: Path, door: str, clients: int, messages: int) -> float:
    """Returns the deliveries a second of a door of ours, or of a peer."""
    with ExitStack() as stack:
        if door in ("node", "python"):
            server, port = stack.enter_context(other_server(door, directory))
            door, giving = "socketio-main", server
        else:
            server, url, port = stack.enter_context(tidings_server(directory))
            giving = stack.enter_context(started(part("publisher", url, messages), directory))
            giving.hear("ready", TIMEOUT_S)
        reading = stack.enter_context(started(part("reader", port, door, clients, messages), directory))
        reading.hear("attached", TIMEOUT_S)
        time.sleep(SETTLE_S)
        start_s = time.monotonic()
        giving.tell(messages)
        reading.hear("received", TIMEOUT_S)
        return clients * messages / (time.monotonic() - start_s)


def posts(directory: Path, server: str, connections: int, requests: int) -> float:
    """Returns the answered requests a second."""
    with ExitStack() as stack:
        name, at = "poster", ""
        if server == "empty":
            at = str(stack.enter_context(other_server("empty", directory))[1])
        else:
            _, url, port = stack.enter_context(tidings_server(directory))
            name, at = ("native_poster", url) if server == "native" else ("poster", str(port))
        with started(part(name, at, connections, requests), directory) as posting:
            return float(json.loads(posting.hear("figures", TIMEOUT_S)))


def memory(directory: Path, door: str, connections: int) -> float:
    """Returns bytes for each idle connection."""
    with ExitStack() as stack:
        if door in ("node", "python"):
            server, port = stack.enter_context(other_server(door, directory))
            door = "socketio-main"
        else:
            server, _, port = stack.enter_context(tidings_server(directory))
        held = connected(port, door, WARM_UP)
        time.sleep(SETTLE_S)
        before = machine.resident_bytes(server.id)
        held += connected(port, door, connections)
        time.sleep(SETTLE_S)
        grown = machine.resident_bytes(server.id) - before
        for connection in held:
            connection.close()
        return grown / connections


def native(directory: Path, idle: int, messages: int, *, processor: bool) -> float:
    """Returns the messages a second of the native door, beside idle clients of the others.

    Or its server's processor time a message, in microseconds.
    """
    with ExitStack() as stack:
        server, url, port = stack.enter_context(tidings_server(directory, http=idle > 0))
        doors = ("socketio", "websocket", "sse") if idle else ()
        held = [each for door in doors for each in connected(port, door, idle)]
        shared = (sys.executable, "-m", "benchmarks.shared_work", "--part")
        giving = stack.enter_context(started((*shared, "publisher", url, messages, 0), directory))
        reading = stack.enter_context(started((*shared, "member", url, "reader", ""), directory))
        reading.hear("attached", TIMEOUT_S)
        giving.hear("ready", TIMEOUT_S)
        start_s, start_cpu_s = time.monotonic(), machine.processor_s(server.id)
        giving.go()
        giving.hear("published", TIMEOUT_S)
        asyncio.run(settled(url, messages))
        took_s, took_cpu_s = time.monotonic() - start_s, machine.processor_s(server.id) - start_cpu_s
        for connection in held:
            connection.close()
        return took_cpu_s / messages * 1e6 if processor else messages / took_s


def in_turns(turns: dict[str, Callable[[Path], float]], runs: int, directory: Path, unit: str) -> None:
    """Runs each as often as asked, in turns, and prints medians."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(runs):
        for name, turn in turns.items():
            with tempfile.TemporaryDirectory(dir=directory) as place:
                try:
                    found[name].append(turn(Path(place)))
                except Failed as error:
                    print(f"{name}: failed: {error}", flush=True)
    print(f"\n| | {unit}, median | minimum | maximum |\n|---|---|---|---|")
    for name, figures in found.items():
        if figures:
            shown = [f"{each:,.1f}" if each < 1000 else f"{each:,.0f}" for each in (min(figures), max(figures))]
            middle = median(figures)
            print(f"| {name} | {middle:,.1f} |" if middle < 1000 else f"| {name} | {middle:,.0f} |", end="")
            print(f" {shown[0]} | {shown[1]} |", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Runs what was asked for."""
    if arguments[:1] == ["--part"]:
        if arguments[1] == "reader":
            reader(*arguments[2:])
        else:
            asyncio.run(PARTS[arguments[1]](*arguments[2:]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web_doors")
    parser.add_argument("parts", nargs="*", default=["deliveries", "http", "memory", "native"], metavar="PART")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=2_000, help="of which the memory is measured")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes: a disk, not memory")
    chosen = parser.parse_args(arguments)
    place = chosen.directory.resolve()
    print(machine.describe(place))
    doors = {"socketio": "Socket.IO", "websocket": "WebSocket", "sse": "Server-Sent Events", **others()}
    if "deliveries" in chosen.parts:
        for clients, messages in ((1, 20_000), (1_000, 50)):
            turns = {
                f"{name}, {clients:,} clients": lambda at, door=door, clients=clients, messages=messages: deliveries(
                    at, door, clients, messages
                )
                for door, name in doors.items()
            }
            in_turns(turns, chosen.runs, place, "deliveries/s")
    if "http" in chosen.parts:
        turns = {
            f"{name}, {count} at once": lambda at, server=server, count=count: posts(at, server, count, 1_000)
            for count in (1, 50)
            for server, name in (("tidings", "HTTP"), ("native", "native"), ("empty", "nothing but uvicorn"))
        }
        in_turns(turns, chosen.runs, place, "answers/s")
    if "memory" in chosen.parts:
        turns = {name: lambda at, door=door: memory(at, door, chosen.connections) / KIB for door, name in doors.items()}
        in_turns(turns, chosen.runs, place, "KiB a connection")
    if "native" in chosen.parts:
        for processor, unit in ((False, "messages/s"), (True, "server's processor time a message, µs")):
            turns = {
                name: lambda at, idle=idle, processor=processor: native(at, idle, 2_000_000, processor=processor)
                for name, idle in (("alone", 0), ("beside 1,500 idle clients of the web doors", 500))
            }
            in_turns(turns, chosen.runs, place, unit)


if __name__ == "__main__":
    main(sys.argv[1:])
