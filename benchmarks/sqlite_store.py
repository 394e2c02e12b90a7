"""How many commits the SQLite store makes in a second, by page size, and what trimming costs.

    python benchmarks/sqlite_store.py [DIRECTORY]

Every commit is fsynced. "trimming" removes one old row in each commit that appends one, with 400 rows held, so
that freed pages are reused. "bare" is append and fdatasync of the same bytes. Rounds of all page sizes take
turns, and the best of each is printed, since the disk's speed changes while they run. "written" is what the
process wrote for one commit, log and file together (Linux only): the part that does not depend on the disk.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tidings.batch import Batch, StoredBatch, encode_item
from tidings.model import Run
from tidings.store.port import Append, Commit, Trim
from tidings.store.sqlite.writer import Writer

PAGE_BYTES = (4096, 8192, 16384, 32768)
BODIES_BYTES = {256 * 1024: 300, 200: 1500}
HELD = 400
ROUNDS = 5


def batch(size_bytes: int) -> Batch:
    body = encode_item(os.urandom(size_bytes), None, None, None)
    return Batch([Run("created", 1, len(body))], body)


def commits(size_bytes: int, first: int, count: int, *, trimming: bool) -> Iterator[Commit]:
    content = batch(size_bytes)
    for sequence in range(first, first + count):
        trims = [Trim(1, sequence - HELD)] if trimming else []
        yield Commit([Append(1, StoredBatch(sequence, sequence, content))], trims)


def written_bytes() -> int:
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except FileNotFoundError:
        return 0
    return int(fields["wchar"])


def run(directory: Path, page_bytes: int, size_bytes: int, count: int) -> tuple[float, float, float, float]:
    path = directory / f"{page_bytes}.db"
    writer = Writer(path, page_bytes)
    start = time.perf_counter()
    for commit in commits(size_bytes, 1, count, trimming=False):
        writer.commit(commit)
    appending = count / (time.perf_counter() - start)
    for commit in commits(size_bytes, count + 1, HELD, trimming=False):
        writer.commit(commit)
    before_bytes = written_bytes()
    start = time.perf_counter()
    for commit in commits(size_bytes, count + HELD + 1, count, trimming=True):
        writer.commit(commit)
    trimming = count / (time.perf_counter() - start)
    written = (written_bytes() - before_bytes) / count
    start = time.perf_counter()
    writer.commit(Commit(trims=[Trim(1, 2 * count + 64)]))
    step_ms = (time.perf_counter() - start) * 1000
    writer.close()
    path.unlink()
    return appending, trimming, step_ms, written


def bare(directory: Path, size_bytes: int, count: int) -> float:
    path = directory / "bare"
    content = batch(size_bytes).body
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    start = time.perf_counter()
    for _ in range(count):
        os.write(descriptor, content)
        os.fdatasync(descriptor)
    rate = count / (time.perf_counter() - start)
    os.close(descriptor)
    path.unlink()
    return rate


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        directory = Path(name)
        for size_bytes, count in BODIES_BYTES.items():
            best: dict[int, list[tuple[float, float, float, float]]] = {page_bytes: [] for page_bytes in PAGE_BYTES}
            floor = []
            for _ in range(ROUNDS):
                for page_bytes in PAGE_BYTES:
                    best[page_bytes].append(run(directory, page_bytes, size_bytes, count))
                floor.append(bare(directory, size_bytes, count))
            print(f"\nbodies of {size_bytes} bytes; bare append and fdatasync {max(floor):,.0f}/s")
            print("page size   commits/s   commits/s while trimming   trim of 64 rows, ms   written, KiB")
            for page_bytes, rounds in best.items():
                appending, trimming, step_ms, written = zip(*rounds, strict=True)
                print(
                    f"{page_bytes:9,}   {max(appending):9,.0f}   {max(trimming):24,.0f}   {min(step_ms):19.1f}"
                    f"   {min(written) / 1024:12,.0f}"
                )


if __name__ == "__main__":
    main()
