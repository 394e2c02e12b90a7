"""Order: first deliveries of one queue arrive in sequence order, and one publisher's messages in its order."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio

import tidings
from tests.integration.processes import Server

_PUBLISHERS = 8
_EACH = 1_000


async def test_first_deliveries_come_in_sequence_order_for_every_subscription(server: Server) -> None:
    total = _PUBLISHERS * _EACH
    async with tidings.connect(server.url, client_id="reader") as reader:
        async with (
            reader.subscribe("events", name="all") as everything,
            reader.subscribe("events", name="small.window", in_flight_max=7) as narrow,
            reader.subscribe("events", "even", name="even") as even,
            reader.subscribe("#", name="wide") as wide,
        ):
            async with asyncio.TaskGroup() as tasks:
                for number in range(_PUBLISHERS):
                    tasks.create_task(_publish(server, number))
                taken = [
                    tasks.create_task(_take(subscription, count))
                    for subscription, count in ((everything, total), (narrow, total), (even, total // 2), (wide, total))
                ]
    for task in taken:
        sequences = [sequence for sequence, _ in task.result()]
        assert sequences == sorted(set(sequences))
    assert [sequence for sequence, _ in taken[0].result()] == list(range(1, total + 1))
    for task in taken:
        for publisher in range(_PUBLISHERS):
            numbers = [number for _, (who, number) in task.result() if who == publisher]
            assert numbers == sorted(numbers), f"publisher {publisher}'s messages are out of its order"


async def _publish(server: Server, publisher: int) -> None:
    async with tidings.connect(server.url) as client:
        for first in range(0, _EACH, 50):
            await asyncio.gather(
                *(
                    client.publish("events", "even" if number % 2 == 0 else "odd", [publisher, number])
                    for number in range(first, first + 50)
                )
            )


async def _take(subscription: tidings.Subscription, count: int) -> list[tuple[int, tuple[int, int]]]:
    taken: list[tuple[int, tuple[int, int]]] = []
    async with asyncio.timeout(60):
        async for message in subscription:
            await message.ack()
            taken.append((message.sequence, tuple(message.payload)))
            if len(taken) == count:
                break
    return taken


async def test_confirms_tell_the_order_in_which_one_client_published(server: Server) -> None:
    async with tidings.connect(server.url) as client:
        confirms = await asyncio.gather(*(client.publish("events", "made", number) for number in range(500)))
        assert [confirm.sequence for confirm in confirms] == list(range(1, 501))


async def test_what_was_published_through_a_kill_of_the_server_is_in_the_order_of_the_calls(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("events") as subscription:
            publishing = [asyncio.ensure_future(client.publish("events", "made", n)) for n in range(300)]
            await publishing[0]
            publishing += [asyncio.ensure_future(client.publish("events", "made", n)) for n in range(300, 600)]
            server.kill()
            publishing += [asyncio.ensure_future(client.publish("events", "made", n)) for n in range(600, 900)]
            server.start()
            confirms = await asyncio.gather(*publishing)
            assert [confirm.sequence for confirm in confirms] == list(range(1, 901))
            first: dict[int, int] = {}
            async with asyncio.timeout(30):
                async for message in subscription:
                    first.setdefault(message.sequence, message.payload)
                    await message.ack()
                    if len(first) == 900:
                        break
            assert list(first.items()) == [(n + 1, n) for n in range(900)]
