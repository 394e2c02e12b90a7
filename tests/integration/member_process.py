"""A member of a shared subscription until SIGTERM: writes `TIME SEQUENCE ATTEMPT KEY PAYLOAD` before each ack.

Arguments: URL, queue, shared name, client id, path. Prints a line once it is attached.
"""

import asyncio
import signal
import sys
import time

import tidings


async def main(url: str, queue: str, shared: str, client_id: str, path: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        tidings.connect(url, client_id=client_id) as client,
        client.subscribe(queue, shared=shared, start="earliest", in_flight_max=50) as subscription,
    ):
        print("attached", flush=True)
        reading = asyncio.ensure_future(_read(subscription, path))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, stopping):
            task.cancel()
        await asyncio.gather(reading, stopping, return_exceptions=True)


async def _read(subscription: tidings.Subscription, path: str) -> None:
    with open(path, "a") as received:  # noqa: ASYNC230 # a line at a time, into the page cache
        async for message in subscription:
            received.write(
                f"{time.monotonic_ns()} {message.sequence} {message.attempt} {message.key} {message.payload}\n"
            )
            received.flush()
            await message.ack()


asyncio.run(main(*sys.argv[1:]))
