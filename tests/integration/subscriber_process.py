"""Subscribes until SIGTERM, through any outage, and writes `SEQUENCE ATTEMPT REDELIVERED PAYLOAD` before each ack.

Arguments: URL, queue, name (client id), way ("messages", "batches", or "stuck": handles the first message for ever),
path. Prints a line once it is attached.
"""

import asyncio
import signal
import sys
from typing import TextIO

import tidings


async def main(url: str, queue: str, name: str, way: str, path: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with open(path, "a") as received:  # noqa: ASYNC230 # a line at a time, into the page cache
        async with (
            tidings.connect(url, client_id=name) as client,
            client.subscribe(queue, start="earliest") as subscription,
        ):
            print("attached", flush=True)
            read = _read_batches if way == "batches" else _read_messages
            reading = asyncio.ensure_future(read(subscription, received, stuck=way == "stuck"))
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, stopping):
                task.cancel()
            await asyncio.gather(reading, stopping, return_exceptions=True)


async def _read_messages(subscription: tidings.Subscription, received: TextIO, *, stuck: bool) -> None:
    async for message in subscription:
        received.write(f"{message.sequence} {message.attempt} {message.redelivered} {message.payload}\n")
        received.flush()
        if stuck:
            await asyncio.Event().wait()
        await message.ack()


async def _read_batches(subscription: tidings.Subscription, received: TextIO, *, stuck: bool) -> None:
    async for batch in subscription.batches():
        for message in batch:
            received.write(f"{message.sequence} {message.attempt} {message.redelivered} {message.payload}\n")
        received.flush()
        await batch.ack()


asyncio.run(main(*sys.argv[1:]))
