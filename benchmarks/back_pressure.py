"""Whether others are slowed by who is too fast, or too slow; and what that costs the server's memory.

    python -m benchmarks.back_pressure [--seconds S] [--runs N] [--subscribers N] [--directory PATH]

A *bystander* publishes messages of 128 bytes in a paced way (100 a second, each confirm awaited) and reads what it
publishes; its round trips, publish call to handler, are timed twice in each run: alone, and beside

- *never reads*, *never acks*: one subscriber of the bystander's queue that does the one or the other;
- *stalled*: N subscribers of that queue, of which half read nothing after they were attached;
- *fast publisher*: one that publishes 64 KiB messages as fast as it can; with the disk's own speed, and with a disk
  ten times slower than that publisher (`tests/integration/slow_server_process.py`, 40 MB/s).

Beside N subscribers the comparison is with N / 2 that all read: what stalls is to cost nothing.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median

import tidings
from benchmarks import machine
from benchmarks.processes import started
from tidings import limits
from tidings.wire import Hello, Subscribe
from tidings.wire.codec import Reader, encode
from tidings.wire.frames import SERVER_KINDS, VERSION, Ack, Deliver, Heartbeat, Subscribed

MIB = 1024 * 1024
QUEUE = "bystander"
INTERVAL_S = 0.01
FILL_BYTES = 6 * MIB
SETTLE_S = 1.0
SLOW_SERVER = Path(__file__).parents[1] / "tests" / "integration" / "slow_server_process.py"


class Reading(asyncio.Protocol):
    """A subscriber that reads, and acks or does not; as light as it can be, since it is many."""

    def __init__(self, client_id: str, *, reads: bool = True, acks: bool = True) -> None:
        self.client_id, self.reads, self.acks = client_id, reads, acks
        self.attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._frames = Reader(SERVER_KINDS, limits.DELIVERY_BODY_SIZE_BYTES_MAX)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(encode(Hello(VERSION, self.client_id, f"producer-of-{self.client_id}")))
        transport.write(encode(Subscribe(request=1, handle=1, queue=QUEUE, event="#")))

    def data_received(self, data: bytes) -> None:
        for received in self._frames.receive_data(data):
            frame = received.frame
            if isinstance(frame, Deliver) and self.acks:
                last = frame.parts[-1]
                count = sum(run.count for run in last.runs)
                ranges = [(frame.epoch, frame.parts[0].first_sequence, last.first_sequence + count - 1)]
                self.transport.write(encode(Ack(1, ranges, 0)))
            elif isinstance(frame, Heartbeat):
                self.transport.write(encode(Heartbeat()))
            elif isinstance(frame, Subscribed):
                self.attached.set_result(None)
                if not self.reads:
                    self.transport.pause_reading()


@contextlib.asynccontextmanager
async def subscribers(
    port: int, count: int, name: str, *, reads: bool = True, acks: bool = True
) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    made = []
    for number in range(count):
        end = socket.socket()
        if not reads:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)  # so that it stalls soon
        end.setblocking(False)
        await loop.sock_connect(end, ("127.0.0.1", port))
        one = Reading(f"{name}-{number}", reads=reads, acks=acks)
        await loop.create_connection(lambda one=one: one, sock=end)  # type: ignore[misc]
        await one.attached
        made.append(one)
    try:
        yield
    finally:
        for one in made:
            one.transport.abort()


@contextlib.asynccontextmanager
async def fast_publisher(url: str) -> AsyncIterator[None]:
    async with tidings.connect(url, client_id="fast") as client:

        async def work() -> None:
            while True:
                await client.publish_many("fast", "made", (bytes(65_536),) * 64)

        task = asyncio.create_task(work())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def round_trips_ms(url: str, seconds: float) -> list[float]:
    """Returns how long each message of the bystander took from the call to the handler."""
    taken_ms: list[float] = []
    async with (
        tidings.connect(url, client_id="bystander") as client,
        client.subscribe(QUEUE, name="own") as subscription,
    ):
        messages = aiter(subscription)
        # Enough that whoever reads nothing has its buffers full, the operating system's too.
        await client.publish_many(QUEUE, "made", (bytes(FILL_BYTES // 64),) * 64)
        for _ in range(64):
            await (await anext(messages)).ack()
        await asyncio.sleep(SETTLE_S)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            begun_s = time.monotonic()
            await client.publish(QUEUE, "made", bytes(128))
            await (await anext(messages)).ack()
            taken_ms.append((time.monotonic() - begun_s) * 1000)
            await asyncio.sleep(INTERVAL_S)
    return taken_ms


Beside = Callable[[str, int], contextlib.AbstractAsyncContextManager[None]]


async def compare(url: str, seconds: float, alone: Beside, beside: Beside) -> tuple[float, float]:
    port = int(url.rpartition(":")[2])
    found = []
    for others in (alone, beside):
        async with others(url, port):
            found.append(median(await round_trips_ms(url, seconds)))
    return found[0], found[1]


@contextlib.asynccontextmanager
async def nobody(url: str, port: int) -> AsyncIterator[None]:
    yield


def cases(count: int) -> dict[str, tuple[bool, Beside, Beside]]:
    """Name -> (whether the disk is slow, who is there first, who is there then)."""

    @contextlib.asynccontextmanager
    async def half_stalled(url: str, port: int) -> AsyncIterator[None]:
        async with (
            subscribers(port, count // 2, "well"),
            subscribers(port, count - count // 2, "stalled", reads=False),
        ):
            yield

    return {
        "never reads": (False, nobody, lambda url, port: subscribers(port, 1, "silent", reads=False)),
        "never acks": (False, nobody, lambda url, port: subscribers(port, 1, "idle", acks=False)),
        "stalled": (False, lambda url, port: subscribers(port, count // 2, "well"), half_stalled),
        "fast publisher": (False, nobody, lambda url, port: fast_publisher(url)),
        "fast publisher, slow disk": (True, nobody, lambda url, port: fast_publisher(url)),
    }


def run(place: Path, case: tuple[bool, Beside, Beside], seconds: float) -> tuple[float, float, float]:
    slow, alone, beside = case
    with tempfile.TemporaryDirectory(dir=place) as name:
        program = (SLOW_SERVER,) if slow else ("-m", "tidings")
        serve = (
            sys.executable,
            *program,
            "serve",
            "--store",
            f"sqlite:{Path(name) / 'data.db'}",
            "--listen",
            "tidings://127.0.0.1:0",
        )
        with started(serve, Path(name)) as server:
            url = server.hear("ready", 60).split()[0]
            first_ms, then_ms = asyncio.run(compare(url, seconds, alone, beside))
            peak_bytes = machine.peak_bytes(server.id)
    return first_ms, then_ms, peak_bytes / MIB


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="whether others are slowed by who is too fast or too slow")
    parser.add_argument("--seconds", type=float, default=5, help="seconds of each half of a run")
    parser.add_argument("--runs", type=int, default=5, help="runs of each case")
    parser.add_argument("--subscribers", type=int, default=1_000, help="subscribers of the case with stalled ones")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes: a disk, not memory")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=chosen.directory) as name:
        place = Path(name).resolve()
        print(machine.describe(place))
        print("round trip of a bystander       before ms    beside ms   beside / before (min to max)   peak MiB")
        for title, case in cases(chosen.subscribers).items():
            results = [run(place, case, chosen.seconds) for _ in range(chosen.runs)]
            ratios = [then_ms / first_ms for first_ms, then_ms, _ in results]
            print(
                f"{title:28}  {median(r[0] for r in results):11.2f}  {median(r[1] for r in results):11.2f}"
                f"   {median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
                f"              {max(r[2] for r in results):8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
