"""Forgetting: what is purged or deleted is gone for good, and told to whom it waited for, also across `kill -9`."""

import json
from pathlib import Path

import pytest

import tidings
import tidings.sync
from tests.integration.processes import Server, eventually, run_command
from tests.integration.reading import take, told


async def test_a_purge_is_durable_and_told_to_an_absent_subscription_until_it_acked_that(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        orders = client.subscribe("orders", name="billing")
        await orders.attach()
        await client.publish_many("orders", "created", range(1, 6))
        for message in await take(orders, 2):
            await message.ack(wait=True)
        await orders.close()
        async with tidings.connect(server.url) as operator:
            assert await operator.purge("orders") == 5
        server.kill()
        server.start()
        [info] = await client.subscriptions()
        assert (info.lag, info.cut) == (0, 3)
        orders = client.subscribe("orders", name="billing")
        await orders.attach()
        confirm = await client.publish("orders", "created", 6)
        [message] = await take(orders, 1)
        assert (confirm.sequence, message.sequence, message.payload) == (6, 6, 6)
        assert told(orders) == [(3, 5, "purged")]
        await message.ack(wait=True)  # and with it the gap
        await orders.close()
        orders = client.subscribe("orders", name="billing")
        await orders.attach()
        await client.publish("orders", "created", 7)
        assert [message.payload for message in await take(orders, 1)] == [7]
        assert told(orders) == []


async def test_rows_of_a_purged_queue_leave_the_store_once_nothing_is_in_flight(server: Server) -> None:
    async with (
        tidings.connect(server.url, client_id="billing") as client,
        client.subscribe("orders", name="billing", in_flight_max=2) as orders,
    ):
        for number in range(1, 6):
            await client.publish("orders", "created", number)
        held = await take(orders, 2)
        await client.purge("orders")
        [queue] = [info for info in await client.queues() if info.name == "orders"]
        assert queue.messages == 0 < queue.bytes, "its rows are held"
        for message in held:
            await message.ack(wait=True)

        async def is_empty() -> bool:
            return [info.bytes for info in await client.queues() if info.name == "orders"] == [0]

        await eventually(is_empty)
        [info] = await client.subscriptions()
        assert (info.lag, info.cut) == (0, 3), "those that were in flight were acked"


async def test_a_subscriber_is_told_of_a_deleted_message_in_its_place(server: Server) -> None:
    async with (
        tidings.connect(server.url, client_id="billing") as client,
        client.subscribe("orders", name="billing", in_flight_max=1) as orders,
    ):
        await client.publish_many("orders", "created", range(1, 6))
        [first] = await take(orders, 1)
        await client.delete_message("orders", 3)
        server.kill()
        server.start()
        seen = []
        for _ in range(4):
            [message] = await take(orders, 1)
            seen.append((message.payload, told(orders)))
            await message.ack(wait=True)
        gap = (3, 3, "deleted")
        assert [payload for payload, _ in seen] == [1, 2, 4, 5]
        assert [gaps for payload, gaps in seen if payload >= 4] == [[gap], [gap]]
        assert seen[0] == (first.payload, []), "it is not told before its place"


async def test_the_command_line_looks_and_forgets(server: Server, tmp_path: Path) -> None:
    async def command(*arguments: str) -> str:
        code, output, errors = await run_command(*arguments, directory=tmp_path, server=server.url)
        assert code == 0, errors
        return output

    async with tidings.connect(server.url) as client:
        await client.publish_many("orders", "created", [{"id": number} for number in range(1, 5)])
    output = await command("peek", "orders", "--from", "2", "--count", "2")
    assert [json.loads(line)["payload"] for line in output.splitlines()] == [{"id": 2}, {"id": 3}]
    assert await command("purge", "orders", "--sequence", "2") == "deleted message 2 of queue orders\n"
    code, _, errors = await run_command("purge", "orders", "--sequence", "2", directory=tmp_path, server=server.url)
    assert code == 1
    assert "no message 2; it holds 1 to 4, and that one was deleted" in errors
    assert await command("purge", "orders") == "purged queue orders: 3 messages\n"
    assert await command("peek", "orders") == ""
    assert await command("queue", "set", "orders", "--history-age", "none") == "changed queue orders\n"
    [info] = [json.loads(line) for line in (await command("queues", "--json")).splitlines() if "orders" in line]
    assert info["settings"]["history_age_ms"] is None
    assert (info["first_sequence"], info["last_sequence"], info["messages"]) == (5, 4, 0)


def test_the_client_without_await_looks_and_forgets(server: Server) -> None:
    with tidings.sync.connect(server.url) as client:
        client.publish_many("orders", "created", [{"id": number} for number in range(1, 4)])
        client.configure_queue("orders", history_messages=1000)
        assert [message.payload["id"] for message in client.peek("orders", start=2)] == [2, 3]
        client.delete_message("orders", 1)
        assert client.purge("orders") == 2
        with pytest.raises(tidings.NotFound, match="bills"):
            client.purge("bills")
