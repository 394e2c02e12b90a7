"""Promise: a subscription gets what its filter selects, and no other, whatever happens to server and subscriber."""

import asyncio
import json
from pathlib import Path

import pytest

import tidings
import tidings.sync
from tests.integration.processes import DEADLINE_S, Server, run_command

EU = {"region": ["eu", tidings.Prefix("eu-")]}


def region(number: int) -> str:
    return ("us", "eu", "eu-west", "europe")[number % 4]


def is_wanted(number: int) -> bool:
    return region(number) in ("eu", "eu-west")


async def test_a_header_filter_holds_through_absence_and_a_killed_server(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client, client.subscribe("orders", headers=EU):
        pass
    async with tidings.connect(server.url) as publisher:
        for number in range(500):
            await publisher.publish("orders", "created", number, headers={"region": region(number)})
    server.kill()
    server.start()
    async with tidings.connect(server.url) as publisher:
        confirms = [
            publisher.publish("orders", "created", number, headers={"region": region(number)})
            for number in range(500, 1000)
        ]
        await asyncio.gather(*confirms)
    received: list[int] = []
    expected = [number for number in range(1000) if is_wanted(number)]
    async with asyncio.timeout(DEADLINE_S), tidings.connect(server.url, client_id="billing") as client:
        async with client.subscribe("orders", headers=EU) as orders:
            async for message in orders:
                received.append(message.payload)
                await message.ack()
                if message.payload == expected[-1]:
                    break
        assert received == expected
        with pytest.raises(tidings.SubscriptionConflict, match=r"region=eu\|region\^=eu-"):
            await client.subscribe("orders").attach()


async def test_the_command_line_filters_by_headers_and_lists_the_filter(server: Server, tmp_path: Path) -> None:
    async def run(*arguments: str) -> str:
        code, output, errors = await run_command(*arguments, directory=tmp_path, server=server.url)
        assert code == 0, errors
        return output

    async with tidings.connect(server.url) as publisher:
        for number in range(8):
            await publisher.publish("orders", "created", number, headers={"region": region(number), "n": str(number)})
        await publisher.publish("orders", "created", "no headers")
    arguments = ("--as", "billing", "--from", "earliest", "--count", "3", "--header", "region^=eu-", "--header")
    printed = await run("subscribe", "orders", *arguments, "region=us", "--header", "n")
    assert [json.loads(line)["payload"] for line in printed.splitlines()] == [0, 2, 4]
    listed = await run("subscriptions")
    assert "#[n][region=us|region^=eu-]" in listed


def test_the_client_without_await_filters_by_headers(server: Server) -> None:
    with (
        tidings.sync.connect(server.url, client_id="billing") as client,
        client.subscribe("orders", headers={"region": "eu"}) as orders,
    ):
        for number in range(8):
            client.publish("orders", "created", number, headers={"region": region(number)})
        received = []
        for message in orders:
            received.append(message.payload)
            message.ack()
            if len(received) == 2:
                break
    assert received == [1, 5]
