"""Pausing: nothing new is delivered, nothing is lost, and it goes on where it stopped."""

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker.cursors import State
from tidings.calls import Pause, Redrive
from tidings.errors import InvalidOption, NotFound, SystemQueue

NAME = "reader:orders/#"
PAUSES = [
    pytest.param(Pause(subscription=NAME), Pause(subscription=NAME, paused=False), id="subscription"),
    pytest.param(Pause(queue="orders"), Pause(queue="orders", paused=False), id="queue"),
]


def attached(queue: str = "orders", **options: object) -> tuple[Harness, Client]:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe(queue, **options)
    return harness, client


@pytest.mark.parametrize(("pause", "resume"), PAUSES)
def test_what_is_published_meanwhile_comes_after_resuming_and_then_live(pause: Pause, resume: Pause) -> None:
    harness, client = attached()
    client.publish("orders")
    assert_delivered(client, "orders", [1])
    client.call(pause)
    number = client.publish("orders", "b", "c")
    assert client.confirms[number].first_sequence == 2
    assert client.take() == []
    client.call(resume)
    assert_delivered(client, "orders", [2, 3])
    assert harness.broker.state.subscriptions[NAME].cursors[harness.epoch("orders")].state is State.LIVE
    client.publish("orders")
    assert_delivered(client, "orders", [4])


@pytest.mark.parametrize(("pause", "resume"), PAUSES)
def test_it_stays_paused_over_a_restart_and_for_the_next_subscriber(pause: Pause, resume: Pause) -> None:
    harness, client = attached()
    client.call(pause)
    client.publish("orders", "a", "b")
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders")
    assert client.take() == []
    client.call(resume)
    assert_delivered(client, "orders", [1, 2, 3])


@pytest.mark.parametrize(("pause", "resume"), PAUSES)
def test_what_is_in_flight_is_acked_fails_and_waits_until_it_goes_on(pause: Pause, resume: Pause) -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    assert_delivered(client, "orders", [1, 2])
    client.call(pause)
    client.ack(1, 1)
    client.nack(1, 2)
    harness.advance(limits.BACKOFF_MIN_MS)
    assert client.take() == []
    assert client.subscriptions()[NAME].cursor == 1
    client.call(resume)
    (message,) = assert_delivered(client, "orders", [2])
    assert message.attempt == 2


@pytest.mark.parametrize(("pause", "resume"), PAUSES)
def test_a_page_that_was_being_read_is_not_handed_out(pause: Pause, resume: Pause) -> None:
    harness, client = attached()
    client.disconnect()
    harness.connect().publish("orders", "a", "b")
    harness.reads_are_held = True
    client = harness.connect("reader")
    client.subscribe("orders")
    client.call(pause)
    harness.reads_are_held = False
    harness.answer_reads()
    assert client.take() == []
    client.call(resume)
    assert_delivered(client, "orders", [1, 2])


def test_a_paused_queue_stops_all_its_subscriptions_and_a_paused_subscription_no_other() -> None:
    harness, client = attached()
    other = harness.connect("other")
    other.subscribe("orders")
    client.call(Pause(subscription=NAME))
    client.publish("orders")
    assert client.take() == []
    assert_delivered(other, "orders", [1])
    client.call(Pause(queue="orders"))
    client.call(Pause(subscription=NAME, paused=False))
    client.publish("orders")
    assert client.take() == []
    assert other.take() == []
    client.call(Pause(queue="orders", paused=False))
    assert_delivered(client, "orders", [1, 2])
    assert_delivered(other, "orders", [2])


def test_a_paused_subscription_gets_nothing_of_a_queue_that_is_new_either() -> None:
    _, client = attached("shop.*")
    client.call(Pause(subscription="reader:shop.*/#"))
    client.publish("shop.new")
    assert client.take() == []
    client.call(Pause(subscription="reader:shop.*/#", paused=False))
    assert_delivered(client, "shop.new", [1])


def test_a_queue_that_is_paused_does_not_stop_the_others_of_a_pattern() -> None:
    harness, client = attached("shop.*")
    client.publish("shop.a")
    client.publish("shop.b")
    client.take()
    harness.connect().call(Pause(queue="shop.a"))
    client.publish("shop.a")
    client.publish("shop.b")
    assert_delivered(client, "shop.b", [2])


@pytest.mark.parametrize("before", [True, False])
def test_what_is_redriven_waits_with_its_queue(before: bool) -> None:
    _, client = attached(attempts_max=1)
    client.publish("orders")
    client.take()
    client.nack(1, 1)
    if before:
        client.call(Pause(queue="orders"))
        client.call(Redrive(subscription=NAME))
        assert client.take() == []
        client.call(Pause(queue="orders", paused=False))
        assert len(client.take()) == 1
    else:
        client.call(Redrive(subscription=NAME))
        (message,) = client.take()
        client.nack(1, message.sequence, queue=f"$redriven/{_number(client)}/orders")
        client.call(Pause(queue="orders"))
        client.call(Redrive(subscription=NAME))
        assert client.take() == []
        client.call(Pause(queue="orders", paused=False))
        assert len(client.take()) == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_redriven_goes_on_when_its_paused_queue_is_deleted(restarted: bool) -> None:
    harness, client = attached(attempts_max=1)
    client.publish("orders")
    client.take()
    client.nack(1, 1)
    client.call(Pause(queue="orders"))
    client.call(Redrive(subscription=NAME))
    client.delete("queue", "orders")
    if restarted:
        client.disconnect()
        harness.restart()
        client = harness.connect("reader")
        client.subscribe("orders")
    assert len(client.take()) == 1


def _number(client: Client) -> int:
    return client.harness.broker.state.subscriptions[NAME].number


def test_listings_say_what_is_paused() -> None:
    _, client = attached()
    client.publish("orders")
    client.call(Pause(subscription=NAME))
    assert "resume" in client.subscriptions()[NAME].paused
    client.call(Pause(subscription=NAME, paused=False))
    assert client.subscriptions()[NAME].paused == ""
    assert not client.queues()["orders"].paused
    client.call(Pause(queue="orders"))
    assert client.queues()["orders"].paused
    assert "orders" in client.subscriptions()[NAME].paused
    client.unsubscribe(1)
    assert "orders" in client.subscriptions()[NAME].paused, "also while nobody is attached"


def test_what_cannot_be_paused_is_refused_with_a_reason() -> None:
    _, client = attached()
    client.call(Pause())
    assert_refused(client, InvalidOption, "one of the two")
    client.call(Pause(queue="orders", subscription=NAME))
    assert_refused(client, InvalidOption, "one of the two")
    client.call(Pause(queue="nothing"))
    assert_refused(client, NotFound, "nothing", "tidings queues")
    client.call(Pause(subscription="nothing"))
    assert_refused(client, NotFound, "nothing")
    client.call(Pause(queue="$presence"))
    assert_refused(client, SystemQueue, "$presence")


def test_the_life_of_a_queue_that_is_deleted_and_used_again_is_not_paused() -> None:
    _, client = attached()
    client.publish("orders")
    client.take()
    client.call(Pause(queue="orders"))
    client.delete("queue", "orders")
    client.publish("orders")
    assert_delivered(client, "orders", [1])
