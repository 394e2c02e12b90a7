"""Retries: what follows a failed attempt, and what a client may ask for while it handles a message."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.broker.filters import Filter
from tidings.broker.retries import backoff_ms
from tidings.broker.subscriptions import Subscription
from tidings.calls import ConfigureSubscription, ListDeadLetters
from tidings.errors import DeliveryTakenAway, InvalidOption
from tidings.model import DeadLetterInfo

NAME = "reader:orders/#"


def attached(*events: str, **options: Any) -> tuple[Harness, Client]:
    """Returns a harness, and a client to which these messages were delivered; what fails waits a second."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", **({"backoff_min_ms": 1000, "backoff_max_ms": 1000} | options))
    if events:
        client.publish("orders", *events)
        assert_delivered(client, "orders", range(1, len(events) + 1))
    return harness, client


def dead(client: Client, name: str = NAME) -> list[DeadLetterInfo]:
    """Returns a subscription's dead letters."""
    letters: list[DeadLetterInfo] = client.call(ListDeadLetters(subscription=name))
    return letters


def in_flight(harness: Harness) -> int:
    """Returns how many messages the only subscriber has in flight."""
    subscriber = harness.broker.state.subscriptions[NAME].subscriber
    assert subscriber
    return subscriber.in_flight


# --- backoff ---


def subscription(least_ms: int, most_ms: int) -> Subscription:
    """Returns a subscription with this backoff."""
    made = Subscription(1, "s", "c", Filter("orders", "#"), durable=True, created_ms=0)
    made.backoff_min_ms, made.backoff_max_ms = least_ms, most_ms
    return made


@pytest.mark.parametrize(("least_ms", "most_ms"), [(1, 1), (1, 7), (100, 100), (1000, 300_000), (3, 2**29)])
def test_backoff_doubles_up_to_its_most_and_at_least_half_of_it_is_waited(least_ms: int, most_ms: int) -> None:
    for failed in [*range(1, 70), 10**6, limits.ATTEMPTS_MAX_MAX]:
        full_ms = min(most_ms, least_ms * 2 ** min(failed - 1, 64))
        for sequence in (*range(1, 50), 2**40, 2**62):
            assert full_ms // 2 <= backoff_ms(subscription(least_ms, most_ms), failed, sequence) <= full_ms


def test_what_fails_together_does_not_come_back_together() -> None:
    waits = [backoff_ms(subscription(60_000, 60_000), 1, sequence) for sequence in range(1, 1001)]
    parts = [0] * 10
    for wait_ms in waits:
        parts[min(9, (wait_ms - 30_000) // 3000)] += 1
    assert min(parts) > 50, "every tenth of the spread has its share"
    assert len({backoff_ms(subscription(60_000, 60_000), failed, 1) for failed in range(1, 20)}) > 15


# --- nack ---


def test_a_nacked_message_waits_while_the_others_flow_and_comes_again_with_its_attempt() -> None:
    harness, client = attached("a", "b")
    client.nack(1, 1)
    client.publish("orders", "c")
    assert_delivered(client, "orders", [3])
    assert client.subscriptions()[NAME].retrying == 1
    harness.advance(499)
    assert client.take() == []
    harness.advance(501)
    (message,) = assert_delivered(client, "orders", [1])
    assert (message.attempt, message.redelivered) == (2, True)
    assert client.subscriptions()[NAME].retrying == 0
    client.ack(1, 1, 3)
    assert client.subscriptions()[NAME].lag == 0


@pytest.mark.parametrize("delay_ms", [0, 1, 5, 77_777])
def test_a_nack_may_say_how_long_to_wait(delay_ms: int) -> None:
    harness, client = attached("a", "b", backoff_min_ms=60_000, backoff_max_ms=60_000)
    client.nack(1, 1, delay_ms=delay_ms)
    client.ack(1, 2)
    if delay_ms:
        harness.advance(delay_ms - 1)
        assert client.take() == []
        harness.advance(1)
    else:
        harness.advance(0)
    assert_delivered(client, "orders", [1])


@pytest.mark.parametrize("delay_ms", [-1, limits.RETRY_DELAY_MS_MAX + 1])
def test_a_delay_out_of_range_is_refused_and_changes_nothing(delay_ms: int) -> None:
    harness, client = attached("a")
    client.nack(1, 1, delay_ms=delay_ms)
    assert_refused(client, InvalidOption, str(delay_ms), str(limits.RETRY_DELAY_MS_MAX))
    assert in_flight(harness) == 1


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (-5, -1)])
def test_a_malformed_range_is_refused(first: int, last: int) -> None:
    harness, client = attached("a", "b")
    for what in (client.nack, client.extend):
        what(1, first, last)
        assert_refused(client, InvalidOption, f"{first} to {last}")
    assert in_flight(harness) == 2


