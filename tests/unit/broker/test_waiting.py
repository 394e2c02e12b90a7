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
    return limited_by({"waiting_messages": most}, when_full, **options)


def limited_by(limit: dict[str, int], when_full: Any = "refuse-new", **options: Any) -> tuple[Harness, Client]:
    """Returns a durable subscriber of a queue with a limit of another kind."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", **options)
    client.call(ConfigureQueue(name="orders", when_full=when_full, **limit))
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


# With what MessagePack needs beside it, a message has 100 bytes.
PAYLOAD = bytes(94)


def test_bytes_that_wait_are_bounded_and_those_being_stored_count() -> None:
    harness, client = limited_by({"waiting_bytes": 300})
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.publish("orders", payload=PAYLOAD)
    assert harness.broker.state.queues["orders"].size_bytes == 100
    harness.store_is_held = True
    publisher.publish("orders", payload=PAYLOAD)
    publisher.publish("orders", payload=PAYLOAD)
    publisher.publish("orders", payload=PAYLOAD)
    assert_refused(publisher, QueueFull, "300 bytes of queue 'orders'", "'reader:orders/#'", "at most 300", "raise")
    harness.store_is_held = False
    harness.commit()
    publisher.publish("orders", payload=PAYLOAD)
    assert_refused(publisher, QueueFull, "300 bytes")
    client = harness.connect("reader")
    client.subscribe("orders")
    client.ack(1, 1, 3)
    publisher.publish("orders", payload=PAYLOAD)
    assert harness.broker.state.queues["orders"].committed == 4


def test_bytes_are_known_again_after_a_restart_and_of_a_live_queue() -> None:
    harness, client = limited_by({"waiting_bytes": 1_000})
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.publish("orders", payload=bytes(100_000))
    for _ in range(9):
        publisher.publish("bills", payload=PAYLOAD)
    harness.flush()
    harness.restart()
    publisher = harness.connect()
    publisher.publish("orders", payload=PAYLOAD)
    assert_refused(publisher, QueueFull, "100009 bytes")
    client = harness.connect("reader")
    client.subscribe("bills", start="earliest", in_flight_max=1)
    client.disconnect(farewell=True)
    publisher.call(ConfigureQueue(name="bills", waiting_bytes=900))
    publisher.publish("bills", payload=PAYLOAD)
    assert_refused(publisher, QueueFull, "900 bytes of queue 'bills'")


def test_the_oldest_bytes_are_cut_and_the_newest_stay() -> None:
    harness, client = limited_by({"waiting_bytes": 250}, "drop-oldest", in_flight_max=1)
    publisher = harness.connect()
    for _ in range(5):
        publisher.publish("orders", payload=PAYLOAD)
    assert_delivered(client, "orders", [1])
    assert gaps(client) == [(2, 2, "too many bytes waited"), (3, 3, "too many bytes waited")]
    client.ack(1, 1)
    client.ack(1, 3)
    assert_delivered(client, "orders", [4])


def test_the_newest_message_is_never_cut_for_its_size() -> None:
    harness, client = limited_by({"waiting_bytes": 50}, "drop-oldest")
    client.disconnect(farewell=True)
    publisher = harness.connect()
    for _ in range(3):
        publisher.publish("orders", payload=PAYLOAD)
    client = harness.connect("reader")
    client.subscribe("orders")
    assert gaps(client) == [(1, 2, "too many bytes waited")]
    assert_delivered(client, "orders", [3])


def test_what_failed_is_cut_for_its_size_before_what_is_new() -> None:
    harness, client = limited_by(
        {"waiting_bytes": 250}, "drop-oldest", in_flight_max=3, backoff_min_ms=60_000, backoff_max_ms=60_000
    )
    publisher = harness.connect()
    for _ in range(3):
        publisher.publish("orders", payload=PAYLOAD)
    client.nack(1, 1)
    client.nack(1, 3)
    assert_delivered(client, "orders", [1, 2, 3])
    publisher.publish("orders", *"abc", payload=PAYLOAD)
    assert_delivered(client, "orders", [4, 5])
    assert gaps(client) == [(1, 1, "too many bytes waited")]
    publisher.publish("orders", payload=PAYLOAD)
    assert gaps(client) == [(3, 3, "too many bytes waited")]
    assert client.subscriptions()["reader:orders/#"].retrying == 0


def test_nothing_new_is_taken_while_something_has_waited_too_long() -> None:
    harness, client = limited_by({"waiting_age_ms": 60_000}, in_flight_max=1)
    publisher = harness.connect()
    publisher.publish("orders")
    publisher.publish("orders")
    harness.advance(59_000)
    publisher.publish("orders")
    harness.advance(1_000)
    publisher.publish("orders")
    assert_refused(publisher, QueueFull, "messages of 60 s of queue 'orders'", "'reader:orders/#'", "60 s old", "raise")
    client.ack(1, 1)
    publisher.publish("orders")
    assert harness.broker.state.queues["orders"].committed == 4


def test_what_has_waited_too_long_is_cut_in_time_whether_or_not_something_is_published() -> None:
    harness, client = limited_by({"waiting_age_ms": 60_000}, "drop-oldest")
    client.disconnect(farewell=True)
    publisher = harness.connect()
    publisher.publish("orders", *"ab")
    harness.advance(30_000)
    publisher.publish("orders", *"cd")
    harness.advance(29_000)
    assert publisher.subscriptions()["reader:orders/#"].cut == 0
    harness.advance(3_000)
    assert publisher.subscriptions()["reader:orders/#"].cut == 2
    harness.flush()
    harness.restart()
    harness.advance(31_000)
    client = harness.connect("reader")
    client.subscribe("orders")
    assert [gap[:2] for gap in gaps(client)] == [(1, 2), (3, 4)]
    publisher = harness.connect()
    publisher.publish("orders")
    assert_delivered(client, "orders", [5])


def test_of_what_there_was_before_a_limit_on_age_the_old_is_cut() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.disconnect(farewell=True)
    publisher = harness.connect()
    for _ in range(4):
        publisher.publish("orders")
        harness.advance(10_000)
    publisher.call(ConfigureQueue(name="orders", waiting_age_ms=25_000, when_full="drop-oldest"))
    assert publisher.subscriptions()["reader:orders/#"].cut == 2


def test_a_limit_that_is_taken_back_leaves_nothing_behind() -> None:
    harness, client = limited_by({"waiting_bytes": 50, "waiting_age_ms": 60_000})
    client.call(ConfigureQueue(name="orders", waiting_bytes=None))
    assert harness.broker.state.queues["orders"].marks is not None
    client.call(ConfigureQueue(name="orders", waiting_age_ms=None))
    assert harness.broker.state.queues["orders"].marks is None


@pytest.mark.parametrize("name", ["waiting_bytes", "waiting_age_ms"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    client = Harness().connect()
    client.call(ConfigureQueue(name="orders", **{name: 0}))
    assert_refused(client, InvalidOption, f"{name} is 0")
