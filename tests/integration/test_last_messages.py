"""Promise: start="last" begins with the last message of each event and goes on without gap or duplicate."""

import asyncio
import json
from pathlib import Path

import tidings
from tests.integration.processes import DEADLINE_S, Server, run_command

EVENTS = [f"room.{number}" for number in range(50)]


async def publish(url: str, numbers: range) -> None:
    async with tidings.connect(url) as client:
        await asyncio.gather(
            *[client.publish("states", EVENTS[number % len(EVENTS)], number) for number in numbers],
        )


async def test_a_durable_one_through_a_killed_server_while_others_publish(server: Server) -> None:
    await publish(server.url, range(5_000))
    received: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        publishing = asyncio.ensure_future(publish(server.url, range(5_000, 6_000)))
        async with (
            tidings.connect(server.url, client_id="screen") as client,
            client.subscribe("states", start="last", in_flight_max=10) as states,
        ):
            async for message in states:
                received.append(message.sequence)
                await message.ack(wait=True)
                if len(received) == 20:
                    break
        await publishing
        server.kill()
        server.start()
        async with (
            tidings.connect(server.url, client_id="screen") as client,
            client.subscribe("states", start="last") as states,
        ):
            async for message in states:
                received.append(message.sequence)
                await message.ack()
                if message.sequence == 6_000:
                    break
    begins_after = received[len(EVENTS) - 1]  # whatever was stored before it attached
    assert len(set(range(begins_after - 49, begins_after + 1)) - set(received)) == 0
    assert received == list(range(received[0], 6_001))
    assert received[0] >= 4_951


async def test_an_ephemeral_one_whose_server_is_killed_gets_each_once(server: Server) -> None:
    await publish(server.url, range(500))
    received: list[int] = []
    async with (
        asyncio.timeout(DEADLINE_S),
        tidings.connect(server.url) as client,
        client.subscribe("states", "room.*", start="last", in_flight_max=5) as states,
    ):
        async for message in states:
            received.append(message.sequence)
            await message.ack()
            if len(received) == 17:
                server.kill()
                server.start()
                await publish(server.url, range(500, 520))
            if message.sequence == 520:
                break
    assert received == list(range(451, 521))


async def test_the_command_line_begins_with_the_last_messages(server: Server, tmp_path: Path) -> None:
    await publish(server.url, range(500))
    code, output, errors = await run_command(
        "subscribe", "states", "room.7", "--from", "last", "--count", "1", directory=tmp_path, server=server.url
    )
    assert code == 0, errors
    assert json.loads(output)["payload"] == 457
