"""A consumer: what one process does with one subscription."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Final

from tests.simulation.history import AckedDurably, Attached, Attaching, Handed, Told
from tests.simulation.scenario import SubscriberPlan
from tests.simulation.world import EVER_S, Process, World
from tidings import limits
from tidings.client import Message, Subscription
from tidings.errors import TidingsError

_BEGINNING: Final = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # what the wall clock shows at virtual time 0


class Consumer:
    """What one process does with one subscription."""

    def __init__(self, world: World, plan: SubscriberPlan, process: Process, chance: random.Random) -> None:
        self._world = world
        self._plan = plan
        self._process = process
        self._chance = chance
        self._subscription: Subscription | None = None
        self._name = plan.full_name
        self._gaps_noted = 0
        self._held: list[Message] = []
        self.hangs_until_s = 0.0
        """Its handler does not return before."""
        self.mute_until_s = 0.0
        """It acks nothing before."""
        world.consumers[self] = None

    @property
    def reader(self) -> str:
        """What the subscription that it is attached to is called in the history."""
        known = self._world.watcher.reader_of.get(self._process.name)
        return self._name if known is None or self._plan.client_id is None else known

    async def run(self) -> None:
        """Subscribes and consumes for ever."""
        plan, world = self._plan, self._world
        durable = plan.client_id is not None
        start = plan.start if plan.starts_at_s is None else _BEGINNING + timedelta(seconds=round(plan.starts_at_s, 3))
        subscription = self._subscription = self._process.client.subscribe(
            plan.queue,
            plan.event,
            name=plan.subscription,
            start=start,
            in_flight_max=plan.in_flight_max,
            concurrency=plan.concurrency,
            ack_timeout=plan.ack_timeout_s,
            attempts_max=limits.ATTEMPTS_MAX_MAX,  # nothing is given up here
            backoff_min=0.02,
            backoff_max=1.0,
            expires_after=plan.expires_after_s,
            timeout=EVER_S,
        )
        # The server may not know yet of what the disk has stored already.
        ends = world.watcher.reported_ends()
        world.fact(Attaching(self._process.name, self._name, plan.queue, plan.event, start, ends))
        await subscription.attach()
        ends = dict(world.watcher.stored_ends())
        begins = {epoch: bounds.first_sequence for epoch, bounds in (await self._bounds(list(ends))).items()}
        attached = Attached(self._process.name, self.reader, subscription.durable, subscription.created, ends, begins)
        world.fact(attached)
        assert subscription.durable == durable, f"{attached} of {plan}"
        if plan.ack == "batches":
            async for batch in subscription.batches():
                for message in batch:
                    self._handed(message)
                await self._pause()
                if self._mute:
                    continue
                if world.quiet or self._chance.random() < 0.9:
                    await batch.ack()
        else:
            async for message in subscription:
                self._handed(message)
                await self._pause()
                await self._settle(message)

    async def detach(self) -> None:
        """Closes the subscription and stays connected for a moment."""
        try:
            if self._subscription is not None:
                await self._subscription.close()
        except TidingsError as error:
            self._world.note(f"{self._process.name}: detaching: {error!r}")

    def end(self) -> None:
        """Takes note of what it was told of at last."""
        self.note_gaps()
        del self._world.consumers[self]

    def note_gaps(self) -> None:
        """Writes down gaps that the process was told of since the last look."""
        subscriber = self._subscription._subscriber if self._subscription is not None else None
        if subscriber is not None and subscriber.gaps_seen > self._gaps_noted:
            for gap in subscriber.gaps[self._gaps_noted - subscriber.gaps_seen :]:
                first, last = gap.first_sequence, gap.last_sequence
                self._world.fact(Told(self._process.name, self.reader, gap.epoch, first, last, gap.reason))
            self._gaps_noted = subscriber.gaps_seen

    async def _bounds(self, epochs: list[int]) -> dict[int, object]:
        return await self._world.disk.content.bounds(epochs)  # type: ignore[return-value]

    async def _pause(self) -> None:
        if self._plan.handling_s_max and not self._world.quiet:
            await asyncio.sleep(self._chance.uniform(0, self._plan.handling_s_max))
        hangs_s = self.hangs_until_s - asyncio.get_running_loop().time()
        if hangs_s > 0:
            await self._world.until_quiet(hangs_s)

    @property
    def _mute(self) -> bool:
        return not self._world.quiet and asyncio.get_running_loop().time() < self.mute_until_s

    def _handed(self, message: Message) -> None:
        self.note_gaps()
        self._world.fact(
            Handed(
                self._process.name,
                self.reader,
                self._plan.client_id is not None,
                self._world.lives[self._process.client._session.node],  # that sent it
                message.queue,
                message.epoch,
                message.sequence,
                message.event,
                message.data.decode(),
                message.attempt,
                message.redelivered,
            )
        )

    async def _settle(self, message: Message) -> None:
        chance, style = self._chance, self._plan.ack
        if self._mute:
            return
        if self._world.quiet:
            await message.ack()
            return
        match style:
            case "each":
                await message.ack()
            case "durable":
                await self._ack_durably(message)
            case "disorder" | "late":
                self._held.append(message)
                most = 5 if style == "disorder" else 50
                while len(self._held) > most or (self._held and chance.random() < 0.5):
                    await self._held.pop(chance.randrange(len(self._held))).ack()
            case "cumulative":
                if chance.random() < 0.3:
                    assert self._subscription is not None
                    await self._subscription.ack_to(message)
            case "forgetful":
                if chance.random() < 0.8:
                    await message.ack()
            case "batches":
                raise AssertionError("batches are settled as batches")

    async def _ack_durably(self, message: Message) -> None:
        reader = self.reader
        try:
            await message.ack(wait=True, timeout=20.0)
        except TidingsError as error:
            self._world.note(f"{self._process.name}: ack of {message.sequence}: {error!r}")
        else:
            sequence = message.sequence
            stored = await self._world.watcher.is_settled(self._name, reader, message.epoch, sequence)
            self._world.fact(AckedDurably(self._process.name, reader, message.epoch, sequence, sequence, stored))
