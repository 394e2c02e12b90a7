"""Settling over HTTP: positions as ranges."""

from tidings.gateways.http.settling import _merge


def test_neighbours_are_joined_and_none_becomes_cumulative() -> None:
    places = [(1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 5, 5), (2, 6, 6), (2, 7, 7)]
    assert _merge(places) == [(1, 1, 1), (1, 2, 3), (1, 5, 5), (2, 6, 7)]
