"""The clock port: one time for everything, in UTC milliseconds, never backwards."""

import time
from typing import Protocol

_SLEW = 0.1  # part of the time passed by which the clock may run fast or slow to meet the wall


class Clock(Protocol):
    """What a node takes its time from."""

    def now_ms(self) -> int:
        """Returns UTC in milliseconds since 1970; never less than it returned before."""
        ...


class SystemClock:
    """The machine's time: monotonic, and slewed towards the wall clock when that is set."""

    def __init__(self) -> None:
        self._steady_s = time.monotonic()
        self._now_s = time.time()

    def now_ms(self) -> int:
        """Returns UTC in milliseconds since 1970; never less than it returned before."""
        steady_s = time.monotonic()
        passed_s, self._steady_s = steady_s - self._steady_s, steady_s
        error_s = time.time() - (self._now_s + passed_s)
        most_s = passed_s * _SLEW
        self._now_s += passed_s + max(-most_s, min(most_s, error_s))
        return int(self._now_s * 1000)
