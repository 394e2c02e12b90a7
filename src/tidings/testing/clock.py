"""Fake clocks: a node's time as a test wants it."""

import asyncio
from typing import Final

_START_MS: Final = 1_700_000_000_000  # some day in 2023


class FakeClock:
    """A clock that stands still until it is told to go on.

    Args:
        now_ms: UTC in milliseconds since 1970.
    """

    def __init__(self, now_ms: int = _START_MS) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Returns the time."""
        return self._now_ms

    def advance(self, by_ms: int) -> None:
        """Lets time pass."""
        assert by_ms >= 0, "time never goes backwards"
        self._now_ms += by_ms


class LoopClock:
    """A clock that goes with the event loop, usually one on virtual time.

    Args:
        start_ms: UTC in milliseconds since 1970 when the loop's time was 0.
    """

    def __init__(self, start_ms: int = _START_MS) -> None:
        self._start_ms = start_ms

    def now_ms(self) -> int:
        """Returns the time."""
        # Rounded, so that a timer set for a deadline is not a fraction too early for it.
        return self._start_ms + round(asyncio.get_running_loop().time() * 1000)
