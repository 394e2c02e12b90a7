"""Receipts: what became of a message, told by a real server while it is killed and started again."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio

import pytest

import tidings
import tidings.sync
from tests.integration.processes import Server, eventually


async def test_a_publisher_waits_until_a_subscription_has_acked(server: Server) -> None:
    async with tidings.connect(server.url) as publisher, tidings.connect(server.url, client_id="worker") as worker:
        async with worker.subscribe("orders", name="billing") as subscription:
            confirm = await publisher.publish("orders", "created", 1)
            with pytest.raises(tidings.TimedOut, match=r"within 0\.2 s: it is in flight at worker, attempt 1"):
                await confirm.delivered_to("billing", timeout=0.2)
            waiting = asyncio.create_task(confirm.delivered_to("billing", timeout=30))
            message = await anext(aiter(subscription))
            await message.ack()
            receipt = await waiting
            assert (receipt.subscription, receipt.state, receipt.exact) == ("billing", "acked", True)
        with pytest.raises(tidings.NotFound, match="nobody"):
            await confirm.delivered_to("nobody")


async def test_an_awaited_receipt_outlives_the_server(server: Server) -> None:
    async with tidings.connect(server.url) as publisher, tidings.connect(server.url, client_id="billing") as worker:
        subscription = worker.subscribe("orders", name="billing")
        async with subscription:
            confirms = [await publisher.publish("orders", "created", number) for number in range(100)]
            waiting = [asyncio.create_task(confirm.delivered_to("billing", timeout=30)) for confirm in confirms]
            server.kill()
            server.start()
            count = 0
            async for message in subscription:
                await message.ack()
                count = max(count, message.sequence)
                if count == 100:
                    break
            receipts = await asyncio.gather(*waiting)
            assert {receipt.state for receipt in receipts} == {"acked"}
            server.kill()
            server.start()
            [receipt] = await publisher.receipts("orders", 100)
            assert receipt.state == "acked", "what a receipt told was on disk"


async def test_a_message_that_was_given_up_is_told(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client, client.subscribe("orders") as subscription:
        confirm = await client.publish("orders", "created", 1)
        message = await anext(aiter(subscription))
        await message.reject("no such customer")
        with pytest.raises(tidings.GivenUp, match=r"after 1 attempts \(rejected\); it is dead letter 1 there"):
            await confirm.delivered_to("billing")
        [receipt] = await client.receipts(confirm.queue, confirm.sequence, epoch=confirm.epoch)
        assert (receipt.state, receipt.dead_letter, receipt.reason) == ("dead", 1, "rejected")


async def test_each_subscription_has_its_own_state(server: Server) -> None:
    async with tidings.connect(server.url, client_id="one") as one, tidings.connect(server.url, client_id="two") as two:
        async with one.subscribe("orders", name="first") as first, two.subscribe("orders", name="second"):
            async with one.transaction() as transaction:
                transaction.publish("orders", "created", 1)
            [confirm] = transaction.confirms
            message = await anext(aiter(first))
            await message.ack(wait=True)
            assert (await confirm.delivered_to("first")).state == "acked"

            async def in_flight() -> bool:
                receipts = await one.receipts("orders", confirm.sequence)
                return [(each.subscription, each.state) for each in receipts] == [
                    ("first", "acked"),
                    ("second", "in flight"),
                ]

            await eventually(in_flight)


def test_the_sync_client_waits_as_well(server: Server) -> None:
    with tidings.sync.connect(server.url, client_id="billing") as client, client.subscribe("orders") as subscription:
        messages = iter(subscription)
        confirm = client.publish("orders", "created", 1)
        next(messages).ack()
        assert confirm.delivered_to("billing", timeout=10).state == "acked"
        [receipt] = client.receipts("orders", confirm.sequence)
        assert receipt.state == "acked"
        [many] = client.publish_many("orders", "created", [2, 3])
        for _ in range(2):
            next(messages).ack()
        assert many.delivered_to("billing").state == "acked"
