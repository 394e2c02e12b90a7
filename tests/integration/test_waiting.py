"""Waiting: a queue refuses what is new, or cuts what is oldest, once as much waits as may; `kill -9` lifts nothing."""

import asyncio
import math
from pathlib import Path

import pytest

import tidings
import tidings.sync
from tests.integration.processes import DEADLINE_S, Server, eventually, run_command
from tidings.wire import Gap


async def make_absent(client: tidings.Client, name: str = "archive") -> None:
    """Makes a durable subscription that nobody reads."""
    subscription = client.subscribe("scans", name=name)
    await subscription.attach()
    await subscription.close()


async def publish_until_full(client: tidings.Client, payload: object, most: int = 1_000) -> tuple[int, str]:
    """Publishes one after another; returns how many were taken, and what the refusal of the next one says."""
    for count in range(most):
        try:
            await client.publish("scans", "made", payload)
        except tidings.QueueFull as error:
            return count, error.text
    raise AssertionError(f"{most} were taken")


async def read_all(client: tidings.Client, name: str, last: int) -> tuple[list[int], list[Gap]]:
    """Reads up to a sequence; returns what came and what was told not to come."""
    subscription = client.subscribe("scans", name=name)
    await subscription.attach()
    found: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        async for message in subscription:
            found.append(message.sequence)
            await message.ack()
            if message.sequence == last:
                break
    gaps = list(subscription.gaps)
    await subscription.close()
    return found, gaps


@pytest.mark.parametrize(
    ("setting", "most", "taken", "says"),
    [
        ("waiting_messages", 3, 3, "3 messages of queue 'scans' wait for subscription 'archive', at most 3 may"),
        # 1,002 bytes of JSON, 7 that MessagePack needs beside them.
        ("waiting_bytes", 5_000, 5, "5045 bytes of queue 'scans' wait for subscription 'archive', at most 5000 may"),
    ],
)
async def test_no_more_is_taken_than_may_wait_also_after_a_crash(
    server: Server, setting: str, most: int, taken: int, says: str
) -> None:
    async with tidings.connect(server.url, client_id="shop") as client:
        await make_absent(client)
        await client.configure_queue("scans", **{setting: most})
        count, text = await publish_until_full(client, "x" * 1_000)
        assert count == taken
        assert says in text
        assert f"raise {setting} of the queue" in text
        server.kill()
        server.start()
        count, text = await publish_until_full(client, "x" * 1_000)
        assert count == 0
        assert says in text
        assert await read_all(client, "archive", taken) == (list(range(1, taken + 1)), [])
        assert (await publish_until_full(client, "x" * 1_000))[0] == taken
        await client.configure_queue("scans", **{setting: math.inf})
        await client.publish("scans", "made", "more")


async def test_nothing_is_taken_while_something_has_waited_too_long_also_after_a_crash(server: Server) -> None:
    async with tidings.connect(server.url, client_id="shop") as client:
        await make_absent(client)
        await client.configure_queue("scans", waiting_age=0.5)
        await client.publish("scans", "made", 1)

        async def refused() -> str:
            try:
                await client.publish("scans", "made", 2)
            except tidings.QueueFull as error:
                return error.text
            return ""

        await eventually(refused)
        server.kill()
        server.start()
        # At first it knows only how old the last message is, which may be younger.
        await eventually(refused)
        assert "s of queue 'scans' wait for subscription 'archive', they may be 0.5 s old" in await refused()
        [info] = [info for info in await client.queues() if info.name == "scans"]
        await read_all(client, "archive", info.last_sequence)
        assert not await refused()


@pytest.mark.parametrize(
    ("setting", "most", "reason"),
    [
        ("waiting_messages", 100, "too many waited"),
        ("waiting_bytes", 10_000, "too many bytes waited"),
        ("waiting_age", 0.3, "waited too long"),
    ],
)
async def test_every_confirmed_message_is_delivered_or_in_one_gap_while_the_server_is_killed(
    server: Server, setting: str, most: float, reason: str
) -> None:
    async with tidings.connect(server.url, client_id="shop") as client:
        await make_absent(client)
        await client.configure_queue("scans", when_full="drop-oldest", **{setting: most})
        last = 0
        for round in range(6):
            confirms = await client.publish_many("scans", "made", ["x" * 40] * 200)
            last = max(last, *(confirm.sequence + confirm.count - 1 for confirm in confirms))
            if round % 2:
                server.kill()
                server.start()
        if setting == "waiting_age":

            async def all_cut() -> bool:
                [info] = await client.subscriptions()
                return info.cut == last

            await eventually(all_cut)
            last = (await client.publish("scans", "made", "new")).sequence
        found, gaps = await read_all(client, "archive", last)
        told = [sequence for gap in gaps for sequence in range(gap.first_sequence, gap.last_sequence + 1)]
        assert sorted(found + told) == list(range(1, last + 1))
        assert {gap.reason for gap in gaps} == {reason}
        assert len(found) in {"waiting_messages": [100], "waiting_bytes": range(150, 250), "waiting_age": [1]}[setting]


async def test_limits_are_set_from_the_command_line_on_a_live_queue(server: Server, tmp_path: Path) -> None:
    async with tidings.connect(server.url, client_id="shop") as client:
        await make_absent(client)
        await client.publish_many("scans", "made", range(10))
        limits = ["--waiting-bytes", "50", "--waiting-age", "60", "--when-full", "drop-oldest"]
        code, output, _ = await run_command("queue", "set", "scans", *limits, directory=tmp_path, server=server.url)
        assert (code, output) == (0, "changed queue scans\n")
        [info] = [info for info in await client.queues() if info.name == "scans"]
        assert (info.settings.waiting_bytes, info.settings.waiting_age_ms) == (50, 60_000)

        async def some_cut() -> bool:
            [info] = await client.subscriptions()
            return 0 < info.cut < 10

        await eventually(some_cut)


def test_the_sync_client_sets_them_as_well(server: Server) -> None:
    with tidings.sync.connect(server.url, client_id="shop") as client:
        with client.subscribe("scans", name="archive") as subscription:
            subscription.attach()
        client.configure_queue("scans", waiting_bytes=1)
        client.publish("scans", "made", 1)
        with pytest.raises(tidings.QueueFull, match="at most 1 may"):
            client.publish("scans", "made", 2)
