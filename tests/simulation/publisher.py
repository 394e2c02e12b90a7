"""Publishers: processes that publish, and vanish, and are followed by others."""

import asyncio

from tests.simulation.history import Confirmed, Published, Refused
from tests.simulation.scenario import EVENTS, PublisherPlan
from tests.simulation.world import EVER_S, Process, World
from tidings.errors import DiskFull, StoreUnavailable


class Publishing:
    """What the processes of one publisher do, one after the other."""

    def __init__(self, world: World, plan: PublisherPlan) -> None:
        self._world = world
        self._plan = plan
        self._remaining = plan.messages
        self._chance = world.randomness(plan.name)

    async def run(self) -> None:
        """Publishes everything."""
        world, plan, chance = self._world, self._plan, self._chance
        while self._remaining > 0:
            process = world.process(plan.name, plan.name, take_over=True)
            await process.client.open()
            work = asyncio.get_running_loop().create_task(self._publish(process))
            if plan.life_s_max is not None and not world.quiet:
                await asyncio.wait((work,), timeout=chance.uniform(0, plan.life_s_max))
                if not work.done():
                    world.note(f"{process.name} vanishes")
                    world.faults["(publisher vanished)"] += 1
                    work.cancel()
                    await process.vanish()
                    await asyncio.gather(work, return_exceptions=True)
                    continue
            await work
            await process.client.close(timeout=EVER_S)

    async def _publish(self, process: Process) -> None:
        plan, chance = self._plan, self._chance
        number = 0
        while self._remaining > 0:
            queue, event = chance.choice(plan.queues), chance.choice(EVENTS)
            size = min(self._remaining, chance.randint(1, plan.group_max))
            self._remaining -= size
            paddings = [chance.randint(0, plan.padding_bytes_max) for _ in range(size)]
            payloads = tuple(
                f"{process.name}#{number + index}{'.' * padding}" for index, padding in enumerate(paddings)
            )
            number += size
            self._world.fact(Published(process.name, queue, event, payloads))
            if chance.random() < 0.5:
                one = [asyncio.ensure_future(self._publish_one(process, queue, event, payload)) for payload in payloads]
                await asyncio.gather(*one)
            else:
                await self._publish_many(process, queue, event, payloads)
            await asyncio.sleep(chance.uniform(0, plan.pause_s_max))

    async def _publish_one(self, process: Process, queue: str, event: str, payload: str) -> None:
        try:
            confirm = await process.client.publish(queue, event, payload.encode())
        except (StoreUnavailable, DiskFull) as error:
            self._world.fact(Refused(process.name, (payload,), error.code))
            return
        self._confirmed(process, queue, confirm.epoch, confirm.sequence, (payload,))

    async def _publish_many(self, process: Process, queue: str, event: str, payloads: tuple[str, ...]) -> None:
        try:
            confirms = await process.client.publish_many(queue, event, [payload.encode() for payload in payloads])
        except (StoreUnavailable, DiskFull) as error:
            self._world.note(
                f"{process.name}: of {payloads[0]} and {len(payloads) - 1} more not all are stored: {error}"
            )
            return
        rest = payloads
        for confirm in confirms:
            self._confirmed(process, queue, confirm.epoch, confirm.sequence, rest[: confirm.count])
            rest = rest[confirm.count :]
        assert not rest, f"publish_many confirmed all but {rest}"

    def _confirmed(self, process: Process, queue: str, epoch: int, sequence: int, payloads: tuple[str, ...]) -> None:
        stored = self._world.watcher.stored_ends().get(epoch, 0) >= sequence + len(payloads) - 1
        self._world.fact(Confirmed(process.name, queue, epoch, sequence, payloads, stored))
