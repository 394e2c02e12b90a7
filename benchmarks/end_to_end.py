"""Messages per second from publisher to acknowledgement, beside the floor of the same machine in the same run.

    python benchmarks/end_to_end.py [--messages N] [--size BYTES] [--runs N] [--directory PATH]

Publisher, server and subscriber are three processes and use the public client: `publish_many` on one side,
`async for message in subscription: await message.ack()` or `subscription.batches()` on the other. Every confirm
comes after fsync. Time runs from the word to the publisher until the subscriber's last ack is on disk, too.
floor.py is what it is compared with. The variants take turns, since a disk's speed changes while they run.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import floor
import machine

import tidings

QUEUE, EVENT = "benchmark", "created"
VARIANTS = ("floor", "batches", "messages")
END_TIMEOUT_S = 30.0


class Result(NamedTuple):
    """One run: messages per second until confirmed and until acked, and what the three processes took for it."""

    confirmed: float
    acked: float
    server_cpu_us: float
    publisher_cpu_us: float
    subscriber_cpu_us: float
    server_peak_bytes: int


# --- the three processes ---


async def publish(url: str, messages: int, size_bytes: int) -> None:
    payload = os.urandom(size_bytes)
    async with tidings.connect(url, client_id="publisher") as client:
        print("ready", flush=True)
        sys.stdin.readline()
        confirms = await client.publish_many(QUEUE, EVENT, itertools.repeat(payload, messages))
        assert sum(confirm.count for confirm in confirms) == messages
        assert {confirm.durability for confirm in confirms} == {"disk"}
        print("confirmed", flush=True)


async def subscribe_messages(url: str, messages: int) -> None:
    async with (
        tidings.connect(url, client_id="subscriber") as client,
        client.subscribe(QUEUE, EVENT) as subscription,
    ):
        print("ready", flush=True)
        count = 0
        async for message in subscription:
            count += 1
            if count == messages:
                await subscription.ack_to(message, wait=True)
                break
            await message.ack()
        print("acked", flush=True)


async def subscribe_batches(url: str, messages: int) -> None:
    async with (
        tidings.connect(url, client_id="subscriber") as client,
        client.subscribe(QUEUE, EVENT) as subscription,
    ):
        print("ready", flush=True)
        count = 0
        async for batch in subscription.batches():
            count += len(batch.payloads)
            if count == messages:
                await subscription.ack(1, batch.last_sequence, wait=True)
                break
            await batch.ack()
        print("acked", flush=True)


def play(role: str, arguments: Sequence[str]) -> None:
    url, messages, size_bytes = arguments[0], int(arguments[1]), int(arguments[2])
    if role == "publisher":
        work = publish(url, messages, size_bytes)
    elif role == "batches":
        work = subscribe_batches(url, messages)
    else:
        work = subscribe_messages(url, messages)
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


# --- the one that starts and measures them ---


@contextlib.contextmanager
def started(*command: object) -> Iterator["subprocess.Popen[str]"]:
    """Starts a process, and ends it by its id whatever happens."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def heard(process: "subprocess.Popen[str]", word: str) -> str:
    """Waits until a process says a word; returns its line."""
    assert process.stdout
    line = process.stdout.readline()
    if not line.startswith(word):
        raise SystemExit(f"{process.args} said {line!r}, not {word!r}")
    return line


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def cpu_s(process: "subprocess.Popen[str]") -> float:
    """Ends a process that is about to end by itself; returns its processor time."""
    before = sum(os.times()[2:4])
    process.wait(END_TIMEOUT_S)
    return sum(os.times()[2:4]) - before


def run_floor(directory: Path, messages: int, size_bytes: int) -> Result:
    total = floor.batches(messages, size_bytes)
    script = floor.__file__
    with started(script, "server", directory / "floor", total) as server:
        port = heard(server, "ready").split()[1]
        with (
            started(script, "consumer", port) as consumer,
            started(script, "publisher", port, total, messages, size_bytes) as publisher,
        ):
            return measured(messages, server, publisher, consumer, lambda: None)


