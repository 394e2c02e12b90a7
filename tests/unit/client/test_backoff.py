"""Backoff: which address is next, how long to wait, and when to give up."""

import random
from datetime import timedelta

import pytest

from tidings import limits
from tidings.client.backoff import Backoff


def backoff(reconnect: bool | int | timedelta = True, addresses: int = 1) -> Backoff:
    return Backoff(reconnect, addresses=addresses, randomness=random.Random(1))


def test_every_address_is_tried_before_there_is_a_pause() -> None:
    attempts = backoff(addresses=3)
    tried = []
    for _ in range(3):
        tried.append(attempts.address)
        assert (attempts.pause_s() == 0.0) == (attempts.address > 0)
        attempts.failed()
    assert tried == [0, 1, 2]
    assert attempts.address == 0
    assert attempts.pause_s() > 0.0


def test_pauses_grow_to_a_limit_and_have_jitter() -> None:
    attempts = backoff()
    longest_s = limits.BACKOFF_MS_MIN / 1000
    for _ in range(40):
        pause_s = attempts.pause_s()
        assert longest_s / 2 <= pause_s <= longest_s
        assert pause_s != attempts.pause_s()
        attempts.failed()
        longest_s = min(2 * longest_s, limits.BACKOFF_MS_MAX / 1000)
    assert longest_s == limits.BACKOFF_MS_MAX / 1000


def test_after_a_long_connection_the_same_address_is_tried_soon() -> None:
    attempts = backoff(addresses=2)
    for _ in range(9):
        attempts.failed()
    attempts.lost(limits.BACKOFF_MS_MAX / 1000)
    assert attempts.address == 1
    assert 0.0 < attempts.pause_s() <= limits.BACKOFF_MS_MIN / 1000


def test_a_server_that_drops_connections_at_once_is_given_growing_peace() -> None:
    attempts = backoff()
    for _ in range(4):
        attempts.lost(0.0)
    assert attempts.pause_s() >= limits.BACKOFF_MS_MIN * 2**4 / 2 / 1000


@pytest.mark.parametrize(
    ("reconnect", "failures", "away_s", "allowed"),
    [
        (True, 1_000, 1e9, True),
        (False, 0, 0.0, False),
        (3, 2, 1e9, True),
        (3, 3, 0.0, False),
        (timedelta(seconds=5), 1_000, 4.9, True),
        (timedelta(seconds=5), 0, 5.0, False),
    ],
)
def test_how_long_it_goes_on_is_as_told(
    reconnect: bool | int | timedelta, failures: int, away_s: float, allowed: bool
) -> None:
    attempts = backoff(reconnect)
    for _ in range(failures):
        attempts.failed()
    assert attempts.may_try_again(away_s, first=False) is allowed


def test_the_first_connection_without_reconnect_is_tried_once_at_every_address() -> None:
    attempts = backoff(False, addresses=2)
    attempts.failed()
    assert attempts.may_try_again(0.0, first=True)
    attempts.failed()
    assert not attempts.may_try_again(0.0, first=True)
    assert backoff(0).may_try_again(1e9, first=True), "a time limit ends the first connection, not a number"
