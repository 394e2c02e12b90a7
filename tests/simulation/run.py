"""Runs scenarios: the real server and real clients, on virtual time, with everything going wrong that can."""

import asyncio
import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from tests.simulation.checkers import AT_REST, CHECKERS
from tests.simulation.evidence import Evidence
from tests.simulation.faults import make_faults
from tests.simulation.history import Handed, Published
from tests.simulation.publisher import Publishing
from tests.simulation.pulling import Pulling
from tests.simulation.scenario import Scenario, make_plain
from tests.simulation.scheduler import Schedules
from tests.simulation.subscriber import subscribe
from tests.simulation.work import make
from tests.simulation.world import EVER_S, World
from tidings import limits
from tidings.testing.virtual_time import Standstill, TimeLimitReached, VirtualLoop

_TIME_LIMIT_S: Final = 1_500.0


class Outcome(msgspec.Struct, kw_only=True):
    """What came of one seed."""

    seed: int
    broken: dict[str, list[str]]
    """Promise -> how it was broken."""
    history: list[str]
    virtual_s: float
    real_s: float
    published: int
    handed: int
    faults: dict[str, int]


def run(
    seed: int, group: str | None = None, *, plain: bool = False, invariants: bool = True, spelled: bool = True
) -> Outcome:
    """Runs the scenario of a seed, with faults of one group only if one is given; see `run_scenario`."""
    return run_scenario((make_plain if plain else make)(seed, group), invariants=invariants, spelled=spelled)


def run_scenario(scenario: Scenario, *, invariants: bool = True, spelled: bool = True) -> Outcome:
    """Runs a scenario and checks every promise.

    Args:
        scenario: what there is, and what happens to it.
        invariants: whether the broker's invariants are checked, too, which takes a third of the time.
        spelled: whether the outcome has the history as people read it.
    """
    began_s = time.perf_counter()
    world = World(scenario, invariants=invariants)
    simulation = Simulation(world)
    collecting = gc.isenabled()
    gc.disable()  # the collector runs finalizers when it likes, which no seed decides
    logging.disable(logging.CRITICAL)
    loop = VirtualLoop(_TIME_LIMIT_S)
    loop.set_exception_handler(world.failed)
    try:
        with _smaller(scenario.limits), asyncio.Runner(loop_factory=lambda: loop) as runner:
            broken = runner.run(simulation.run())
            virtual_s = loop.time()
    except (Standstill, TimeLimitReached) as error:
        broken, virtual_s = {"comes to rest": [str(error), *simulation.unrest()]}, loop.time()
        broken |= simulation.check(set(CHECKERS) - AT_REST)
    finally:
        logging.disable(logging.NOTSET)
        if collecting:
            gc.enable()
    return Outcome(
        seed=scenario.seed,
        broken=broken,
        history=world.history.lines() if spelled else [],
        virtual_s=virtual_s,
        real_s=time.perf_counter() - began_s,
        published=sum(len(fact.payloads) for fact in world.history.of(Published)),
        handed=sum(1 for _ in world.history.of(Handed)),
        faults=dict(+world.faults),
    )


@contextmanager
def _smaller(values: dict[str, int]) -> Iterator[None]:
    usual = {name: getattr(limits, name) for name in values}
    for name, value in values.items():
        setattr(limits, name, value)
    try:
        yield
    finally:
        for name, value in usual.items():
            setattr(limits, name, value)


