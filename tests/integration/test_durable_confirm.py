"""Durable confirm: what was confirmed is there after `kill -9`, for every durable subscription, and stored once."""

import asyncio
from pathlib import Path

import tidings
from tests.integration.processes import (
    Publisher,
    Server,
    Subscriber,
    all_go_on,
    caught_up,
    eventually,
    first_deliveries,
    stored_messages,
)

_ROUNDS = 10


async def test_what_was_confirmed_survives_ten_kills_of_the_server_under_load(server: Server, tmp_path: Path) -> None:
    with (
        Subscriber(tmp_path, server.url, "load", "by-message", way="messages") as by_message,
        Subscriber(tmp_path, server.url, "load", "by-batch", way="batches") as by_batch,
        Publisher(tmp_path, server.url, "load", "many", way="many") as many,
        Publisher(tmp_path, server.url, "load", "single", way="single") as single,
    ):
        by_message.read_line()
        by_batch.read_line()
        for _ in range(_ROUNDS):
            await all_go_on(by_message, by_batch, many, single)
            server.kill()
            server.start()
        for publisher in (many, single):
            assert publisher.terminate() == 0, publisher.log.read_text()
        stored = await stored_messages(server, "load")
        await eventually(lambda: caught_up(server), what="the subscribers have acked everything")
        for subscriber in (by_message, by_batch):
            assert subscriber.terminate() == 0, subscriber.log.read_text()

        confirmed = many.confirmed() | single.confirmed()
        assert len(confirmed) == len(many.confirmed()) + len(single.confirmed()), "one sequence, two messages"
        assert {sequence: stored[sequence] for sequence in confirmed} == confirmed
        assert len(set(stored.values())) == len(stored), "a message that was sent again was stored twice"
        for subscriber in (by_message, by_batch):
            first = first_deliveries(subscriber.deliveries())
            assert [delivery.sequence for delivery in first] == list(stored), "not all, or not in order"
            assert [delivery.payload for delivery in first] == list(stored.values())


async def test_a_confirm_tells_sequence_durability_and_matching_subscriptions(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        alone = await client.publish("orders", "created", 1)
        async with client.subscribe("orders", "created"), client.subscribe("orders", "paid"):
            pass
        matched = await client.publish("orders", "created", 2)
    assert (alone.sequence, alone.durability, alone.subscriptions) == (1, "disk", 0)
    assert (matched.sequence, matched.durability, matched.subscriptions) == (2, "disk", 1)


async def test_a_publish_that_waits_through_a_restart_is_confirmed_and_stored_once(server: Server) -> None:
    async with tidings.connect(server.url) as client:
        await client.publish("orders", "created", "first")
        server.kill()
        waiting = [asyncio.ensure_future(client.publish("orders", "created", number)) for number in range(100)]
        server.start()
        confirms = await asyncio.gather(*waiting)
        assert [confirm.sequence for confirm in confirms] == list(range(2, 102))
        [queue] = [queue for queue in await client.queues() if queue.name == "orders"]
        assert queue.last_sequence == 101
