"""Scheduling: what is to be published later is published once, also across `kill -9` of the server."""

import asyncio

import tidings
import tidings.sync
from tests.integration.processes import Server


async def test_what_became_due_while_the_server_was_down_is_published_once(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("orders", "due"):
            pass
        for number in range(50):
            confirm = await client.publish("orders", "due", number, delay=0.01 * number)
            assert (confirm.sequence, confirm.durability) == (0, "disk")
        ended = await client.publish("orders", "due", "ended", delay=3600, every=60)
        assert ended.handle is not None
        await client.cancel_schedule(ended.handle)
        often = await client.schedule("orders", "due", "often", delay=1, every=3600)
    server.kill()
    server.start()
    async with tidings.connect(server.url, client_id="reader") as client, client.subscribe("orders", "due") as due:
        payloads: list[object] = []
        async with asyncio.timeout(30):
            async for message in due:
                payloads.append(message.payload)
                await message.ack()
                if message.payload == "often":
                    break
        [queue] = [queue for queue in await client.queues() if queue.name == "orders"]
        left = [info async for info in client.schedules()]
        assert sorted(payloads[:-1], key=str) == sorted(range(50), key=str)
        assert queue.last_sequence == 51
        assert [(info.queue, info.event, info.every_ms) for info in left] == [("orders", "due", 3_600_000)]
        await client.cancel_schedule(often.handle)
        assert [info async for info in client.schedules()] == []


def test_the_sync_client_has_the_same_verbs(server: Server) -> None:
    with tidings.sync.connect(server.url) as client:
        confirm = client.publish("orders", "due", 1, delay=3600)
        info = client.schedule("orders", "due", 2, delay=7200)
        assert [found.handle for found in client.schedules()] == [confirm.handle, info.handle]
        assert confirm.handle is not None
        for handle in (confirm.handle, info.handle):
            client.cancel_schedule(handle)
        assert list(client.schedules()) == []
