"""What scheduled messages cost, and how late they are.

    python -m benchmarks.scheduled [--scheduled N] [--due N] [--seconds S] [--runs N] [--directory PATH]

*Memory*: the server's resident memory while ever more messages of 128 bytes are scheduled by the public client, at
times chosen by chance within the week that begins in an hour; after the first tenth, which brings the buffers to their
size, and at the end. *Start*: from the start of the process to the line that says that it is ready, and its memory
then.
*Lateness*: beside all of these, as many as asked for become due, evenly, within some seconds; what is measured is the
time from when each was to be published until a subscriber has it, its store's fsync included.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

import tidings
from benchmarks import machine
from benchmarks.memory import MIB, serve
from benchmarks.processes import started
from tidings import calls
from tidings.model import BYTES

SIZE_BYTES = 128
HOUR_MS, WEEK_MS = 3_600_000, 7 * 24 * 3_600_000
AT_ONCE = 2_000
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


async def fill(url: str, server: int, count: int) -> list[float]:
    """Schedules for later; returns the server's memory in MiB after each tenth."""
    randomness = random.Random(7)
    seen = []
    async with tidings.connect(url) as client:
        for _ in range(10):
            first_ms = now_ms() + HOUR_MS
            await schedule(client, "later", [first_ms + randomness.randrange(WEEK_MS) for _ in range(count // 10)])
            seen.append(machine.resident_bytes(server) / MIB)
            print(f"{len(seen) * (count // 10):12,} are scheduled  {seen[-1]:6.1f} MiB", flush=True)
    return seen


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


def run(directory: Path, count: int, due: int, seconds: float) -> dict[str, float]:
    """Returns the figures of one run."""
    file = directory / "scheduled.db"
    figures: dict[str, float] = {}
    with started(serve(file), directory) as server:
        url = server.hear("ready", 60).split()[0]
        begun_s = time.monotonic()
        seen = asyncio.run(fill(url, server.id, count))
        figures["scheduled per s"] = count / (time.monotonic() - begun_s)
        figures["MiB after a tenth"], figures["MiB at the end"] = seen[0], seen[-1]
    begun_s = time.monotonic()
    with started(serve(file), directory) as server:
        url = server.hear("ready", 60).split()[0]
        figures["s until ready"] = time.monotonic() - begun_s
        figures["MiB after the start"] = machine.resident_bytes(server.id) / MIB
        late = asyncio.run(lateness(url, due, seconds))
        percent = quantiles(late, n=100)
        figures |= {"late ms, p50": percent[49], "late ms, p99": percent[98], "late ms, most": late[-1]}
        figures["early ms, most"] = max(0.0, -late[0])
        figures["MiB then"] = machine.resident_bytes(server.id) / MIB
    return figures


def main(arguments: Sequence[str]) -> None:
    """Runs as often as asked, and prints medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduled")
    parser.add_argument("--scheduled", type=int, default=1_000_000, help="messages that wait")
    parser.add_argument("--due", type=int, default=10_000, help="messages that become due")
    parser.add_argument("--seconds", type=float, default=20.0, help="within which they do")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes: a disk, not memory")
    chosen = parser.parse_args(arguments)
    print(machine.describe(chosen.directory.resolve()))
    runs = []
    for _ in range(chosen.runs):
        with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=chosen.directory) as name:
            runs.append(run(Path(name).resolve(), chosen.scheduled, chosen.due, chosen.seconds))
            print(", ".join(f"{what} {value:,.2f}" for what, value in runs[-1].items()), flush=True)
    for what in runs[0]:
        values = [figures[what] for figures in runs]
        print(f"{what}: median {median(values):,.2f}, {min(values):,.2f} to {max(values):,.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
