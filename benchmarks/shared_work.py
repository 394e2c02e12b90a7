"""What it costs to share a subscription, and to keep the order of keys in it.

    python -m benchmarks.shared_work [--messages N] [--members N] [--keys N] [--runs N] [--directory PATH]

Publish to ack, end to end, messages of 128 bytes: one publisher, and in turns

- *plain*: one subscriber of a subscription of its own;
- *shared*: members, each a process, of one subscription;
- *keys*: the same with as many keys, each message's chosen by chance. Beside it *plain with keys*, since a message
  with a key costs more wherever it goes.

Time runs from the word to the publisher until the subscription's last message is settled. Batches are encoded
before, in all turns alike, so that the publisher is not what is measured.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import tidings
from benchmarks import machine
from benchmarks.peers.tidings import serve
from benchmarks.processes import Process, started
from tidings.batch import encode_item
from tidings.model import BYTES, Flags

SIZE_BYTES = 128
BATCH_COUNT = 1_000
QUEUE, TEAM = "work", "team"
POLL_S = 0.005
TIMEOUT_S = 120.0


async def member(url: str, name: str, shared: str) -> None:
    """Takes batches and acks them, until it is ended."""
    async with tidings.connect(url, client_id=name) as client:
        options = {"shared": TEAM} if shared else {"name": TEAM}
        async with client.subscribe(QUEUE, **options) as subscription:
            print("attached", flush=True)
            async for batch in subscription.batches():
                assert len(batch.payloads[0]) == SIZE_BYTES
                await batch.ack()


async def publisher(url: str, messages: str, keys: str) -> None:
    """Publishes batches that it has encoded before, and waits for their confirms."""
    randomness = random.Random(7)
    payload = os.urandom(SIZE_BYTES)
    bodies: list[bytes] = []
    for _ in range(int(messages) // BATCH_COUNT):
        chosen = [f"customer-{randomness.randrange(int(keys))}" if int(keys) else None for _ in range(BATCH_COUNT)]
        bodies.append(b"".join([encode_item(payload, None, key, None) for key in chosen]))
    flags = Flags.KEYS if int(keys) else 0
    async with tidings.connect(url) as client:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*[_publish(client, flags, body) for body in bodies])
        print("published", flush=True)


async def _publish(client: tidings.Client, flags: int, body: bytes) -> None:
    waiter: asyncio.Future[tidings.Confirm] = asyncio.get_running_loop().create_future()
    if client._session.room.full:
        await client._supervisor.wait_for_room()
    client._session.publish(QUEUE, "created", BYTES, flags, BATCH_COUNT, body, waiter)
    await waiter


async def settled(url: str, messages: int) -> None:
    """Returns once the subscription has settled all messages."""
    async with tidings.connect(url) as client, asyncio.timeout(TIMEOUT_S):
        while True:
            [info] = [info for info in await client.subscriptions() if info.name == TEAM]
            if info.cursor >= messages and not info.lag:
                return
            await asyncio.sleep(POLL_S)


def turn(directory: Path, messages: int, members: int, keys: int) -> float:
    """Returns the messages a second of one turn; without members, of one subscriber of its own."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        server = stack.enter_context(serve(data))

        def start(part: str, *arguments: object) -> Process:
            command = (sys.executable, "-m", "benchmarks.shared_work", "--part", part, server.address, *arguments)
            return stack.enter_context(started(command, data))

        giving = start("publisher", messages, keys)
        for number in range(members or 1):
            start("member", f"member-{number}", "shared" if members else "").hear("attached", TIMEOUT_S)
        giving.hear("ready", TIMEOUT_S)
        start_s = time.monotonic()
        giving.go()
        giving.hear("published", TIMEOUT_S)
        asyncio.run(settled(server.address, messages))
        return messages / (time.monotonic() - start_s)


def main(arguments: Sequence[str]) -> None:
    """Runs all turns, as often as asked, and prints their medians."""
    if arguments[:1] == ["--part"]:
        asyncio.run({"member": member, "publisher": publisher}[arguments[1]](*arguments[2:]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_work")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes: a disk, not memory")
    chosen = parser.parse_args(arguments)
    print(machine.describe(chosen.directory.resolve()))
    turns = {
        "plain": (0, 0),
        "shared": (chosen.members, 0),
        "plain with keys": (0, chosen.keys),
        "keys": (chosen.members, chosen.keys),
    }
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(chosen.runs):
        for name, (members, keys) in turns.items():
            rates[name].append(turn(chosen.directory, chosen.messages, members, keys))
            print(f"run {number + 1}: {name}: {rates[name][-1]:,.0f} messages/s", flush=True)
    plain = median(rates["plain"])
    for name, found in rates.items():
        print(f"{name}: {median(found):,.0f} messages/s, {median(found) / plain:.2f} of plain")


if __name__ == "__main__":
    main(sys.argv[1:])
