"""The same with 1 KiB, sustained, beside what the disk appends and syncs in the same run.

Stalls are looked for where the application sees them: the longest time in which the publisher could not hand over
a message, and in which the subscriber got none.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.part import Part
from benchmarks.peers import OURS
from benchmarks.workloads.run import Run, server_figures

TITLE = "Sustained, 1 KiB"
PEERS = ("floor", *OURS, "nats-always", "redis-always")
QUEUE, SUBSCRIPTION = "benchmark", "all"
SIZE_BYTES = 1024
SECONDS = 4.0
TIMEOUT_S = 180.0  # 4 GiB take longer than what the others do
DISK_APPEND_BYTES = 1024 * 1024
DISK_BYTES_MAX = 512 * 1024**2


class _Stalls:
    """Remembers the longest time between two calls."""

    def __init__(self) -> None:
        self._last_s = 0.0
        self.longest_s = 0.0

    def tick(self, _payload: bytes = b"") -> None:
        now_s = time.monotonic()
        if self._last_s and now_s - self._last_s > self.longest_s:
            self.longest_s = now_s - self._last_s
        self._last_s = now_s


async def publisher(part: Part, count: int) -> dict[str, Any]:
    payload = os.urandom(SIZE_BYTES)
    stalls = _Stalls()

    def payloads() -> Iterator[bytes]:
        for _ in range(count):
            stalls.tick()
            yield payload

    async with part.connect("publisher") as connection:
        await part.ready()
        await connection.publish_many(QUEUE, payloads())
        return {"stall_s": stalls.longest_s}


async def subscriber(part: Part, count: int) -> dict[str, Any]:
    stalls = _Stalls()
    async with part.connect("subscriber") as connection:
        await connection.prepare(QUEUE, [SUBSCRIPTION])
        size_bytes = await connection.consume(QUEUE, SUBSCRIPTION, count, stalls.tick, part.attached)
        acked_at_s = time.monotonic()
    assert size_bytes >= count * SIZE_BYTES
    return {"acked_at_s": acked_at_s, "stall_s": stalls.longest_s}


def disk_bytes_per_s(directory: Path, size_bytes: int) -> float:
    """Returns how fast the disk takes appends that are each followed by fdatasync."""
    path = directory / "append"
    data = os.urandom(DISK_APPEND_BYTES)
    count = max(1, min(size_bytes, DISK_BYTES_MAX) // len(data))
    sync = getattr(os, "fdatasync", os.fsync)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    start_s = time.monotonic()
    for _ in range(count):
        os.write(descriptor, data)
        sync(descriptor)
    took_s = time.monotonic() - start_s
    os.close(descriptor)
    path.unlink()
    return count * len(data) / took_s


def measure(run: Run) -> dict[str, float]:
    everything = run.sustained_bytes // SIZE_BYTES
    whole = run.peer.name == "floor" or run.peer.name in OURS
    count = max(1_000, int(everything * run.scale)) if whole else run.count(SECONDS, everything)
    figures: dict[str, float] = {"messages": count, "published_mib": count * SIZE_BYTES / 2**20}
    # Before and after, since a disk's speed changes.
    disk = [disk_bytes_per_s(run.directory, count * SIZE_BYTES)]
    with (
        run.serve() as server,
        run.part("subscriber", server, count=count) as taking,
        run.part("publisher", server, count=count) as giving,
    ):
        taking.hear("attached", TIMEOUT_S)
        giving.hear("ready", TIMEOUT_S)
        with server_figures(server, figures, count):
            start_s = time.monotonic()
            giving.go()
            published = giving.figures(TIMEOUT_S)
            acked = taking.figures(TIMEOUT_S)
    disk.append(disk_bytes_per_s(run.directory, count * SIZE_BYTES))
    took_s = acked["acked_at_s"] - start_s
    rate = count * SIZE_BYTES / took_s
    figures["acked_mib_per_s"] = rate / 2**20
    figures["disk_mib_per_s"] = mean(disk) / 2**20
    figures["of_disk"] = rate / mean(disk)
    figures["publisher_stall_ms"] = published["stall_s"] * 1000
    figures["subscriber_stall_ms"] = acked["stall_s"] * 1000
    return figures