class Simulation:
    """One scenario under way, from the first life of the server to the verdict."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._publishing: list[asyncio.Task[None]] = []
        self._evidence = Evidence(world.history, world.disk.commits, world.watcher.queue_of)
        self._evidence.scenario = world.scenario
        self._evidence.plans = {plan.full_name: plan for plan in world.scenario.subscribers}
        self._evidence.name_of = world.watcher.name_of
        self._evidence.connected = world.connected
        self._evidence.damaged = world.damaged

    async def run(self) -> dict[str, list[str]]:
        """Runs to the end; returns which promises were broken, and how."""
        world, scenario, loop = self._world, self._world.scenario, asyncio.get_running_loop()
        world.main = asyncio.current_task()
        actors: list[asyncio.Task[None]] = []
        try:
            await world.start_server()
            publishing = [Publishing(world, plan).run() for plan in scenario.publishers]
            subscribing = [
                Pulling(world, plan).run() if plan.pulls else subscribe(world, plan) for plan in scenario.subscribers
            ]
            publishing += [Schedules(world, plan).run() for plan in scenario.schedulers]
            actors = [loop.create_task(world.guarded(work)) for work in publishing + subscribing]
            self._publishing = actors[: len(publishing)]
            await make_faults(world)
            world.calm()
            await self._come_to_rest()
        except asyncio.CancelledError:
            if not world.mistakes:
                raise
        for actor in actors:
            actor.cancel()
        await asyncio.gather(*actors, return_exceptions=True)
        if world.mistakes:
            # Stopped somewhere: what holds at any moment held until then, or was what led to the mistake.
            return {"no mistakes": world.mistakes} | self.check(set(CHECKERS) - AT_REST)
        self._evidence.end_ms = world.watcher.now_ms()
        self._evidence.alive = {reader for reader, _ in world.watcher.living().values()}
        await world.drain()
        world.faults["(batch arrives again)"] += world.watcher.sent_again
        world.faults["(subscription expired)"] += world.watcher.expired
        return self.check(set(CHECKERS))

    def check(self, promises: set[str]) -> dict[str, list[str]]:
        """Returns which of these promises were broken until now, and how."""
        self._evidence.numbers = self._world.watcher.numbers()
        self._evidence.begun_ms = self._world.watcher.begun_ms()
        found = {promise: check(self._evidence) for promise, check in CHECKERS.items() if promise in promises}
        return {promise: broken for promise, broken in found.items() if broken}

    async def _settle_all_but_failing_keys(self) -> None:
        """Waits until of those who let a key fail all the rest is settled."""
        watcher, subscribers = self._world.watcher, self._world.scenario.subscribers
        failing = {plan.full_name: plan.failing_key for plan in subscribers if plan.failing_key}
        for name, key in failing.items():
            await asyncio.gather(*self._publishing)
            while True:
                if not watcher.waits(name, key):
                    break
                await asyncio.sleep(0.5)

    def unrest(self) -> list[str]:
        """Says what is not settled."""
        at_work = sum(not task.done() for task in self._publishing)
        found = [f"{at_work} publishers are not done"] if at_work else []
        found += self._world.watcher.scheduled()
        found += [
            f"{plan.full_name!r} has not settled {waiting[:5]} although only {plan.failing_key} failed"
            for plan in self._world.scenario.subscribers
            if plan.failing_key and (waiting := self._world.watcher.waits(plan.full_name, plan.failing_key))
        ]
        return found + [str(info) for info in self._evidence.subscriptions if info.lag or info.in_flight]

    async def _come_to_rest(self) -> None:
        """Waits until all that was published is settled by everybody; then looks who is there."""
        await self._settle_all_but_failing_keys()
        self._world.stubborn = False
        evidence, plans = self._evidence, self._world.scenario.subscribers
        async with self._world.process("inspector", None, take_over=False).client as client:
            # Heartbeats find within so much time that an end is gone, on either side.
            await asyncio.sleep(limits.HEARTBEAT_MS * limits.HEARTBEATS_MISSED_MAX / 1000 + 10.0)
            while True:
                evidence.subscriptions = await client.subscriptions(timeout=EVER_S)
                names = {info.name for info in evidence.subscriptions if info.connected}
                if (
                    all(task.done() for task in self._publishing)
                    and all(plan.name in self._world.connected or not plan.client_id for plan in plans)
                    and all(info.lag == info.in_flight == 0 for info in evidence.subscriptions)
                    and len(names) == len({plan.full_name for plan in plans})
                    and not self._world.watcher.scheduled()
                ):
                    break
                await asyncio.sleep(0.5)
            # Once more, for publishers that were the last to end, over connections that were dead.
            await asyncio.sleep(limits.HEARTBEAT_MS * limits.HEARTBEATS_MISSED_MAX / 1000 + 10.0)
            evidence.clients = await client.clients(timeout=EVER_S)
            evidence.subscriptions = await client.subscriptions(timeout=EVER_S)
            evidence.commits_at_rest = len(self._world.disk.commits)
