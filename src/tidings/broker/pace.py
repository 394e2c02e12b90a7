"""The pace: how many messages a second a replay delivers."""

from __future__ import annotations

from typing import Final

_STEP_MS: Final = 50  # of fast ones: often enough to look smooth, seldom enough to cost nothing


class Pace:
    """Credit that grows with time.

    What a slow subscriber did not take is not made up for: there is never more of it than for two steps.
    """

    __slots__ = ("_granted", "_most", "_per_ms", "_since_ms", "rate")

    def __init__(self, rate: float, now_ms: int) -> None:
        self.rate = rate
        """Messages a second."""
        self._per_ms = rate / 1000
        self._most = max(1, int(self._per_ms * _STEP_MS * 2))
        self._granted = 0  # of what may be delivered since then
        self._since_ms = now_ms

    def grow(self, credit: int, now_ms: int) -> int:
        """Returns the credit that it is now, of what was left; the first message may be delivered at once."""
        allowed = 1 + int((now_ms - self._since_ms) * self._per_ms)
        credit += allowed - self._granted
        self._granted = allowed
        if credit > self._most:
            credit, self._granted, self._since_ms = self._most, 1, now_ms
        return credit

    def next_ms(self, now_ms: int) -> int:
        """Returns when it is worth to look again."""
        next_one_ms = self._since_ms + int(self._granted / self._per_ms) + 1
        return max(next_one_ms, now_ms + min(_STEP_MS, int(1 / self._per_ms) + 1))