def test_a_nack_that_names_a_message_more_than_once_counts_one_attempt() -> None:
    harness, client = attached("a", "b", "c")
    epoch = harness.epoch("orders")
    ranges = [(epoch, 1, 1), (epoch, 1, 2), (epoch, 1, 1)]
    harness.do(inputs.Nack(client.connection, 1, ranges))
    assert client.refusals == []
    assert in_flight(harness) == 1
    harness.advance(1000)
    assert sorted((message.sequence, message.attempt) for message in client.take()) == [(1, 2), (2, 2)]


def test_what_is_not_in_flight_can_be_neither_nacked_nor_extended_but_the_rest_is() -> None:
    harness, client = attached("a", "b", "c")
    client.ack(1, 2)
    client.nack(1, 1, 4)
    assert_refused(client, DeliveryTakenAway, "nack", "1 to 4", "'orders'")
    assert in_flight(harness) == 0
    client.nack(1, 1)
    assert_refused(client, DeliveryTakenAway, "nack")
    client.extend(1, 1)
    assert_refused(client, DeliveryTakenAway, "extend")
    client.nack(9, 1)
    assert_refused(client, DeliveryTakenAway, "handle 9")
    harness.advance(1000)
    assert sorted((message.sequence, message.attempt) for message in client.take()) == [(1, 2), (3, 2)]


def test_a_nack_of_a_deleted_queue_is_nothing_to_complain_about() -> None:
    harness, client = attached("a")
    epoch = harness.epoch("orders")
    client.delete("queue", "orders")
    harness.do(inputs.Nack(client.connection, 1, [(epoch, 1, 1)]))
    harness.do(inputs.Extend(client.connection, 1, [(epoch, 1, 1)]))
    assert client.refusals == []


def test_a_nack_is_answered_once_it_is_durable() -> None:
    harness, client = attached("a")
    harness.flush()
    harness.store_is_held = True
    client.nack(1, 1, request=5, delay_ms=1000)
    assert client.done == []
    harness.commit()
    assert client.done == [5]
    harness.restart()
    (cursor,) = harness.broker.state.subscriptions[NAME].cursors.values()
    assert cursor.attempts == {1: 1}
    assert cursor.parked == {1: harness.now_ms + 1000}


def test_attempts_and_retry_times_survive_a_restart() -> None:
    harness, client = attached("a", "b", "c")
    client.nack(1, 1, delay_ms=5000)
    client.nack(1, 2, delay_ms=100)
    harness.flush()
    harness.restart()
    harness.advance(100)
    client = harness.connect("reader")
    client.subscribe("orders")
    found = assert_delivered(client, "orders", [2, 3])
    assert [message.attempt for message in found] == [2, 1]
    harness.advance(4849)
    assert client.take() == []
    harness.advance(1)
    assert [message.attempt for message in assert_delivered(client, "orders", [1])] == [2]


def test_a_retry_does_not_wait_longer_because_the_wall_clock_was_set_back_over_a_restart() -> None:
    harness, client = attached("a")
    client.nack(1, 1, delay_ms=5000)
    harness.flush()
    harness.now_ms -= 200_000_000
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    harness.advance(4000)
    assert client.take() == []
    harness.advance(1000)
    assert [message.attempt for message in assert_delivered(client, "orders", [1])] == [2]


def test_a_late_ack_of_what_waits_for_its_retry_settles_it() -> None:
    harness, client = attached("a")
    harness.advance(limits.ACK_TIMEOUT_MS)
    assert client.subscriptions()[NAME].retrying == 1
    client.ack(1, 1)
    assert client.refusals == []
    harness.advance(10_000)
    assert client.take() == []
    found = client.subscriptions()[NAME]
    assert (found.lag, found.retrying, found.dead) == (0, 0, 0)


def test_the_heap_of_retries_does_not_grow_with_what_was_settled_meanwhile() -> None:
    harness, client = attached()
    (cursor,) = harness.broker.state.subscriptions[NAME].cursors.values()
    for sequence in range(1, 1001):
        client.publish("orders")
        client.nack(1, sequence, delay_ms=limits.RETRY_DELAY_MS_MAX - sequence)
        client.ack(1, sequence)
    assert cursor.parked == {}
    assert len(cursor._retries) < 200


# --- time ---


def test_what_times_out_waits_like_what_was_nacked() -> None:
    harness, client = attached("a", "b", ack_timeout_ms=1000)
    harness.advance(1000)
    assert client.take() == []
    client.ack(1, 2)
    harness.advance(1000)
    assert [message.attempt for message in assert_delivered(client, "orders", [1])] == [2]


