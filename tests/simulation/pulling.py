"""Pulling: clients that hold a subscription from request to request, as those do who pull over HTTP.

What holds it for them (`tidings.gateways.http.pullers`) is the real thing; a request is a call of it, and its client
may be gone before the answer comes.
"""

import asyncio
from typing import Final, NamedTuple

from tests.simulation.history import (
    AckedDurably,
    Attached,
    Attaching,
    Handed,
    Opening,
    Pulled,
    RejectedDurably,
    Told,
    Unseen,
)
from tests.simulation.scenario import SubscriberPlan
from tests.simulation.world import World
from tidings import limits
from tidings.broker import effects, inputs
from tidings.errors import (
    ClientIdInUse,
    ConnectionLost,
    DeliveryTakenAway,
    DiskFull,
    Draining,
    LimitReached,
    NeverDelivered,
    StoreUnavailable,
    SubscriptionInUse,
    TakenOver,
    TimedOut,
)
from tidings.gateways.http.puller import Gone, Item, Puller
from tidings.gateways.http.pullers import Pullers

_LATER: Final = (
    ClientIdInUse,
    ConnectionLost,
    DiskFull,
    Draining,
    StoreUnavailable,
    SubscriptionInUse,
    TakenOver,
    TimedOut,
)
"""Why a request may be refused, and is made again later."""
_COMES_AGAIN: Final = (*_LATER, DeliveryTakenAway, NeverDelivered, LimitReached)
"""Why something may not be settled: it comes again, or another one has it."""


class _Taken(NamedTuple):
    """What a client was given, and of which subscription."""

    reader: str
    reading: int
    first: int
    last: int
    is_gap: bool


