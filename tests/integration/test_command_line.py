"""The command line as a user runs it: each verb in a process of its own, against a real server."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import tidings
from tests.integration.processes import SOURCES, Process, Server, eventually, run_command


def _lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


class Commands:
    """Commands that talk to one server."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.directory = directory

    async def run(self, *arguments: str | Path, data: bytes = b"") -> str:
        """Runs a command that must succeed; returns its output."""
        code, output, errors = await run_command(
            *arguments, directory=self.directory, server=self.server.url, data=data
        )
        assert code == 0, (code, output, errors)
        return output

    async def fail(self, *arguments: str | Path, data: bytes = b"") -> tuple[int, str]:
        """Runs a command that must fail; returns exit code and errors."""
        code, _, errors = await run_command(*arguments, directory=self.directory, server=self.server.url, data=data)
        assert code != 0
        assert "Traceback" not in errors, errors
        return code, errors

    def start(self, *arguments: str | Path) -> Process:
        """Starts a command that goes on until it is ended."""
        verb, *others = arguments
        log = self.directory / f"{verb}.log"
        return Process("-m", "tidings", verb, *others, "--server", self.server.url, log=log)


@pytest.fixture
def commands(server: Server, tmp_path: Path) -> Commands:
    return Commands(server, tmp_path)


async def test_publish_prints_the_confirm(commands: Commands) -> None:
    [confirm] = _lines(await commands.run("publish", "orders", "created", '{"id": 7}'))
    assert confirm["queue"] == "orders"
    assert (confirm["sequence"], confirm["durability"], confirm["subscriptions"]) == (1, "disk", 0)


async def test_publish_takes_a_message_from_each_line_of_standard_input(commands: Commands) -> None:
    data = b"".join(b'{"line": %d}\n' % number for number in range(2_000))
    await commands.run("publish", "lines", "read", "-", data=data)
    output = await commands.run("subscribe", "lines", "--from", "earliest", "--count", "2000")
    assert [line["payload"]["line"] for line in _lines(output)] == list(range(2_000))


async def test_subscribe_prints_messages_and_continues_where_it_was(commands: Commands) -> None:
    await commands.run("publish", "orders", "created", '{"id": 1}')
    arguments = ("subscribe", "orders", "created", "--as", "billing", "--from", "earliest", "--count", "1")
    [first] = _lines(await commands.run(*arguments))
    assert {"queue", "event", "sequence", "time", "attempt", "payload", "headers"} <= set(first)
    assert (first["queue"], first["event"], first["sequence"], first["attempt"]) == ("orders", "created", 1, 1)
    assert (first["payload"], first["headers"]) == ({"id": 1}, {})
    await commands.run("publish", "orders", "created", '{"id": 2}', "--header", "trace=abc", "--key", "k", "--id", "i")
    commands.server.kill()
    commands.server.start()
    [second] = _lines(await commands.run(*arguments))
    assert (second["sequence"], second["payload"], second["headers"]) == (2, {"id": 2}, {"trace": "abc"})
    assert (second["key"], second["id"]) == ("k", "i")


async def test_listings_as_json_have_what_is_documented(commands: Commands) -> None:
    with commands.start("subscribe", "orders", "created", "--as", "billing") as subscriber:
        await eventually(lambda: _clients(commands, 1))
        await commands.run("publish", "orders", "created", "1")
        assert json.loads(subscriber.read_line())["payload"] == 1
        [client] = _lines(await commands.run("clients", "--json"))
        assert {"client_id", "address", "protocol", "connected", "connected_since", "subscriptions"} <= set(client)
        assert (client["client_id"], client["connected"]) == ("billing", True)
        queues = {line["name"]: line for line in _lines(await commands.run("queues", "--json"))}
        assert {"name", "first_sequence", "last_sequence", "messages", "bytes", "subscriptions"} <= set(
            queues["orders"]
        )
        [subscription] = _lines(await commands.run("subscriptions", "--json"))
        documented = ("name", "client_id", "queue", "event", "cursor", "lag", "in_flight", "connected", "last_ack")
        assert set(documented) <= set(subscription)
        assert (subscription["queue"], subscription["event"]) == ("orders", "created")
        for verb in ("clients", "queues", "subscriptions"):
            assert "orders" in await commands.run(verb)
        assert subscriber.terminate() != 0


async def _clients(commands: Commands, count: int) -> bool:
    return len(_lines(await commands.run("subscriptions", "--json"))) == count