def test_no_deadline_is_left_once_everything_is_settled() -> None:
    harness, client = attached("a", "b", ack_timeout_ms=1000)
    client.nack(1, 1)
    harness.advance(1000)
    client.ack(1, 1, 2)
    harness.advance(100_000)
    left = {key[0] for key in harness.broker.state.deadlines._times}
    assert left == {"trim", "producers"}


def test_extend_gives_the_whole_time_again() -> None:
    harness, client = attached("a", "b", ack_timeout_ms=1000)
    for _ in range(5):
        harness.advance(900)
        client.extend(1, 1)
    harness.advance(999)
    assert client.subscriptions()[NAME].retrying == 0
    harness.advance(1)
    assert client.subscriptions()[NAME].retrying == 1


def test_extending_what_nobody_handles_yet_does_not_start_its_time() -> None:
    harness, client = attached("a", "b", ack_timeout_ms=1000)
    client.extend(1, 2)
    harness.advance(900)
    client.ack(1, 1)
    harness.advance(999)
    assert client.subscriptions()[NAME].retrying == 0


def test_extending_ends_at_its_total_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXTEND_MS_MAX", 5000)
    harness, client = attached("a", ack_timeout_ms=1000)
    passed_ms = 0
    while in_flight(harness):
        harness.advance(500)
        passed_ms += 500
        if in_flight(harness):
            client.extend(1, 1)
    assert passed_ms == 5500
    harness.advance(1000)
    assert_delivered(client, "orders", [1])
    for _ in range(8):
        harness.advance(500)
        client.extend(1, 1)
    assert in_flight(harness) == 1, "another attempt has its own time"


def test_a_message_delivered_again_keeps_its_clock_though_it_is_twice_in_the_order() -> None:
    harness, client = attached(*"abcdef", ack_timeout_ms=1000, concurrency=3)
    client.nack(1, 5, delay_ms=0)
    harness.advance(0)
    assert_delivered(client, "orders", [5])
    client.ack(1, 1, 3)  # the time of 4, 5 and 6 begins
    harness.advance(900)
    client.ack(1, 4)
    client.ack(1, 6)
    harness.advance(99)
    assert client.subscriptions()[NAME].retrying == 0
    harness.advance(1)
    assert client.subscriptions()[NAME].retrying == 1


# --- the last attempt ---


def test_the_last_attempt_by_nack_is_given_up() -> None:
    harness, client = attached("a", "b", attempts_max=3)
    for _ in range(3):
        assert dead(client) == []
        client.nack(1, 1)
        harness.advance(1000)
        client.take()
    (letter,) = dead(client)
    assert (letter.sequence, letter.reason, letter.attempts, letter.client_id) == (1, "attempts", 3, "reader")
    assert client.subscriptions()[NAME].in_flight == 1


def test_the_last_attempt_by_ack_timeout_is_given_up() -> None:
    harness, client = attached("a", "b", attempts_max=2, ack_timeout_ms=1000)
    harness.advance(2000)
    client.ack(1, 2)
    harness.advance(2000)
    (letter,) = dead(client)
    assert (letter.sequence, letter.reason, letter.attempts, letter.client_id) == (1, "ack timeout", 2, "reader")


def test_the_last_attempt_by_lost_connection_is_given_up_and_prefetched_ones_are_not() -> None:
    harness, client = attached("a", "b", attempts_max=2)
    for _ in range(2):
        client.disconnect()
        client = harness.connect("reader")
        client.subscribe("orders")
    assert [message.attempt for message in assert_delivered(client, "orders", [2])] == [1]
    (letter,) = dead(client)
    assert (letter.sequence, letter.reason, letter.attempts, letter.client_id) == (1, "connection lost", 2, "reader")


def test_a_farewell_counts_no_attempt() -> None:
    harness, client = attached("a", attempts_max=1)
    client.disconnect(farewell=True)
    client = harness.connect("reader")
    client.subscribe("orders")
    assert [message.attempt for message in assert_delivered(client, "orders", [1])] == [1]
    assert dead(client) == []


def test_fewer_attempts_count_from_the_next_failure_on() -> None:
    harness, client = attached("a", "b", attempts_max=10)
    for _ in range(3):
        client.nack(1, 1, delay_ms=0)
        harness.advance(0)
    client.call(ConfigureSubscription(name=NAME, attempts_max=2))
    assert dead(client) == []
    client.nack(1, 1)
    assert [(letter.attempts, letter.reason) for letter in dead(client)] == [(4, "attempts")]


def test_a_cumulative_ack_leaves_what_waits_for_a_retry() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", backoff_min_ms=10_000, backoff_max_ms=10_000)
    client.publish("orders", "a", "b", "c")
    client.nack(1, 2)
    client.ack(1, 1, 3)
    harness.advance(10_000)
    assert [message.sequence for message in client.take()] == [1, 2, 3, 2]
    client.ack(1, 2, 2)
    assert client.subscriptions()["reader:orders/#"].lag == 0
