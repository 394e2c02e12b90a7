"""What many durable subscriptions cost of which few are connected.

    python -m benchmarks.subscriptions [--subscriptions N] [--connected N] [--queues N] [--runs N] [--directory PATH]

Subscriptions are made by public clients, each under a name of its own and to the one event of its queue, or (every
tenth) to events by a wildcard; they are spread evenly over the queues. Then all but a few leave.

*Memory*: of the server, for each subscription, while it makes them and after a restart. *Start*: from the start of the
process to the line that says that it is ready, and the processor time that this took. *Publish*: messages of 128 bytes
into all queues in turns, in batches of a thousand, until all who are connected have them, once without any subscription
and once beside those that are away; what wakes those up is the first message of each queue, and it is measured apart.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tidings
from benchmarks import machine
from benchmarks.memory import KIB, MIB, serve
from benchmarks.processes import Process, started
from benchmarks.repeat import repeat

SIZE_BYTES = 128
PER_CLIENT = 1_000
BATCH_COUNT = 1_000
TIMEOUT_S = 900.0


def of(client: tidings.Client, number: int, queues: int) -> tidings.Subscription:
    queue, event = f"queue-{number % queues}", "made" if number % 10 else "*"
    return client.subscribe(queue, event, name=f"subscription-{number}", timeout=TIMEOUT_S)


async def subscribe(url: str, numbers: Sequence[int], queues: int) -> None:
    """Makes durable subscriptions, a client for each thousand of them, and leaves."""
    for start in range(0, len(numbers), PER_CLIENT):
        async with tidings.connect(url, client_id=f"owner-{start // PER_CLIENT}", timeout=TIMEOUT_S) as client:
            chosen = numbers[start : start + PER_CLIENT]
            await asyncio.gather(*[of(client, number, queues).attach() for number in chosen])


async def receive(subscription: tidings.Subscription, messages: int) -> None:
    """Takes and acks the messages of one subscription."""
    async for batch in subscription.batches():
        await batch.ack()
        messages -= len(batch)
        if messages <= 0:
            return


async def publish(url: str, queues: int, batches: int, connected: Sequence[int]) -> tuple[float, float]:
    """Returns the seconds until each queue had its first message, and the messages a second after that."""
    payload = bytes(SIZE_BYTES)
    async with (
        tidings.connect(url, client_id="owner-0", timeout=TIMEOUT_S) as reader,
        tidings.connect(url, timeout=TIMEOUT_S) as client,
    ):
        each = 1 + batches // queues * BATCH_COUNT
        subscriptions = [of(reader, number, queues) for number in connected]
        await asyncio.gather(*[each.attach() for each in subscriptions])
        readers = [asyncio.ensure_future(receive(subscription, each)) for subscription in subscriptions]
        begun_s = time.monotonic()
        await asyncio.gather(*[client.publish(f"queue-{number}", "made", payload) for number in range(queues)])
        first_s = time.monotonic() - begun_s
        begun_s = time.monotonic()
        for number in range(batches // queues * queues):
            await client.publish_many(f"queue-{number % queues}", "made", [payload] * BATCH_COUNT)
        await asyncio.gather(*readers)
        return first_s, batches // queues * queues * BATCH_COUNT / (time.monotonic() - begun_s)


def memory(server: Process) -> float:
    return float(machine.resident_bytes(server.id))


def run(directory: Path, chosen: argparse.Namespace) -> dict[str, float]:
    """Returns the figures of one run."""
    count, queues = chosen.subscriptions, chosen.queues
    numbers, connected = range(count), range(PER_CLIENT)[: chosen.connected]
    figures: dict[str, float] = {}
    for file, there in ((directory / "none.db", 0), (directory / "many.db", count)):
        what = "beside them" if there else "alone"
        with started(serve(file), directory) as server:
            url = server.hear("ready", 60).split()[0]
            asyncio.run(subscribe(url, connected, queues))
            if there:
                before, begun_s = memory(server), time.monotonic()
                asyncio.run(subscribe(url, numbers, queues))
                figures["made per s"] = count / (time.monotonic() - begun_s)
                figures["KiB each, when made"] = (memory(server) - before) / count / KIB
        begun_s = time.monotonic()
        with started(serve(file), directory) as server:
            url = server.hear("ready", TIMEOUT_S).split()[0]
            figures[f"s until ready, {what}"] = time.monotonic() - begun_s
            figures[f"processor s until ready, {what}"] = machine.processor_s(server.id)
            figures[f"MiB after the start, {what}"] = memory(server) / MIB
            begun_cpu_s = machine.processor_s(server.id)
            first_s, rate = asyncio.run(publish(url, queues, chosen.batches, connected))
            figures[f"s for a first message to each queue, {what}"] = first_s
            figures[f"messages/s, {what}"] = rate
            figures[f"server's processor seconds, {what}"] = machine.processor_s(server.id) - begun_cpu_s
            figures[f"MiB then, {what}"] = memory(server) / MIB
    figures["KiB each, after the start"] = (
        (figures["MiB after the start, beside them"] - figures["MiB after the start, alone"]) * 1024 / count
    )
    figures["messages/s, beside them to alone"] = figures["messages/s, beside them"] / figures["messages/s, alone"]
    return figures


def main(arguments: Sequence[str]) -> None:
    """Runs as often as asked, and prints medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.subscriptions")
    parser.add_argument("--subscriptions", type=int, default=100_000)
    parser.add_argument("--connected", type=int, default=1_000, help="how many of them are connected, at most 1,000")
    parser.add_argument("--queues", type=int, default=100)
    parser.add_argument("--batches", type=int, default=200, help="of 1,000 messages")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes: a disk, not memory")
    chosen = parser.parse_args(arguments)
    repeat(run, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
