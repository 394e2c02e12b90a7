"""`tidings check` and `tidings backup`: what they pass on and how they end."""

import json
import os
from pathlib import Path

import pytest

from tidings.cli.main import run
from tidings.store.sqlite import CheckResult, SqliteStore


@pytest.fixture
async def data_file(tmp_path) -> Path:
    path = tmp_path / "events.db"
    store = SqliteStore(str(path))
    await store.open()
    await store.close()
    return path


def test_a_sound_file_exits_0(data_file, capfd):
    assert run(["check", str(data_file)]) == 0
    assert capfd.readouterr().out.startswith("sound: 0 queues, 0 messages")
    assert run(["check", f"sqlite:{data_file}", "--json"]) == 0
    entry = json.loads(capfd.readouterr().out)
    assert entry["sound"] is True
    assert (entry["queues"], entry["messages"], entry["bytes"], entry["problems"]) == (0, 0, 0, [])


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_problems_are_listed_and_exit_1(options, monkeypatch, capfd):
    def find(path, report):
        assert path == "events.db"
        report("queue 1, sequences 5 to 9: checksum")
        return CheckResult(queues=1, rows=2, messages=3, size_bytes=4, problems=1)

    monkeypatch.setattr("tidings.store.sqlite.check", find)
    assert run(["check", "events.db", *options]) == 1
    output = capfd.readouterr().out
    if options:
        assert json.loads(output)["problems"] == ["queue 1, sequences 5 to 9: checksum"]
    else:
        assert output.splitlines() == [
            "queue 1, sequences 5 to 9: checksum",
            "1 problem: 1 queue, 3 messages in 2 rows, 4 B, 0 records",
        ]


def test_a_file_that_is_not_there_or_not_ours_is_told(tmp_path, capfd):
    foreign = tmp_path / "foreign"
    foreign.write_text("something else entirely")
    for path in (tmp_path / "missing", foreign):
        assert run(["check", str(path)]) == 1
        assert capfd.readouterr().err.startswith("error (store_")
    assert not (tmp_path / "missing").exists()


def test_memory_cannot_be_checked(capfd):
    assert run(["check", "memory:"]) == 1
    assert "no file" in capfd.readouterr().err


def test_a_backup_path_starts_where_the_command_runs(client, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(["backup", "copy.db"]) == 0
    target = os.path.join(os.path.realpath(tmp_path), "copy.db")
    assert client.calls == [("backup", target)]
    assert capfd.readouterr().out == f"backed up to {target}\n"
