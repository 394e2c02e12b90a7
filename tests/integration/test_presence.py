"""Presence: who is connected, to which queues, subscribed to which events, and how far behind."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import tidings
from tests.integration.processes import Server, Subscriber, eventually


async def test_clients_are_listed_with_what_they_are_attached_to(server: Server) -> None:
    async with (
        tidings.connect(server.url, client_id="billing") as billing,
        tidings.connect(server.url) as anonymous,
        tidings.connect(server.url) as looking,
    ):
        await anonymous.publish("orders", "created", 1)
        async with billing.subscribe("orders", "created"), billing.subscribe("#", "error"):
            clients = {info.client_id: info for info in await looking.clients()}
            assert set(clients) == {"billing", None}, "who only looks is not listed"
            info = clients["billing"]
            assert (info.connected, info.protocol) == (True, "tidings")
            assert info.address.startswith("127.0.0.1:")
            assert info.connected_since is not None
            assert info.connected_since <= info.last_seen
            assert info.subscriptions == ["billing:#/error", "billing:orders/created"]
            assert info.queues == ["orders"]
            assert clients[None].queues == ["orders"]


async def test_known_clients_that_are_away_are_listed_with_what_waits_for_them(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as billing, billing.subscribe("orders") as subscription:
        await billing.publish("orders", "created", 1)
        await (await anext(aiter(subscription))).ack(wait=True)
    async with tidings.connect(server.url) as client:
        await client.publish_many("orders", "created", range(7))
        for restarted in (False, True):
            [info] = [info for info in await client.clients() if info.client_id == "billing"]
            assert (info.connected, info.connected_since, info.waiting) == (False, None, 7), restarted
            assert info.subscriptions == ["billing:orders/#"]
            assert info.queues == ["orders"]
            server.kill()
            server.start()


async def test_subscriptions_are_listed_with_cursor_lag_and_what_is_in_flight(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        async with client.subscribe("orders", "created", in_flight_max=3) as subscription:
            await client.publish_many("orders", "created", range(5))
            await client.publish("orders", "other", 0)
            messages = aiter(subscription)
            first = await anext(messages)
            await first.ack(wait=True)
            await eventually(lambda: _in_flight(client, 3))
            [info] = await client.subscriptions()
            assert (info.name, info.client_id, info.durable) == ("billing:orders/created", "billing", True)
            assert (info.filter, info.queue, info.event) == ("orders/created", "orders", "created")
            assert (info.cursor, info.lag, info.lag_exact, info.connected) == (1, 5, False, True)
            assert info.last_ack is not None
        [away] = await client.subscriptions()
        assert (away.connected, away.in_flight, away.cursor, away.lag) == (False, 0, 1, 5)
        assert away.last_seen is not None


async def _in_flight(client: tidings.Client, count: int) -> bool:
    return [info.in_flight for info in await client.subscriptions()] == [count]


async def test_queues_are_listed_with_what_they_hold_and_who_holds_it(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        async with client.subscribe("orders"):
            pass
        await client.publish_many("orders", "created", range(5))
        [info] = [info for info in await client.queues() if info.name == "orders"]
        assert (info.first_sequence, info.last_sequence, info.messages, info.subscriptions) == (1, 5, 5, 1)
        assert info.held_by == "billing:orders/#"
        assert info.bytes > 0


@pytest.fixture
async def told(server: Server) -> AsyncIterator[AsyncIterator[tuple[str, dict[str, Any]]]]:
    """What the queue `$presence` tells from now on, without the watcher itself."""
    async with tidings.connect(server.url, client_id="watcher") as watcher:
        async with watcher.subscribe("$presence") as subscription:

            async def events() -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
                async for message in subscription:
                    await message.ack()
                    if message.payload["client_id"] != "watcher":
                        yield message.event, message.payload

            stream = events()
            yield stream
            await stream.aclose()


async def _next(told: AsyncIterator[tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    async with asyncio.timeout(30):
        return await anext(told)


async def test_comings_and_goings_are_told_as_messages(
    server: Server, told: AsyncIterator[tuple[str, dict[str, Any]]]
) -> None:
    async with tidings.connect(server.url, client_id="billing") as client, client.subscribe("orders", "created"):
        pass
    events = [await _next(told) for _ in range(4)]
    assert [event for event, _ in events] == ["connected", "subscribed", "unsubscribed", "disconnected"]
    assert all(payload["client_id"] == "billing" for _, payload in events)
    subscribed = events[1][1]
    assert subscribed["subscription"] == "billing:orders/created"
    assert (subscribed["queue"], subscribed["event"], subscribed["durable"]) == ("orders", "created", True)


async def test_who_only_looks_is_not_announced(server: Server, told: AsyncIterator[tuple[str, dict[str, Any]]]) -> None:
    async with tidings.connect(server.url) as looking:
        await looking.clients()
        await looking.queues()
        await looking.subscriptions()
    async with tidings.connect(server.url) as publishing:
        await publishing.publish("orders", "created", 1)
    # The first thing that is told is of the second client.
    event, payload = await _next(told)
    assert (event, payload["client_id"]) == ("connected", None)
    assert (await _next(told))[0] == "disconnected"


async def test_a_killed_client_is_told_as_disconnected(
    server: Server, told: AsyncIterator[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    with Subscriber(tmp_path, server.url, "orders", "billing", way="messages") as killed:
        killed.read_line()
        assert [(await _next(told))[0] for _ in range(2)] == ["connected", "subscribed"]
        killed.kill()
        event, payload = await _next(told)
        assert (event, payload["client_id"]) == ("disconnected", "billing")


async def test_after_a_crash_of_the_server_the_missing_disconnected_is_told(server: Server) -> None:
    async with tidings.connect(server.url, client_id="watcher") as watcher:
        async with watcher.subscribe("$presence"):
            pass
        async with tidings.connect(server.url, client_id="billing", reconnect=False) as billing:
            await billing.publish("orders", "created", 1)
            await eventually(lambda: _announced(watcher))
            server.kill()
            await eventually(lambda: not billing.connected)
    server.start()
    async with tidings.connect(server.url, client_id="watcher") as watcher, asyncio.timeout(30):
        async for message in watcher.subscribe("$presence"):
            await message.ack()
            if message.event == "disconnected" and message.payload["client_id"] == "billing":
                assert message.payload["reason"] == "the server stopped"
                break


async def _announced(client: tidings.Client) -> bool:
    [info] = [info for info in await client.subscriptions() if info.queue == "$presence"]
    [queue] = [queue for queue in await client.queues() if queue.name == "$presence"]
    # connected and subscribed and unsubscribed of the watcher, connected of the other
    return queue.last_sequence >= 4 and info.lag > 0


async def test_nobody_else_publishes_into_system_queues(server: Server) -> None:
    async with tidings.connect(server.url) as client:
        for queue in ("$presence", "$mine"):
            with pytest.raises(tidings.SystemQueue):
                await client.publish(queue, "connected", {})
        assert (await client.publish("orders", "created", 1)).sequence == 1


async def test_wildcards_do_not_match_system_queues(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("#", start="earliest") as subscription, asyncio.timeout(30):
            await client.publish("orders", "created", 1)
            assert (await anext(aiter(subscription))).queue == "orders"
            assert [info.queue for info in await client.subscriptions()] == ["orders"]
