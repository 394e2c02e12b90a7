"""Shared subscriptions: each message to one of several processes, and to another one when that is killed."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import tidings
from tests.integration.processes import HERE, Process, Server, eventually

MESSAGES = 3_000


class Member:
    """A process that shares the subscription "team" to the queue "work"."""

    def __init__(self, server: Server, directory: Path, name: str) -> None:
        self.path = directory / f"{name}.txt"
        self.path.touch()
        self.process = Process(
            HERE / "member_process.py", server.url, "work", "team", name, self.path, log=directory / f"{name}.log"
        )
        assert self.process.read_line() == "attached"

    def received(self) -> list[tuple[int, int, str, str]]:
        """Returns (time, sequence, key, payload) of what it has handled, without a line that was cut short."""
        lines = self.path.read_text().rpartition("\n")[0].splitlines()
        found = [line.split(" ", 4) for line in lines]
        return [(int(time_ns), int(sequence), key, payload) for time_ns, sequence, _, key, payload in found]


Join: TypeAlias = Callable[[str], Member]


@pytest.fixture
def join(server: Server, tmp_path: Path) -> Iterator[Join]:
    """Starts members by name, and ends those that are left."""
    members: list[Member] = []

    def start(name: str) -> Member:
        members.append(Member(server, tmp_path, name))
        return members[-1]

    yield start
    for member in members:
        member.process.end()


async def test_each_message_is_handled_by_one_process_though_some_are_killed(server: Server, join: Join) -> None:
    members = [join(f"member-{number}") for number in range(3)]
    async with tidings.connect(server.url) as client:
        publishing = asyncio.ensure_future(_publish(client))
        await eventually(lambda: all(len(member.received()) > 100 for member in members))
        [info] = await _team(client)
        assert {each.client_id for each in info.subscribers} == {"member-0", "member-1", "member-2"}
        members[0].process.kill()
        members.append(join("member-3"))
        await publishing
        await eventually(lambda: _is_done(client))
        for member in members[1:]:
            member.process.terminate()
    handled = [entry for member in members for entry in member.received()]
    assert {int(payload) for *_, payload in handled} == set(range(MESSAGES))
    # Only what the killed one had handled and not acked is handled twice.
    sequences = [sequence for _, sequence, *_ in handled]
    twice = {sequence for sequence in sequences if sequences.count(sequence) > 1}
    assert twice <= {sequence for _, sequence, *_ in members[0].received()}
    assert len(twice) <= 50


async def test_messages_of_one_key_keep_their_order_though_processes_are_killed(server: Server, join: Join) -> None:
    members = [join(f"member-{number}") for number in range(3)]
    async with tidings.connect(server.url) as client:
        publishing = asyncio.ensure_future(_publish_with_keys(client))
        for number in range(3):
            await eventually(lambda member=members[-1]: len(member.received()) > 100)
            members[number].process.kill()
            members.append(join(f"member-{number + 3}"))
        await publishing
        await eventually(lambda: _is_done(client))
        for member in members[3:]:
            member.process.terminate()
    handled = sorted(entry for member in members for entry in member.received())
    assert {int(payload) for *_, payload in handled} == set(range(MESSAGES))
    for key, entries in _by_key(handled).items():
        # What a killed process had handled and not acked is handled once more, before anything that follows.
        assert entries == sorted(entries), f"key {key}: {entries}"


async def test_messages_of_one_key_keep_their_order_though_the_server_is_killed(server: Server, join: Join) -> None:
    members = [join(f"member-{number}") for number in range(3)]
    async with tidings.connect(server.url) as client:
        publishing = asyncio.ensure_future(_publish_with_keys(client))
        await eventually(lambda: all(len(member.received()) > 100 for member in members))
        server.kill()
        server.start()
        await publishing
        await eventually(lambda: _is_done(client))
        for member in members:
            member.process.terminate()
    handled = sorted(entry for member in members for entry in member.received())
    assert {int(payload) for *_, payload in handled} == set(range(MESSAGES))
    for key, entries in _by_key(handled).items():
        first_times = list(dict.fromkeys(entries))
        assert first_times == sorted(first_times), f"key {key}: {entries}"


async def test_a_killed_server_forgets_neither_the_team_nor_its_messages(server: Server, join: Join) -> None:
    members = [join(f"member-{number}") for number in range(2)]
    async with tidings.connect(server.url) as client:
        publishing = asyncio.ensure_future(_publish(client))
        await eventually(lambda: all(len(member.received()) > 100 for member in members))
        server.kill()
        server.start()
        await publishing
        await eventually(lambda: _is_done(client))
        for member in members:
            member.process.terminate()
    handled = [entry for member in members for entry in member.received()]
    assert {int(payload) for *_, payload in handled} == set(range(MESSAGES))


async def test_a_single_active_process_hands_over_when_it_is_killed(server: Server, join: Join) -> None:
    first = join("first")
    async with tidings.connect(server.url, client_id="second") as client:
        await client.configure_subscription("team", single_active=True)
        async with client.subscribe("work", shared="team", start="earliest") as second:
            await client.publish_many("work", "created", range(100))
            await eventually(lambda: len(first.received()) == 100)
            first.process.kill()
            await client.publish("work", "created", "last")
            async for message in second:
                await message.ack()
                if message.payload == "last":
                    break


async def test_the_name_of_a_shared_subscription_is_not_given_to_one_alone(server: Server) -> None:
    async with tidings.connect(server.url) as client:
        async with client.subscribe("work", shared="team"):
            with pytest.raises(tidings.SubscriptionConflict, match="'team' is shared"):
                await client.subscribe("work", name="team").attach()
            with pytest.raises(tidings.SubscriptionConflict, match="filter"):
                await client.subscribe("play", shared="team").attach()
        with pytest.raises(tidings.InvalidOption, match="shared="):
            client.subscribe("work", single_active=True)
        with pytest.raises(tidings.InvalidOption, match="names the subscription"):
            client.subscribe("work", name="one", shared="team")


async def _publish(client: tidings.Client) -> None:
    for first in range(0, MESSAGES, 50):
        await client.publish_many("work", "created", range(first, first + 50))


async def _publish_with_keys(client: tidings.Client) -> None:
    for number in range(0, MESSAGES, 50):
        publishes = [client.publish("work", "created", n, key=f"key-{n * 7 % 20}") for n in range(number, number + 50)]
        await asyncio.gather(*publishes)


def _by_key(handled: list[tuple[int, int, str, str]]) -> dict[str, list[int]]:
    """Returns the sequences of each key in the order in which they were handled."""
    found: dict[str, list[int]] = {}
    for _, sequence, key, _ in handled:
        found.setdefault(key, []).append(sequence)
    return found


async def _team(client: tidings.Client) -> list[Any]:
    return [info for info in await client.subscriptions() if info.name == "team"]


async def _is_done(client: tidings.Client) -> bool:
    [info] = await _team(client)
    return bool(info.cursor >= MESSAGES and info.lag == 0)
