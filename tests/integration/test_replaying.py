"""Promise: a replay hands over exactly its range, ends, keeps its rate, and touches no other subscription."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import tidings
import tidings.sync
from tests.integration.processes import DEADLINE_S, Server, eventually, run_command


@pytest.fixture
async def client(server: Server) -> AsyncIterator[tidings.Client]:
    async with asyncio.timeout(DEADLINE_S), tidings.connect(server.url, client_id="billing") as client:
        yield client


async def test_the_range_comes_and_ends_and_the_real_one_stands_where_it_was(client: tidings.Client) -> None:
    async with client.subscribe("orders") as orders:
        await client.publish_many("orders", "created", range(1, 2001))
        async for message in orders:
            await message.ack(wait=message.sequence == 700)
            if message.sequence == 700:
                break
    [before] = await client.subscriptions()
    received = [message.payload async for message in client.replay("orders", from_=501, to=1500)]
    assert received == list(range(501, 1501))
    assert [message.payload async for message in client.replay("orders", "created")] == list(range(1, 2001))
    assert [message.payload async for message in client.replay("orders", "other")] == []
    [after] = [info for info in await client.subscriptions() if info.durable]
    assert (after.cursor, after.lag) == (before.cursor, before.lag) == (700, 1300)


async def next_millisecond() -> datetime:
    """Returns the time once the server, whose times are whole milliseconds, has another one than now."""
    before_ms = time.time_ns() // 1_000_000
    await eventually(lambda: time.time_ns() // 1_000_000 > before_ms + 1)
    return datetime.now(UTC)


async def test_batches_and_times(client: tidings.Client) -> None:
    await client.publish("orders", "created", "before")
    begins = await next_millisecond()
    await client.publish_many("orders", "created", range(10))
    ends = await next_millisecond()
    await next_millisecond()
    await client.publish("orders", "created", "after")
    received: list[object] = []
    async with client.replay("orders", from_=begins, to=ends) as replayed:
        async for batch in replayed.batches():
            received += [message.payload for message in batch]
    assert received == list(range(10))


async def test_what_fails_comes_again_before_the_end(client: tidings.Client) -> None:
    await client.publish_many("orders", "created", range(5))
    received: list[tuple[int, int]] = []
    async for message in client.replay("orders"):
        received.append((message.payload, message.attempt))
        if message.attempt < 3 and message.payload == 2:
            await message.nack(delay=0)
    assert sorted(received) == [(0, 1), (1, 1), (2, 1), (2, 2), (2, 3), (3, 1), (4, 1)]


async def test_a_killed_server_neither_shortens_nor_repeats_it(server: Server, client: tidings.Client) -> None:
    await client.publish_many("orders", "created", range(1, 3001))
    received: list[int] = []
    async for message in client.replay("orders", to=2500):
        received.append(message.payload)
        if message.payload == 1000:
            server.kill()
            server.start()
            await client.publish("orders", "created", 0)
    assert received == list(range(1, 2501))


async def test_a_rate_is_not_exceeded(client: tidings.Client) -> None:
    await client.publish_many("orders", "created", range(100))
    begun = time.monotonic()
    count = 0
    async for _ in client.replay("orders", rate=100):
        count += 1
        assert count <= (time.monotonic() - begun) * 100 + 11
    assert count == 100


async def test_a_queue_that_is_not_there_is_said_so_and_not_made(client: tidings.Client) -> None:
    with pytest.raises(tidings.NotFound, match="order"):
        await anext(aiter(client.replay("order")))
    assert "order" not in {info.name for info in await client.queues()}


async def test_the_command_line_and_the_client_without_await(server: Server, tmp_path: Path) -> None:
    def without_await() -> list[int]:
        with tidings.sync.connect(server.url) as client:
            client.publish_many("orders", "created", range(1, 101))
            failed = False
            received = []
            for message in client.replay("orders", from_=11, to=50, rate=5000):
                received.append(message.payload)
                if message.payload == 20 and not failed:
                    failed = True
                    message.nack(delay=0)
            return received

    received = await asyncio.to_thread(without_await)
    assert sorted(received) == sorted([*range(11, 51), 20])
    arguments = ("replay", "orders", "created", "--from", "91", "--to", "95", "--rate", "1000")
    code, output, errors = await run_command(*arguments, directory=tmp_path, server=server.url)
    assert (code, errors) == (0, "")
    assert [json.loads(line)["payload"] for line in output.splitlines()] == [91, 92, 93, 94, 95]
    code, _, errors = await run_command("replay", "orders", "--from", "latest", directory=tmp_path, server=server.url)
    assert code != 0
    assert "--from earliest" in errors
