"""A mixed day: 200 queues, 500 durable subscriptions of which half are away at any time, 50 publishers, event filters.

Publishers publish small bursts to random queues at a steady pace. Each subscription wants one queue, and all its
events or one of four. A hundred clients hold five subscriptions each; they come and go in turns, and at the end all
are back and take what waited. Each message carries its publisher's count of that queue and event, so a subscription
sees by itself whether it got every one: what is missing is lost, what comes again is a duplicate.
"""

import asyncio
import random
import struct
import time
from collections import defaultdict
from typing import Any

import tidings
from benchmarks import machine
from benchmarks.part import Part
from benchmarks.processes import Process
from benchmarks.workloads.latency import percentiles_ms
from benchmarks.workloads.run import TIMEOUT_S, Run, server_figures

TITLE = "Mixed day: 200 queues, 500 durable subscriptions, 50 publishers"
PEERS = ("tidings",)
QUEUES = 200
EVENTS = ("created", "changed", "moved", "deleted")
PUBLISHERS = 50
CLIENTS = 100
SUBSCRIPTIONS_OF_A_CLIENT = 5
BURST_COUNT = 10
BURSTS_PER_S = 20  # of each publisher
PRESENT_S = 20.0
SIZE_BYTES = 128
LATENCIES_MAX = 1_000_000
SAMPLES = 60
_HEAD = struct.Struct("!QHHI")  # time, publisher, event, count from 1


async def publishers(part: Part, seconds: float) -> dict[str, Any]:
    """Publishes for so long; returns how many messages of each publisher, queue and event were confirmed."""
    counts: dict[tuple[int, int, int], int] = defaultdict(int)
    filling = bytes(SIZE_BYTES - _HEAD.size)

    async def publish(number: int, go: asyncio.Event, connected: asyncio.Semaphore) -> None:
        choice = random.Random(number)
        async with tidings.connect(part.address, client_id=f"publisher{number}") as client:
            connected.release()
            await go.wait()
            due_s = time.monotonic() + choice.random() / BURSTS_PER_S
            end_s = due_s + seconds
            while due_s < end_s:
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                due_s += 1 / BURSTS_PER_S
                queue, event = choice.randrange(QUEUES), choice.randrange(len(EVENTS))
                first = counts[number, queue, event] + 1
                stamp = time.monotonic_ns()
                burst = [_HEAD.pack(stamp, number, event, first + index) + filling for index in range(BURST_COUNT)]
                await client.publish_many(f"queue{queue}", EVENTS[event], burst)
                counts[number, queue, event] += BURST_COUNT

    go = asyncio.Event()
    connected = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        for number in range(PUBLISHERS):
            group.create_task(publish(number, go, connected))
        for _ in range(PUBLISHERS):
            await connected.acquire()
        await part.ready()
        go.set()
    return {"confirmed": [[*key, count] for key, count in counts.items()]}


class _Subscription:
    """What one subscription wants, and what it has seen."""

    def __init__(self, number: int) -> None:
        choice = random.Random(number)
        self.name = f"subscription{number}"
        self.queue = choice.randrange(QUEUES)
        self.event = choice.randrange(len(EVENTS)) if number % 3 else None
        self.seen: dict[tuple[int, int], int] = defaultdict(int)
        self.taken = self.lost = self.duplicates = 0

    def take(self, payload: bytes) -> int:
        """Checks a message against its publisher's count; returns when it was published."""
        stamp, publisher, event, count = _HEAD.unpack_from(payload)
        assert self.event is None or event == self.event
        before = self.seen[publisher, event]
        self.taken += 1
        if count <= before:
            self.duplicates += 1
        else:
            self.lost += count - before - 1
            self.seen[publisher, event] = count
        published: int = stamp
        return published

    def missing(self, confirmed: dict[tuple[int, int, int], int]) -> int:
        """Returns how many of the confirmed messages have not come."""
        return sum(
            max(0, count - self.seen.get((publisher, event), 0))
            for (publisher, queue, event), count in confirmed.items()
            if queue == self.queue and self.event in (None, event)
        )


