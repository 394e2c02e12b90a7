"""Publishes until SIGTERM, through any outage, and writes `SEQUENCE PAYLOAD` for what was confirmed.

Arguments: URL, queue, name, way ("many": publish_many, "single": publish), path. Payloads are NAME-NUMBER.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import TextIO

import tidings

_TASKS = {"many": 6, "single": 30}
_MANY = 40


async def main(url: str, queue: str, name: str, way: str, path: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    numbers = count()
    with open(path, "a") as confirms:  # noqa: ASYNC230 # a line at a time, into the page cache
        async with tidings.connect(url) as client, asyncio.TaskGroup() as tasks:
            publish = _publish_many if way == "many" else _publish_single
            for _ in range(_TASKS[way]):
                tasks.create_task(publish(client, queue, lambda: f"{name}-{next(numbers)}", stop, confirms))


async def _publish_many(
    client: tidings.Client, queue: str, make: Callable[[], str], stop: asyncio.Event, confirms: TextIO
) -> None:
    while not stop.is_set():
        payloads = [make() for _ in range(_MANY)]
        answers = await client.publish_many(queue, "made", payloads)
        sequences = [answer.sequence + index for answer in answers for index in range(answer.count)]
        assert len(sequences) == len(payloads), f"{len(sequences)} of {len(payloads)} messages were confirmed"
        for sequence, payload in zip(sequences, payloads, strict=True):
            confirms.write(f"{sequence} {payload}\n")
        confirms.flush()


async def _publish_single(
    client: tidings.Client, queue: str, make: Callable[[], str], stop: asyncio.Event, confirms: TextIO
) -> None:
    while not stop.is_set():
        payload = make()
        confirm = await client.publish(queue, "made", payload)
        confirms.write(f"{confirm.sequence} {payload}\n")
        confirms.flush()


asyncio.run(main(*sys.argv[1:]))
