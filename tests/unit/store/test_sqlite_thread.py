"""The store's threads: calls in the order of asking, answers to whoever still waits."""

import asyncio
import threading

import pytest

from tidings.store.sqlite.thread import StoreThread


async def test_calls_are_made_in_the_order_of_asking_by_one_thread() -> None:
    thread = StoreThread("tidings-test")
    made: list[tuple[int, str]] = []
    answers = [thread.run(lambda n=n: made.append((n, threading.current_thread().name))) for n in range(100)]
    await asyncio.gather(*answers)
    thread.finish()
    assert made == [(number, "tidings-test") for number in range(100)]


async def test_what_a_call_raises_is_raised_where_it_is_awaited_and_the_thread_goes_on() -> None:
    thread = StoreThread("tidings-test")
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    assert await thread.run(lambda a, b: a + b, 1, 2) == 3
    thread.finish()


async def test_a_call_is_made_although_its_caller_gave_up() -> None:
    thread = StoreThread("tidings-test")
    begin, made = threading.Event(), threading.Event()
    under_way = thread.run(begin.wait, 10)
    waits = thread.run(made.set)
    for answer in (under_way, waits):
        answer.cancel()
    begin.set()
    thread.finish()
    assert made.is_set()
    await asyncio.sleep(0)  # the answers arrive, and nobody minds


def test_finishing_waits_for_what_was_asked_also_where_the_loop_is_gone() -> None:
    begin, made = threading.Event(), threading.Event()

    async def ask() -> StoreThread:
        thread = StoreThread("tidings-test")
        thread.run(begin.wait, 10)
        thread.run(made.set)
        return thread

    thread = asyncio.run(ask())
    begin.set()
    thread.finish()
    assert made.is_set()