def run_tidings(variant: str, directory: Path, messages: int, size_bytes: int) -> Result:
    serve = ("-m", "tidings", "serve", "--store", f"sqlite:{directory / 'data.db'}")
    with started(*serve, "--listen", "tidings://127.0.0.1:0") as server:
        url = heard(server, "ready").split()[1]
        with (
            started(__file__, variant, url, messages, size_bytes) as subscriber,
            started(__file__, "publisher", url, messages, size_bytes) as publisher,
        ):
            return measured(messages, server, publisher, subscriber, lambda: server.send_signal(signal.SIGTERM))


def measured(
    messages: int,
    server: "subprocess.Popen[str]",
    publisher: "subprocess.Popen[str]",
    subscriber: "subprocess.Popen[str]",
    end_server: Callable[[], None],
) -> Result:
    heard(subscriber, "ready")
    heard(publisher, "ready")
    start_s = time.monotonic()
    go(publisher)
    heard(publisher, "confirmed")
    confirmed_s = time.monotonic() - start_s
    heard(subscriber, "acked")
    acked_s = time.monotonic() - start_s
    peak_bytes = machine.peak_bytes(server.pid) if server.poll() is None else 0
    publisher_s, subscriber_s = cpu_s(publisher), cpu_s(subscriber)
    end_server()
    server_s = cpu_s(server)
    each_us = 1e6 / messages
    return Result(
        messages / confirmed_s,
        messages / acked_s,
        server_s * each_us,
        publisher_s * each_us,
        subscriber_s * each_us,
        peak_bytes,
    )


def run(variant: str, place: Path, messages: int, size_bytes: int) -> Result:
    with tempfile.TemporaryDirectory(dir=place) as name:
        if variant == "floor":
            return run_floor(Path(name), messages, size_bytes)
        return run_tidings(variant, Path(name), messages, size_bytes)


def print_run(number: int, variant: str, result: Result) -> None:
    print(
        f"{number:3}  {variant:8}  {result.acked:12,.0f}  {result.confirmed:12,.0f}  {result.server_cpu_us:6.2f}"
        f"  {result.publisher_cpu_us:9.2f}  {result.subscriber_cpu_us:10.2f}  {result.server_peak_bytes / 2**20:8.0f}",
        flush=True,
    )


def print_summary(results: dict[str, list[Result]]) -> None:
    floor_rate = median(result.acked for result in results["floor"])
    print("\nacked messages/s     median           min           max   median / floor")
    for variant, runs in results.items():
        rates = [result.acked for result in runs]
        print(
            f"{variant:16}{median(rates):12,.0f}  {min(rates):12,.0f}  {max(rates):12,.0f}"
            f"   {median(rates) / floor_rate:14.2f}"
        )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="messages per second, end to end, beside the floor of this machine")
    parser.add_argument("--messages", type=int, default=1_000_000, help="messages in each run")
    parser.add_argument("--size", type=int, default=128, help="bytes of a payload")
    parser.add_argument("--runs", type=int, default=5, help="runs of each variant")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes: a disk, not memory")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=chosen.directory) as name:
        place = Path(name).resolve()
        if machine.file_system(place) in ("tmpfs", "ramfs"):
            raise SystemExit(f"{place} is in memory, where fsync means nothing; name a disk with --directory")
        print(machine.describe(place))
        print(
            f"{chosen.messages:,} messages of {chosen.size} bytes a run; publisher, server and subscriber are three"
            " processes;\nevery confirm after fsync (SQLite: write-ahead log, synchronous=FULL; floor: append and"
            " fdatasync)\n"
        )
        print("run  variant     acked per s   confirmed/s  processor time in µs a message          server")
        print("                                            server  publisher  subscriber  peak MiB")
        results: dict[str, list[Result]] = {variant: [] for variant in VARIANTS}
        for number in range(1, chosen.runs + 1):
            for variant in VARIANTS:
                result = run(variant, place, chosen.messages, chosen.size)
                results[variant].append(result)
                print_run(number, variant, result)
        print_summary(results)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("publisher", "messages", "batches"):
        play(sys.argv[1], sys.argv[2:])
    else:
        main()
