"""Queues: which cursors are where, and who wants what."""

import pytest

from tests.unit.broker.harness import batch_of
from tidings.batch import StoredBatch
from tidings.broker.cursors import Cursor, State
from tidings.broker.filters import Filter
from tidings.broker.queues import Queue
from tidings.broker.subscriptions import Subscription

PATTERNS = ["#", "*", "a", "b", "a.*", "a.#", "*.x"]


def queue_with(patterns: list[str], state: State) -> Queue:
    """Returns a queue with a cursor in a state for each pattern."""
    queue = Queue("orders", 1, 0)
    for number, pattern in enumerate(patterns):
        subscription = Subscription(number, pattern, None, Filter("orders", pattern), durable=True, created_ms=0)
        cursor = Cursor(subscription, queue, 0)
        queue.add(cursor)
        queue.set_state(cursor, state)
    return queue


@pytest.mark.parametrize("events", [["a"], ["b"], ["a.x"], ["a", "a.x"], ["c"], ["c.x.y"], ["b", "c", "a.x.y"]])
def test_exactly_the_idle_cursors_that_want_something_are_found_once(events: list[str]) -> None:
    queue = queue_with(PATTERNS, State.IDLE)
    found = [cursor.subscription.name for cursor in queue.wanted_by_idle([StoredBatch(1, 0, batch_of(*events))])]
    wanted = [pattern for pattern in PATTERNS if any(Filter("orders", pattern).wants_event(event) for event in events)]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("state", [State.LIVE, State.BEHIND, State.WAITING, State.SCANNING])
def test_cursors_that_are_not_idle_are_not_found(state: State) -> None:
    queue = queue_with(PATTERNS, State.IDLE)
    for cursor in list(queue.cursors):
        queue.set_state(cursor, state)
    assert queue.wanted_by_idle([StoredBatch(1, 0, batch_of("a", "a.x"))]) == []
    assert len(queue.live) == (len(PATTERNS) if state is State.LIVE else 0)


def test_matching_counts_anew_when_cursors_come_and_go() -> None:
    queue = queue_with(["#", "a"], State.WAITING)
    assert (queue.matching("a"), queue.matching("b")) == (2, 1)
    queue.remove(next(iter(queue.cursors)))
    assert (queue.matching("a"), queue.matching("b")) == (1, 0)


def test_the_slowest_is_the_durable_cursor_that_has_settled_least() -> None:
    queue = queue_with(["a", "b", "*"], State.WAITING)
    queue.committed = 10
    first, second, third = queue.cursors
    first.position, second.position, third.position = 7, 4, 1
    third.subscription.durable = False
    assert queue.slowest() is second
    second.position = 10
    assert queue.slowest() is first
    queue.set_state(first, State.IDLE)
    assert queue.slowest() is None
