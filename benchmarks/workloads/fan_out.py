"""Fan-out: one publisher, a hundred durable subscriptions in one process, each gets every message of 128 bytes."""

import asyncio
import os
import time
from itertools import repeat
from typing import Any

from benchmarks.part import Part
from benchmarks.peers import OTHERS, OURS
from benchmarks.workloads.run import TIMEOUT_S, Run, server_figures

TITLE = "Fan-out to 100 subscriptions, 128 bytes"
PEERS = (*OURS, *OTHERS)
QUEUE = "benchmark"
SUBSCRIPTIONS = [f"subscription{number}" for number in range(100)]
SIZE_BYTES = 128
MESSAGES_MAX = 40_000
SECONDS = 2.5


async def publisher(part: Part, count: int) -> dict[str, Any]:
    async with part.connect("publisher") as connection:
        await part.ready()
        await connection.publish_many(QUEUE, repeat(os.urandom(SIZE_BYTES), count))
    return {}


async def subscribers(part: Part, count: int) -> dict[str, Any]:
    attached_count = 0

    def attached() -> None:
        nonlocal attached_count
        attached_count += 1
        if attached_count == len(SUBSCRIPTIONS):
            part.attached()

    async with part.connect("subscriber") as connection:
        await connection.prepare(QUEUE, SUBSCRIPTIONS)
        work = [connection.consume(QUEUE, name, count, None, attached) for name in SUBSCRIPTIONS]
        sizes_bytes = await asyncio.gather(*work)
        acked_at_s = time.monotonic()
    assert set(sizes_bytes) == {count * SIZE_BYTES}
    return {"acked_at_s": acked_at_s}


def measure(run: Run) -> dict[str, float]:
    # A peer makes about as many deliveries as it makes messages end to end.
    count = max(100, run.count(SECONDS, MESSAGES_MAX * len(SUBSCRIPTIONS)) // len(SUBSCRIPTIONS))
    deliveries = count * len(SUBSCRIPTIONS)
    figures: dict[str, float] = {"messages": count}
    with (
        run.serve() as server,
        run.part("subscribers", server, count=count) as taking,
        run.part("publisher", server, count=count) as giving,
    ):
        taking.hear("attached", TIMEOUT_S)
        giving.hear("ready", TIMEOUT_S)
        with server_figures(server, figures, deliveries):
            start_s = time.monotonic()
            giving.go()
            giving.figures(TIMEOUT_S)
            taken = taking.figures(TIMEOUT_S)
    figures["deliveries_per_s"] = deliveries / (taken["acked_at_s"] - start_s)
    figures["subscriber_us"] = taken["processor_s"] * 1e6 / deliveries
    return figures
