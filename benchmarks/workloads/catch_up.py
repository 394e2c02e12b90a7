"""Catch-up: a subscriber comes back and takes what waited for it, messages of 128 bytes."""

import os
import time
from itertools import repeat
from typing import Any

from benchmarks.part import Part
from benchmarks.peers import OTHERS, OURS
from benchmarks.workloads.run import TIMEOUT_S, Run, server_figures

TITLE = "Catch-up of waiting messages, 128 bytes"
PEERS = (*OURS, *OTHERS)
QUEUE, SUBSCRIPTION = "benchmark", "all"
SIZE_BYTES = 128
MESSAGES_MAX = 1_000_000
SECONDS = 3.0


async def publisher(part: Part, count: int) -> dict[str, Any]:
    async with part.connect("publisher") as connection:
        await part.ready()
        await connection.publish_many(QUEUE, repeat(os.urandom(SIZE_BYTES), count))
    return {}


async def subscriber(part: Part, count: int) -> dict[str, Any]:
    async with part.connect("subscriber") as connection:
        await connection.prepare(QUEUE, [SUBSCRIPTION])
    await part.ready()
    async with part.connect("subscriber") as connection:
        size_bytes = await connection.consume(QUEUE, SUBSCRIPTION, count, None, lambda: None)
        acked_at_s = time.monotonic()
    assert size_bytes == count * SIZE_BYTES
    return {"acked_at_s": acked_at_s}


def measure(run: Run) -> dict[str, float]:
    count = run.count(SECONDS, MESSAGES_MAX) if run.peer.name not in OURS else int(MESSAGES_MAX * run.scale)
    figures: dict[str, float] = {"messages": count}
    with (
        run.serve() as server,
        run.part("subscriber", server, count=count) as taking,
        run.part("publisher", server, count=count) as giving,
    ):
        taking.hear("ready", TIMEOUT_S)
        giving.hear("ready", TIMEOUT_S)
        giving.go()
        giving.figures(TIMEOUT_S)
        with server_figures(server, figures, count):
            start_s = time.monotonic()
            taking.go()
            taken = taking.figures(TIMEOUT_S)
    figures["taken_per_s"] = count / (taken["acked_at_s"] - start_s)
    figures["subscriber_us"] = taken["processor_s"] * 1e6 / count
    return figures
