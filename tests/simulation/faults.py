"""Faults: everything that goes wrong in a scenario, except what store and network do by themselves."""

import asyncio
import random
from collections.abc import Callable

import msgspec

from tests.simulation.history import Forgotten, ToldForgotten
from tests.simulation.scenario import Fault
from tests.simulation.world import EVER_S, World
from tidings.errors import DiskFull, NotFound, StoreUnavailable, SubscriptionInUse
from tidings.ranges import Ranges


async def make_faults(world: World) -> None:
    scenario, chance, lives = world.scenario, world.randomness("faults"), world.randomness("lives")
    loop = asyncio.get_running_loop()
    forgettings = scenario.forgettings
    deletions, ends_at = scenario.deletions, loop.time() + scenario.duration_s
    while True:
        pause_s = chance.uniform(0, scenario.fault_pause_s_max)
        if loop.time() + pause_s > ends_at:
            break
        await asyncio.sleep(pause_s)
        if deletions and chance.random() < 0.5:
            deletions -= 1
            await _delete_a_queue(world, chance)
        elif forgettings and lives.random() < 0.5:
            forgettings -= 1
            await _delete_a_subscription(world, lives)
        elif scenario.faults:
            await _make_fault(world, chance.choice(scenario.faults), chance)
    await asyncio.sleep(max(0, ends_at - loop.time()))
    assert world.store is not None
    # From now on the disk is reliable.
    reliable = msgspec.structs.replace(world.store.faults, commit_fails=0, outcome_unknown=0, read_fails=0)
    world.store.faults = reliable


async def _make_fault(world: World, fault: Fault, chance: random.Random) -> None:
    connections = world.network.connections
    connection = chance.choice(connections) if connections else None
    world.note(f"fault: {fault}")
    match fault:
        case "crash":
            await world.crash()
        case "crash in commit":
            assert world.store is not None
            for _ in range(200):
                if world.store.committing:
                    break
                await asyncio.sleep(0.005)
            await asyncio.sleep(chance.uniform(0, world.scenario.store.commit_s_max))
            await world.crash()
        case "drain":
            await world.drain()
        case "slow reader" if connection:
            _slow(connection.client.pause_reading, connection.client.resume_reading, chance.uniform(0, 8))
        case _ if connection:
            connection.cut(
                client_notices=fault not in ("cut, client unaware", "blackout"),
                server_notices=fault not in ("cut, server unaware", "blackout"),
            )
        case _:
            return
    world.faults[fault] += 1
    if fault in ("crash", "crash in commit", "drain"):
        await asyncio.sleep(chance.uniform(0, world.scenario.down_s_max))
        for _ in range(world.scenario.damages):
            _damage(world, chance)
        await world.start_server()


def _slow(pause: Callable[[], None], resume: Callable[[], None], for_s: float) -> None:
    pause()
    asyncio.get_running_loop().call_later(for_s, resume)


def _damage(world: World, chance: random.Random) -> None:
    rows = [row for row in world.disk.appended if world.watcher.queue_of.get(row.queue, "$").startswith("queue")]
    if rows:
        epoch, row = chance.choice(rows)
        world.disk.damaged.add((epoch, row.first_sequence))
        world.damaged.setdefault(epoch, Ranges()).add(row.first_sequence, row.last_sequence)
        world.faults["damage"] += 1
        world.note(f"fault: rows {row.first_sequence} to {row.last_sequence} of epoch {epoch} are damaged")


async def _delete_a_queue(world: World, chance: random.Random) -> None:
    names = sorted({queue for plan in world.scenario.publishers for queue in plan.queues})
    name = chance.choice(names)
    process = world.process("administrator", None, take_over=False)
    world.note(f"deleting {name}")
    try:
        async with process.client as client:
            await client.delete_queue(name, timeout=EVER_S)
        world.faults["queue deleted"] += 1
    except (NotFound, StoreUnavailable, DiskFull) as error:
        world.note(f"deleting {name}: {error}")


async def _delete_a_subscription(world: World, chance: random.Random) -> None:
    names = [plan.full_name for plan in world.scenario.subscribers if plan.client_id]
    if not names:
        return
    name = chance.choice(names)
    reader = world.watcher.reader(name)
    process = world.process("administrator", None, take_over=False)
    world.note(f"deleting subscription {name}")
    try:
        async with process.client as client:
            await client.delete_subscription(name, timeout=EVER_S)
    except (NotFound, SubscriptionInUse, StoreUnavailable, DiskFull) as error:
        world.note(f"deleting subscription {name}: {error}")
    else:
        # While the administrator connected it may have expired and been made again: then it was another one.
        forgotten = [fact.subscription for fact in world.history.of(Forgotten) if fact.asked]
        if reader in forgotten:
            world.fact(ToldForgotten(reader))
