"""Consumes `numbers`, publishes the square of each into `squares` and acks it, in one transaction, until SIGTERM.

Arguments: URL, name (client id). Prints a line once it is attached.
"""

import asyncio
import signal
import sys

import tidings

WORKERS = 16


async def main(url: str, name: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        tidings.connect(url, client_id=name) as client,
        client.subscribe("numbers", start="earliest", concurrency=WORKERS, name="squaring") as numbers,
    ):
        print("attached", flush=True)
        working = [asyncio.ensure_future(_square(client, numbers)) for _ in range(WORKERS)]
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((*working, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (*working, stopping):
            task.cancel()
        await asyncio.gather(*working, stopping, return_exceptions=True)


async def _square(client: tidings.Client, numbers: tidings.Subscription) -> None:
    async for message in numbers:
        try:
            async with client.transaction() as transaction:
                transaction.publish("squares", "squared", message.payload**2)
                transaction.publish("log", "done", message.payload)
                await transaction.ack(message)
        except tidings.DeliveryTakenAway:
            pass  # nothing was stored; it is delivered again


asyncio.run(main(*sys.argv[1:]))
