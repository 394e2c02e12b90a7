"""Publish to ack, end to end: messages of 128 bytes from one publisher to one subscriber.

Time runs from the word to the publisher until the subscriber's last ack is with the server.
"""

import os
import time
from itertools import repeat
from typing import Any

from benchmarks.part import Part
from benchmarks.peers import OTHERS, OURS
from benchmarks.workloads.run import TIMEOUT_S, Run, server_figures

TITLE = "Publish to ack, end to end, 128 bytes"
PEERS = ("floor", *OURS, *OTHERS)
QUEUE, SUBSCRIPTION = "benchmark", "all"
SIZE_BYTES = 128
MESSAGES_MAX = 1_000_000
SECONDS = 3.0


async def publisher(part: Part, count: int) -> dict[str, Any]:
    payload = os.urandom(SIZE_BYTES)
    async with part.connect("publisher") as connection:
        await part.ready()
        await connection.publish_many(QUEUE, repeat(payload, count))
        return {"confirmed_at_s": time.monotonic()}


async def subscriber(part: Part, count: int) -> dict[str, Any]:
    async with part.connect("subscriber") as connection:
        await connection.prepare(QUEUE, [SUBSCRIPTION])
        size_bytes = await connection.consume(QUEUE, SUBSCRIPTION, count, None, part.attached)
        acked_at_s = time.monotonic()
    assert size_bytes >= count * SIZE_BYTES
    return {"acked_at_s": acked_at_s}


def measure(run: Run) -> dict[str, float]:
    count = run.count(SECONDS, MESSAGES_MAX)
    figures: dict[str, float] = {"messages": count}
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
            confirmed = giving.figures(TIMEOUT_S)
            acked = taking.figures(TIMEOUT_S)
    figures["acked_per_s"] = count / (acked["acked_at_s"] - start_s)
    figures["confirmed_per_s"] = count / (confirmed["confirmed_at_s"] - start_s)
    figures["publisher_us"] = confirmed["processor_s"] * 1e6 / count
    figures["subscriber_us"] = acked["processor_s"] * 1e6 / count
    return figures
