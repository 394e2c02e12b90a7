"""An event loop on virtual time: nothing waits, and one seed is one history.

When nothing is ready the loop jumps to its next timer. There are no sockets, no threads and no signals on it:
what would wait for the outside world waits for ever, and is reported as a deadlock.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Never, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Every task waits for another one: nothing can ever happen again."""


class TimeLimitReached(RuntimeError):
    """The virtual time limit has passed: what should have come to an end has not."""


class Standstill(RuntimeError):
    """Virtual time stands still: something is done again and again, and each time something else is ready at once."""


ROUNDS_AT_ONE_MOMENT_MAX: Final = 10_000
"""Rounds of the loop without a jump in time, after which it is a standstill; the simulator needs some tens."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose `time` is virtual and starts at 0.

    Args:
        time_limit_s: virtual seconds after which `TimeLimitReached` is raised, since heartbeats go on for ever
            where a loop would otherwise stand still.
    """

    def __init__(self, time_limit_s: float = 24 * 3600.0) -> None:
        # The base class asks for the time while it is made.
        self._virtual = _NoSelector(time_limit_s)
        super().__init__(self._virtual)
        # The base class takes timers up to this far ahead as due. Its nanosecond is less than a float's smallest step
        # late in virtual time, and then a timer that is exactly due would never be.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Returns the virtual time in seconds."""
        return self._virtual.now_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Never:  # type: ignore[override]
        """Refuses: threads run in real time."""
        raise RuntimeError("there are no threads on virtual time; call the function, or await a coroutine")


class _NoSelector(selectors.BaseSelector):
    """A selector that selects nothing: waiting is a jump in time."""

    def __init__(self, time_limit_s: float) -> None:
        self.now_s = 0.0
        self._time_limit_s = time_limit_s
        self._rounds = 0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set: every task waits for another one")
        self._rounds += 1
        if timeout > 0:
            self._rounds = 0
            self.now_s += timeout
            if self.now_s > self._time_limit_s:
                raise TimeLimitReached(f"{self._time_limit_s:g} virtual seconds have passed")
        if self._rounds > ROUNDS_AT_ONE_MOMENT_MAX:
            rounds, self._rounds = self._rounds, 0  # its tasks have as many to be cancelled in
            raise Standstill(f"{rounds:,} rounds of the loop, and it is still {self.now_s:g} s")
        return []

    # The loop registers the pipe by which threads and signals wake it; neither exists here.
    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[fileobj if isinstance(fileobj, int) else fileobj.fileno()]


def run(coroutine: Coroutine[Any, Any, T], time_limit_s: float = 24 * 3600.0) -> T:
    """Runs a coroutine to its end on a loop of its own, in virtual time.

    Raises:
        Deadlock: nothing can ever happen again.
        Standstill: it is busy without an end at one moment.
        TimeLimitReached: it takes longer than `time_limit_s` virtual seconds.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(time_limit_s)) as runner:
        return runner.run(coroutine)
