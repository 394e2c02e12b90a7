"""The cache of rows, against a dictionary of everything."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.harness import batch_of
from tidings.batch import StoredBatch
from tidings.node.pages import Pages

# Rows of one, two and three messages, back to back.
ROWS = [StoredBatch(first, 1, batch_of(*["a"] * count)) for first, count in ((1, 1), (2, 3), (5, 2), (7, 1), (8, 3))]


def test_neighbouring_rows_are_read_from_the_one_that_holds_the_next_message() -> None:
    pages = Pages(10**6)
    for row in ROWS:
        pages.add(1, row)
    assert pages.read(1, 0, 10**6) == ROWS
    assert pages.read(1, 2, 10**6) == ROWS[1:]
    assert pages.read(1, 10, 10**6) == []
    assert pages.read(2, 0, 10**6) == []


def test_a_hole_ends_a_page() -> None:
    pages = Pages(10**6)
    for row in (ROWS[0], ROWS[1], ROWS[3]):
        pages.add(1, row)
    assert pages.read(1, 0, 10**6) == ROWS[:2]
    assert pages.read(1, 4, 10**6) == []


def test_a_page_ends_once_its_bytes_are_enough() -> None:
    pages = Pages(10**6)
    for row in ROWS:
        pages.add(1, row)
    assert pages.read(1, 0, 1) == ROWS[:1]


def test_the_least_recently_used_row_goes_first() -> None:
    pages = Pages(1700)  # three rows with their overhead
    for row in ROWS[:3]:
        pages.add(1, row)
    assert pages.read(1, 0, 1) == ROWS[:1]
    pages.add(1, ROWS[3])
    assert pages.read(1, 0, 1) == ROWS[:1]
    assert pages.read(1, 1, 1) == []


def test_a_row_larger_than_the_cache_is_kept_until_the_next_one_comes() -> None:
    pages = Pages(10)
    pages.add(1, ROWS[0])
    assert pages.read(1, 0, 1) == ROWS[:1]
    pages.add(1, ROWS[1])
    assert pages.read(1, 0, 1) == []
    assert pages.read(1, 1, 1) == ROWS[1:2]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "read", "trim"]), st.integers(1, 2), st.integers(0, 10), st.integers(1, 60)),
        max_size=40,
    )
)
def test_with_room_for_all_it_agrees_with_a_dictionary(steps: list[tuple[str, int, int, int]]) -> None:
    pages = Pages(10**6)
    held: dict[int, dict[int, StoredBatch]] = {1: {}, 2: {}}
    for what, epoch, number, limit_bytes in steps:
        rows = held[epoch]
        if what == "add":
            row = ROWS[number % len(ROWS)]
            pages.add(epoch, row)
            rows[row.first_sequence] = row
        elif what == "trim":
            pages.trim(epoch, number)
            # Like a store: from the front, whole rows.
            held[epoch] = {first: row for first, row in rows.items() if row.last_sequence > number}
        else:
            expected: list[StoredBatch] = []
            sequence, size = number + 1, 0
            while size < limit_bytes:
                found = [row for row in rows.values() if row.first_sequence <= sequence <= row.last_sequence]
                if not found:
                    break
                expected += found
                sequence, size = found[0].last_sequence + 1, size + len(found[0].batch.body)
            assert pages.read(epoch, number, limit_bytes) == expected
