"""Latency at 1,000 messages of 128 bytes a second: from the call of publish to the subscriber's handler."""

import asyncio
import struct
import time
from typing import Any

from benchmarks.part import Part
from benchmarks.peers import OTHERS
from benchmarks.workloads.run import TIMEOUT_S, Run

TITLE = "Latency at 1,000 messages/s, 128 bytes"
PEERS = ("tidings", *OTHERS)
QUEUE, SUBSCRIPTION = "benchmark", "all"
SIZE_BYTES = 128
MESSAGES_PER_SECOND = 1_000
SECONDS = 6.0
WARM_UP_S = 1.0
_STAMP = struct.Struct("!Q")


async def publisher(part: Part, count: int) -> dict[str, Any]:
    filling = bytes(SIZE_BYTES - _STAMP.size)
    async with part.connect("publisher") as connection, asyncio.TaskGroup() as group:
        await part.ready()
        start_s = time.monotonic()
        for number in range(count):
            due_s = start_s + number / MESSAGES_PER_SECOND
            while (wait_s := due_s - time.monotonic()) > 0:  # noqa: ASYNC110 # it is the time that is waited for
                await asyncio.sleep(wait_s)
            # Not awaited: the pace is kept while a confirm is on its way.
            payload = _STAMP.pack(time.monotonic_ns()) + filling
            group.create_task(connection.publish(QUEUE, payload))
            if number % 10 == 0:
                await asyncio.sleep(0)
    return {}


async def subscriber(part: Part, count: int, skipped: int) -> dict[str, Any]:
    latencies_ns: list[int] = []

    def handle(payload: bytes) -> None:
        latencies_ns.append(time.monotonic_ns() - _STAMP.unpack_from(payload)[0])

    async with part.connect("subscriber") as connection:
        await connection.prepare(QUEUE, [SUBSCRIPTION])
        await connection.consume(QUEUE, SUBSCRIPTION, count, handle, part.attached)
    return percentiles_ms([latency / 1e6 for latency in latencies_ns[skipped:]])


def percentiles_ms(latencies_ms: list[float]) -> dict[str, float]:
    """Returns the usual percentiles, and the longest."""
    ordered = sorted(latencies_ms)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": ordered[-1]}


def measure(run: Run) -> dict[str, float]:
    skipped = int(WARM_UP_S * run.scale * MESSAGES_PER_SECOND)
    count = skipped + int(SECONDS * run.scale * MESSAGES_PER_SECOND)
    with (
        run.serve() as server,
        run.part("subscriber", server, count=count, skipped=skipped) as taking,
        run.part("publisher", server, count=count) as giving,
    ):
        taking.hear("attached", TIMEOUT_S)
        giving.hear("ready", TIMEOUT_S)
        giving.go()
        giving.figures(TIMEOUT_S)
        found = taking.figures(TIMEOUT_S)
    del found["processor_s"]
    return {"messages": count - skipped, **found}
