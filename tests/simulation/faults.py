"""Faults: what goes wrong in a scenario at its times; each kind of `scenario.FAULTS` is one function here."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from tests.simulation.administrator import ADMINISTRATION, Fault
from tests.simulation.scenario import FAULTS, FaultPlan
from tests.simulation.subscriber import rival
from tests.simulation.world import World
from tidings.broker.records import FORMAT, Counters, CursorRecord, ProducerRecord, SubscriptionRecord
from tidings.ranges import Ranges
from tidings.testing.network import SimulatedConnection

_MADE_BY: Final[dict[str, Fault]] = {}


def _fault(kind: str) -> Callable[[Fault], Fault]:
    def register(make: Fault) -> Fault:
        _MADE_BY[kind] = make
        return make

    return register


async def make_faults(world: World) -> None:
    """Makes all faults of the scenario, each at its time, until the last one has ended."""
    scenario = world.scenario
    faults = [world.guarded(_make(world, plan)) for plan in scenario.faults]
    await asyncio.gather(*faults, asyncio.sleep(scenario.duration_s))
    world.rely_on_store()


async def _make(world: World, plan: FaultPlan) -> None:
    await asyncio.sleep(plan.at_s)
    world.note(f"fault {plan.number}: {plan.kind}")
    if await _MADE_BY[plan.kind](world, plan, world.randomness(f"fault {plan.number}")):
        world.faults[plan.kind] += 1


# --- connections ---


def _some_connection(world: World, chance: random.Random) -> SimulatedConnection | None:
    connections = [each for each in world.network.connections if not (each.is_cut or each.client.ended)]
    return chance.choice(connections) if connections else None


def _cut(*, client_notices: bool, server_notices: bool) -> Fault:
    async def make(world: World, plan: FaultPlan, chance: random.Random) -> bool:
        connection = _some_connection(world, chance)
        if connection:
            connection.cut(client_notices=client_notices, server_notices=server_notices)
        return connection is not None

    return make


_MADE_BY["cut"] = _cut(client_notices=True, server_notices=True)
_MADE_BY["cut, client unaware"] = _cut(client_notices=False, server_notices=True)
_MADE_BY["cut, server unaware"] = _cut(client_notices=True, server_notices=False)
_MADE_BY["cut, nobody aware"] = _cut(client_notices=False, server_notices=False)


@_fault("client hears nothing")
async def _client_hears_nothing(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    connection = _some_connection(world, chance)
    if connection:
        connection.silence(connection.client)
    return connection is not None


@_fault("server hears nothing")
async def _server_hears_nothing(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    connection = _some_connection(world, chance)
    if connection:
        connection.silence(connection.server)
    return connection is not None


@_fault("frozen")
async def _freeze(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    connection = _some_connection(world, chance)
    if connection is None:
        return False
    connection.freeze()
    await asyncio.sleep(plan.for_s * 3)  # longer than heartbeats may stay away, sometimes
    connection.thaw()
    return True


@_fault("late frames")
async def _late_frames(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    connections = [each for each in world.network.connections if not (each.is_cut or each.client.ended)]
    if not connections:
        return False
    for connection in connections:
        connection.server.hold()  # lets something gather that can be late
    await asyncio.sleep(chance.uniform(0, 1.5))
    connection = max(connections, key=lambda each: each.server.held_bytes)
    for other in connections:
        if other is not connection:
            other.server.release()
    connection.strand(chance.choice([1, 1, 2, 3]))
    await asyncio.sleep(plan.for_s)
    connection.arrive_late()
    return connection.late_bytes > 0


# --- client processes ---


@_fault("client reads nothing")
async def _client_reads_nothing(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    connection = _some_connection(world, chance)
    if connection is None:
        return False
    connection.client.pause_reading()
    await asyncio.sleep(plan.for_s)
    connection.client.resume_reading()
    return True


@_fault("handler hangs")
async def _handler_hangs(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return _stall(world, plan, chance, "hangs_until_s")


@_fault("no acks")
async def _no_acks(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return _stall(world, plan, chance, "mute_until_s")


def _stall(world: World, plan: FaultPlan, chance: random.Random, what: str) -> bool:
    if not world.consumers:
        return False
    setattr(chance.choice(list(world.consumers)), what, asyncio.get_running_loop().time() + plan.for_s)
    return True


@_fault("rival asks")
async def _rival_asks(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _rivals(world, plan, chance, 1, take_over=False)


@_fault("rival takes over")
async def _rival_takes_over(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _rivals(world, plan, chance, 1, take_over=True)


@_fault("takeover race")
async def _takeover_race(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _rivals(world, plan, chance, chance.randint(2, 3), take_over=True)


async def _rivals(world: World, plan: FaultPlan, chance: random.Random, count: int, *, take_over: bool) -> bool:
    subscribers = [subscriber for subscriber in world.scenario.subscribers if subscriber.client_id]
    if not subscribers:
        return False
    one = chance.choice(subscribers)
    names = [f"{one.name}rival{plan.number}{letter}" for letter in "abc"[:count]]
    await asyncio.gather(*(rival(world, one, name, take_over=take_over) for name in names))
    return True


# --- the server ---


@_fault("crash")
async def _crash(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _restart(world, plan, world.crash)


@_fault("crash in commit")
async def _crash_in_commit(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    async def crash() -> None:
        for _ in range(200):
            if world.store is not None and world.store.committing:
                break
            await asyncio.sleep(0.005)
        await asyncio.sleep(chance.uniform(0, world.scenario.store.commit_s_max))
        await world.crash()

    return await _restart(world, plan, crash)


@_fault("crash while starting")
async def _crash_while_starting(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    async def crash_twice() -> None:
        await world.crash()
        starting = asyncio.ensure_future(world.start_server())
        await asyncio.wait((starting,), timeout=chance.uniform(0, 5 * world.scenario.store.read_s_max))
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await world.crash()

    return await _restart(world, plan, crash_twice)


@_fault("drain")
async def _drain(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _restart(world, plan, world.drain)


# How many fields an earlier version wrote of the records that have more now, and how many of those that it did not
# write may be lost: it could not have done what the others are about.
_FIELDS_BEFORE: Final = {
    "counters": (Counters, 2, 1),
    "subscription/": (SubscriptionRecord, 12, 3),
    "cursor/": (CursorRecord, 3, 1),
    "producer/": (ProducerRecord, 3, 0),
}


@_fault("newer records")
async def _newer_records(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    """A later version was there: it wrote fields and records that this one does not know."""

    async def rewrite() -> None:
        await world.crash()
        for key, value in await world.disk.content.list(""):
            for prefix, (kind, *_) in _FIELDS_BEFORE.items():
                if key.startswith(prefix):  # an earlier version may have written it; a later one has all its fields
                    value = msgspec.msgpack.encode(msgspec.msgpack.decode(value, type=kind))
            record = msgspec.msgpack.decode(value, strict=False)
            if isinstance(record, list):
                world.disk.content._put(key, msgspec.msgpack.encode([*record, "of a later version", {"a": 1}]))
        world.disk.content._put("shelf/1", msgspec.msgpack.encode(["of a later version"]))

    return await _restart(world, plan, rewrite)


@_fault("older records")
async def _older_records(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    """An earlier version was there: it did not write the latest fields, nor numbers of transactions."""

    async def rewrite() -> None:
        await world.crash()
        content = world.disk.content
        for prefix, (kind, count, lost) in _FIELDS_BEFORE.items():
            for key, value in await content.list(prefix):
                fields = msgspec.msgpack.decode(value, strict=False)
                old = msgspec.msgpack.encode(fields[:count])
                known, before = (msgspec.msgpack.decode(each, type=kind) for each in (value, old))
                if msgspec.to_builtins(known)[count + lost :] == msgspec.to_builtins(before)[count + lost :]:
                    content._put(key, old)
        content._delete("commit")

    return await _restart(world, plan, rewrite)


@_fault("incompatible records")
async def _incompatible_records(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    """A later version was there, whose records this one must not read; the operator goes back to that version."""

    async def refuse() -> None:
        await world.crash()
        content = world.disk.content
        content._put("format", msgspec.msgpack.encode(FORMAT + 1))
        before = await content.list(""), len(world.disk.appended)
        await world.start_in_vain()
        assert (await content.list(""), len(world.disk.appended)) == before, "a store that was refused was changed"
        content._delete("format")

    return await _restart(world, plan, refuse)


async def _restart(world: World, plan: FaultPlan, end: Callable[[], Awaitable[None]]) -> bool:
    async with world.restarting:
        await end()
        await asyncio.sleep(min(plan.for_s, world.scenario.down_s_max))
        await world.start_server()
    return True


@_fault("clock jump")
async def _clock_jump(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    world.wall_ahead_s += chance.choice([0.3, 5.0, 3600.0, 200_000.0]) * chance.choice([1, -1])
    return True


# --- the store ---


def _trouble(**faults: float) -> Fault:
    async def make(world: World, plan: FaultPlan, chance: random.Random) -> bool:
        await world.trouble(plan.for_s, faults)
        return True

    return make


_MADE_BY["disk full"] = _trouble(disk_full=1.0)
_MADE_BY["I/O errors"] = _trouble(commit_fails=0.7, read_fails=0.7)
_MADE_BY["unknown outcomes"] = _trouble(outcome_unknown=0.8, read_fails=0.3)
_MADE_BY["slow store"] = _trouble(commit_s_max=3.0, read_s_max=2.0)


@_fault("damage")
async def _damage(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    queue_of = world.watcher.queue_of
    rows = [row for row in world.disk.appended if queue_of.get(row.queue, "$").startswith("queue")]
    if not rows:
        return False
    epoch, row = chance.choice(rows)
    world.disk.damaged.add((epoch, row.first_sequence))
    world.damaged.setdefault(epoch, Ranges()).add(row.first_sequence, row.last_sequence)
    world.note(f"rows {row.first_sequence} to {row.last_sequence} of epoch {epoch} are damaged")
    return True


_MADE_BY |= ADMINISTRATION
assert set(_MADE_BY) == {kind for kinds in FAULTS.values() for kind in kinds}
