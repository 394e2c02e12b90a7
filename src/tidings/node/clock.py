"""The clock port: one time for everything, in UTC milliseconds, never backwards."""

import time
from collections.abc import Callable
from typing import Protocol

_SLEW = 0.1  # part of the time passed by which the clock may run fast or slow to meet the wall


class Clock(Protocol):
    """What a node takes its time from."""

    def now_ms(self) -> int:
        """Returns UTC in milliseconds since 1970; never less than it returned before."""
        ...


class SystemClock:
    """The machine's time: monotonic, and slewed towards the wall clock when that is set.

    Args:
        steady_s: seconds that only go on; the machine's by default.
        wall_s: seconds since 1970, which somebody may set; the machine's by default.
    """

    def __init__(self, steady_s: Callable[[], float] | None = None, wall_s: Callable[[], float] | None = None) -> None:
        self._tell_steady_s = steady_s or time.monotonic
        self._tell_wall_s = wall_s or time.time
        self._steady_s = self._tell_steady_s()
        self._now_s = self._tell_wall_s()

    def now_ms(self) -> int:
        """Returns UTC in milliseconds since 1970; never less than it returned before."""
        steady_s = self._tell_steady_s()
        passed_s, self._steady_s = steady_s - self._steady_s, steady_s
        error_s = self._tell_wall_s() - (self._now_s + passed_s)
        most_s = passed_s * _SLEW
        self._now_s += passed_s + max(-most_s, min(most_s, error_s))
        return int(self._now_s * 1000)
