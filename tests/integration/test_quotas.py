"""Quotas: a client that asks for too much is told so, others are not held up, and `kill -9` lifts nothing."""

import asyncio
from math import inf

import pytest

import tidings
import tidings.sync
from tests.integration.processes import DEADLINE_S, Server, eventually


async def publish_until_refused(client: tidings.Client) -> tidings.QuotaExceeded:
    """Publishes until it is too much, and returns what that says."""
    for _ in range(10_000):
        try:
            await client.publish("orders", "created", 1)
        except tidings.QuotaExceeded as error:
            return error
    raise AssertionError("never refused")


async def test_too_fast_a_client_is_refused_and_others_are_not_also_after_a_crash(server: Server) -> None:
    async with tidings.connect(server.url) as admin, tidings.connect(server.url, client_id="shop") as shop:
        await admin.configure_client("shop", publish_rate=5)
        error = await publish_until_refused(shop)
        assert error.retryable
        assert "client 'shop' may publish 5 messages a second" in error.text
        for _ in range(50):
            await admin.publish("orders", "created", 2)
        server.kill()
        server.start()
        assert "5 messages a second" in (await publish_until_refused(shop)).text

        async def taken() -> bool:
            try:
                await shop.publish("orders", "created", 3)
            except tidings.QuotaExceeded:
                return False
            return True

        await eventually(taken)
        await admin.configure_client("shop", publish_rate=inf)
        for _ in range(50):
            await shop.publish("orders", "created", 4)


async def test_messages_in_flight_and_subscriptions_are_bounded(server: Server) -> None:
    async with tidings.connect(server.url, client_id="shop") as shop:
        await shop.configure_client("shop", in_flight_max=2, subscriptions_max=1)
        await shop.configure_queue("orders", subscriptions_max=1)
        async with shop.subscribe("orders") as subscription:
            await shop.publish_many("orders", "created", range(100))
            with pytest.raises(tidings.LimitReached, match="has 1 subscriptions, its quota is 1"):
                await shop.subscribe("others").attach()
            async with tidings.connect(server.url) as other:
                with pytest.raises(tidings.LimitReached, match="queue 'orders' has 1 subscriptions"):
                    await other.subscribe("orders").attach()
            seen = 0
            async for message in subscription:
                [info] = await shop.subscriptions()
                assert info.in_flight <= 2
                await message.ack()
                seen += 1
                if seen == 20:
                    break


async def test_messages_in_flight_of_a_queue_are_bounded_and_each_subscription_gets_its_turn(server: Server) -> None:
    async with tidings.connect(server.url) as client:
        await client.configure_queue("orders", in_flight_max=3)
        server.kill()
        server.start()
        async with client.subscribe("orders", name="a") as first, client.subscribe("orders", name="b") as second:
            await first.attach()
            await second.attach()
            await client.publish_many("orders", "created", range(50))

            async def read(subscription: tidings.Subscription) -> list[object]:
                found: list[object] = []
                async for message in subscription:
                    assert sum(info.in_flight for info in await client.subscriptions()) <= 3
                    found.append(message.payload)
                    await message.ack()
                    if len(found) == 50:
                        break
                return found

            async with asyncio.timeout(DEADLINE_S):
                assert await asyncio.gather(read(first), read(second)) == [list(range(50))] * 2


def test_the_sync_client_sets_quotas_as_well(server: Server) -> None:
    with tidings.sync.connect(server.url, client_id="shop") as client:
        client.configure_client("shop", publish_rate_bytes=1_000)
        client.publish("orders", "created", "x" * 1_000_000)  # taken whole, and waited for a quarter of an hour
        with pytest.raises(tidings.QuotaExceeded, match="1000 bytes a second"):
            client.publish("orders", "created", "x")
        [info] = client.clients()
        assert info.quotas.publish_rate_bytes == 1_000
