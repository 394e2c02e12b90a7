"""A consumer: what one process does with one subscription."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.simulation.history import (
    AckedDurably,
    Attached,
    Attaching,
    Handed,
    Published,
    Refused,
    RejectedDurably,
    Responding,
    Told,
    Transacted,
    Transacting,
)
from tests.simulation.publisher import REFUSED, confirmed
from tests.simulation.scenario import SubscriberPlan
from tests.simulation.world import EVER_S, Process, World
from tidings import limits
from tidings.client import Message, Prefix, Subscription
from tidings.client.message import reject
from tidings.errors import DeliveryTakenAway, TidingsError

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
        self._transactions = 0
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
            start=start,
            in_flight_max=plan.in_flight_max,
            concurrency=plan.concurrency,
            ack_timeout=plan.ack_timeout_s,
            attempts_max=plan.attempts_max or limits.ATTEMPTS_MAX_MAX,
            backoff_min=0.02,
            backoff_max=1.0,
            expires_after=plan.expires_after_s,
            headers={each.name: [*each.values, *map(Prefix, each.prefixes)] for each in plan.headers},
            timeout=EVER_S,
            **_naming(plan),
        )
        # The server may not know yet of what the disk has stored already.
        ends = world.watcher.reported_ends()
        world.fact(Attaching(self._process.name, self._name, plan.queue, plan.event, start, ends, plan.headers))
        await subscription.attach()
        ends = dict(world.watcher.stored_ends())
        attached = Attached(
            self._process.name, self.reader, subscription.durable, subscription.created, ends, await world.begins()
        )
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
                message._context.epoch,
                message.sequence,
                message.event,
                message.data.decode(),
                message.attempt,
                message.redelivered,
            )
        )

    async def _settle(self, message: Message) -> None:
        chance, plan = self._chance, self._plan
        if self._mute:
            return
        if message.is_request:
            await self._respond(message)
        if plan.failing_key is not None and message.key == plan.failing_key and self._world.stubborn:
            await message.nack(error="stubborn")
            return
        if self._world.quiet:
            await (self._ack_with_results(message) if plan.results else message.ack())
            return
        if plan.rejects and chance.random() < plan.rejects:
            await self._reject(message)
            return
        if plan.fails and chance.random() < plan.fails:
            await message.nack(delay=chance.choice([None, 0, 0.1, 2.0]), error="failed")
            return
        match plan.ack:
            case "each":
                await message.ack()
            case "durable":
                await self._ack_durably(message)
            case "disorder" | "late":
                self._held.append(message)
                most = 5 if plan.ack == "disorder" else 50
                while len(self._held) > most or (self._held and chance.random() < 0.5):
                    await self._held.pop(chance.randrange(len(self._held))).ack()
            case "cumulative":
                if chance.random() < 0.3:
                    assert self._subscription is not None
                    await self._subscription.ack_to(message)
            case "forgetful":
                if chance.random() < 0.8:
                    await message.ack()
            case "transaction":
                await self._ack_with_results(message)
            case "batches":
                raise AssertionError("batches are settled as batches")

    async def _respond(self, message: Message) -> None:
        process, payload = self._process.name, message.data.decode()
        reply = f"{payload} is known to {process}"
        self._world.fact(Responding(process, payload, reply))
        try:
            await message.respond(reply.encode(), timeout=5.0)
        except TidingsError as error:
            self._world.note(f"{process}: reply to {payload}: {error!r}")

    async def _ack_durably(self, message: Message) -> None:
        reader, place = self.reader, (message._context.epoch, message.sequence)
        try:
            await message.ack(wait=True, timeout=20.0)
        except TidingsError as error:
            self._world.note(f"{self._process.name}: ack of {message.sequence}: {error!r}")
        else:
            stored = self._world.watcher.is_settled(self._name, reader, *place)
            self._world.fact(AckedDurably(self._process.name, reader, *place, message.sequence, stored))

    async def _reject(self, message: Message) -> None:
        reader, place = self.reader, (message._context.epoch, message.sequence)
        if self._plan.client_id is None or self._chance.random() < 0.5:
            await message.reject("rejected")
            return
        subscriber = self._subscription._subscriber if self._subscription is not None else None
        # It may have acked what it was handed before: that is final, and a reject says nothing any more.
        acked = subscriber is not None and subscriber.was_acked(reject(message, None))
        try:
            await message.reject("rejected", wait=True, timeout=20.0)
        except TidingsError as error:
            self._world.note(f"{self._process.name}: reject of {message.sequence}: {error!r}")
        else:
            if acked:
                return
            stored = self._world.watcher.is_dead(reader, *place)
            self._world.fact(RejectedDurably(self._process.name, reader, *place, stored))

    async def _ack_with_results(self, message: Message) -> None:
        """Publishes what came of a message, in the transaction that acks it."""
        world, process, queue = self._world, self._process.name, self._plan.results
        self._transactions += 1
        payloads = tuple(f"{process}={self._transactions}{letter}" for letter in "ab")
        for payload in payloads:
            world.fact(Published(process, queue, "created", (payload,)))
        reader = self.reader
        world.fact(Transacting(process, payloads, ((reader, message._context.epoch, message.sequence),)))
        try:
            async with self._process.client.transaction(timeout=EVER_S) as transaction:
                for payload in payloads:
                    transaction.publish(queue, "created", payload.encode())
                await transaction.ack(message)
        except (DeliveryTakenAway, *REFUSED) as error:
            world.fact(Refused(process, payloads, error.code))
            return
        world.fact(Transacted(process, payloads))
        for payload, confirm in zip(payloads, transaction.confirms, strict=True):
            confirmed(world, process, confirm, (payload,))


def _naming(plan: SubscriberPlan) -> dict[str, Any]:
    if plan.shared:
        return {"shared": plan.subscription, "single_active": plan.single_active}
    return {"name": plan.subscription}
