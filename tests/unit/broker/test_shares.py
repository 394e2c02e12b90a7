"""Shares: how many of so many messages each member gets."""

from itertools import product

import pytest

from tidings.broker.shares import share_out

MANY = 1_000_000


@pytest.mark.parametrize(
    ("count", "members", "expected"),
    [
        (6, [(0, MANY)] * 3, [2, 2, 2]),
        (1, [(0, MANY)] * 3, [1, 0, 0]),
        (7, [(0, MANY)] * 3, [3, 3, 1]),
        (4, [(3, MANY), (0, MANY)], [0, 4]),  # whoever has less in flight is filled up first
        (20, [(0, MANY), (0, MANY), (1000, MANY)], [10, 10, 0]),  # what one has does not count for the others
        (9, [(0, 2), (0, MANY), (0, 2)], [2, 5, 2]),  # where windows end, the others take the rest
        (9, [(0, 2), (0, 2)], [2, 2]),
        (5, [], []),
        (0, [(0, 1)], [0]),
    ],
)
def test_all_are_brought_to_the_same_number(count: int, members: list[tuple[int, int]], expected: list[int]) -> None:
    assert share_out(count, members) == expected


def test_where_all_have_many_fewer_get_more_at_once() -> None:
    assert share_out(100, [(1000, MANY)] * 4) == [100, 0, 0, 0]


def test_as_much_as_fits_is_given_and_no_window_is_exceeded() -> None:
    for count, *members in product((1, 5, 12), *[[(0, 0), (0, 3), (2, 5), (9, 1)]] * 3):
        counts = share_out(count, members)
        assert sum(counts) == min(count, sum(room for _, room in members))
        assert all(0 <= given <= room for given, (_, room) in zip(counts, members, strict=True))
