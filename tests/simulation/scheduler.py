"""Schedulers: processes that have messages published later, and take some of them back."""

import asyncio

from tests.simulation.history import Cancelled, Cancelling, Refused, Scheduled, Scheduling
from tests.simulation.publisher import REFUSED
from tests.simulation.scenario import EVENTS, SchedulerPlan
from tests.simulation.world import EVER_S, Process, World
from tidings.errors import ConnectionLost, DiskFull, NotFound, StoreUnavailable
from tidings.model import ScheduledInfo


class Schedules:
    """What the processes of one scheduler do, one after the other."""

    def __init__(self, world: World, plan: SchedulerPlan) -> None:
        self._world = world
        self._plan = plan
        self._remaining = plan.messages
        self._chance = world.randomness(plan.name)
        self._known: dict[str, ScheduledInfo] = {}
        """By payload, what it was told of and may still take back."""

    async def run(self) -> None:
        """Schedules everything; at last lets nothing recur any more."""
        world, plan, chance = self._world, self._plan, self._chance
        while self._remaining > 0:
            process = world.process(plan.name, plan.name, take_over=True)
            await process.client.open()
            work = asyncio.get_running_loop().create_task(self._schedule(process))
            if plan.life_s_max is not None and not world.quiet:
                await asyncio.wait((work,), timeout=chance.uniform(0, plan.life_s_max))
                if not work.done():
                    world.note(f"{process.name} vanishes")
                    world.faults["(scheduler vanished)"] += 1
                    work.cancel()
                    await process.vanish()
                    await asyncio.gather(work, return_exceptions=True)
                    continue
            await work
            await process.client.close(timeout=EVER_S)
        await world.until_quiet(EVER_S)
        await self._end_all()

    async def _schedule(self, process: Process) -> None:
        plan, chance = self._plan, self._chance
        number = 0
        while self._remaining > 0:
            self._remaining -= 1
            number += 1
            queue, payload = chance.choice(plan.queues), f"{process.name}@{number}"
            recurs = chance.random() < plan.recurs
            await self._schedule_one(process, queue, payload, chance.choice([1.0, 2.5]) if recurs else None)
            await asyncio.sleep(chance.uniform(0, plan.pause_s_max))
            if self._known and chance.random() < plan.cancels:
                await self._cancel(process, chance.choice(list(self._known)))

    async def _schedule_one(self, process: Process, queue: str, payload: str, every_s: float | None) -> None:
        world, chance = self._world, self._chance
        every_ms = None if every_s is None else round(1000 * every_s)
        world.fact(Scheduling(process.name, queue, payload, every_ms))
        delay_s, event = chance.choice([0.0, chance.uniform(0, self._plan.delay_s_max)]), chance.choice(EVENTS)
        try:
            info = await process.client.schedule(
                queue, event, payload.encode(), delay=delay_s, every=every_s, timeout=EVER_S
            )
        except REFUSED as error:
            world.fact(Refused(process.name, (payload,), error.code))
        except ConnectionLost as error:
            world.note(f"{process.name}: scheduling {payload}: {error!r}")
        else:
            stored = world.watcher.is_scheduled(payload)
            world.fact(Scheduled(process.name, queue, payload, info.at, every_ms, stored))
            self._known[payload] = info

    async def _cancel(self, process: Process, payload: str) -> None:
        world, info = self._world, self._known.pop(payload)
        world.fact(Cancelling(process.name, payload))
        try:
            await process.client.cancel_schedule(info.handle, timeout=EVER_S)
        except (NotFound, DiskFull, StoreUnavailable) as error:
            world.note(f"{process.name}: cancelling {payload}: {error!r}")
        else:
            world.fact(Cancelled(process.name, payload, len(world.disk.commits)))

    async def _end_all(self) -> None:
        """Ends what recurs, whoever knows of it."""
        world = self._world
        handles = {info.handle.split("-")[1]: payload for payload, info in self._known.items()}
        async with world.process(f"{self._plan.name}end", None, take_over=False).client as client:
            while recurring := [info async for info in client.schedules(timeout=EVER_S) if info.every_ms]:
                for info in recurring:
                    payload = handles.get(info.handle.split("-")[1], "")
                    world.fact(Cancelling("", payload))
                    try:
                        await client.cancel_schedule(info.handle, timeout=EVER_S)
                    except (NotFound, DiskFull, StoreUnavailable) as error:
                        world.note(f"ending {info}: {error!r}")
                    else:
                        world.fact(Cancelled("", payload, len(world.disk.commits)))
                await asyncio.sleep(0.5)
