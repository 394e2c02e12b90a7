"""Whether and when to connect again: the next address first, then growing pauses with jitter."""

import random
from datetime import timedelta

from tidings import limits

_EXPONENT_MAX = 30


class Backoff:
    """The attempts to connect that failed in a row, and what follows from them.

    Args:
        reconnect: True for ever, False never, a number of attempts in a row, or for how long.
        addresses: how many there are; each is tried once before there is a pause.
        randomness: where the jitter of pauses comes from.
    """

    def __init__(self, reconnect: bool | int | timedelta, *, addresses: int, randomness: random.Random) -> None:
        self._reconnect = reconnect
        self._addresses = addresses
        self._randomness = randomness
        self._turn = 0
        self._failures = 0
        self._brief_connections = 0

    @property
    def address(self) -> int:
        """Which address is next, from 0."""
        return self._turn % self._addresses

    def failed(self) -> None:
        """Takes note that the address did not let the client in."""
        self._turn += 1
        self._failures += 1

    def lost(self, lasted_s: float) -> None:
        """Takes note that an open connection ended; the same address is tried first."""
        brief = lasted_s < limits.BACKOFF_MS_MAX / 1000
        self._brief_connections = self._brief_connections + 1 if brief else 0
        self._failures = 0

    def may_try_again(self, away_s: float, *, first: bool) -> bool:
        """Returns whether another attempt is allowed.

        Args:
            away_s: seconds since the connection was lost.
            first: whether there was no connection yet; then another time limit decides how long to try.
        """
        if self._reconnect is False:
            return first and self._failures < self._addresses  # every address once
        if first or self._reconnect is True:
            return True
        if isinstance(self._reconnect, timedelta):
            return away_s < self._reconnect.total_seconds()
        return self._failures < self._reconnect

    def pause_s(self) -> float:
        """Returns the seconds to wait before the next attempt."""
        rounds, further = divmod(self._failures, self._addresses)
        if further:
            return 0.0  # another address first
        # A server that takes connections and drops them at once is given the same peace as one that takes none.
        exponent = min(rounds + self._brief_connections, _EXPONENT_MAX)
        longest_ms = min(limits.BACKOFF_MS_MAX, limits.BACKOFF_MS_MIN * 2**exponent)
        return self._randomness.uniform(longest_ms / 2, longest_ms) / 1000