class Pulling:
    """What the processes of one client do, one after the other."""

    def __init__(self, world: World, plan: SubscriberPlan) -> None:
        assert plan.client_id is not None, "whoever pulls has a client id"
        assert plan.subscription is not None, "and a name for what it pulls from"
        self._world = world
        self._plan = plan
        self._client_id = plan.client_id
        self._name = plan.subscription
        self._chance = world.randomness(plan.name)
        self._number = 0
        self._puller: Puller | None = None
        self._handed = set[tuple[str, int, int]]()
        """What this process was handed."""

    @property
    def _process(self) -> str:
        return f"{self._plan.name}.{self._number}"

    async def run(self) -> None:
        """Pulls for ever."""
        world, plan, chance = self._world, self._plan, self._chance
        await world.until_quiet(chance.uniform(0, plan.begins_s_max))
        while True:
            self._number += 1
            self._handed.clear()
            world.connected.add(self._client_id)
            ends_at = asyncio.get_running_loop().time() + chance.uniform(0, plan.life_s_max)
            while world.quiet or asyncio.get_running_loop().time() < ends_at:
                await self._pull_and_settle()
            world.connected.discard(self._client_id)
            gives_back = chance.random() < 0.5
            world.note(f"{self._process} ends{', and gives back' if gives_back else ''}")
            world.faults["(puller ended)"] += 1
            if gives_back and world.pullers is not None:
                world.pullers.give_back(self._client_id, self._name)
            await world.until_quiet(chance.uniform(0, plan.away_s_max))

    async def _pull_and_settle(self) -> None:
        world, plan, chance = self._world, self._plan, self._chance
        left = asyncio.Event()

        async def gone() -> None:
            await left.wait()

        if not world.quiet and chance.random() < 0.1:
            asyncio.get_running_loop().call_later(chance.uniform(0, 3), left.set)
        try:
            items = await world.request(lambda pullers: self._pull(pullers, gone))
        except _LATER as error:
            world.note(f"{self._process}: {error!r}")
            await asyncio.sleep(0.5)
            return
        if left.is_set() or (not world.quiet and chance.random() < 0.05):
            world.note(f"{self._process} was gone before its answer")
            world.faults["(puller gone)"] += 1
            for item in items:
                if not isinstance(item, effects.Gap):
                    world.fact(Unseen(self._reader, item.epoch, item.sequence))
            return
        if not items and not world.quiet:  # then it holds what it has, however short the lease
            await asyncio.sleep(chance.uniform(0.01, 0.5))
        taken = [self._took(item) for item in items]
        if plan.handling_s_max and not world.quiet:
            await asyncio.sleep(chance.uniform(0, plan.handling_s_max))
        if world.quiet or chance.random() < 0.5:
            await self._ack(taken)
            return
        for one in chance.sample(taken, len(taken)):
            if not one.is_gap and chance.random() < plan.fails:
                await self._nack(one, reject=False)
            elif not one.is_gap and chance.random() < plan.rejects:
                await self._nack(one, reject=True)
            else:
                await self._ack([one])

    async def _pull(self, pullers: Pullers, gone: Gone) -> list[Item]:
        world, plan, chance = self._world, self._plan, self._chance
        if not pullers.holds(self._client_id, self._name):
            world.fact(Opening(self._process, self._client_id, plan.take_over))
            ends = world.watcher.reported_ends()
            asked = self._process, self._name, plan.queue, plan.event, plan.start, ends, plan.headers
            world.fact(Attaching(*asked))
        address = f"{self._process}:1"
        count, wait_ms = (100, 5_000) if world.quiet else (chance.choice([1, 3, 100]), chance.choice([0, 500, 5_000]))
        async with pullers.hold(
            self._client_id, self._name, self._wanted(), address=address, take_over=plan.take_over
        ) as puller:
            if puller is not self._puller:
                self._puller = puller
                attachment, ends = puller.attachment, dict(world.watcher.stored_ends())
                known = attachment.durable, attachment.created, ends, await world.begins()
                world.fact(Attached(self._process, self._reader, *known))
            asked_s = asyncio.get_running_loop().time()
            items = await puller.pull(count, wait_ms, gone)
        if items and not isinstance(items[0], effects.Gap):
            world.fact(Pulled(self._reader, items[0].epoch, items[0].sequence, asked_s, wait_ms / 1000))
        return items

    def _wanted(self) -> inputs.Subscribe:
        plan = self._plan
        at_sequence = isinstance(plan.start, int)
        return inputs.Subscribe(
            queue=plan.queue,
            event=plan.event,
            start="sequence" if at_sequence else str(plan.start),
            start_value=int(plan.start) if at_sequence else 0,
            in_flight_max=plan.in_flight_max,
            ack_timeout_ms=round(plan.ack_timeout_s * 1000),
            attempts_max=plan.attempts_max or limits.ATTEMPTS_MAX_MAX,
            backoff_min_ms=20,
            backoff_max_ms=1_000,
            expires_after_ms=None if plan.expires_after_s is None else round(plan.expires_after_s * 1000),
            headers=plan.headers,
        )

    @property
    def _reader(self) -> str:
        return self._world.watcher.reader(self._name)

    def _took(self, item: Item) -> _Taken:
        world, reader = self._world, self._reader
        if isinstance(item, effects.Gap):
            span = item.epoch, item.first_sequence, item.last_sequence
            world.fact(Told(self._process, reader, *span, item.reason))
            return _Taken(reader, *span, is_gap=True)
        # Over HTTP a message does not say that it comes again when no attempt of it failed.
        place = reader, item.epoch, item.sequence
        again = item.attempt > 1 or place in self._handed
        self._handed.add(place)
        said = item.event, item.payload.decode(), item.attempt, again
        world.fact(Handed(self._process, reader, True, world.life, item.queue, item.epoch, item.sequence, *said))
        return _Taken(*place, item.sequence, is_gap=False)

    async def _ack(self, taken: list[_Taken]) -> None:
        if not taken:
            return
        world, ranges = self._world, [(each.reading, each.last, each.last) for each in taken]

        async def ack(pullers: Pullers) -> None:
            with pullers.renewed(self._client_id, self._name) as puller:
                if puller:
                    puller.settled(ranges, acked=True)
                    await puller.attachment.ack(ranges, earlier=True)
                    return
            address = f"{self._process}:1"
            async with pullers.hold(self._client_id, self._name, None, address=address, lasts=False) as puller:
                await puller.attachment.ack(ranges, earlier=True)

        try:
            await world.request(ack)
        except _COMES_AGAIN as error:
            world.note(f"{self._process}: ack of {ranges}: {error!r}")
            return
        for each in taken:
            if not each.is_gap:
                stored = world.watcher.is_settled(self._name, each.reader, each.reading, each.last)
                world.fact(AckedDurably(self._process, each.reader, each.reading, each.last, each.last, stored))

    async def _nack(self, one: _Taken, *, reject: bool) -> None:
        world, ranges = self._world, [(one.reading, one.first, one.last)]
        delay_ms = None if reject else self._chance.choice([None, 0, 100, 2_000])

        async def nack(pullers: Pullers) -> None:
            with pullers.renewed(self._client_id, self._name) as puller:
                if puller is None:
                    raise DeliveryTakenAway("its hold has ended")
                puller.settled(ranges, acked=False)
                await puller.attachment.nack(ranges, delay_ms=delay_ms, reject=reject)

        try:
            await world.request(nack)
        except _COMES_AGAIN as error:
            world.note(f"{self._process}: nack of {ranges}: {error!r}")
            return
        if reject:
            stored = world.watcher.is_dead(one.reader, one.reading, one.first)
            world.fact(RejectedDurably(self._process, one.reader, one.reading, one.first, stored))
