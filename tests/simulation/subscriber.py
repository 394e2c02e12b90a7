"""Subscribers: processes that consume, go away and come back, and rivals with the same client id."""

import asyncio
import random

from tests.simulation.consumer import Consumer
from tests.simulation.history import Ousted
from tests.simulation.scenario import FAULTS, Ending, SubscriberPlan
from tests.simulation.world import Process, World
from tidings.errors import ClientIdInUse, DiskFull, StoreUnavailable, SubscriptionInUse, TakenOver, TimedOut


async def subscribe(world: World, plan: SubscriberPlan) -> None:
    """Consumes for ever, by one process after the other."""
    chance = world.randomness(plan.name)
    await world.until_quiet(chance.uniform(0, plan.begins_s_max))
    while True:
        process = world.process(plan.name, plan.client_id, take_over=plan.take_over)
        try:
            await world.open(process, plan.client_id, take_over=plan.take_over)
        except ClientIdInUse:
            # The server has not noticed yet that the process before is gone.
            await asyncio.sleep(1.0)
            continue
        ending = chance.choice(plan.endings)
        lost = await _live(world, plan, process, chance, ending)
        if lost:
            continue
        if plan.client_id:
            world.connected.discard(plan.client_id)
        world.note(f"{process.name} ends: {ending}")
        world.faults[f"(subscriber: {ending})"] += 1
        if ending == "vanish":
            await process.vanish()
        else:
            await process.client.close(timeout=20.0)
        await world.until_quiet(chance.uniform(0, plan.away_s_max))


async def _live(world: World, plan: SubscriberPlan, process: Process, chance: random.Random, ending: Ending) -> bool:
    """Lets a process live its life; returns whether it ended against its will."""
    if plan.client_id:
        world.connected.add(plan.client_id)
    consumer = Consumer(world, plan, process, world.randomness(f"{process.name} acks"))
    work = asyncio.get_running_loop().create_task(consumer.run())
    try:
        ends_at = asyncio.get_running_loop().time() + chance.uniform(0, plan.life_s_max)
        while not work.done() and (world.quiet or asyncio.get_running_loop().time() < ends_at):
            await asyncio.wait((work,), timeout=0.5)
        if work.done():
            _lost(world, plan, process, work.exception())
            await process.client.close(timeout=20.0)
            await asyncio.sleep(0.5)
            return True
        if ending == "detach":
            await consumer.detach()
        return False
    finally:
        consumer.end()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def rival(world: World, plan: SubscriberPlan, name: str, *, take_over: bool) -> None:
    """Lets another process come with the client id of a subscriber, whether that is there or not."""
    chance = world.randomness(name)
    process = world.process(name, plan.client_id, take_over=take_over)
    try:
        await world.open(process, plan.client_id, take_over=take_over)
    except ClientIdInUse:
        world.note(f"{process.name} is refused")
        world.faults["(rival refused)"] += 1
        return
    consumer = Consumer(world, plan, process, world.randomness(f"{process.name} acks"))
    work = asyncio.get_running_loop().create_task(consumer.run())
    await asyncio.wait((work,), timeout=chance.uniform(0, 6))
    if work.done():
        _lost(world, plan, process, work.exception())
    consumer.end()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    world.note(f"{process.name} ends")
    if chance.random() < 0.5:
        await process.vanish()
    else:
        await process.client.close(timeout=20.0)


def _lost(world: World, plan: SubscriberPlan, process: Process, error: BaseException | None) -> None:
    """Takes note of why a process stopped to consume; only some reasons are good ones."""
    usual = SubscriptionInUse | TakenOver | StoreUnavailable | DiskFull | TimedOut
    rivals = any(fault.kind in FAULTS["takeover"] for fault in world.scenario.faults)
    if not isinstance(error, usual) and not (rivals and isinstance(error, ClientIdInUse)):
        raise AssertionError(f"{process.name} stopped to consume: {error!r}") from error
    world.note(f"{process.name}: {error!r}")
    if isinstance(error, TakenOver) and plan.client_id:
        world.fact(Ousted(process.name, plan.client_id))
