"""What a commit takes: the store's, SQLite's alone with the same rows, and append and fdatasync of the same bytes.

    python -m benchmarks.commit_floor [DIRECTORY]

The three take turns, a round each, since the disk's speed changes while they run. "SQLite alone" executes the same
statements, prepared, with the values ready; the store does on top what makes rows of a transaction: encoding,
checksums, looking where a queue ends, the length of the log. Large commits also move the log into the file again and
again, so that everything is written twice. Processor time is that of this process, the system's part included.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tidings.batch import Batch, StoredBatch, encode_item
from tidings.model import Run
from tidings.store.port import Append, Commit
from tidings.store.sqlite import connections
from tidings.store.sqlite.log import Log
from tidings.store.sqlite.rows import COLUMNS, StoredRow, encode_row
from tidings.store.sqlite.schema import PAGE_BYTES
from tidings.store.sqlite.writer import Writer

ROUNDS = 7
QUEUE = 1


class Size(NamedTuple):
    """A kind of commit: its rows, the bytes of each, and how many are made in a round."""

    title: str
    rows: int
    body_bytes: int
    commits: int


SIZES = (
    Size("one message of 128 bytes", 1, 128, 400),
    Size("16 rows of 512 KiB", 16, 512 * 1024, 24),
)


class Round(NamedTuple):
    """What a round took."""

    median_us: float
    processor_us: float
    mib_per_s: float


def commit_of(size: Size, number: int) -> Commit:
    """Returns a commit as the server makes it: rows, and the records of a publisher, a cursor and the commit."""
    body = encode_item(os.urandom(size.body_bytes), None, None, None)
    batch = Batch([Run("created", 1, len(body))], body)
    first = 1 + number * size.rows
    records = [
        ("producer/0123456789abcdef01234567", number.to_bytes(4, "big") * 6),
        ("cursor/1/1", number.to_bytes(4, "big") * 3),
        ("commit", number.to_bytes(4, "big")),
    ]
    return Commit([Append(QUEUE, StoredBatch(first + row, 1, batch)) for row in range(size.rows)], [], records)


def measure(size: Size, commits: list[Commit], carry_out: Callable[[Commit], None]) -> Round:
    """Carries out commits one after another."""
    took_s: list[float] = []
    start_s, start_processor_s = time.perf_counter(), time.process_time()
    for commit in commits:
        before_s = time.perf_counter()
        carry_out(commit)
        took_s.append(time.perf_counter() - before_s)
    all_s, processor_s = time.perf_counter() - start_s, time.process_time() - start_processor_s
    size_bytes = sum(len(append.stored.batch.body) for commit in commits for append in commit.appends)
    return Round(median(took_s) * 1e6, processor_s * 1e6 / len(commits), size_bytes / all_s / 2**20)


class Alone:
    """SQLite with the store's file, settings and statements, and nothing around them."""

    def __init__(self, path: Path, size: Size) -> None:
        self._writer = Writer(path)  # makes the file; from here on only its connection is used
        self._log = Log(path, PAGE_BYTES)
        self._insert = f"INSERT INTO rows ({COLUMNS}) VALUES {connections.values(size.rows, len(StoredRow._fields))}"
        self._values: dict[int, tuple[list[object], list[object]]] = {}

    def prepare(self, commits: list[Commit]) -> None:
        """Makes the values ready."""
        for commit in commits:
            rows = [encode_row(queue, 0, stored) for queue, stored in commit.appends]
            records = [value for put in commit.puts for value in put]
            self._values[id(commit)] = [value for row in rows for value in row], records

    def carry_out(self, commit: Commit) -> None:
        """Executes the statements of a commit."""
        rows, records = self._values.pop(id(commit))
        execute = self._writer.connection.execute
        execute("BEGIN IMMEDIATE")
        execute(self._insert, rows)
        execute(
            f"""INSERT INTO records (key, value) VALUES {connections.values(3, 2)}
            ON CONFLICT (key) DO UPDATE SET value = excluded.value""",
            records,
        )
        execute("COMMIT")
        self._log.bound(self._writer.connection)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
        self._log.close()


class Plain:
    """Append and fdatasync."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._sync = getattr(os, "fdatasync", os.fsync)

    def carry_out(self, commit: Commit) -> None:
        """Appends the bodies of a commit."""
        os.writev(self._descriptor, [append.stored.batch.body for append in commit.appends])
        self._sync(self._descriptor)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def compare(directory: Path, size: Size) -> None:
    """Prints a table for one kind of commit."""
    store, alone, append = Writer(directory / "store.db"), Alone(directory / "alone.db", size), Plain(directory / "a")
    rounds: dict[str, list[Round]] = {"the store": [], "SQLite alone": [], "append, fdatasync": []}
    for number in range(ROUNDS):
        commits = [commit_of(size, number * size.commits + place) for place in range(size.commits)]
        alone.prepare(commits)
        for title, carry_out in zip(rounds, (store.commit, alone.carry_out, append.carry_out), strict=True):
            rounds[title].append(measure(size, commits, carry_out))
    for each in (store, alone, append):
        each.close()
    print(f"\n{size.title} a commit, {ROUNDS} rounds of {size.commits}: median (min to max)")
    print("                     a commit, µs              processor, µs             MiB/s")
    for title, found in rounds.items():
        columns = [f"{median(c):,.0f} ({min(c):,.0f} to {max(c):,.0f})" for c in zip(*found, strict=True)]
        print(f"{title:18}   " + " ".join(f"{column:25}" for column in columns).rstrip())


def main() -> None:
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
            compare(Path(name), size)


if __name__ == "__main__":
    main()
