"""Expiry: what is older than its ttl reaches nobody, is told to whom it waited for, and holds nothing back."""

from pathlib import Path

import pytest

import tidings
from tests.integration.in_process import MovableClock, server_in_process
from tests.integration.processes import Server, eventually, run_command
from tests.integration.reading import take, told
from tidings import limits


@pytest.fixture(autouse=True)
def _frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the servers of this process: trimming looks often, and at every queue."""
    monkeypatch.setattr(limits, "TRIM_INTERVAL_MS", 20)
    monkeypatch.setattr("tidings.broker.retention._PAUSE_MS", 0)


async def test_every_way_of_publishing_takes_a_ttl_and_the_absent_are_told_in_place(tmp_path: Path) -> None:
    clock = MovableClock()
    async with (
        server_in_process(tmp_path / "events.db", clock) as url,
        tidings.connect(url, client_id="billing") as client,
    ):
        orders = client.subscribe("orders", name="billing")
        await orders.attach()
        await orders.close()
        await client.publish("orders", "created", 1)
        await client.publish("orders", "created", 2, ttl=60)
        await client.publish_many("orders", "created", [3, 4], ttl=60)
        async with client.transaction() as transaction:
            transaction.publish("orders", "created", 5, ttl=7200)
            transaction.publish("orders", "created", 6, ttl=60)
        await client.schedule("orders", "created", 7, ttl=60)

        async def is_published() -> bool:
            return len(await client.peek("orders")) == 7

        await eventually(is_published)
        clock.advance(hours=1)
        assert [message.payload for message in await client.peek("orders")] == [1, 5]
        await orders.attach()
        messages = await take(orders, 2)
        assert [message.payload for message in messages] == [1, 5]
        for message in messages:
            await message.ack(wait=True)

        async def all_is_told() -> bool:
            gone = [number for first, last, _ in told(orders) for number in range(first, last + 1)]
            return gone == [2, 3, 4, 6, 7] and {reason for *_, reason in told(orders)} == {"expired"}

        await eventually(all_is_told)
        [info] = await client.subscriptions()
        assert (info.lag, info.cut) == (0, 5)
        await orders.close()


async def test_the_ttl_of_a_delayed_message_begins_when_its_time_has_come(tmp_path: Path) -> None:
    clock = MovableClock()
    async with (
        server_in_process(tmp_path / "events.db", clock) as url,
        tidings.connect(url, client_id="billing") as client,
    ):
        orders = client.subscribe("orders", name="billing")
        await orders.attach()
        for payload in ("in time", "too late"):
            await client.publish("orders", "created", payload, delay=3600, ttl=60)
            assert await client.peek("orders") == []
            if payload == "too late":
                await orders.close()
            clock.advance(hours=1)

            async def is_published() -> bool:
                return len(await client.peek("orders")) == 1

            await eventually(is_published)
            if payload == "in time":
                [message] = await take(orders, 1)
                assert message.payload == payload
                await message.ack(wait=True)
            clock.advance(hours=0.02)
        await client.publish("orders", "created", "later")
        await orders.attach()
        assert [message.payload for message in await take(orders, 1)] == ["later"]
        assert told(orders) == [(2, 2, "expired")]
        await orders.close()


async def test_what_expired_leaves_the_store_though_its_subscription_is_away(tmp_path: Path) -> None:
    clock = MovableClock()
    async with (
        server_in_process(tmp_path / "events.db", clock) as url,
        tidings.connect(url, client_id="billing") as client,
    ):
        orders = client.subscribe("orders", name="billing")
        await orders.attach()
        await orders.close()
        await client.configure_queue("orders", ttl=60)
        for number in range(5):
            await client.publish("orders", "created", number)
        clock.advance(hours=0.1)

        async def is_empty() -> bool:
            return [info.bytes for info in await client.queues() if info.name == "orders"] == [0]

        await eventually(is_empty)
        [info] = await client.subscriptions()
        assert (info.lag, info.cut) == (0, 5)


async def test_a_ttl_survives_kill_9(server: Server, tmp_path: Path) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        orders = client.subscribe("orders", name="billing")
        await orders.attach()
        await orders.close()
        code, _, errors = await run_command(
            "publish", "orders", "created", "1", "--ttl", "0.3", directory=tmp_path, server=server.url
        )
        assert code == 0, errors
        await client.publish("orders", "created", 2)
        server.kill()
        server.start()

        async def has_expired() -> bool:
            return [message.payload for message in await client.peek("orders")] == [2]

        await eventually(has_expired)
        await orders.attach()
        assert [message.payload for message in await take(orders, 1)] == [2]
        assert told(orders) == [(1, 1, "expired")]
        await orders.close()