async def test_subscriptions_and_queues_are_deleted_by_name(commands: Commands) -> None:
    await commands.run("publish", "orders", "created", "1")
    await commands.run("subscribe", "orders", "--as", "billing", "--from", "earliest", "--count", "1")
    await commands.run("subscriptions", "delete", "billing")
    assert await commands.run("subscriptions", "--json") == ""
    await commands.run("queues", "delete", "orders")
    assert "orders" not in await commands.run("queues", "--json")
    for verb in ("queues", "subscriptions"):
        code, errors = await commands.fail(verb, "delete", "nothing")
        assert (code, "not_found" in errors) == (1, True)


async def test_watch_publishes_what_happens_to_files(commands: Commands, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    async with tidings.connect(commands.server.url) as client:
        async with client.subscribe("filesystem") as subscription, asyncio.timeout(60):
            messages = aiter(subscription)
            with commands.start("watch", inbox) as watch:
                await eventually(lambda: "watching" in watch.log.read_text())
                (inbox / "new.txt").write_text("hello")
                added = await anext(messages)
                assert (added.event, added.payload["path"]) == ("add", str(inbox / "new.txt"))
                while added.event != "delete":
                    if (inbox / "new.txt").exists():
                        (inbox / "new.txt").unlink()
                    added = await anext(messages)
                assert added.payload["path"] == str(inbox / "new.txt")
                assert watch.terminate() == 0


async def test_control_c_ends_with_130_what_goes_on_for_ever(commands: Commands) -> None:
    with commands.start("watch", ".") as watch, commands.start("subscribe", "orders", "--as", "reader") as subscribe:
        await eventually(lambda: "watching" in watch.log.read_text())
        await eventually(lambda: _clients(commands, 1))
        assert [each.interrupt() for each in (watch, subscribe)] == [130, 130]
        assert "Traceback" not in watch.log.read_text() + subscribe.log.read_text()


async def test_backup_of_a_running_server_is_sound_and_complete(commands: Commands, tmp_path: Path) -> None:
    await commands.run("publish", "orders", "created", "-", data=b"1\n2\n3\n")
    await commands.run("backup", "copy.db")
    await commands.run("publish", "orders", "created", "4")
    assert "sound" in await commands.run("check", "copy.db")
    [result] = _lines(await commands.run("check", "copy.db", "--json"))
    assert (result["sound"], result["messages"] >= 3) == (True, True)
    code, errors = await commands.fail("backup", "copy.db")
    assert (code, "exists" in errors) == (1, True)
    async with tidings.connect(str(tmp_path / "copy.db")) as client:
        [queue] = [queue for queue in await client.queues() if queue.name == "orders"]
        assert queue.last_sequence == 3


async def test_check_refuses_what_is_open_foreign_or_damaged(commands: Commands, tmp_path: Path) -> None:
    code, errors = await commands.fail("check", commands.server.data_file)
    assert (code, str(commands.server.process.pid) in errors) == (1, True)
    (tmp_path / "foreign").write_text("not a data file" * 1000)
    code, errors = await commands.fail("check", "foreign")
    assert (code, "store_foreign" in errors) == (1, True)
    code, errors = await commands.fail("serve", "--store", "sqlite:foreign", "--listen", "tidings://127.0.0.1:0")
    assert (code, "store_foreign" in errors) == (1, True)
    await commands.run("publish", "orders", "created", "-", data=b'"%s"\n' % (b"x" * 1000) * 2_000)
    assert commands.server.terminate() == 0
    with commands.server.data_file.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.seek(file.tell() // 2)
        file.write(b"\xa5" * 20_000)
    code, output, errors = await run_command("check", commands.server.data_file, directory=tmp_path)
    assert code == 1
    assert "Traceback" not in errors
    assert output or errors


async def test_a_second_server_on_the_same_file_or_port_is_refused(commands: Commands, tmp_path: Path) -> None:
    server = commands.server
    code, errors = await commands.fail(
        "serve", "--store", f"sqlite:{server.data_file}", "--listen", "tidings://127.0.0.1:0"
    )
    assert (code, "store_locked" in errors, str(server.process.pid) in errors) == (1, True, True)
    code, errors = await commands.fail("serve", "--store", "memory:", "--listen", server.url)
    assert (code, "another port" in errors) == (1, True)


async def test_other_addresses_than_loopback_need_insecure(commands: Commands) -> None:
    code, errors = await commands.fail("serve", "--store", "memory:", "--listen", "tidings://0.0.0.0:0")
    assert (code, "--insecure" in errors) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (("publish", "$presence", "connected", "1"), 1, "system_queue"),
        (("publish", "a b", "created", "1"), 1, "invalid_name"),
        (("publish", "orders", "created", "{no json"), 1, "invalid_payload"),
        (("subscribe", "a.#.b"), 1, "invalid_filter"),
        (("subscribe", "orders", "--from", "yesterday"), 1, "--from"),
        (("subscribe", "orders", "--count", "0"), 1, "--count"),
        (("watch", "nowhere"), 1, "not a directory"),
        (("check", "nowhere.db"), 1, "nowhere.db"),
        (("nonsense",), 2, "nonsense"),
        (("publish",), 2, "QUEUE"),
        (("queues", "--server", "tidings://127.0.0.1:1"), 1, "tidings serve"),
        (("queues", "--server", "nonsense"), 1, "tidings://"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_what_is_wrong_is_told_in_a_line_with_an_exit_code(
    commands: Commands, arguments: tuple[str, ...], code: int, hint: str
) -> None:
    found, errors = await commands.fail(*arguments)
    assert found == code, errors
    assert hint in errors


async def test_a_reader_that_goes_away_ends_subscribe_quietly(commands: Commands) -> None:
    await commands.run("publish", "lines", "read", "-", data=b'"%s"\n' % (b"x" * 1000) * 3_000)
    command = f"{sys.executable} -m tidings subscribe lines --from earliest | head -1"
    child = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"set -o pipefail; {command}",
        env=os.environ | {"TIDINGS_SERVER": commands.server.url, "PYTHONPATH": str(SOURCES)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(child.communicate(), 30)
    finally:
        if child.returncode is None:
            child.kill()
    assert (child.returncode, errors) == (141, b"")
    assert json.loads(output)["sequence"] == 1


async def test_the_tour_of_the_readme(commands: Commands, tmp_path: Path) -> None:
    # A directory is watched, a subscriber goes away, files change, the server is killed, everything comes back.
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with commands.start("watch", inbox) as watch:
        await eventually(lambda: "watching" in watch.log.read_text())
        with commands.start("subscribe", "filesystem", "--as", "archive") as archive:
            await eventually(lambda: _clients(commands, 1))
            (inbox / "one.txt").write_text("1")
            seen = [json.loads(archive.read_line())]
            assert (seen[0]["event"], seen[0]["payload"]["relative_path"]) == ("add", "one.txt")
            await eventually(lambda: _nothing_waits(commands))
            archive.kill()
        (inbox / "two.txt").write_text("22")
        while "two.txt" not in watch.read_line():
            pass  # a line comes for every change that is confirmed
        commands.server.kill()
        (inbox / "three.txt").write_text("333")
        commands.server.start()
        await eventually(lambda: _waits(commands, 2))
        assert watch.terminate() == 0
    output = await commands.run("subscribe", "filesystem", "add", "--as", "late", "--from", "earliest", "--count", "3")
    assert [line["payload"]["relative_path"] for line in _lines(output)] == ["one.txt", "two.txt", "three.txt"]
    waiting = [
        line["lag"] for line in _lines(await commands.run("subscriptions", "--json")) if line["client_id"] == "archive"
    ]
    output = await commands.run("subscribe", "filesystem", "--as", "archive", "--count", str(waiting[0]))
    missed = _lines(output)
    assert {line["payload"]["relative_path"] for line in missed} >= {"two.txt", "three.txt"}
    assert "one.txt" not in {line["payload"]["relative_path"] for line in missed}


async def _nothing_waits(commands: Commands) -> bool:
    [info] = _lines(await commands.run("subscriptions", "--json"))
    return bool(info["lag"] == 0)


async def _waits(commands: Commands, count: int) -> bool:
    [info] = _lines(await commands.run("subscriptions", "--json"))
    return bool(info["lag"] >= count)


async def test_a_message_is_published_later_listed_and_taken_back(commands: Commands) -> None:
    [confirm] = _lines(await commands.run("publish", "orders", "due", "1", "--delay", "3600", "--every", "60"))
    [scheduled] = _lines(await commands.run("schedules", "--json"))
    assert (scheduled["queue"], scheduled["event"], scheduled["every_ms"]) == ("orders", "due", 60_000)
    assert scheduled["handle"] == confirm["handle"]
    assert scheduled["handle"] in await commands.run("schedules")
    await commands.run("schedules", "cancel", confirm["handle"])
    assert _lines(await commands.run("schedules", "--json")) == []
    code, errors = await commands.fail("schedules", "cancel", confirm["handle"])
    assert (code, "it was published or cancelled" in errors) == (1, True)
    await commands.run("publish", "orders", "due", "2", "--delay", "0.01")
    [message] = _lines(await commands.run("subscribe", "orders", "--from", "earliest", "--count", "1"))
    assert message["payload"] == 2
