"""The administrator: deletes, pauses, moves, redrives, forgets; each kind of `scenario.FAULTS` is a function."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias

from tests.simulation.history import (
    Bounded,
    Forgetting,
    Forgotten,
    LettersDeleted,
    Moved,
    Moving,
    Paused,
    Published,
    ReceiptTold,
    Replayed,
    Replied,
    Resuming,
    ToldForgotten,
    Unbinding,
)
from tests.simulation.publisher import REFUSED
from tests.simulation.scenario import EVENTS, FaultPlan, SubscriberPlan
from tests.simulation.world import EVER_S, World
from tidings.client import Client
from tidings.client.confirm import published_by
from tidings.errors import (
    ConnectionLost,
    DiskFull,
    GivenUp,
    InvalidOption,
    NotFound,
    Refused,
    StoreUnavailable,
    SubscriptionInUse,
    TimedOut,
    Unanswered,
)

Fault: TypeAlias = Callable[[World, FaultPlan, random.Random], Awaitable[bool]]
"""Makes a fault, and ends it; returns whether there was anything to harm."""


def _client(world: World, plan: FaultPlan) -> Client:
    return world.process(_process_name(plan), None, take_over=False).client


def _process_name(plan: FaultPlan) -> str:
    return f"administrator{plan.number}"


def _some_queue(world: World, chance: random.Random) -> str | None:
    names = sorted({queue for publisher in world.scenario.publishers for queue in publisher.queues})
    return chance.choice(names) if names else None


def _some_subscriber(world: World, chance: random.Random) -> SubscriberPlan | None:
    plans = [plan for plan in world.scenario.subscribers if plan.client_id and plan.queue != "$presence"]
    return chance.choice(plans) if plans else None


# --- deleting ---


async def _delete_a_queue(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    name = _some_queue(world, chance)
    if name is None:
        return False
    try:
        async with _client(world, plan) as client:
            await client.delete_queue(name, timeout=EVER_S)
    except (NotFound, StoreUnavailable, DiskFull) as error:
        world.note(f"deleting {name}: {error}")
        return False
    return True


async def _delete_a_subscription(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    names = [subscriber.full_name for subscriber in world.scenario.subscribers if subscriber.client_id]
    if not names:
        return False
    away = [name for name in names if name not in world.watcher.attached()]
    name = chance.choice(away or names)
    reader = world.watcher.reader(name)
    try:
        async with _client(world, plan) as client:
            await client.delete_subscription(name, timeout=EVER_S)
    except (NotFound, SubscriptionInUse, StoreUnavailable, DiskFull) as error:
        world.note(f"deleting subscription {name}: {error}")
        return False
    # While the administrator connected it may have expired and been made again: then it was another one.
    if reader in [fact.subscription for fact in world.history.of(Forgotten) if fact.asked]:
        world.fact(ToldForgotten(reader))
    return True


# --- pausing ---


async def _pause_a_queue(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    name = _some_queue(world, chance)
    if name is None:
        return False

    def which() -> int | None:
        return next((epoch for epoch, queue in world.watcher.living_queues().items() if queue == name), None)

    return await _pause(world, plan, which, queue=name)


async def _pause_a_subscription(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    one = _some_subscriber(world, chance)
    if one is None:
        return False

    def which() -> str | None:
        reader = world.watcher.reader(one.full_name)
        return reader if reader in world.watcher.name_of else None

    return await _pause(world, plan, which, subscription=one.full_name)


async def _pause(world: World, plan: FaultPlan, which: Callable[[], int | str | None], **what: str) -> bool:
    [name] = what.values()
    if name in world.in_hand:
        return False
    world.in_hand.add(name)
    paused = False
    async with _client(world, plan) as client:
        before = which()
        try:
            await client.pause(**what, timeout=EVER_S)
        except (Refused, StoreUnavailable, DiskFull) as error:
            world.note(f"pausing {name}: {error}")
        else:
            # While this was asked it may have been deleted, and made again: then it is another one.
            paused = before is not None and which() == before
            if paused and before is not None:
                world.fact(Paused(before))
        await world.until_quiet(plan.for_s)
        while True:
            if before is not None:
                world.fact(Resuming(before))
            try:
                await client.resume(**what, timeout=EVER_S)
            except NotFound:
                break
            except (Refused, StoreUnavailable, DiskFull):
                await asyncio.sleep(0.2)
            else:
                break
    world.in_hand.discard(name)
    return paused


# --- quotas ---


async def _let_little_wait(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _bound_a_queue(world, plan, chance, "waiting_messages", chance.choice([1, 3, 10]))


async def _slow_publishing(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _bound_a_queue(world, plan, chance, "publish_rate", chance.choice([1, 5, 20]))


async def _let_little_of_a_queue_be_in_flight(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _bound_a_queue(world, plan, chance, "in_flight_max", chance.choice([1, 2, 5]))


async def _bound_a_queue(world: World, plan: FaultPlan, chance: random.Random, setting: str, most: int) -> bool:
    name = _some_queue(world, chance)
    if name is None:
        return False

    def which() -> int | None:
        return next((epoch for epoch, queue in world.watcher.living_queues().items() if queue == name), None)

    async def configure(client: Client, value: float) -> None:
        more: dict[str, Any] = {"when_full": "refuse-new"} if setting == "waiting_messages" else {}
        await client.configure_queue(name, **{setting: value}, **more, timeout=EVER_S)

    return await _bound(world, plan, name, which, setting, most, configure)


async def _let_little_be_in_flight(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    one = _some_subscriber(world, chance)
    if one is None or one.client_id is None:
        return False
    client_id, most = one.client_id, chance.choice([1, 2, 5])

    async def configure(client: Client, value: float) -> None:
        await client.configure_client(client_id, in_flight_max=value, timeout=EVER_S)

    return await _bound(world, plan, client_id, lambda: client_id, "in_flight_max", most, configure)


async def _bound(
    world: World,
    plan: FaultPlan,
    name: str,
    which: Callable[[], int | str | None],
    setting: str,
    most: int,
    configure: Callable[[Client, float], Coroutine[Any, Any, None]],
) -> bool:
    """Bounds something for a time; nobody else changes the same setting meanwhile, nor what happens when it is full."""
    in_hand = {f"{changed} of {name}" for changed in (setting, "when_full")}
    if in_hand & world.in_hand:
        return False
    world.in_hand |= in_hand
    async with _client(world, plan) as client:
        before = which()
        try:
            await configure(client, most)
        except (StoreUnavailable, DiskFull) as error:
            world.note(f"{setting} of {name}: {error}")
        else:
            # While this was asked a queue may have been deleted, and made again: then it is another one.
            if before is not None and which() == before:
                world.fact(Bounded(before, setting, most))
        await world.until_quiet(plan.for_s)
        if before is not None:
            world.fact(Unbinding(before, setting))
        while True:
            try:
                await configure(client, math.inf)
            except (StoreUnavailable, DiskFull):
                await asyncio.sleep(0.2)
            else:
                break
    world.in_hand -= in_hand
    return True


# --- moving ---


async def _move_back(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _move(world, plan, chance, lambda end: chance.choice(["earliest", chance.randint(1, max(1, end))]))


async def _move_forward(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _move(world, plan, chance, lambda end: chance.choice(["latest", end + 1]))


async def _move(world: World, plan: FaultPlan, chance: random.Random, goal: Callable[[int], str | int]) -> bool:
    one = _some_subscriber(world, chance)
    if one is None:
        return False
    if f"{one.full_name} moves" in world.in_hand:
        return False
    world.in_hand.add(f"{one.full_name} moves")
    moved = await _move_one(world, plan, chance, one.full_name, goal)
    world.in_hand.discard(f"{one.full_name} moves")
    return moved


async def _move_one(
    world: World, plan: FaultPlan, chance: random.Random, name: str, goal: Callable[[int], str | int]
) -> bool:
    watcher = world.watcher
    async with _client(world, plan) as client:
        reader = watcher.reader(name)
        if reader not in watcher.name_of:
            return False
        queues = sorted(watcher.queues_of(name))
        queue = chance.choice(queues) if queues else None
        known = {watcher.queue_of.get(epoch): end for epoch, end in watcher.reported_ends().items()}
        to = goal(known.get(queue, 0))
        if isinstance(to, str) and chance.random() < 0.5:
            queue = None
        world.fact(Moving(reader, to, queue, dict(watcher.reported_ends()), await world.begins()))
        try:
            moved = await client.seek(name, to=to, queue=queue, timeout=EVER_S)  # type: ignore[arg-type]
        except (NotFound, InvalidOption, Refused, StoreUnavailable, DiskFull) as error:
            world.note(f"moving {name} to {to}: {error!r}")
            return False
        if watcher.reader(name) == reader:
            places = tuple((info.queue, info.cursor) for info in moved)
            ends, begins = dict(watcher.stored_ends()), await world.begins()
            world.fact(Moved(reader, to, places, len(world.disk.commits), ends, begins))
    return bool(moved)


# --- replaying ---


async def _replay(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    """Reads a range of a queue again; gives some of it back."""
    watcher, name = world.watcher, _some_queue(world, chance)
    epoch = next((epoch for epoch, queue in watcher.living_queues().items() if queue == name), None)
    before = watcher.reported_ends().get(epoch or 0, 0)
    if name is None or epoch is None or not before:
        return False
    first = chance.randint(1, before)
    last = chance.choice([None, chance.randint(first, before + 3)])
    gives_back = chance.choice([0.0, 0.2])
    handed, again = list[tuple[int, str]](), list[int]()
    process = world.process(_process_name(plan), None, take_over=False)
    async with process.client as client:
        rate = chance.choice([None, None, 20.0])
        replay = client.replay(name, from_=first, to=last or "latest", rate=rate, timeout=EVER_S)
        try:
            await replay.attach()
            after, connection = watcher.stored_ends().get(epoch, 0), process.connection
            async for message in replay:
                handed.append((message.sequence, message.data.decode()))
                if message.attempt < 3 and chance.random() < gives_back:
                    await message.nack(delay=chance.choice([0, 0.1]))
                    again.append(message.sequence)
        except (NotFound, InvalidOption, StoreUnavailable, DiskFull) as error:
            world.note(f"replaying {name}: {error!r}")
            return False
        gaps = tuple((gap.first_sequence, gap.last_sequence) for gap in replay.gaps if gap.epoch == epoch)
        place = process.name, name, epoch, first, last, before, after
        unbroken = connection is not None and process.connection is connection
        world.fact(Replayed(*place, tuple(handed), tuple(again) if unbroken else (), gaps))
    return True


# --- receipts ---


async def _await_a_receipt(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    one = _some_subscriber(world, chance)
    if one is None or not world.confirms:
        return False
    confirm, name = chance.choice(world.confirms), one.full_name
    reader = world.watcher.reader(name)
    async with _client(world, plan) as client:
        asked_s = asyncio.get_running_loop().time()
        try:
            receipt = await published_by(client, confirm).delivered_to(name, timeout=1.0 + plan.for_s)
            state, exact = receipt.state, receipt.exact
        except GivenUp as error:
            state, exact = "dead" if "dead letter" in str(error) else "gap", False
        except (NotFound, TimedOut, StoreUnavailable, DiskFull) as error:
            world.note(f"receipt of {name} for {confirm}: {error!r}")
            return False
        if confirm.count == 1 or state == "acked":
            place = reader, confirm.epoch, (confirm.sequence, confirm.count)
            _receipt_told(world, plan, asked_s, *place, state, exact)
    return True


async def _list_receipts(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    if not world.confirms:
        return False
    confirm = chance.choice(world.confirms)
    ends_at = asyncio.get_running_loop().time() + plan.for_s
    async with _client(world, plan) as client:
        while True:
            readers = {name: world.watcher.reader(name) for name in world.watcher.subscription_names()}
            asked_s = asyncio.get_running_loop().time()
            try:
                receipts = await client.receipts(confirm.queue, confirm.sequence, epoch=confirm.epoch, timeout=EVER_S)
            except (NotFound, StoreUnavailable, DiskFull) as error:
                world.note(f"receipts of {confirm}: {error!r}")
                return False
            for each in receipts:
                if each.subscription in readers:
                    place = readers[each.subscription], confirm.epoch, (confirm.sequence, 1)
                    _receipt_told(world, plan, asked_s, *place, each.state, each.exact)
            if world.quiet or asyncio.get_running_loop().time() > ends_at:
                return True
            await asyncio.sleep(chance.uniform(0, 0.5))


def _receipt_told(
    world: World,
    plan: FaultPlan,
    asked_s: float,
    reader: str,
    epoch: int,
    place: tuple[int, int],
    state: str,
    exact: bool,
) -> None:
    """Writes a receipt down, unless the subscription was deleted meanwhile, and perhaps made again."""
    name = world.watcher.name_of.get(reader)
    if name is None or world.watcher.reader(name) != reader:
        return
    sequences = range(place[0], place[0] + place[1])
    stored = True
    if state == "acked":
        stored = all(world.watcher.is_settled(name, reader, epoch, sequence) for sequence in sequences)
    elif state == "dead":
        stored = all(world.watcher.is_dead(reader, epoch, sequence) for sequence in sequences)
    span = sequences[0], sequences[-1]
    world.fact(ReceiptTold(_process_name(plan), asked_s, reader, epoch, *span, state, exact, stored))


# --- requests ---


async def _make_requests(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    """Asks whoever reads a queue several things at once."""
    name = _some_queue(world, chance)
    if name is None:
        return False
    process = world.process(_process_name(plan), None, take_over=False)

    async def ask(number: int, event: str) -> bool:
        payload = f"{process.name}?{number}"
        world.fact(Published(process.name, name, event, (payload,)))
        try:
            reply = await process.client.request(name, event, payload.encode(), timeout=1.0 + plan.for_s)
        except (Unanswered, TimedOut, *REFUSED) as error:
            world.note(f"{payload}: {error!r}")
            return False
        world.fact(Replied(process.name, payload, reply.data.decode()))
        return True

    async with process.client:
        events = [chance.choice(EVENTS) for _ in range(chance.choice([1, 3, 5]))]
        asked = [asyncio.ensure_future(ask(number, event)) for number, event in enumerate(events)]
        return any(await asyncio.gather(*asked))


# --- dead letters ---


async def _redrive(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    return await _with_letters(
        world, plan, chance, lambda client, name, number: client.redrive(name, number=number, timeout=EVER_S)
    )


async def _delete_letters(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    def delete(client: Client, name: str, number: int | None) -> Coroutine[Any, Any, int]:
        world.fact(LettersDeleted(name))
        return client.delete_dead_letters(name, number=number, timeout=EVER_S)

    return await _with_letters(world, plan, chance, delete)


async def _with_letters(
    world: World,
    plan: FaultPlan,
    chance: random.Random,
    act: Callable[[Client, str, int | None], Coroutine[Any, Any, int]],
) -> bool:
    """Does something with one dead letter of a subscription, or with all of them."""
    names = sorted({one.full_name for one in world.scenario.subscribers if one.client_id})
    if not names:
        return False
    async with _client(world, plan) as client:
        for name in chance.sample(names, len(names)):
            try:
                letters = [letter async for letter in client.dead_letters(name, timeout=EVER_S)]
                if letters:
                    number = chance.choice([None, chance.choice(letters).number])
                    return await act(client, name, number) > 0
            except (NotFound, StoreUnavailable, DiskFull, ConnectionLost) as error:
                world.note(f"dead letters of {name}: {error!r}")
    return False


# --- forgetting ---


async def _purge(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    async def purge(client: Client, name: str) -> bool:
        return await client.purge(name, timeout=EVER_S) > 0

    return await _forget(world, plan, chance, "purged", purge)


async def _delete_a_message(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    async def delete(client: Client, name: str) -> bool:
        stored = await client.peek(name, start=chance.choice(["earliest", "latest"]), count=20, timeout=EVER_S)
        if stored:
            await client.delete_message(name, chance.choice(stored).sequence, timeout=EVER_S)
        return bool(stored)

    return await _forget(world, plan, chance, "deleted", delete)


async def _set_a_ttl(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    settings = {"ttl": chance.choice([0.1, 1.0, 5.0])}
    return await _forget(world, plan, chance, "expired", _for_a_time(world, plan, settings, {"ttl": math.inf}))


_WAITING_LIMITS: Final[list[tuple[str, float, str]]] = [
    ("waiting_messages", 1, "too many waited"),
    ("waiting_messages", 10, "too many waited"),
    ("waiting_bytes", 40, "too many bytes waited"),
    ("waiting_bytes", 400, "too many bytes waited"),
    ("waiting_age", 0.2, "waited too long"),
    ("waiting_age", 2.0, "waited too long"),
]


async def _limit_a_queue(world: World, plan: FaultPlan, chance: random.Random) -> bool:
    limit, most, reason = chance.choice(_WAITING_LIMITS)
    settings = {limit: most, "when_full": "drop-oldest"}
    return await _forget(world, plan, chance, reason, _for_a_time(world, plan, settings, {limit: math.inf}))


def _for_a_time(
    world: World, plan: FaultPlan, settings: dict[str, Any], after: dict[str, Any]
) -> Callable[[Client, str], Coroutine[Any, Any, bool]]:
    async def configure(client: Client, name: str) -> bool:
        in_hand = {f"{setting} of {name}" for setting in settings}
        if in_hand & world.in_hand:
            return False
        world.in_hand |= in_hand
        try:
            await client.configure_queue(name, **settings, timeout=EVER_S)
            await world.until_quiet(plan.for_s)
            while True:
                try:
                    await client.configure_queue(name, **after, timeout=EVER_S)
                except (StoreUnavailable, DiskFull):
                    await asyncio.sleep(0.2)
                else:
                    return True
        finally:
            world.in_hand -= in_hand

    return configure


async def _forget(
    world: World,
    plan: FaultPlan,
    chance: random.Random,
    reason: str,
    act: Callable[[Client, str], Coroutine[Any, Any, bool]],
) -> bool:
    name = _some_queue(world, chance)
    if name is None:
        return False
    world.fact(Forgetting(name, reason))
    async with _client(world, plan) as client:
        try:
            return await act(client, name)
        except (NotFound, StoreUnavailable, DiskFull) as error:
            world.note(f"{reason}, queue {name}: {error}")
            return False


ADMINISTRATION: Final[dict[str, Fault]] = {
    "queue deleted": _delete_a_queue,
    "subscription deleted": _delete_a_subscription,
    "queue paused": _pause_a_queue,
    "subscription paused": _pause_a_subscription,
    "moved back": _move_back,
    "moved forward": _move_forward,
    "redriven": _redrive,
    "dead letters deleted": _delete_letters,
    "queue purged": _purge,
    "message deleted": _delete_a_message,
    "ttl set": _set_a_ttl,
    "queue limited": _limit_a_queue,
    "range replayed": _replay,
    "receipt awaited": _await_a_receipt,
    "receipts listed": _list_receipts,
    "requests made": _make_requests,
    "little may wait": _let_little_wait,
    "publishing slowed": _slow_publishing,
    "little in flight": _let_little_be_in_flight,
    "little of a queue in flight": _let_little_of_a_queue_be_in_flight,
}
"""How each kind is made."""
