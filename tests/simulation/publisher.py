"""Publishers: processes that publish, and vanish, and are followed by others."""

import asyncio
from collections import deque
from typing import Final, NamedTuple
from zlib import crc32

from tests.simulation.history import Confirmed, Duplicate, Published, Refused, Transacted, Transacting
from tests.simulation.scenario import EVENTS, REGIONS, PublisherPlan
from tests.simulation.world import EVER_S, Process, World
from tidings.errors import DiskFull, QueueFull, QuotaExceeded, StoreUnavailable
from tidings.model import Confirm

REFUSED: Final = (StoreUnavailable, DiskFull, QueueFull, QuotaExceeded)
"""Why something may be refused, so that nothing of it is stored."""
_TRANSACTION_COUNT_MAX: Final = 5


class _Draft(NamedTuple):
    """A message with an id, whichever process publishes it."""

    queue: str
    event: str
    id: str
    key: str | None


class Publishing:
    """What the processes of one publisher do, one after the other."""

    def __init__(self, world: World, plan: PublisherPlan) -> None:
        self._world = world
        self._plan = plan
        self._remaining = plan.messages
        self._chance = world.randomness(plan.name)
        self._drafts: dict[_Draft, None] = {}
        """Messages with ids that nobody was told are stored."""
        self._told: deque[_Draft] = deque(maxlen=10)
        self._number = 0
        """Of the next id."""

    async def run(self) -> None:
        """Publishes everything."""
        world, plan, chance = self._world, self._plan, self._chance
        while self._remaining > 0 or self._drafts:
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
        while self._remaining > 0 or self._drafts:
            queue, event = chance.choice(plan.queues), chance.choice(EVENTS)
            size = min(self._remaining, chance.randint(1, plan.group_max))
            self._remaining -= size
            paddings = [chance.randint(0, plan.padding_bytes_max) for _ in range(size)]
            if plan.ids:
                # What was refused, or was lost with a process, comes first, and now and then what was not.
                for _ in paddings:
                    self._number += 1
                    self._drafts[_Draft(queue, event, f"{plan.name}-{self._number}", self._key())] = None
                drafts = list(self._drafts)
                drafts += [draft for draft in (*self._told, *drafts) if chance.random() < 0.2]
                paddings = [0] * len(drafts)
            payloads = tuple(
                f"{process.name}#{number + index}{'.' * padding}" for index, padding in enumerate(paddings)
            )
            number += len(payloads)
            if plan.ids:
                await self._publish_drafts(process, drafts, payloads)
            elif plan.transactions and chance.random() < plan.transactions:
                for start in range(0, len(payloads), _TRANSACTION_COUNT_MAX):
                    await self._publish_together(process, event, payloads[start : start + _TRANSACTION_COUNT_MAX])
            else:
                self._world.fact(Published(process.name, queue, event, payloads))
                if chance.random() < 0.5 or plan.keys:
                    one = [
                        asyncio.ensure_future(self._publish_one(process, queue, event, payload)) for payload in payloads
                    ]
                    await asyncio.gather(*one)
                else:
                    await self._publish_many(process, queue, event, payloads)
            await asyncio.sleep(chance.uniform(0, plan.pause_s_max) + (0.2 if self._drafts else 0.0))

    def _key(self) -> str | None:
        """Returns the key of the next message; some have none."""
        number = self._chance.randint(0, self._plan.keys) if self._plan.keys else 0
        return f"key{number}" if number else None

    async def _publish_one(self, process: Process, queue: str, event: str, payload: str) -> None:
        try:
            headers = {"region": REGIONS[crc32(payload.encode()) % len(REGIONS)]} if self._plan.headers else None
            confirm = await process.client.publish(queue, event, payload.encode(), key=self._key(), headers=headers)
        except REFUSED as error:
            self._world.fact(Refused(process.name, (payload,), error.code))
            return
        confirmed(self._world, process.name, confirm, (payload,))

    async def _publish_drafts(self, process: Process, drafts: list[_Draft], payloads: tuple[str, ...]) -> None:
        for draft, payload in zip(drafts, payloads, strict=True):
            self._world.fact(Published(process.name, draft.queue, draft.event, (payload,)))
        each = zip(drafts, payloads, strict=True)
        await asyncio.gather(*(asyncio.ensure_future(self._publish_draft(process, *one)) for one in each))

    async def _publish_draft(self, process: Process, draft: _Draft, payload: str) -> None:
        queue, event, id, key = draft
        try:
            confirm = await process.client.publish(queue, event, payload.encode(), id=id, key=key)
        except REFUSED as error:
            self._world.fact(Refused(process.name, (payload,), error.code))
            return
        if confirm.duplicate_of is None:
            confirmed(self._world, process.name, confirm, (payload,))
        else:
            assert confirm.sequence == confirm.duplicate_of, confirm
            stored = self._world.watcher.stored_ends().get(confirm.epoch, 0) >= confirm.sequence
            told = Duplicate(process.name, queue, confirm.epoch, confirm.sequence, id, payload, stored)
            self._world.fact(told)
        self._drafts.pop(draft, None)
        self._told.append(draft)

    async def _publish_together(self, process: Process, event: str, payloads: tuple[str, ...]) -> None:
        """Publishes payloads to several queues in one transaction."""
        queues = [self._chance.choice(self._plan.queues) for _ in payloads]
        for queue, payload in zip(queues, payloads, strict=True):
            self._world.fact(Published(process.name, queue, event, (payload,)))
        self._world.fact(Transacting(process.name, payloads))
        try:
            async with process.client.transaction() as transaction:
                for queue, payload in zip(queues, payloads, strict=True):
                    transaction.publish(queue, event, payload.encode(), key=self._key())
        except REFUSED as error:
            self._world.fact(Refused(process.name, payloads, error.code))
            return
        self._world.fact(Transacted(process.name, payloads))
        for payload, confirm in zip(payloads, transaction.confirms, strict=True):
            confirmed(self._world, process.name, confirm, (payload,))

    async def _publish_many(self, process: Process, queue: str, event: str, payloads: tuple[str, ...]) -> None:
        try:
            confirms = await process.client.publish_many(queue, event, [payload.encode() for payload in payloads])
        except REFUSED as error:
            self._world.note(
                f"{process.name}: of {payloads[0]} and {len(payloads) - 1} more not all are stored: {error}"
            )
            return
        rest = payloads
        for confirm in confirms:
            confirmed(self._world, process.name, confirm, rest[: confirm.count])
            rest = rest[confirm.count :]
        assert not rest, f"publish_many confirmed all but {rest}"


def confirmed(world: World, process: str, confirm: Confirm, payloads: tuple[str, ...]) -> None:
    """Writes down a confirm, and whether it is true."""
    queue, epoch, sequence = confirm.queue, confirm.epoch, confirm.sequence
    stored = world.watcher.stored_ends().get(epoch, 0) >= sequence + len(payloads) - 1
    world.fact(Confirmed(process, queue, epoch, sequence, payloads, stored))
    world.confirms.append(confirm)
