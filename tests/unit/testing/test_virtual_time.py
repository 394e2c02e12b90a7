"""The virtual loop jumps from timer to timer and notices when nothing can happen any more."""

import asyncio
import time

import pytest

from tidings.testing.clock import LoopClock
from tidings.testing.virtual_time import Deadlock, Standstill, TimeLimitReached, run


def test_a_year_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(365 * 24 * 3600)
        return asyncio.get_running_loop().time()

    began_s = time.monotonic()
    assert run(main(), time_limit_s=1e9) == pytest.approx(365 * 24 * 3600)
    assert time.monotonic() - began_s < 3600


def test_timers_fire_in_the_order_of_their_times() -> None:
    async def main() -> list[int]:
        seen: list[int] = []
        loop = asyncio.get_running_loop()
        for delay in (3, 1, 2):
            loop.call_later(delay, seen.append, delay)
        await asyncio.sleep(4)
        return seen

    assert run(main()) == [1, 2, 3]


def test_waiting_for_what_never_comes_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(main())


def test_going_on_for_ever_reaches_the_time_limit() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110  it goes on for ever, that is the point
            await asyncio.sleep(1)

    with pytest.raises(TimeLimitReached):
        run(main(), time_limit_s=100)


def test_being_busy_at_one_moment_for_ever_is_a_standstill() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110  it goes on for ever, that is the point
            await asyncio.sleep(0)

    with pytest.raises(Standstill, match="still 0 s"):
        run(main())


def test_threads_are_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(time.monotonic)

    with pytest.raises(RuntimeError, match="no threads"):
        run(main())


def test_the_clock_goes_with_the_loop() -> None:
    async def main() -> int:
        clock = LoopClock()
        before = clock.now_ms()
        await asyncio.sleep(1.5)
        return clock.now_ms() - before

    assert run(main()) == 1500
