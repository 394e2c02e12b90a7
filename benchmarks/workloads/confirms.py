"""One publisher, and a hundred, each awaiting each confirm before it publishes the next message of 128 bytes.

The hundred are connections of one process. Fsyncs are counted with strace in a short run of their own, since being
watched makes a server slower.
"""

import asyncio
import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.part import Part
from benchmarks.peers import OTHERS, Server
from benchmarks.processes import started
from benchmarks.workloads.run import TIMEOUT_S, Run

TITLE = "Each publish awaits its confirm, 128 bytes"
PEERS = ("tidings", *OTHERS)
QUEUE, SUBSCRIPTION = "benchmark", "all"
SIZE_BYTES = 128
SECONDS = 1.5
PUBLISHERS = (1, 100)


async def publishers(part: Part, publishers_count: int, seconds: float, prepare: bool) -> dict[str, Any]:
    payload = os.urandom(SIZE_BYTES)
    published = 0
    latencies_s: list[float] = []

    async def publish(number: int, go: asyncio.Event, connected: asyncio.Semaphore) -> None:
        nonlocal published
        async with part.connect(f"publisher{number}") as connection:
            if number == 0 and prepare:
                await connection.prepare(QUEUE, [SUBSCRIPTION])
            connected.release()
            await go.wait()
            now_s = time.monotonic()
            end_s = now_s + seconds
            while now_s < end_s:
                await connection.publish(QUEUE, payload)
                before_s, now_s = now_s, time.monotonic()
                latencies_s.append(now_s - before_s)
                published += 1

    go = asyncio.Event()
    connected = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        for number in range(publishers_count):
            group.create_task(publish(number, go, connected))
            await connected.acquire()  # one after another: the first makes the queue
        await part.ready()
        go.set()
    latencies_s.sort()
    return {"published": published, "median_ms": latencies_s[len(latencies_s) // 2] * 1000}


def _publish(run: Run, server: Server, count: int, seconds: float, *, prepare: bool) -> dict[str, Any]:
    options = {"publishers_count": count, "seconds": seconds, "prepare": prepare}
    with run.part("publishers", server, **options) as publishing:
        publishing.hear("ready", TIMEOUT_S)
        publishing.go()
        return publishing.figures(TIMEOUT_S)


def _syncs_per_message(run: Run, server: Server, count: int, seconds: float) -> float:
    """Returns how often the server syncs for each message."""
    report = run.directory / f"syncs-{count}"
    watch = ("strace", "-f", "-c", "-e", "trace=fsync,fdatasync,sync_file_range,msync", "-o", report)
    options = {"publishers_count": count, "seconds": seconds, "prepare": False}
    with run.part("publishers", server, **options) as publishing:
        publishing.hear("ready", TIMEOUT_S)
        with started((*watch, "-p", server.process_id), run.directory):
            _wait_until_traced(server.process_id)
            publishing.go()
            published = publishing.figures(TIMEOUT_S)["published"]
    return _calls(report) / published


def _wait_until_traced(process_id: int) -> None:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
        if any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in lines):
            return
        time.sleep(0.01)
    raise RuntimeError("strace did not attach")


def _calls(report: Path) -> int:
    rows = [line.split() for line in report.read_text().splitlines()]
    return sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync", "msync", "sync_file_range"))


def measure(run: Run) -> dict[str, float]:
    figures: dict[str, float] = {}
    seconds = SECONDS * run.scale
    with run.serve() as server:
        for number, count in enumerate(PUBLISHERS):
            found = _publish(run, server, count, seconds, prepare=number == 0)
            figures[f"confirmed_per_s_{count}"] = found["published"] / seconds
            figures[f"median_ms_{count}"] = found["median_ms"]
        if run.number == 1 and shutil.which("strace"):
            for count in PUBLISHERS:
                figures[f"syncs_{count}"] = _syncs_per_message(run, server, count, seconds / 2)
    return figures
