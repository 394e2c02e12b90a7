"""Memory of the server, and its start: idle connections, and messages that wait.

    python -m benchmarks.memory [--connections N] [--waiting N] [--runs N] [--directory PATH]

*Idle*: how much the server's resident memory grows with each connection that has said hello with a client id of its
own, and with each that has one durable subscription, too. *Waiting*: the same memory before and after N messages of
128 bytes are published for a subscription that is away. *Start*: from the start of the process, the interpreter
included, to the line that says that it accepts connections, with an empty file and with these messages in it.
"""

import argparse
import asyncio
import itertools
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import tidings
from benchmarks import machine
from benchmarks.processes import started
from tidings import limits
from tidings.wire import Frame, Heartbeat, Hello, Subscribe
from tidings.wire.codec import Reader, encode
from tidings.wire.frames import SERVER_KINDS, VERSION

KIB, MIB = 1024, 1024 * 1024
WARM_UP = 100  # connections before the first look, so that what is there once is not counted
SETTLE_S = 1.0


def serve(file: Path) -> tuple[object, ...]:
    return (sys.executable, "-m", "tidings", "serve", "--store", f"sqlite:{file}", "--listen", "tidings://127.0.0.1:0")


def ask(connection: socket.socket, question: Frame) -> None:
    """Sends a frame and waits for an answer."""
    connection.sendall(encode(question))
    reader = Reader(SERVER_KINDS, limits.DELIVERY_BODY_SIZE_BYTES_MAX)
    while not list(reader.receive_data(connection.recv(65_536))):
        pass


def connected(port: int, client_id: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    ask(connection, Hello(VERSION, client_id, f"producer-of-{client_id}"))
    return connection


def idle(directory: Path, connections: int) -> tuple[float, float]:
    """Returns bytes for each connection, and for each with a subscription."""
    with started(serve(directory / "idle.db"), directory) as server:
        port = int(server.hear("ready", 60).split()[0].rpartition(":")[2])
        held = [connected(port, f"first-{number}") for number in range(WARM_UP)]
        for connection in held:
            ask(connection, Subscribe(request=1, handle=1, queue="idle", event="#"))
        time.sleep(SETTLE_S)
        before = machine.resident_bytes(server.id)
        idle = [connected(port, f"idle-{number}") for number in range(connections)]
        time.sleep(SETTLE_S)
        greeted = machine.resident_bytes(server.id)
        for connection in idle:
            connection.sendall(encode(Heartbeat()))
        for connection in idle:
            ask(connection, Subscribe(request=1, handle=1, queue="idle", event="#"))
        time.sleep(SETTLE_S)
        subscribed = machine.resident_bytes(server.id)
        for connection in held + idle:
            connection.close()
        return (greeted - before) / connections, (subscribed - before) / connections


async def publish_for_nobody(url: str, messages: int) -> None:
    async with tidings.connect(url, client_id="away") as client, client.subscribe("waiting"):
        pass
    async with tidings.connect(url) as client:
        confirms = await client.publish_many("waiting", "made", itertools.repeat(bytes(128), messages))
        assert sum(confirm.count for confirm in confirms) == messages


def start_s(file: Path) -> float:
    """Returns how long a server takes to be ready."""
    begun_s = time.monotonic()
    with started(serve(file), file.parent) as server:
        server.hear("ready", 60)
        return time.monotonic() - begun_s


def waiting(directory: Path, messages: int) -> None:
    """Prints the server's memory while ever more messages wait."""
    file = directory / "waiting.db"
    with started(serve(file), file.parent) as server:
        url = server.hear("ready", 60).split()[0]
        for part in range(1, 6):
            asyncio.run(publish_for_nobody(url, messages // 5))
            print(f"{part * (messages // 5):12,} wait  {machine.resident_bytes(server.id) / MIB:6.1f} MiB", flush=True)
    with started(serve(file), file.parent) as server:
        server.hear("ready", 60)
        print(f"after a restart     {machine.resident_bytes(server.id) / MIB:6.1f} MiB")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="memory of the server, and its start")
    parser.add_argument("--connections", type=int, default=5_000, help="idle connections")
    parser.add_argument("--waiting", type=int, default=5_000_000, help="messages that wait")
    parser.add_argument("--runs", type=int, default=5, help="runs of each figure")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes")
    return parser.parse_args()


def summary(figures: list[float]) -> str:
    return f"median {median(figures):.2f}, {min(figures):.2f} to {max(figures):.2f}"


def main() -> None:
    chosen = options()
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=chosen.directory) as name:
        place = Path(name).resolve()
        print(machine.describe(place))
        greeted, subscribed = [], []
        for number in range(chosen.runs):
            (run := place / str(number)).mkdir()
            one, other = idle(run, chosen.connections)
            greeted.append(one / KIB)
            subscribed.append(other / KIB)
        print(f"KiB for each of {chosen.connections:,} idle connections: {summary(greeted)}")
        print(f"KiB for each, with one subscription:     {summary(subscribed)}")
        empty = [start_s(place / "empty.db") for _ in range(chosen.runs)]
        waiting(place, chosen.waiting)
        full = [start_s(place / "waiting.db") for _ in range(chosen.runs)]
        print(f"seconds until ready, empty file: {summary(empty)}")
        print(f"seconds until ready, {chosen.waiting:,} messages wait: {summary(full)}")


if __name__ == "__main__":
    main()
