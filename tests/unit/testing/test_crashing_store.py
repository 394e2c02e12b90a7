"""The crashing store is a store, and in a crash a commit happens as a whole or not at all."""

import asyncio
import random

import pytest

from tidings.errors import StoreUnavailable
from tidings.store.port import Commit, CommitFailed, OutcomeUnknown
from tidings.testing.crashing_store import CrashingStore, Disk, StoreFaults
from tidings.testing.virtual_time import run

COMMIT = Commit(puts=[("a", b"1"), ("b", b"2")])


@pytest.mark.parametrize("crash_after_s", [0.0, 0.01, 0.02, 0.05])
def test_a_crash_in_a_commit_stores_all_or_nothing_and_never_answers(crash_after_s: float) -> None:
    async def main(seed: int) -> int:
        disk = Disk()
        store = CrashingStore(disk, random.Random(seed))
        commit = asyncio.ensure_future(store.commit(COMMIT))
        await asyncio.sleep(crash_after_s * random.Random(seed).random())
        finished = commit.done()
        store.crash()
        await asyncio.sleep(10)
        assert commit.done() == finished
        commit.cancel()
        after = CrashingStore(disk, random.Random(seed))
        return len(await after.list(""))

    found = [run(main(seed)) for seed in range(50)]
    assert set(found) <= {0, 2}
    if crash_after_s == 0.05:
        assert set(found) == {0, 2}


def test_a_crash_before_the_disk_is_reached_stores_nothing() -> None:
    async def main() -> None:
        disk = Disk()
        store = CrashingStore(disk, random.Random(1))
        store.crash()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await store.commit(COMMIT)
        assert await disk.content.list("") == []

    run(main())


@pytest.mark.parametrize(
    "faults",
    [StoreFaults(commit_fails=1.0), StoreFaults(disk_full=1.0), StoreFaults(outcome_unknown=1.0)],
)
def test_a_failed_commit_stores_nothing_and_an_unknown_one_may(faults: StoreFaults) -> None:
    async def main(seed: int) -> int:
        store = CrashingStore(Disk(), random.Random(seed), faults)
        with pytest.raises((CommitFailed, OutcomeUnknown)):
            await store.commit(COMMIT)
        return len(await store.list(""))

    found = {run(main(seed)) for seed in range(30)}
    assert found == ({0, 2} if faults.outcome_unknown else {0})


def test_a_full_disk_says_so() -> None:
    async def main() -> None:
        store = CrashingStore(Disk(), random.Random(1), StoreFaults(disk_full=1.0))
        with pytest.raises(CommitFailed) as failed:
            await store.commit(COMMIT)
        assert failed.value.full
        assert store.free_bytes() == 0

    run(main())


def test_what_would_tell_an_unknown_outcome_may_not_be_readable() -> None:
    async def main() -> None:
        store = CrashingStore(Disk(), random.Random(1), StoreFaults(outcome_unknown=1.0, read_fails=1.0))
        await store.get("a")
        with pytest.raises(OutcomeUnknown):
            await store.commit(COMMIT)
        with pytest.raises(StoreUnavailable):
            await store.get("a")

    run(main())
