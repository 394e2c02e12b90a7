"""The store contract catches planted bugs: each broken store fails the tests that are about its bug."""

from collections.abc import Sequence

import pytest

from tidings.batch import StoredBatch
from tidings.store.memory import MemoryStore
from tidings.store.port import Append, Bounds, Commit, Damage, Store, Trim
from tidings.testing.store_contract import StoreContract


class SkipsStraddlingRow(MemoryStore):
    async def read(self, queue: int, after: int, limit_bytes: int) -> list[StoredBatch | Damage]:
        rows = await super().read(queue, after, limit_bytes)
        return [row for row in rows if row.first_sequence > after]


class CommitsHalf(MemoryStore):
    def _check(self, appends: Sequence[Append]) -> None:
        for append in appends:
            super()._check([append])
            self._append(append)

    async def commit(self, commit: Commit) -> None:
        self._check(commit.appends)
        await super().commit(commit._replace(appends=()))


class TrimsStraddlingRow(MemoryStore):
    def _trim(self, trim: Trim) -> None:
        held = self._queues.get(trim.queue)
        reached = [row.last_sequence for row in held.rows if row.first_sequence <= trim.to_sequence] if held else []
        super()._trim(Trim(trim.queue, reached[-1] if reached else 0))


class AcceptsGaps(MemoryStore):
    def _check(self, appends: Sequence[Append]) -> None:
        pass


class IgnoresLimit(MemoryStore):
    async def read(self, queue: int, after: int, limit_bytes: int) -> list[StoredBatch | Damage]:
        return await super().read(queue, after, 1 << 40)


class CountsTrimmedBytes(MemoryStore):
    async def bounds(self, queues: Sequence[int]) -> dict[int, Bounds]:
        found = await super().bounds(queues)
        return {queue: bounds._replace(size_bytes=self._queues[queue].end_bytes) for queue, bounds in found.items()}


class ListsInOrderOfWriting(MemoryStore):
    async def list(self, prefix: str, after: str = "", limit_bytes: int | None = None) -> list[tuple[str, bytes]]:
        return [(key, value) for key, value in self._records.items() if key.startswith(prefix)]


class ListsFromTheBeginning(MemoryStore):
    async def list(self, prefix: str, after: str = "", limit_bytes: int | None = None) -> list[tuple[str, bytes]]:
        return await super().list(prefix, limit_bytes=limit_bytes) if after < "b/18" else []


class ForgetsOnReopening(MemoryStore):
    async def close(self) -> None:
        self._records.clear()
        self._keys.clear()


CAUGHT_BY = {
    SkipsStraddlingRow: "test_reading_starts_with_the_row_that_holds_the_next_sequence",
    CommitsHalf: "test_a_refused_commit_changes_nothing",
    TrimsStraddlingRow: "test_a_trim_removes_whole_rows_only",
    AcceptsGaps: "test_an_append_that_does_not_continue_its_queue_is_refused",
    IgnoresLimit: "test_reading_keeps_to_its_limit_but_returns_one_row_at_least",
    CountsTrimmedBytes: "test_bounds_tell_what_a_queue_holds",
    ListsInOrderOfWriting: "test_records_are_listed_by_prefix_in_the_order_of_their_keys",
    ListsFromTheBeginning: "test_a_long_list_is_read_in_parts",
    ForgetsOnReopening: "test_what_was_committed_is_there_after_reopening",
}


def contract_of(engine: type[MemoryStore]) -> StoreContract:
    class Contract(StoreContract):
        async def make_store(self) -> Store:
            return engine()

        async def reopen(self, store: Store) -> Store:
            await store.close()
            await store.open()
            return store

    return Contract()


@pytest.mark.parametrize("engine", CAUGHT_BY, ids=lambda engine: engine.__name__)
async def test_a_broken_store_fails_the_contract(engine: type[MemoryStore]) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        await getattr(contract_of(engine), CAUGHT_BY[engine])()


@pytest.mark.parametrize("name", sorted(set(CAUGHT_BY.values())))
async def test_the_sound_store_passes_the_same_tests(name: str) -> None:
    await getattr(contract_of(MemoryStore), name)()
