"""Subscribers: the window, and the clock of deliveries."""

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered
from tidings import limits
from tidings.calls import ConfigureSubscription


def attached(**options: Any) -> tuple[Harness, Client]:
    """Returns a harness, and a client with a subscription whose ack timeout is a second."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", ack_timeout_ms=1000, **options)
    return harness, client


def test_what_is_not_acked_in_time_comes_again_with_its_attempt() -> None:
    harness, client = attached()
    client.publish("orders")
    assert_delivered(client, "orders", [1])
    harness.advance(999)
    assert client.take() == []
    harness.advance(1)
    (message,) = assert_delivered(client, "orders", [1])
    assert (message.attempt, message.redelivered) == (2, True)
    harness.advance(1000)
    (message,) = assert_delivered(client, "orders", [1])
    assert message.attempt == 3
    client.ack(1, 1)
    harness.advance(5000)
    assert client.take() == []


@pytest.mark.parametrize("concurrency", [1, 2, 3])
def test_only_the_oldest_deliveries_run_out_of_time(concurrency: int) -> None:
    harness, client = attached(concurrency=concurrency)
    client.publish("orders", *"abcd")
    client.take()
    harness.advance(1000)
    assert_delivered(client, "orders", range(1, concurrency + 1))


def test_the_time_of_the_next_message_begins_when_the_one_before_is_acked() -> None:
    harness, client = attached()
    client.publish("orders", *"abc")
    client.take()
    for sequence in (1, 2):
        harness.advance(900)
        client.ack(1, sequence)
    harness.advance(999)
    assert client.take() == []
    harness.advance(1)
    (message,) = assert_delivered(client, "orders", [3])
    assert message.attempt == 2


def test_an_expired_message_goes_behind_the_ones_that_wait() -> None:
    harness, client = attached()
    client.publish("orders", *"abc")
    client.take()
    for sequence in (1, 2, 3, 1, 2):
        harness.advance(1000)
        assert_delivered(client, "orders", [sequence])


def test_an_ack_out_of_order_starts_no_time_twice() -> None:
    harness, client = attached()
    client.publish("orders", *"abc")
    client.take()
    harness.advance(500)
    client.ack(1, 2)
    harness.advance(500)
    assert_delivered(client, "orders", [1])
    harness.advance(1000)
    assert_delivered(client, "orders", [3])


def test_an_expired_message_that_was_acked_late_does_not_come_again() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.take()
    harness.reads_are_held = True
    harness.advance(1000)
    client.ack(1, 1)
    harness.reads_are_held = False
    harness.answer_reads()
    assert client.take() == []
    info = client.subscriptions()["reader:orders/#"]
    assert (info.cursor, info.in_flight) == (1, 1)


def test_prefetched_messages_count_no_attempt_when_the_connection_is_lost() -> None:
    harness, client = attached(concurrency=1)
    client.publish("orders", *"abc")
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert [message.attempt for message in client.take()] == [2, 1, 1]


def test_new_options_of_a_returning_subscriber_count() -> None:
    harness, client = attached()
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders", ack_timeout_ms=5000, in_flight_max=1)
    client.publish("orders", "a", "b")
    assert_delivered(client, "orders", [1])
    harness.advance(4999)
    assert client.take() == []
    harness.advance(1)
    assert_delivered(client, "orders", [1])


def test_many_expired_messages_come_again_in_order() -> None:
    harness, client = attached(concurrency=200)
    client.publish("orders", *["a"] * 500)
    client.take()
    harness.advance(1000)
    assert_delivered(client, "orders", range(1, 201))


def test_deleting_a_queue_gives_back_its_part_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IN_FLIGHT_BYTES_MAX", 1000)
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("#", in_flight_max=4)
    other = harness.connect()
    other.publish("doomed", *"abcd", payload=bytes(500))
    client.take()
    other.publish("kept", "a", "b")
    assert client.take() == []
    other.delete("queue", "doomed")
    assert_delivered(client, "kept", [1, 2])
    harness.advance(limits.ACK_TIMEOUT_MS)
    assert_delivered(client, "kept", [1])


def test_ranges_acked_from_the_middle_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = attached(concurrency=3)
    for _ in range(50):
        client.publish("orders", *"abcdef")
    for sequence in range(2, 301, 2):
        client.ack(1, sequence)
    client.ack(1, 1, 300)
    info = client.subscriptions()["reader:orders/#"]
    assert (info.cursor, info.in_flight) == (300, 0)


def test_a_message_that_is_never_acked_pauses_the_rest_visibly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HOLES_MAX", 3)
    _, client = attached()
    client.publish("orders", *"abcdefgh")
    for sequence in (2, 4, 6):
        client.ack(1, sequence)
    client.take()
    client.publish("orders")
    assert client.take() == []
    assert "unsettled" in client.subscriptions()["reader:orders/#"].paused
    client.ack(1, 1, 3)
    assert_delivered(client, "orders", [9])


def test_a_window_made_smaller_takes_nothing_back_and_lets_nothing_more_go() -> None:
    _harness, client = attached()
    name = "reader:orders/#"
    client.publish("orders", *"abc")
    assert_delivered(client, "orders", [1, 2, 3])
    client.call(ConfigureSubscription(name=name, in_flight_max=1))
    client.publish("orders", "d")
    client.ack(1, 1, 2)
    assert client.take() == []
    client.ack(1, 3)
    assert_delivered(client, "orders", [4])


def test_a_shorter_ack_timeout_counts_for_what_is_in_flight() -> None:
    harness, client = attached()
    client.publish("orders", "a")
    client.take()
    client.call(ConfigureSubscription(name="reader:orders/#", ack_timeout_ms=200))
    harness.advance(199)
    assert client.take() == []
    harness.advance(2)
    assert_delivered(client, "orders", [1])
