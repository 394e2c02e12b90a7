"""Pausing: nothing new is delivered until somebody resumes, also across `kill -9` of the server."""

import json
from pathlib import Path

import pytest

import tidings
import tidings.sync
from tests.integration.processes import Server, eventually, run_command


@pytest.mark.parametrize("what", [{"subscription": "billing"}, {"queue": "orders"}], ids=["subscription", "queue"])
async def test_what_is_paused_stays_so_over_kill_9_and_loses_nothing(server: Server, what: dict[str, str]) -> None:
    received: list[int] = []
    async with (
        tidings.connect(server.url, client_id="worker") as client,
        tidings.connect(server.url) as other,
        client.subscribe("orders", name="billing") as billing,
    ):
        await other.publish("orders", "created", 1)
        async for message in billing:
            received.append(message.payload)
            await message.ack(wait=True)
            break
        await other.pause(**what)
        server.kill()
        server.start()
        for number in (2, 3):
            await other.publish("orders", "created", number)

        async def stands_still() -> bool:
            [info] = [info for info in await other.subscriptions() if info.name == "billing"]
            return info.connected and "resume" in info.paused and (info.cursor, info.lag, info.in_flight) == (1, 2, 0)

        await eventually(stands_still)
        await other.resume(**what)
        async for message in billing:
            received.append(message.payload)
            await message.ack()
            if len(received) == 3:
                break
    assert received == [1, 2, 3]


async def test_the_command_line_pauses_shows_and_resumes(server: Server, tmp_path: Path) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        await client.subscribe("orders").attach()
    assert await run_command("pause", "billing", directory=tmp_path, server=server.url) == (
        0,
        "paused subscription billing\n",
        "",
    )
    _, listed, _ = await run_command("subscriptions", directory=tmp_path, server=server.url)
    assert "paused: somebody paused the subscription: resume it" in listed
    assert (await run_command("resume", "billing", directory=tmp_path, server=server.url))[0] == 0
    assert (await run_command("pause", "--queue", "orders", directory=tmp_path, server=server.url))[0] == 0
    _, listed, _ = await run_command("queues", "--json", directory=tmp_path, server=server.url)
    assert {entry["name"]: entry["paused"] for entry in map(json.loads, listed.splitlines())}["orders"]
    assert "orders (paused)" in (await run_command("queues", directory=tmp_path, server=server.url))[1]
    code, _, errors = await run_command("pause", directory=tmp_path, server=server.url)
    assert code == 1
    assert "one of the two" in errors


def test_the_client_without_await_pauses_too(server: Server) -> None:
    with tidings.sync.connect(server.url, client_id="billing") as client:
        client.publish("orders", "created", 1)
        client.pause(queue="orders")
        assert [info.paused for info in client.queues() if info.name == "orders"] == [True]
        client.resume(queue="orders")
        assert [info.paused for info in client.queues() if info.name == "orders"] == [False]
