"""`tidings watch`: real file system events, published and printed; a stop that is clean."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.unit.cli.fakes import FakeClient
from tidings.cli import watch
from tidings.cli.main import run
from tidings.cli.watch import describe, is_data_file, publish_changes
from tidings.errors import SystemQueue, TimedOut

DEADLINE_S = 30


class Watched:
    """A watch that runs, and the changes it has published."""

    def __init__(self, client: FakeClient, root: Path, capfd) -> None:
        self.client, self.root, self.capfd = client, root, capfd
        self.output = self.errors = ""
        self.stop = asyncio.Event()

    async def run(self, steps) -> None:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(publish_changes(self.client, self.root, "filesystem", self.stop))
            await self.until(lambda: "watching" in self.errors)
            await steps()
            self.stop.set()

    async def until(self, condition) -> None:
        while not condition():
            await asyncio.sleep(0.01)
            captured = self.capfd.readouterr()
            self.output += captured.out
            self.errors += captured.err

    def changes(self) -> list[tuple[str, str, int | None]]:
        changes = []
        for call in self.client.calls:
            assert call[:2] == ("publish", "filesystem")
            changes.append((call[2], call[3]["relative_path"], call[3]["size"]))
        return changes

    async def until_published(self, *change) -> None:
        await self.until(lambda: change in self.changes())


@pytest.fixture
def root(tmp_path):
    directory = tmp_path / "inbox"
    directory.mkdir()
    return directory


async def test_files_that_come_change_and_go_are_published(client, root, capfd):
    watched = Watched(client, root, capfd)

    async def steps() -> None:
        file = root / "a.txt"
        file.write_bytes(b"12345")
        await watched.until_published("add", "a.txt", 5)
        with file.open("ab") as more:
            more.write(b"678")
        await watched.until_published("update", "a.txt", 8)
        file.unlink()
        await watched.until_published("delete", "a.txt", None)
        await watched.until(lambda: "delete" in watched.output)

    await watched.run(steps)
    assert client.calls[0][3]["path"] == str(root / "a.txt")
    assert len(watched.output.splitlines()) == len(client.calls)
    assert "add     a.txt  5 bytes" in watched.output
    assert "filesystem 1 " in watched.output


async def test_directories_below_are_watched_too(client, root, capfd):
    watched = Watched(client, root, capfd)
    (root / "sub").mkdir()

    async def steps() -> None:
        (root / "sub" / "b").write_bytes(b"x")
        await watched.until_published("add", os.path.join("sub", "b"), 1)

    await watched.run(steps)


async def test_a_data_file_in_the_directory_is_left_out(client, root, capfd):
    watched = Watched(client, root, capfd)
    (root / "tidings.db.lock").write_text("1")
    (root / "tidings.db").write_bytes(b"SQLite format 3\0 and more")

    async def steps() -> None:
        (root / "tidings.db-wal").write_bytes(b"log")
        (root / "tidings.db").write_bytes(b"SQLite format 3\0 and more and more")
        (root / "seen").write_bytes(b"")
        await watched.until_published("add", "seen", 0)

    await watched.run(steps)
    assert {name for _, name, _ in watched.changes()} == {"seen"}


def test_only_a_database_with_a_lock_is_a_data_file_in_use(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(b"SQLite format 3\0")
    assert not is_data_file(str(path))
    (tmp_path / "a.db.lock").write_text("1")
    for suffix in ("", "-wal", "-shm", ".lock"):
        assert is_data_file(str(path) + suffix)
    path.write_bytes(b"something else")
    assert not is_data_file(str(path))
    assert not is_data_file(str(tmp_path / "missing.lock"))


def test_a_description_has_paths_and_size(tmp_path):
    (tmp_path / "f").write_bytes(b"123")
    (tmp_path / "d").mkdir()
    assert describe(tmp_path, str(tmp_path / "f")) == {"path": str(tmp_path / "f"), "relative_path": "f", "size": 3}
    assert describe(tmp_path, str(tmp_path / "d"))["size"] is None
    assert describe(tmp_path, str(tmp_path / "gone"))["size"] is None
    strange = describe(tmp_path, os.fsdecode(b"/x/\xff"))
    assert json.loads(json.dumps(strange)) == strange
    assert strange["path"] == "/x/\\xff"
    strange["path"].encode()


async def test_a_stop_does_not_wait_for_ever_for_a_server_that_is_away(client, root, capfd, monkeypatch):
    monkeypatch.setattr(watch, "STOP_TIMEOUT_S", 0.01)
    waiting = asyncio.Event()

    async def wait_for_ever(*_arguments, **_options) -> None:
        waiting.set()
        await asyncio.Event().wait()

    client.publish = wait_for_ever
    watched = Watched(client, root, capfd)

    async def steps() -> None:
        (root / "a").write_bytes(b"")
        await waiting.wait()

    with pytest.raises(ExceptionGroup) as failure:
        await watched.run(steps)
    assert failure.group_contains(TimedOut, match="not all confirmed")


async def test_a_refused_publish_ends_the_watch_with_its_reason(client, root):
    client.error = SystemQueue("queues that begin with $ are the server's own")

    async def touch_until_seen() -> None:
        # The watch tells when it has begun by its output; here a file is simply touched until it is seen.
        for number in range(DEADLINE_S * 100):
            (root / f"{number}").write_bytes(b"")
            await asyncio.sleep(0.01)

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        touching = tasks.create_task(touch_until_seen())
        with pytest.raises(SystemQueue):
            await publish_changes(client, root, "$presence", asyncio.Event())
        touching.cancel()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_stops_it_cleanly(number, code, client, root, monkeypatch):
    async def stop_at_once(_client, _root, _queue, stop) -> None:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), DEADLINE_S)

    monkeypatch.setattr(watch, "publish_changes", stop_at_once)
    assert run(["watch", str(root)]) == code
    assert client.closed


def test_a_missing_directory_is_told(tmp_path, client, capfd):
    assert run(["watch", str(tmp_path / "missing")]) == 1
    assert "not a directory" in capfd.readouterr().err
    assert client.url == ""


def test_a_queue_that_cannot_be_is_told_before_the_first_change(client, root, capfd):
    assert run(["watch", str(root), "--queue", "a b"]) == 1
    assert "invalid_name" in capfd.readouterr().err
    assert client.url == ""


def test_a_directory_that_cannot_be_read_is_told(client, root, capfd, monkeypatch):
    async def refuse(*_: object) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(watch, "publish_changes", refuse)
    assert run(["watch", str(root)]) == 1
    assert "cannot be watched" in capfd.readouterr().err
