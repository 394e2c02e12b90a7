"""Idempotent publish: what is published twice under one id is stored once, also across `kill -9` of the server."""

import asyncio

import tidings
from tests.integration.processes import Server


async def test_a_second_process_that_repeats_what_the_first_published_stores_nothing(server: Server) -> None:
    ids = [f"order-{number}" for number in range(500)]
    async with tidings.connect(server.url) as client:
        first = await asyncio.gather(*(client.publish("orders", "created", id, id=id) for id in ids))
    server.kill()
    server.start()
    async with tidings.connect(server.url) as client:
        again = await asyncio.gather(*(client.publish("orders", "created", "again", id=id) for id in reversed(ids)))
        new = await client.publish("orders", "created", "new", id="order-new")
        [queue] = [queue for queue in await client.queues() if queue.name == "orders"]
    assert [confirm.duplicate_of for confirm in first] == [None] * len(ids)
    assert [confirm.duplicate_of for confirm in reversed(again)] == [confirm.sequence for confirm in first]
    assert (new.duplicate_of, new.sequence, queue.last_sequence) == (None, 501, 501)


async def test_repeating_through_kills_of_the_server_stores_every_message_once(server: Server) -> None:
    ids = [f"payment-{number}" for number in range(2_000)]
    async with tidings.connect(server.url) as one, tidings.connect(server.url) as two:

        async def publish(client: tidings.Client) -> list[tidings.Confirm]:
            return [await client.publish("payments", "made", id, id=id) for id in ids]

        async with asyncio.TaskGroup() as group:
            both = [group.create_task(publish(client)) for client in (one, two)]
            for _ in range(3):
                seen = (await one.publish("progress", "seen", None)).sequence
                while (await one.publish("progress", "seen", None)).sequence < seen + 50:
                    pass
                server.kill()
                server.start()
        confirms = [task.result() for task in both]
        [queue] = [queue for queue in await one.queues() if queue.name == "payments"]
    assert queue.last_sequence == len(ids)
    assert [confirm.sequence for confirm in confirms[0]] == [confirm.sequence for confirm in confirms[1]]
    stored_by_nobody = [a for a, b in zip(*confirms, strict=True) if a.duplicate_of and b.duplicate_of]
    assert not stored_by_nobody
