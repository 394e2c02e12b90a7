"""What scheduled messages cost, and how late they are.

    python -m benchmarks.scheduled [--scheduled N] [--added N] [--due N] [--seconds S] [--runs N] [--directory PATH]

Messages of 128 bytes are scheduled at times chosen by chance within the week that begins in an hour: most of them are
written into the store as a server writes them, the others come from the public client, which says what one costs.

*Memory*: the server's resident memory with none and with all of them. *Start*: from the start of the process to the
line that says that it is ready, and the processor time of that. *Lateness*: beside all of these, as many as asked for
become due, evenly, within some seconds: the time from when each was to be published until a subscriber has it, its
fsync included. Beside it in the same run, without anything scheduled: messages that are published at that rate, from
the call to the subscriber.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

import tidings
from benchmarks import machine
from benchmarks.memory import MIB, serve
from benchmarks.processes import started
from benchmarks.repeat import repeat
from tidings import calls
from tidings.batch import encode_item
from tidings.broker.records import Counters, encode
from tidings.broker.scheduled import Scheduled, key_of
from tidings.model import BYTES, Run
from tidings.store.sqlite import SqliteStore
from tidings.transaction import Commit

SIZE_BYTES = 128
HOUR_MS, WEEK_MS = 3_600_000, 7 * 24 * 3_600_000
AT_ONCE = 2_000
WRITTEN_AT_ONCE = 10_000
TIMEOUT_S = 900.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def schedule(client: tidings.Client, queue: str, times: Sequence[int]) -> None:
    """Schedules a message for each time, many at once."""
    for start in range(0, len(times), AT_ONCE):
        each = [
            calls.Schedule(
                queue=queue,
                event="due",
                payload=f"{at_ms}".encode().ljust(SIZE_BYTES),
                content_type=BYTES,
                at_ms=at_ms,
            )
            for at_ms in times[start : start + AT_ONCE]
        ]
        await asyncio.gather(*[client._call(call, TIMEOUT_S) for call in each])


async def write(file: Path, count: int) -> None:
    """Writes records of scheduled messages into a store that no server has open."""
    randomness, first_ms = random.Random(7), now_ms() + HOUR_MS
    times = sorted(first_ms + randomness.randrange(WEEK_MS) for _ in range(count))  # in the order of their keys: faster
    store = SqliteStore(file)
    await store.open()
    body = encode_item(bytes(SIZE_BYTES), None, None, None)
    run = Run("due", 1, len(body), BYTES)
    for start in range(0, count, WRITTEN_AT_ONCE):
        numbers = range(start, min(count, start + WRITTEN_AT_ONCE))
        keys = [key_of(times[number], number) for number in numbers]
        puts = [(key, encode(Scheduled(key, "later", run, body, None))) for key in keys]
        await store.commit(Commit(puts=[*puts, ("counters", encode(Counters(next_schedule=numbers[-1] + 1)))]))
    await store.close()


async def add(url: str, count: int) -> float:
    """Schedules more with the public client; returns how many a second."""
    randomness, begun_s = random.Random(8), time.monotonic()
    async with tidings.connect(url, timeout=TIMEOUT_S) as client:
        first_ms = now_ms() + HOUR_MS
        await schedule(client, "later", [first_ms + randomness.randrange(WEEK_MS) for _ in range(count)])
    return count / (time.monotonic() - begun_s)


async def published(url: str, count: int, seconds: float) -> list[float]:
    """Returns how long each of some messages took from the call to the subscriber, in ms, in order."""
    took: list[float] = []
    async with tidings.connect(url, timeout=TIMEOUT_S) as client, client.subscribe("now") as subscription:

        async def take() -> None:
            async for message in subscription:
                took.append(time.time_ns() / 1e6 - float(message.payload))
                await message.ack()
                if len(took) == count:
                    return

        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(take())
            begun_s = time.monotonic()
            for number in range(count):
                await asyncio.sleep(max(0.0, begun_s + number * seconds / count - time.monotonic()))
                payload = f"{time.time_ns() / 1e6}".encode().ljust(SIZE_BYTES)
                group.create_task(_publish(client, payload))
    return sorted(took)


async def _publish(client: tidings.Client, payload: bytes) -> None:
    await client.publish("now", "made", payload)


async def lateness(url: str, due: int, seconds: float) -> list[float]:
    """Returns how late each of the messages was that became due, in ms, in order."""
    late: list[float] = []
    async with tidings.connect(url, timeout=TIMEOUT_S) as client, client.subscribe("soon") as subscription:
        lead_ms = 2_000 + due * 3 // 2  # until all are scheduled
        first_ms = now_ms() + lead_ms
        await schedule(client, "soon", [first_ms + int(number * seconds * 1000 / due) for number in range(due)])
        assert now_ms() < first_ms, "they were scheduled too late; ask for fewer"
        async with asyncio.timeout(TIMEOUT_S):
            async for message in subscription:
                late.append(time.time_ns() / 1e6 - int(message.payload))
                await message.ack()
                if len(late) == due:
                    break
    return sorted(late)


def percentiles(times: list[float], what: str) -> dict[str, float]:
    percent = quantiles(times, n=100)
    return {f"{what} ms, p50": percent[49], f"{what} ms, p99": percent[98], f"{what} ms, most": times[-1]}


def run(directory: Path, chosen: argparse.Namespace) -> dict[str, float]:
    """Returns the figures of one run."""
    empty, full = directory / "empty.db", directory / "scheduled.db"
    figures: dict[str, float] = {}
    asyncio.run(write(full, chosen.scheduled - chosen.added))
    with started(serve(full), directory) as server:
        url = server.hear("ready", TIMEOUT_S).split()[0]
        figures["scheduled per s, by a client"] = asyncio.run(add(url, chosen.added))
        figures["MiB after that"] = machine.resident_bytes(server.id) / MIB
    for file, what in ((empty, "none"), (full, "all")):
        begun_s = time.monotonic()
        with started(serve(file), directory) as server:
            url = server.hear("ready", TIMEOUT_S).split()[0]
            figures[f"s until ready, {what}"] = time.monotonic() - begun_s
            figures[f"processor s until ready, {what}"] = machine.processor_s(server.id)
            if file is empty:
                figures |= percentiles(asyncio.run(published(url, chosen.due, chosen.seconds)), "published")
            else:
                late = asyncio.run(lateness(url, chosen.due, chosen.seconds))
                figures |= percentiles(late, "late")
                figures["early ms, most"] = max(0.0, -late[0])
            figures[f"MiB then, {what}"] = machine.resident_bytes(server.id) / MIB
    figures["late to published, p99"] = figures["late ms, p99"] / figures["published ms, p99"]
    return figures


def main(arguments: Sequence[str]) -> None:
    """Runs as often as asked, and prints medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduled")
    parser.add_argument("--scheduled", type=int, default=1_000_000, help="messages that wait")
    parser.add_argument("--added", type=int, default=100_000, help="how many of them the client schedules")
    parser.add_argument("--due", type=int, default=10_000, help="messages that become due")
    parser.add_argument("--seconds", type=float, default=20.0, help="within which they do")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes: a disk, not memory")
    chosen = parser.parse_args(arguments)
    repeat(run, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
