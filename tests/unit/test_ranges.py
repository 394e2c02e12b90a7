"""Ranges behave like a set of integers: all small cases, then longer random histories."""

import random
from itertools import combinations, product

import pytest

from tidings.ranges import Ranges

SIZE = 7
SPANS = list(combinations(range(SIZE + 1), 2))  # of borders; (first, last + 1)
SUBSETS = [{number for number in range(SIZE) if bits >> number & 1} for bits in range(1 << SIZE)]


def ranges_of(numbers: set[int]) -> Ranges:
    return Ranges((number, number) for number in sorted(numbers))


def assert_is(ranges: Ranges, numbers: set[int]) -> None:
    found = [number for first, last in ranges for number in range(first, last + 1)]
    assert found == sorted(numbers)
    assert ranges.count == len(numbers)
    assert bool(ranges) == bool(numbers)
    parts = list(ranges)
    assert len(ranges) == len(parts)
    assert all(first <= last for first, last in parts)
    assert all(parts[i][1] + 1 < parts[i + 1][0] for i in range(len(parts) - 1)), "neighbours are joined"
    if numbers:
        assert (ranges.first, ranges.last) == (min(numbers), max(numbers))


def test_adding_any_range_to_any_small_set() -> None:
    for numbers, (first, end) in product(SUBSETS, SPANS):
        ranges = ranges_of(numbers)
        span = set(range(first, end))
        assert ranges.add(first, end - 1) == len(span - numbers)
        assert_is(ranges, numbers | span)


def test_removing_any_range_from_any_small_set() -> None:
    for numbers, (first, end) in product(SUBSETS, SPANS):
        ranges = ranges_of(numbers)
        span = set(range(first, end))
        assert ranges.remove(first, end - 1) == len(span & numbers)
        assert_is(ranges, numbers - span)


def test_asking_any_small_set() -> None:
    for numbers in SUBSETS:
        ranges = ranges_of(numbers)
        for number in range(-1, SIZE + 1):
            assert (number in ranges) == (number in numbers)
            assert ranges.next(number) == min((other for other in numbers if other >= number), default=None)
            assert ranges.next_outside(number) == min(set(range(number, SIZE + 2)) - numbers)
        for first, end in SPANS:
            within = [number for low, high in ranges.within(first, end - 1) for number in range(low, high + 1)]
            assert within == sorted(numbers & set(range(first, end)))
        assert_is(ranges, numbers)  # asking changes nothing


def test_equal_sets_are_equal_however_they_were_made() -> None:
    for numbers in SUBSETS:
        backwards = Ranges((number, number) for number in sorted(numbers, reverse=True))
        assert backwards == ranges_of(numbers)
        assert backwards != ranges_of(numbers ^ {3})


@pytest.mark.parametrize("seed", range(20))
def test_long_histories(seed: int) -> None:
    chance = random.Random(seed)
    ranges, numbers = Ranges(), set[int]()
    for _ in range(300):
        first = chance.randrange(200)
        last = first + chance.randrange(20)
        span = set(range(first, last + 1))
        if chance.random() < 0.5:
            assert ranges.add(first, last) == len(span - numbers)
            numbers |= span
        else:
            assert ranges.remove(first, last) == len(span & numbers)
            numbers -= span
        assert_is(ranges, numbers)
