"""Seeking: a subscription that is moved gets what comes from there on, live or away, also across `kill -9`."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

import tidings
import tidings.sync
from tests.integration.processes import Server, run_command
from tests.integration.reading import take


async def test_a_live_subscriber_gets_again_what_it_acked_and_its_late_acks_are_refused(server: Server) -> None:
    async with (
        tidings.connect(server.url, client_id="billing") as client,
        client.subscribe("orders", name="billing") as orders,
    ):
        await client.publish_many("orders", "created", range(1, 6))
        first = await take(orders, 5)
        for message in first[:4]:
            await message.ack(wait=True)
        [moved] = await client.seek("billing", to=2)
        assert (moved.queue, moved.before, moved.cursor, moved.skipped) == ("orders", 4, 1, 0)
        again = await take(orders, 4)
        assert [(message.payload, message.attempt) for message in again] == [(2, 1), (3, 1), (4, 1), (5, 1)]
        assert {message.epoch for message in again} == {first[0].epoch}, "it is the same life of the queue"
        with pytest.raises(tidings.DeliveryTakenAway, match="moved"):
            await first[4].ack(wait=True)
        for message in again:
            await message.ack(wait=True)
        [info] = await client.subscriptions()
        assert (info.cursor, info.lag) == (5, 0)


@pytest.mark.parametrize("attached", [True, False])
async def test_a_move_survives_kill_9_and_what_the_client_acked_before_settles_nothing(
    server: Server, attached: bool
) -> None:
    async with (
        tidings.connect(server.url, client_id="billing") as client,
        tidings.connect(server.url) as operator,
    ):
        orders = client.subscribe("orders", name="billing")
        await orders.attach()
        await operator.publish_many("orders", "created", range(1, 6))
        for message in await take(orders, 5):
            await message.ack(wait=True)
        if not attached:
            await orders.close()
        await operator.seek("billing", to="earliest")
        server.kill()
        server.start()
        if not attached:
            orders = client.subscribe("orders", name="billing")
        assert [message.payload for message in await take(orders, 5)] == [1, 2, 3, 4, 5]


async def test_forward_is_counted_and_no_gap_and_a_time_is_a_place(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        async with client.subscribe("orders", name="billing"):
            pass
        await client.publish("orders", "created", 1)
        await asyncio.to_thread(_wait_a_millisecond)
        now = datetime.now(UTC)
        await client.publish("orders", "created", 2)
        [moved] = await client.seek("billing", to="latest")
        assert moved.skipped == 2
        await client.seek("billing", to=now)
        async with client.subscribe("orders", name="billing") as orders:
            assert [message.payload for message in await take(orders, 1)] == [2]
            assert orders.gaps == []
        [info] = await client.subscriptions()
        assert info.skipped == 2


def _wait_a_millisecond() -> None:
    before = datetime.now(UTC)
    while (datetime.now(UTC) - before).total_seconds() < 0.002:
        pass


async def test_the_command_line_moves_and_says_what_it_did(server: Server, tmp_path: Path) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        async with client.subscribe("orders", name="billing"):
            pass
        await client.publish_many("orders", "created", range(1, 6))
    code, output, _ = await run_command("seek", "billing", "--to", "latest", directory=tmp_path, server=server.url)
    assert (code, output) == (0, "moved billing in orders from 0 to 5, 5 skipped\n")
    code, output, _ = await run_command("seek", "billing", "--to", "3", "--json", directory=tmp_path, server=server.url)
    assert json.loads(output) == {"queue": "orders", "before": 5, "cursor": 2, "skipped": 0}
    code, _, errors = await run_command("seek", "billing", "--to", "77", directory=tmp_path, server=server.url)
    assert code == 1
    assert "1 to 6" in errors
    code, _, errors = await run_command("seek", "billing", "--to", "x", directory=tmp_path, server=server.url)
    assert code == 1
    assert "--to x: write earliest" in errors


def test_the_client_without_await_moves_too(server: Server) -> None:
    with (
        tidings.sync.connect(server.url, client_id="billing") as client,
        client.subscribe("orders", name="billing") as orders,
    ):
        client.publish("orders", "created", 1)
        message = next(iter(orders))
        message.ack(wait=True)
        client.seek("billing", to="earliest")
        again = next(iter(orders))
        assert again.payload == 1
        again.ack(wait=True)
