"""Marks: sizes and times along a queue, exact at marks, never above their bound."""

import random
from itertools import accumulate

from tidings import limits
from tidings.broker.marks import Marks
from tidings.transaction import Row


def rows_of(sizes: list[tuple[int, int]], offset_bytes: int = 0, first: int = 1) -> list[Row]:
    """Returns a row for each (count, bytes), one a second."""
    rows: list[Row] = []
    for number, (count, size_bytes) in enumerate(sizes):
        rows.append(Row(first, first + count - 1, 1_000 * (number + 1), offset_bytes, size_bytes))
        first, offset_bytes = first + count, offset_bytes + size_bytes
    return rows


def test_between_marks_it_is_the_mean_that_counts() -> None:
    marks = Marks(1, 0, 0, 0)
    marks.add(10, 1_000, 1_000)
    marks.add(20, 200, 2_000)
    assert marks.size_bytes(1, 20) == 1_200
    assert marks.size_bytes(1, 5) == 500
    assert marks.size_bytes(10, 11) == 120
    assert marks.size_bytes(15, 99) == 120


def test_the_newest_that_fit_into_a_size_begin_where_no_more_would_fit() -> None:
    chance = random.Random(7)
    for _ in range(200):
        marks = Marks(1, 0, 0, 0)
        last = 0
        for _ in range(chance.randint(1, 6)):
            last += chance.randint(1, 5)
            marks.add(last, chance.randint(1, 50), 0)
        size_bytes, end = chance.randint(0, 120), chance.randint(1, last)
        begin = marks.begin_of_last(size_bytes, end)
        assert marks.size_bytes(begin, end) <= size_bytes + 1  # a mean is rounded
        if begin > 1:
            assert marks.size_bytes(begin - 1, end) >= size_bytes


def test_a_message_is_never_thought_older_than_it_is() -> None:
    marks = Marks(1, 10, 100, 5_000)
    marks.add(12, 10, 9_000)
    assert marks.last_stored_by(4_999) == 0
    assert marks.last_stored_by(5_000) == 10
    assert marks.last_stored_by(9_000) == 12
    assert [marks.time_ms(sequence) for sequence in (1, 10, 11, 12, 13)] == [5_000, 5_000, 9_000, 9_000, 9_000]


def test_what_is_asked_of_the_store_later_makes_it_exact() -> None:
    rows = rows_of([(5, 1_000), (5, 10), (1, 500), (9, 90)], offset_bytes=77, first=3)
    marks = Marks(3, 22, 1_600, 4_000)
    marks.add(30, 80, 9_000)  # stored while the store was asked
    assert marks.size_bytes(3, 7) == 400
    assert marks.refine(rows)
    assert [marks.size_bytes(row.first_sequence, row.last_sequence) for row in rows] == [1_000, 10, 500, 90]
    assert marks.size_bytes(3, 30) == 1_680
    assert [marks.time_ms(row.last_sequence) for row in rows] == [1_000, 2_000, 3_000, 4_000]
    assert marks.last_stored_by(2_500) == 12


def test_some_of_the_rows_are_enough() -> None:
    rows = rows_of([(2, 10 * number) for number in range(1, 11)])
    marks = Marks(1, 20, 550, 10_000)
    assert marks.refine([rows[0], rows[4], rows[9]])
    assert marks.size_bytes(1, 2) == 10
    assert marks.size_bytes(9, 10) == 50
    assert marks.size_bytes(11, 18) == 60 + 70 + 80 + 90
    assert marks.time_ms(5) == 5_000  # somewhere between the first row and the fifth


def test_marks_are_bounded_and_stay_exact_where_they_are_left() -> None:
    marks = Marks(1, 0, 0, 0)
    sizes = [number % 7 + 1 for number in range(10 * limits.MARKS_MAX)]
    for number, size_bytes in enumerate(sizes, 1):
        marks.add(number, size_bytes, number)
        assert len(marks) <= limits.MARKS_MAX
    totals = list(accumulate(sizes, initial=0))
    last = len(sizes)
    for first in range(1, last, 97):
        # Marks are at most 64 messages apart by now, of at most 7 bytes each.
        assert abs(marks.size_bytes(first, last) - (totals[last] - totals[first - 1])) <= 64 * 7
        assert marks.time_ms(first) - first in range(64)


def test_what_was_trimmed_is_forgotten_and_the_rest_as_large_as_before() -> None:
    marks = Marks(1, 0, 0, 0)
    for number in range(1, 101):
        marks.add(10 * number, number, number)
    marks.forget(905)
    assert len(marks) == 11
    assert marks.size_bytes(901, 1_000) == sum(range(91, 101))


def test_an_answer_that_comes_too_late_is_of_no_use() -> None:
    marks = Marks(1, 1, 100, 1)
    for number in range(2, 3 * limits.MARKS_MAX):
        marks.add(number, 1, number)
    assert not marks.refine(rows_of([(1, 100)]))
