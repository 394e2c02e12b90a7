"""Waiting: a queue refuses what is new, or cuts what is oldest, once as much waits as may."""

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings.calls import ConfigureQueue, Schedule
from tidings.errors import InvalidOption, QueueFull


def gaps(client: Client) -> list[tuple[int, int, str]]:
    found = [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in client.gaps]
    client.gaps.clear()
    return found


def limited(most: int, when_full: Any = "refuse-new", **options: Any) -> tuple[Harness, Client]:
    """Returns a durable subscriber of a queue with a limit."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", **options)
    client.call(ConfigureQueue(name="orders", waiting_messages=most, when_full=when_full))
    return harness, client


def test_what_is_new_is_refused_while_as_much_waits_as_may_and_taken_again_afterwards() -> None:
    harness, client = limited(2, in_flight_max=1)
    publisher = harness.connect()
    for _ in range(3):
        publisher.publish("orders")
    publisher.publish("orders")
    assert_refused(publisher, QueueFull, "2 messages of queue 'orders'", "'reader:orders/#'", "at most 2")
    client.ack(1, 1)
    publisher.publish("orders")
    assert publisher.confirms[5].first_sequence == 4
    assert_delivered(client, "orders", [1, 2])


def test_what_is_in_flight_does_not_wait() -> None:
    harness, _ = limited(1)
    publisher = harness.connect()
    for number in range(1, 6):
        publisher.publish("orders")
        assert publisher.confirms[number].first_sequence == number


def test_what_is_being_stored_counts() -> None:
    harness, client = limited(3)
    client.disconnect(farewell=True)
    publisher = harness.connect()
    harness.store_is_held = True
    publisher.publish("orders", "a", "b")
    publisher.publish("orders", "c")
    publisher.publish("orders", "d")
    assert_refused(publisher, QueueFull, "3 messages")
    harness.store_is_held = False
    harness.commit()
    harness.settle()
    assert harness.broker.state.queues["orders"].committed == 3


def test_what_is_being_stored_does_not_count_for_who_takes_it_at_once() -> None:
    harness, _ = limited(1)
    publisher = harness.connect()
    harness.store_is_held = True
    for _ in range(3):
        publisher.publish("orders")
    harness.store_is_held = False
    harness.commit()
    harness.settle()
    assert harness.broker.state.queues["orders"].committed == 3


def test_a_batch_is_taken_as_a_whole_while_there_is_room_for_one() -> None:
    harness, client = limited(3)
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.publish("orders", *"ab")
    publisher.publish("orders", *"cdef")
    publisher.publish("orders")
    assert_refused(publisher, QueueFull, "6 messages")


def test_a_full_queue_holds_nothing_up_that_goes_into_others() -> None:
    harness, client = limited(1)
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.publish("orders")
    publisher.publish("orders")
    publisher.publish("bills")
    assert_refused(publisher, QueueFull)
    assert publisher.confirms[3].first_sequence == 1


def test_a_transaction_into_a_full_queue_is_refused_whole() -> None:
    harness, client = limited(1)
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.transact("orders", "bills")
    publisher.transact("bills", "orders")
    assert_refused(publisher, QueueFull)
    assert harness.broker.state.queues["bills"].committed == 1


@pytest.mark.parametrize("name", [None, "away"])
def test_only_durable_subscriptions_count_and_those_that_follow_the_tail_do_not(name: str | None) -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders", "never", name=name, in_flight_max=1)
    client.call(ConfigureQueue(name="orders", waiting_messages=1))
    client.disconnect(farewell=True)
    publisher = harness.connect()
    other = harness.connect()
    other.subscribe("orders", in_flight_max=1)
    for number in range(1, 5):
        publisher.publish("orders")
        assert publisher.confirms[number].first_sequence == number


def test_the_limit_can_be_raised_and_taken_back_while_the_queue_is_full() -> None:
    harness, client = limited(1)
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.publish("orders")
    publisher.call(ConfigureQueue(name="orders", waiting_messages=2))
    publisher.publish("orders")
    publisher.publish("orders")
    assert_refused(publisher, QueueFull)
    publisher.call(ConfigureQueue(name="orders", waiting_messages=None))
    publisher.publish("orders")
    assert harness.broker.state.queues["orders"].committed == 3


def test_a_scheduled_message_comes_in_any_case() -> None:
    harness, client = limited(1)
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.publish("orders")
    publisher.call(Schedule(queue="orders", event="due", payload=b"", delay_ms=1_000))
    harness.advance(2_000)
    assert harness.broker.state.queues["orders"].committed == 2


def test_the_oldest_that_wait_are_cut_and_told_in_their_place() -> None:
    harness, client = limited(2, "drop-oldest", in_flight_max=1)
    publisher = harness.connect()
    for _ in range(6):
        publisher.publish("orders")
    assert_delivered(client, "orders", [1])
    assert [gap[:2] for gap in gaps(client)] == [(2, 2), (3, 3), (4, 4)]
    client.ack(1, 1)
    assert_delivered(client, "orders", [5])
    client.ack(1, 5)
    assert_delivered(client, "orders", [6])
    info = client.subscriptions()["reader:orders/#"]
    assert (info.cut, info.lag) == (3, 1)


def test_who_is_away_keeps_the_newest_also_after_a_restart() -> None:
    harness, client = limited(3, "drop-oldest")
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.publish("orders", *"abcdefgh")
    publisher.publish("orders", "i")
    harness.flush()
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert gaps(client) == [(1, 6, "too many waited")]
    assert_delivered(client, "orders", [7, 8, 9])


def test_of_what_failed_and_what_is_new_the_oldest_is_cut_and_what_is_in_flight_never() -> None:
    harness, client = limited(1, "drop-oldest", in_flight_max=3, backoff_min_ms=60_000, backoff_max_ms=60_000)
    publisher = harness.connect()
    for _ in range(3):
        publisher.publish("orders")
    client.nack(1, 1)
    client.nack(1, 3)
    assert_delivered(client, "orders", [1, 2, 3])
    publisher.publish("orders")
    assert_delivered(client, "orders", [4])
    assert gaps(client) == [(1, 1, "too many waited")]
    client.ack(1, 2)
    assert client.subscriptions()["reader:orders/#"].retrying == 1


def test_a_live_queue_is_cut_when_it_is_told_to() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", in_flight_max=1)
    for _ in range(5):
        client.publish("orders")
    client.call(ConfigureQueue(name="orders", waiting_messages=1, when_full="drop-oldest"))
    assert gaps(client) == [(2, 4, "too many waited")]


def test_a_policy_that_is_none_is_refused() -> None:
    client = Harness().connect()
    client.call(ConfigureQueue(name="orders", when_full="drop-new"))  # type: ignore[arg-type]
    assert_refused(client, InvalidOption, "drop-new", "'refuse-new' or 'drop-oldest'")
    client.call(ConfigureQueue(name="orders", waiting_messages=0))
    assert_refused(client, InvalidOption, "waiting_messages is 0")
