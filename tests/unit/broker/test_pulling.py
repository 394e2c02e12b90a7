"""Pulling: clients that are delivered what they ask for and no more, and attaching to what is there by its name."""

from typing import Any

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings.broker.inputs import Ack, Ask
from tidings.errors import InvalidOption, NeverDelivered, NotFound, SubscriptionConflict


def pulling(harness: Harness, client_id: str | None = None, **options: Any) -> Client:
    client = harness.connect(client_id)
    client.subscribe("orders", **{"name": "billing", "pulls": True, "in_flight_max": 100} | options)
    assert client.refusals == []
    return client


def ask(client: Client, count: int, *, handle: int = 1, request: int = 500) -> None:
    client.harness.do(Ask(client.connection, handle, count, request))


def test_nothing_is_delivered_before_it_is_asked_for_and_then_no_more_than_that() -> None:
    harness = Harness()
    client = pulling(harness)
    client.publish("orders", *"abcde")
    assert_delivered(client, "orders", [])
    ask(client, 2)
    assert_delivered(client, "orders", [1, 2])
    ask(client, 2)
    assert_delivered(client, "orders", [3, 4])
    assert client.subscriptions()["billing"].in_flight == 4
    client.ack(1, 1, 4)
    assert_delivered(client, "orders", [])


def test_what_was_asked_for_and_is_not_there_yet_is_delivered_as_it_comes() -> None:
    harness = Harness()
    client = pulling(harness)
    ask(client, 3)
    client.publish("orders", "a")
    client.publish("orders", *"bcde")
    assert_delivered(client, "orders", [1, 2, 3])


def test_what_is_asked_for_replaces_what_was_asked_for_before() -> None:
    harness = Harness()
    client = pulling(harness)
    ask(client, 3)
    ask(client, 0)
    client.publish("orders", *"abc")
    assert_delivered(client, "orders", [])


def test_it_is_answered_once_all_that_are_there_were_delivered() -> None:
    harness = Harness()
    client = pulling(harness)
    client.publish("orders", *"abc")
    harness.reads_are_held = True
    ask(client, 5, request=7)
    assert 7 not in client.done, "a page is under way"
    harness.answer_reads()
    assert 7 in client.done
    assert_delivered(client, "orders", [1, 2, 3])
    ask(client, 5, request=8)
    assert 8 in client.done, "there is nothing to wait for"


def test_it_is_answered_when_it_is_withdrawn_or_detached_while_a_page_is_under_way() -> None:
    harness = Harness()
    client = pulling(harness)
    client.publish("orders", *"abc")
    harness.reads_are_held = True
    ask(client, 5, request=7)
    ask(client, 0, request=8)
    assert {7, 8} <= set(client.done)
    harness.answer_reads()
    assert_delivered(client, "orders", [])
    ask(client, 5, request=9)
    client.unsubscribe(1)
    assert 9 in client.done


def test_a_member_that_asks_for_nothing_leaves_all_to_the_others() -> None:
    harness = Harness()
    idle = pulling(harness, shared=True)
    busy = pulling(harness, shared=True)
    idle.publish("orders", *"abcdef")
    ask(busy, 4)
    assert_delivered(busy, "orders", [1, 2, 3, 4])
    ask(idle, 9)
    assert_delivered(idle, "orders", [5, 6])


def test_what_was_asked_for_comes_again_only_when_it_is_asked_for_again() -> None:
    harness = Harness()
    client = pulling(harness, ack_timeout_ms=1_000, backoff_max_ms=1)
    client.publish("orders", "a")
    ask(client, 1)
    assert_delivered(client, "orders", [1])
    harness.advance(5_000)
    assert_delivered(client, "orders", [])
    ask(client, 1)
    [again] = assert_delivered(client, "orders", [1])
    assert again.attempt == 2


def test_listings_say_that_nobody_asks() -> None:
    harness = Harness()
    client = pulling(harness)
    client.publish("orders", "a")
    assert "nobody asks" in client.subscriptions()["billing"].paused
    ask(client, 5)
    assert client.subscriptions()["billing"].paused == ""


def test_only_who_pulls_may_ask() -> None:
    client = Harness().connect("billing")
    client.subscribe("orders")
    ask(client, 1)
    assert_refused(client, InvalidOption, "does not pull")


# --- as it is ---


def test_a_subscription_that_is_there_is_attached_by_its_name_alone() -> None:
    harness = Harness()
    first = harness.connect()
    first.subscribe("orders", "created", name="billing", in_flight_max=7)
    first.publish("orders", "created", "other")
    first.disconnect()
    second = harness.connect()
    second.subscribe("", "", name="billing")
    assert_delivered(second, "orders", [1])
    found = second.subscriptions()["billing"]
    assert (found.event, found.in_flight_max) == ("created", 7)


def test_a_shared_one_is_shared_further() -> None:
    harness = Harness()
    harness.connect().subscribe("orders", name="team", shared=True)
    second = harness.connect()
    second.subscribe("", "", name="team")
    assert len(second.subscriptions()["team"].subscribers) == 2


def test_one_that_is_not_there_or_is_not_ones_own_is_refused() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("", "", name="nothing")
    assert_refused(client, NotFound, "nothing")
    harness.connect("owner").subscribe("orders", name="billing")
    client.subscribe("", "", name="billing")
    assert_refused(client, SubscriptionConflict, "'owner'")


def test_a_page_that_was_ordered_for_who_was_there_before_is_waited_for() -> None:
    harness = Harness()
    pulling(harness).disconnect()
    harness.connect().publish("orders")
    harness.reads_are_held = True
    client = pulling(harness)
    ask(client, 1)
    client.disconnect()
    client = pulling(harness)
    ask(client, 1, request=501)
    assert client.done == []
    harness.reads_are_held = False
    harness.answer_reads()
    assert client.done == [501]
    assert_delivered(client, "orders", [1])


def test_an_ack_of_what_a_broker_before_this_one_delivered_counts_if_it_says_so() -> None:
    harness = Harness()
    pulling(harness).publish("orders", *"abcde")
    epoch = harness.epoch("orders")
    harness.restart()
    client = pulling(harness)
    ask(client, 2)
    assert_delivered(client, "orders", [1, 2])
    client.ack(1, 4)
    assert_refused(client, NeverDelivered, "sequence 4", "is 2")
    harness.do(Ack(client.connection, 1, [(epoch, 2, 2), (epoch, 4, 4)], earlier=True))
    client.publish("orders", "f")
    harness.do(Ack(client.connection, 1, [(epoch, 6, 6)], earlier=True))
    assert_refused(client, NeverDelivered, "sequence 6", "is 4")
    ask(client, 9)
    assert_delivered(client, "orders", [3, 5, 6])
    assert client.subscriptions()["billing"].in_flight == 4
