"""Every commit is fsynced before it returns, and one whose fsync fails is not taken for stored.

`kill -9` cannot show a missing fsync, so the calls themselves are counted and made to fail, with strace.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tidings.store.sqlite import check

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")

COMMITS = 30
PROGRAM = """
import asyncio, sys
from tidings.store.port import CommitFailed, OutcomeUnknown
from tidings.store.sqlite import SqliteStore
from tidings.testing.store_contract import append_all, make_rows

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await store.commit(append_all(make_rows(1)))
    sequence = 2
    for _ in range(int(sys.argv[2])):
        try:
            await store.commit(append_all(make_rows(1, first=sequence)))
            print("stored")
        except (CommitFailed, OutcomeUnknown) as error:
            print(type(error).__name__)
        sequence = (await store.bounds([1]))[1].last_sequence + 1
    await store.close()

asyncio.run(main())
"""


def run(path: Path, *options: str, commits: int = COMMITS) -> tuple[list[str], int]:
    """Runs the program under strace; returns what became of each commit, and the number of fsyncs."""
    trace = path.with_name("trace")
    command = ["strace", "-f", "-o", str(trace), "-e", "trace=fdatasync,fsync", *options]
    command += [sys.executable, "-c", PROGRAM, str(path), str(commits)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert output.returncode == 0, output.stderr
    return output.stdout.split(), trace.read_text().count("sync(")


def test_every_commit_is_one_fsync(tmp_path: Path) -> None:
    answers, with_commits = run(tmp_path / "one.db")
    _, without = run(tmp_path / "two.db", commits=0)
    assert answers == ["stored"] * COMMITS
    assert with_commits - without == COMMITS


@pytest.mark.parametrize(
    ("failing", "expected"),
    [("when=15", ["CommitFailed"]), ("when=15..16", ["OutcomeUnknown"])],
    ids=["the commit's", "also the one that looks what happened"],
)
def test_a_failed_fsync_is_not_taken_for_stored(tmp_path: Path, failing: str, expected: list[str]) -> None:
    path = tmp_path / "events.db"
    answers, _ = run(path, "-e", f"inject=fdatasync:error=EIO:{failing}")
    assert [answer for answer in answers if answer != "stored"] == expected
    result = check(path, print)
    assert result.sound
    assert result.rows == 1 + COMMITS - len(expected)
