"""At least once: what is not acked comes again, marked as redelivered; what is acked durably does not."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
from pathlib import Path

import tidings
from tests.integration.processes import Server, Subscriber, eventually


async def test_what_a_killed_subscriber_was_handling_is_delivered_again(server: Server, tmp_path: Path) -> None:
    async with tidings.connect(server.url) as client:
        with Subscriber(tmp_path, server.url, "jobs", "worker", way="stuck") as stuck:
            stuck.read_line()
            await client.publish_many("jobs", "made", [f"job-{number}" for number in range(10)])
            await eventually(lambda: stuck.deliveries(), what="the first job is being handled")
            stuck.kill()
        with Subscriber(tmp_path, server.url, "jobs", "worker", way="messages") as healthy:
            await eventually(lambda: len(healthy.deliveries()) == 11, what="all jobs are handled")
            assert healthy.terminate() == 0, healthy.log.read_text()
        handled, again, *others = healthy.deliveries()
        assert (handled.sequence, handled.attempt, handled.redelivered) == (1, 1, False)
        assert (again.sequence, again.attempt, again.redelivered) == (1, 2, True)
        # The others only waited in the killed process's buffer: that was no attempt.
        assert [(delivery.sequence, delivery.attempt) for delivery in others] == [(n, 1) for n in range(2, 11)]


async def test_an_ack_timeout_delivers_again_and_counts_the_attempt(server: Server) -> None:
    async with tidings.connect(server.url, client_id="slow") as client:
        async with client.subscribe("jobs", ack_timeout=0.2) as subscription:
            await client.publish("jobs", "made", 1)
            attempts = []
            async with asyncio.timeout(30):
                async for message in subscription:
                    attempts.append((message.sequence, message.attempt, message.redelivered))
                    if message.attempt == 3:
                        await message.ack(wait=True)
                        break
        assert attempts == [(1, 1, False), (1, 2, True), (1, 3, True)]
        [info] = await client.subscriptions()
        assert (info.cursor, info.lag) == (1, 0)


async def test_what_was_unacked_at_a_disconnect_is_delivered_again(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("jobs") as subscription:
            await client.publish_many("jobs", "made", range(5))
            messages = aiter(subscription)
            taken = [await anext(messages) for _ in range(5)]
            await taken[1].ack()
            await taken[3].ack(wait=True)
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("jobs") as subscription, asyncio.timeout(30):
            messages = aiter(subscription)
            again = [await anext(messages) for _ in range(3)]
        assert [message.sequence for message in again] == [1, 3, 5]
        assert all(message.redelivered for message in again)


async def test_an_ack_that_was_waited_for_survives_a_kill_of_the_server(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("jobs") as subscription:
            await client.publish_many("jobs", "made", range(4))
            messages = aiter(subscription)
            taken = [await anext(messages) for _ in range(4)]
            await taken[0].ack(wait=True)
            await taken[2].ack(wait=True)
            server.kill()
    server.start()
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("jobs") as subscription, asyncio.timeout(30):
            await client.publish("jobs", "made", 4)
            messages = aiter(subscription)
            assert [(await anext(messages)).sequence for _ in range(3)] == [2, 4, 5]


async def test_a_cumulative_ack_settles_all_before_it_and_nothing_after_it(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("jobs") as subscription:
            await client.publish_many("jobs", "made", range(10))
            messages = aiter(subscription)
            taken = [await anext(messages) for _ in range(10)]
            await subscription.ack_to(taken[4], wait=True)
            await subscription.ack(7, 8, wait=True)
            [info] = await client.subscriptions()
            assert (info.cursor, info.in_flight, info.lag) == (5, 3, 5)
        async with client.subscribe("jobs") as subscription, asyncio.timeout(30):
            messages = aiter(subscription)
            assert [(await anext(messages)).sequence for _ in range(3)] == [6, 9, 10]


async def test_every_durable_subscription_gets_every_message(server: Server) -> None:
    names = [f"reader-{number}" for number in range(5)]
    for name in names:
        async with tidings.connect(server.url, client_id=name) as client, client.subscribe("jobs", "made"):
            pass
    async with tidings.connect(server.url) as client:
        confirm = await client.publish("jobs", "made", 1)
        assert confirm.subscriptions == len(names)
        await client.publish("jobs", "other", 2)
        await client.publish_many("jobs", "made", [3, 4])
    server.kill()
    server.start()
    for name in names:
        async with tidings.connect(server.url, client_id=name) as client:
            async with client.subscribe("jobs", "made") as subscription, asyncio.timeout(30):
                messages = aiter(subscription)
                assert [(await anext(messages)).payload for _ in range(3)] == [1, 3, 4]
