"""The store contract: what every engine must keep, as tests that it inherits.

    class TestMyStore(StoreContract):
        async def make_store(self) -> Store:
            return MyStore(...)

`make_store` returns a new, empty store that is not open yet. An engine whose content survives closing also
overrides `reopen`. The tests need pytest with pytest-asyncio in its automatic mode, or call them one by one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tidings.batch import Batch, StoredBatch, encode_item
from tidings.model import BYTES, Flags, Run
from tidings.store.port import Append, Bounds, Commit, Damage, Row, Store, Trim

_ALL_BYTES = 1 << 30


def make_batch(count: int, *, size_bytes: int = 10, event: str = "created", fill: bytes = b"x") -> Batch:
    """Returns a batch of `count` messages with payloads of `size_bytes`."""
    body = encode_item(fill * size_bytes, None, None, None) * count
    return Batch([Run(event, count, len(body))], body)


def make_rows(*counts: int, first: int = 1, size_bytes: int = 10) -> list[StoredBatch]:
    """Returns neighbouring rows with so many messages each, taken at 1000 ms, 2000 ms and so on."""
    rows = []
    for index, count in enumerate(counts):
        rows.append(StoredBatch(first, 1000 * (index + 1), make_batch(count, size_bytes=size_bytes)))
        first += count
    return rows


def append_all(rows: Sequence[StoredBatch], queue: int = 1) -> Commit:
    """Returns a commit that appends these rows to one queue."""
    return Commit(appends=[Append(queue, row) for row in rows])


class StoreContract:
    """The tests; see the module."""

    async def make_store(self) -> Store:
        """Returns a new, empty store, not open."""
        raise NotImplementedError("an engine's test says how its store is made")

    async def reopen(self, store: Store) -> Store:
        """Closes a store and returns the same content, open; an engine that does not keep it returns `store`."""
        return store

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        """Opens a new store for the length of a test."""
        store = await self.make_store()
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    # --- Queues --------------------------------------------------------------------------------------------

    async def test_an_unknown_queue_is_empty(self) -> None:
        """A queue that nobody wrote to is nothing, not an error."""
        async with self.opened() as store:
            assert await store.read(7, 0, _ALL_BYTES) == []
            assert await store.survey(7, 0, 10) == []
            assert await store.locate(7, 0) is None
            assert await store.bounds([7]) == {}

    async def test_what_was_appended_is_read_back_in_order(self) -> None:
        """Rows come back whole, with their times, whether they came in one commit or in several."""
        rows = make_rows(3, 1, 5)
        async with self.opened() as store:
            await store.commit(append_all(rows[:1]))
            await store.commit(append_all(rows[1:]))
            assert await store.read(1, 0, _ALL_BYTES) == rows

    async def test_reading_starts_with_the_row_that_holds_the_next_sequence(self) -> None:
        """A row that begins at or before `after` and ends above it is returned whole; tried for every place."""
        rows = make_rows(3, 1, 5)
        async with self.opened() as store:
            await store.commit(append_all(rows))
            for after in range(11):
                expected = [row for row in rows if row.last_sequence > after]
                assert await store.read(1, after, _ALL_BYTES) == expected, f"after {after}"

    async def test_reading_keeps_to_its_limit_but_returns_one_row_at_least(self) -> None:
        """Paging with any limit returns each row once, and a page is not much larger than asked for."""
        rows = make_rows(*[2] * 20, size_bytes=100)
        size_bytes = len(rows[0].batch.body)
        async with self.opened() as store:
            await store.commit(append_all(rows))
            for limit_bytes in (1, size_bytes, size_bytes * 3, size_bytes * 3 + 1):
                pages = await self._pages(store, limit_bytes)
                assert [row for page in pages for row in page] == rows
                assert all(len(page) <= limit_bytes // size_bytes + 2 for page in pages)
                assert limit_bytes > 1 or all(len(page) == 1 for page in pages)

    async def test_queues_do_not_mix(self) -> None:
        """Many queues in one commit keep their own sequences and rows, also at the ends of the range of epochs."""
        queues = [0, 1, 2, 3, 1000, 2**40, *range(5000, 5200)]
        held = {queue: make_rows(2, 3, first=queue % 7 + 1) for queue in queues}
        async with self.opened() as store:
            await store.commit(Commit([Append(queue, held[queue][index]) for index in (0, 1) for queue in queues]))
            for queue in queues:
                assert await store.read(queue, 0, _ALL_BYTES) == held[queue]
            assert set(await store.bounds(queues)) == set(queues)

    async def test_runs_come_back_with_any_event_and_flags(self) -> None:
        """Events are any Unicode; content types and flags stay with their run; a row may have many runs."""
        events = ["created", "größer.é", "事件", "🚀" * 60, "a'b\"c\\d%_", "e\u0301"]
        bodies = [encode_item(b"\x00\xff" * 50, None, "key", None) * 3 for _ in events]
        runs = [Run(event, 3, len(body), BYTES, Flags.KEYS) for event, body in zip(events, bodies, strict=True)]
        wide = StoredBatch(1, 5, Batch(runs * 100, b"".join(bodies * 100)))
        async with self.opened() as store:
            await store.commit(append_all([wide]))
            assert await store.read(1, 0, _ALL_BYTES) == [wide]

    async def test_a_large_body_comes_back(self) -> None:
        """A body of several megabytes with every byte in it."""
        body = encode_item(bytes(range(256)) * 4096, None, None, None) * 4
        large = StoredBatch(1, 5, Batch([Run("created", 4, len(body), BYTES)], body))
        async with self.opened() as store:
            await store.commit(append_all([large]))
            assert await store.read(1, 0, 1) == [large]

    async def test_an_append_that_does_not_continue_its_queue_is_refused(self) -> None:
        """A gap, an overlap and a repetition raise AssertionError and change nothing."""
        async with self.opened() as store:
            rows = make_rows(3)
            await store.commit(append_all(rows))
            for first in (1, 2, 3, 5, 100):
                await self._refused(store, append_all(make_rows(2, first=first)))
            assert await store.read(1, 0, _ALL_BYTES) == rows
            await store.commit(append_all(make_rows(2, first=4)))

    # --- Looking -------------------------------------------------------------------------------------------

    async def test_a_survey_is_reading_without_bodies(self) -> None:
        """It names the rows that reading would return, their sizes, and the bytes before each."""
        rows = make_rows(3, 1, 5)
        sizes = [len(row.batch.body) for row in rows]
        expected = [
            Row(row.first_sequence, row.last_sequence, row.time_ms, sum(sizes[:index]), sizes[index])
            for index, row in enumerate(rows)
        ]
        async with self.opened() as store:
            await store.commit(append_all(rows))
            for after in range(11):
                rest = [row for row in expected if row.last_sequence > after]
                assert await store.survey(1, after, 10) == rest, f"after {after}"
                assert await store.survey(1, after, 1) == rest[:1], f"after {after}"

    async def test_offsets_go_on_when_rows_are_trimmed(self) -> None:
        """The difference of two offsets is the bytes between them, whatever was trimmed before."""
        rows = make_rows(3, 1, 5, 2)
        sizes = [len(row.batch.body) for row in rows]
        async with self.opened() as store:
            await store.commit(append_all(rows[:3]))
            await store.commit(Commit(trims=[Trim(1, 4)]))
            store = await self.reopen(store)
            await store.commit(append_all(rows[3:]))
            found = await store.survey(1, 0, 10)
            assert [row.offset_bytes for row in found] == [sum(sizes[:2]), sum(sizes[:3])]
            await store.close()

    async def test_locating_a_time_finds_the_first_row_taken_then_or_later(self) -> None:
        """Tried before, at, between and after all times, also with rows of one time."""
        rows = [StoredBatch(1 + 3 * i, time_ms, make_batch(3)) for i, time_ms in enumerate((10, 20, 20, 20, 35, 90))]
        async with self.opened() as store:
            await store.commit(append_all(rows))
            for time_ms in (0, 9, 10, 11, 19, 20, 21, 35, 36, 89, 90, 91):
                expected = next((row.first_sequence for row in rows if row.time_ms >= time_ms), None)
                assert await store.locate(1, time_ms) == expected, f"at {time_ms} ms"

    async def test_bounds_tell_what_a_queue_holds(self) -> None:
        """First and last sequence, bytes of bodies and the last time follow appends and trims."""
        rows = make_rows(3, 1, 5)
        sizes = [len(row.batch.body) for row in rows]
        async with self.opened() as store:
            await store.commit(append_all(rows))
            assert await store.bounds([1, 2]) == {1: Bounds(1, 9, sum(sizes), 3000)}
            await store.commit(Commit(trims=[Trim(1, 3)]))
            assert await store.bounds([2, 1]) == {1: Bounds(4, 9, sum(sizes[1:]), 3000)}

    # --- Trims ---------------------------------------------------------------------------------------------

    async def test_a_trim_removes_whole_rows_only(self) -> None:
        """Rows that end at or before the sequence go, one that ends after it stays; tried for every sequence."""
        rows = make_rows(3, 1, 5)
        for to_sequence in range(12):
            async with self.opened() as store:
                await store.commit(append_all(rows))
                await store.commit(append_all(rows, queue=2))
                await store.commit(Commit(trims=[Trim(1, to_sequence)]))
                rest = [row for row in rows if row.last_sequence > to_sequence]
                assert await store.read(1, 0, _ALL_BYTES) == rest, f"to {to_sequence}"
                assert await store.read(2, 0, _ALL_BYTES) == rows

    async def test_a_trim_of_an_unknown_queue_is_nothing(self) -> None:
        """Trimming may be late: the queue may be gone."""
        async with self.opened() as store:
            await store.commit(Commit(trims=[Trim(9, 100), Trim(9, 2**62)]))
            assert await store.bounds([9]) == {}

    async def test_a_trimmed_queue_still_refuses_a_gap(self) -> None:
        """As long as a row is left, the store knows where the queue ends."""
        async with self.opened() as store:
            await store.commit(append_all(make_rows(3, 3)))
            await store.commit(Commit(trims=[Trim(1, 4)]))
            await self._refused(store, append_all(make_rows(1, first=9)))
            await store.commit(append_all(make_rows(1, first=7)))

    async def test_a_wholly_trimmed_queue_continues_anywhere(self) -> None:
        """Its last sequence is in its record; bounds count only what is there."""
        async with self.opened() as store:
            await store.commit(append_all(make_rows(3, 3)))
            await store.commit(Commit(trims=[Trim(1, 6)]))
            assert await store.bounds([1]) == {}
            assert await store.read(1, 0, _ALL_BYTES) == []
            rows = make_rows(2, 2, first=50)
            await store.commit(append_all(rows))
            assert await store.read(1, 6, _ALL_BYTES) == rows
            size_bytes = sum(len(row.batch.body) for row in rows)
            assert await store.bounds([1]) == {1: Bounds(50, 53, size_bytes, 2000)}

    async def test_a_commit_appends_before_it_trims(self) -> None:
        """A trim reaches what the same transaction appended."""
        async with self.opened() as store:
            await store.commit(append_all(make_rows(3, 3))._replace(trims=[Trim(1, 3)]))
            assert await store.read(1, 0, _ALL_BYTES) == make_rows(3, 3)[1:]
            await store.commit(append_all(make_rows(1, first=7))._replace(trims=[Trim(1, 7)]))
            assert await store.bounds([1]) == {}

    # --- Records -------------------------------------------------------------------------------------------

    async def test_records_are_put_replaced_and_deleted(self) -> None:
        """The last put counts; deleting what is not there is nothing."""
        async with self.opened() as store:
            assert await store.get("a") is None
            await store.commit(Commit(puts=[("a", b"1"), ("b", b""), ("a", b"2")]))
            assert await store.get("a") == b"2"
            assert await store.get("b") == b""
            await store.commit(Commit(puts=[("b", bytes(range(256)))], deletes=["a", "never"]))
            assert await store.get("a") is None
            assert await store.list("") == [("b", bytes(range(256)))]

    async def test_a_key_that_is_put_and_deleted_is_gone(self) -> None:
        """Within one transaction deletes come last."""
        async with self.opened() as store:
            await store.commit(Commit(puts=[("a", b"1")], deletes=["a"]))
            assert await store.get("a") is None

    async def test_records_are_listed_by_prefix_in_the_order_of_their_keys(self) -> None:
        """Any Unicode, and characters that mean something in a pattern elsewhere, mean themselves."""
        keys = ["", "a", "a/1", "a/10", "a/2", "a0", "A/1", "a%", "a%b", "a_", "a_b", "axb", "ü/1", "事/1", "🚀", "🚀a"]
        keys += ["\uffff", "\U0010ffff", "\U0010ffff\U0010ffff", "a/\x00", "a/\x00b", "a/'\""]
        async with self.opened() as store:
            await store.commit(Commit(puts=[(key, key.encode()) for key in reversed(keys)]))
            for prefix in [*keys, "a/1x", "zzz"]:
                expected = [(key, key.encode()) for key in sorted(keys) if key.startswith(prefix)]
                assert await store.list(prefix) == expected, f"prefix {prefix!r}"
                if prefix in keys:
                    assert await store.get(prefix) == prefix.encode()

    async def test_a_long_list_is_read_in_parts(self) -> None:
        """From after any key, there or not; a part is about as long as asked for, and never empty before the end."""
        keys = [f"{letter}/{number:02}" for letter in "abc" for number in range(20)]
        async with self.opened() as store:
            await store.commit(Commit(puts=[(key, bytes(100)) for key in keys]))
            for limit_bytes, count in ((1, 1), (100, 1), (101, 2), (450, 5)):
                found: list[str] = []
                while part := await store.list("b/", found[-1] if found else "", limit_bytes):
                    assert len(part) <= count, f"{len(part)} records of 100 bytes, asked for {limit_bytes} bytes"
                    found += [key for key, _ in part]
                    assert len(found) <= 20, f"{found[-1]!r} comes after {found[-2]!r} again"
                assert found == [key for key in keys if key.startswith("b/")], f"limit {limit_bytes}"
            assert [key for key, _ in await store.list("b/", "b/175")] == ["b/18", "b/19"]
            assert len(await store.list("b/", "a/99")) == 20
            assert await store.list("b/", "c/00") == []

    async def test_many_records_go_into_one_commit(self) -> None:
        """A round after a long outage may write tens of thousands of records."""
        records = [(f"s/{number:06}", b"%d" % number) for number in range(40_000)]
        async with self.opened() as store:
            await store.commit(Commit(puts=records))
            assert await store.list("s/") == records
            await store.commit(Commit(deletes=[key for key, _ in records[1:]]))
            assert await store.list("") == records[:1]

    # --- Transactions --------------------------------------------------------------------------------------

    async def test_an_empty_commit_is_nothing(self) -> None:
        """It returns like any other."""
        async with self.opened() as store:
            await store.commit(Commit())
            assert await store.list("") == []

    async def test_a_refused_commit_changes_nothing(self) -> None:
        """One bad append, wherever it stands, takes everything else of its transaction with it."""
        rows = make_rows(3, 3)
        good = [Append(1, make_rows(1, first=7)[0]), Append(3, make_rows(1)[0])]
        bad = Append(2, make_rows(1, first=9)[0])
        async with self.opened() as store:
            await store.commit(append_all(rows)._replace(puts=[("a", b"1"), ("b", b"1")]))
            await store.commit(append_all(rows, queue=2))
            for appends in ([bad, *good], [*good, bad], [good[0], good[0]]):
                await self._refused(store, Commit(appends, [Trim(1, 3)], [("a", b"2"), ("c", b"2")], ["b"]))
                assert await store.read(1, 0, _ALL_BYTES) == rows
                assert await store.read(2, 0, _ALL_BYTES) == rows
                assert await store.bounds([3]) == {}
                assert await store.list("") == [("a", b"1"), ("b", b"1")]
            await store.commit(Commit(good))

    async def test_readers_beside_commits_see_all_of_a_commit_or_nothing(self) -> None:
        """Reads while transactions run return whole rows, in order, and as many as some commit left behind."""
        rows = make_rows(*[3] * 60)
        async with self.opened() as store:
            await store.commit(append_all(rows[:2]))

            async def write() -> None:
                for index in range(2, 60, 2):
                    await store.commit(append_all(rows[index : index + 2]))

            writing = asyncio.ensure_future(write())
            seen = 0
            while not writing.done():
                found = await store.read(1, 0, _ALL_BYTES)
                assert found == rows[: len(found)]
                assert len(found) % 2 == 0
                assert len(found) >= seen
                seen = len(found)
                await asyncio.sleep(0)
            await writing
            assert await store.read(1, 0, _ALL_BYTES) == rows

    async def test_what_was_committed_is_there_after_reopening(self) -> None:
        """Rows, trims and records, and where the queue continues."""
        rows = make_rows(3, 1, 5)
        async with self.opened() as first:
            await first.commit(append_all(rows)._replace(puts=[("a", b"1"), ("b", b"2")]))
            await first.commit(Commit(trims=[Trim(1, 3)], deletes=["a"]))
            store = await self.reopen(first)
            assert await store.read(1, 0, _ALL_BYTES) == rows[1:]
            assert await store.list("") == [("b", b"2")]
            await self._refused(store, append_all(make_rows(1, first=11)))
            await store.commit(append_all(make_rows(1, first=10)))
            await store.close()

    async def test_closing_twice_is_fine(self) -> None:
        """The second time nothing is left to do."""
        async with self.opened() as store:
            await store.close()
            await store.close()

    # --- Helpers -------------------------------------------------------------------------------------------

    async def _refused(self, store: Store, commit: Commit) -> None:
        try:
            await store.commit(commit)
        except AssertionError:
            return
        raise RuntimeError(f"a commit that does not continue its queue was accepted: {commit}")

    async def _pages(self, store: Store, limit_bytes: int) -> list[list[StoredBatch]]:
        pages = []
        after = 0
        while found := await store.read(1, after, limit_bytes):
            page = [row for row in found if not isinstance(row, Damage)]
            assert len(page) == len(found), f"damage in a new store: {found}"
            pages.append(page)
            after = page[-1].last_sequence
        return pages
