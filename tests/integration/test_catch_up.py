"""Catch-up: a subscription continues at its cursor after any absence, without gap or duplicate, and becomes live."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

import tidings
from tests.integration.processes import Server, eventually

_BACKLOG = 20_000


async def _take(messages: AsyncIterator[tidings.Message], count: int) -> list[tidings.Message]:
    async with asyncio.timeout(60):
        taken = []
        for _ in range(count):
            message = await anext(messages)
            await message.ack()
            taken.append(message)
        return taken


async def test_an_absent_subscriber_continues_at_its_cursor_and_becomes_live(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client, client.subscribe("events") as subscription:
        await client.publish_many("events", "made", range(1, 101))
        messages = aiter(subscription)
        taken = await _take(messages, 60)
        await taken[-1].ack(wait=True)
    async with tidings.connect(server.url) as client:
        for first in range(101, _BACKLOG, 1_000):
            await client.publish_many("events", "made", range(first, min(first + 1_000, _BACKLOG + 1)))
            if first % 5_000 == 101:
                server.kill()
                server.start()
    async with tidings.connect(server.url, client_id="reader") as client, client.subscribe("events") as subscription:
        messages = aiter(subscription)
        taken = await _take(messages, _BACKLOG - 60)
        assert [message.sequence for message in taken] == list(range(61, _BACKLOG + 1))
        assert [message.payload for message in taken] == list(range(61, _BACKLOG + 1))
        confirm = await client.publish("events", "made", "live")
        [live] = await _take(messages, 1)
        assert (live.sequence, live.payload) == (confirm.sequence, "live")


async def test_a_subscriber_that_reads_while_others_publish_meets_the_tail_without_gap_or_duplicate(
    server: Server,
) -> None:
    total = 30_000
    async with (
        tidings.connect(server.url) as publisher,
        tidings.connect(server.url, client_id="reader") as client,
    ):
        await publisher.publish_many("events", "made", range(10_000))
        async with asyncio.TaskGroup() as tasks, client.subscribe("events", start="earliest") as subscription:
            tasks.create_task(_publish_slowly(publisher, range(10_000, total)))
            taken = await _take(aiter(subscription), total)
        assert [message.sequence for message in taken] == list(range(1, total + 1))
        assert [message.payload for message in taken] == list(range(total))


async def _publish_slowly(client: tidings.Client, payloads: range) -> None:
    for first in range(payloads.start, payloads.stop, 100):
        await client.publish_many("events", "made", range(first, first + 100))


async def test_a_wildcard_filter_reads_queues_that_appeared_meanwhile_from_their_beginning(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        await client.publish("logs.old", "made", "before the subscription")
        async with client.subscribe("logs.#", "made"):
            pass
    server.kill()
    server.start()
    async with tidings.connect(server.url) as client:
        await client.publish("logs.old", "made", "old")
        for number in range(5):
            await client.publish(f"logs.new.{number}", "made", number)
        await client.publish("logs.new.0", "other", "another event")
        await client.publish("unrelated", "made", "another queue")
    server.kill()
    server.start()
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("logs.#", "made") as subscription:
            messages = aiter(subscription)
            found = {(message.queue, message.payload) for message in await _take(messages, 6)}
            assert found == {("logs.old", "old"), *((f"logs.new.{number}", number) for number in range(5))}
            await client.publish("logs.later", "made", "live")
            [live] = await _take(messages, 1)
            assert (live.queue, live.sequence, live.payload) == ("logs.later", 1, "live")


async def test_a_rare_event_is_found_in_a_long_backlog_of_others(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("events", "rare"):
            pass
        await client.publish_many("events", "common", range(5_000))
        await client.publish("events", "rare", "needle")
        await client.publish_many("events", "common", range(5_000))
    server.kill()
    server.start()
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("events", "rare") as subscription:
            [message] = await _take(aiter(subscription), 1)
            assert (message.sequence, message.payload) == (5_001, "needle")
        await eventually(lambda: _lag(client, 0))


async def _lag(client: tidings.Client, lag: int) -> bool:
    return [info.lag for info in await client.subscriptions()] == [lag]


@pytest.fixture
async def filled(server: Server) -> AsyncIterator[tidings.Client]:
    """A client of a server whose queue `events` has 300 messages."""
    async with tidings.connect(server.url) as client:
        for first in (1, 101, 201):
            await client.publish_many("events", "made", range(first, first + 100))
        yield client


async def test_start_earliest_begins_with_the_first_message(filled: tidings.Client) -> None:
    async with filled.subscribe("events", start="earliest") as subscription:
        assert [message.sequence for message in await _take(aiter(subscription), 300)] == list(range(1, 301))


async def test_start_at_a_sequence_begins_there(filled: tidings.Client) -> None:
    async with filled.subscribe("events", start=150) as subscription:
        assert [message.sequence for message in await _take(aiter(subscription), 151)] == list(range(150, 301))


async def test_start_latest_begins_with_the_next_message(filled: tidings.Client) -> None:
    async with filled.subscribe("events") as subscription:
        await filled.publish("events", "made", "next")
        [message] = await _take(aiter(subscription), 1)
        assert (message.sequence, message.payload) == (301, "next")


async def test_start_at_a_time_begins_with_what_was_taken_then(filled: tidings.Client) -> None:
    async with filled.subscribe("events", start="earliest") as subscription:
        times = {message.sequence: message.time for message in await _take(aiter(subscription), 300)}
    async with filled.subscribe("events", start=times[201]) as subscription:
        first = (await _take(aiter(subscription), 1))[0]
        assert first.sequence == min(sequence for sequence, time in times.items() if time >= times[201])
    async with filled.subscribe("events", start=datetime(2000, 1, 1, tzinfo=UTC)) as subscription:
        assert (await _take(aiter(subscription), 1))[0].sequence == 1
    async with filled.subscribe("events", start=datetime(2100, 1, 1, tzinfo=UTC)) as subscription:
        await filled.publish("events", "made", "next")
        assert (await _take(aiter(subscription), 1))[0].sequence == 301


async def test_an_ephemeral_subscription_continues_through_a_restart_of_the_server(server: Server) -> None:
    async with tidings.connect(server.url) as client:
        async with client.subscribe("events") as subscription:
            await client.publish_many("events", "made", range(100))
            messages = aiter(subscription)
            await _take(messages, 50)
            server.kill()
            server.start()
            await client.publish("events", "made", "after")
            # A new life of the server cannot know an ephemeral subscription: its client tells where it stood.
            taken = await _take(messages, 51)
        assert [message.sequence for message in taken] == list(range(51, 102))