async def subscribers(part: Part) -> dict[str, Any]:
    """Comes and goes until it is told to come back for good; then takes what is left."""
    held = [_Subscription(number) for number in range(CLIENTS * SUBSCRIPTIONS_OF_A_CLIENT)]
    clients = [held[number::CLIENTS] for number in range(CLIENTS)]
    live_ms: list[float] = []
    over = asyncio.Event()

    async def take(client: tidings.Client, subscription: _Subscription, attached: asyncio.Semaphore) -> None:
        event = "#" if subscription.event is None else EVENTS[subscription.event]
        messages = client.subscribe(f"queue{subscription.queue}", event, name=subscription.name)
        async with messages:
            attached_ns = time.monotonic_ns()
            attached.release()
            async for message in messages:
                published_ns = subscription.take(message.data)
                # What was published while it was away says how long it was away.
                if published_ns > attached_ns and len(live_ms) < LATENCIES_MAX:
                    live_ms.append((time.monotonic_ns() - published_ns) / 1e6)
                await message.ack()

    async def be_there(number: int, until: asyncio.Event, attached: asyncio.Semaphore) -> None:
        async with tidings.connect(part.address, client_id=f"client{number}") as client:
            taking = [asyncio.create_task(take(client, one, attached)) for one in clients[number]]
            leaving = asyncio.create_task(until.wait())
            await asyncio.wait([*taking, leaving], return_when=asyncio.FIRST_COMPLETED)
            for task in taking:
                if task.done():
                    task.result()
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)

    async def come_and_go(number: int) -> None:
        # Half of the clients begin away; each stays and is away equally long, and not all turn at once.
        attached = asyncio.Semaphore(0)
        away_s = PRESENT_S * (number % 2) + PRESENT_S * number / CLIENTS
        while not over.is_set():
            try:
                await asyncio.wait_for(over.wait(), away_s)
                break
            except TimeoutError:
                away_s = PRESENT_S
            leave = asyncio.Event()
            asyncio.get_running_loop().call_later(PRESENT_S, leave.set)
            await be_there(number, leave, attached)
        await be_there(number, asyncio.Event(), attached)

    # All subscriptions exist before the first message.
    at_once = asyncio.Semaphore(0)
    made = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(be_there(number, made, at_once))
        for _ in held:
            await at_once.acquire()
        made.set()
    await part.ready()
    async with asyncio.TaskGroup() as group:
        working = [group.create_task(come_and_go(number)) for number in range(CLIENTS)]
        confirmed = {(publisher, queue, event): count for publisher, queue, event, count in await part.told()}
        over.set()
        deadline_s = time.monotonic() + TIMEOUT_S / 2
        while any(one.missing(confirmed) for one in held) and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # 500 subscriptions would each have to tell; looking now and then is simpler
        for task in working:
            task.cancel()
    missing = sum(one.missing(confirmed) for one in held)
    return {
        "deliveries": sum(one.taken for one in held),
        "lost": missing + sum(one.lost for one in held),
        "duplicates": sum(one.duplicates for one in held),
        **percentiles_ms(live_ms),
    }


def _sampled(process_id: int, until_ended: Process, seconds: float) -> list[int]:
    """Returns the server's memory while the publishers publish, at even distances."""
    samples = []
    start_s = time.monotonic()
    for number in range(1, SAMPLES + 1):
        time.sleep(max(0.0, start_s + seconds * number / SAMPLES - time.monotonic()))
        samples.append(machine.resident_bytes(process_id))
        if not until_ended.running:
            break
    return samples


def measure(run: Run) -> dict[str, float]:
    seconds = max(20.0, run.day_s * run.scale)
    figures: dict[str, float] = {"seconds": seconds}
    expected = int(PUBLISHERS * BURSTS_PER_S * BURST_COUNT * seconds)
    with (
        run.serve() as server,
        run.part("subscribers", server) as taking,
        run.part("publishers", server, seconds=seconds) as giving,
    ):
        taking.hear("ready", TIMEOUT_S)
        giving.hear("ready", TIMEOUT_S)
        taking.go()
        with server_figures(server, figures, expected):
            start_s = time.monotonic()
            giving.go()
            samples = _sampled(server.process_id, giving, seconds)
            confirmed = giving.figures(TIMEOUT_S)["confirmed"]
            took_s = time.monotonic() - start_s
            taking.tell(confirmed)
            taken = taking.figures(TIMEOUT_S)
    figures["published"] = sum(row[3] for row in confirmed)
    figures["published_per_s"] = figures["published"] / took_s
    figures["deliveries_per_s"] = taken["deliveries"] / (time.monotonic() - start_s)
    figures |= {name: taken[name] for name in ("lost", "duplicates", "p50_ms", "p99_ms", "p999_ms", "max_ms")}
    # The first third fills caches; growth is what comes after it.
    figures["memory_early_mib"] = samples[len(samples) // 3] / 2**20
    figures["memory_end_mib"] = samples[-1] / 2**20
    return figures
