"""Rewinding: who comes back is delivered again what was acked for it and never arrived, and nothing else."""

from itertools import pairwise

import pytest

from tests.unit.broker.harness import Client, Harness
from tidings import limits
from tidings.broker.inputs import Resume
from tidings.calls import DeleteDeadLetters, ListDeadLetters, Seek
from tidings.model import ELSEWHERE
from tidings.ranges import Ranges

NAME = "reader:orders/#"


def acked(*events: str, event: str = "#") -> tuple[Harness, Client]:
    """Returns a subscription whose messages were all delivered and acked, and who reads it."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", event)
    client.publish("orders", *events)
    client.take()
    client.ack(1, 1, len(events))
    return harness, client


def back(harness: Harness, received: int, *, event: str = "#", epoch: int | None = None) -> Client:
    """Returns the reader when it is back."""
    client = harness.connect("reader")
    place = Resume(harness.epoch("orders") if epoch is None else epoch, received, [])
    client.subscribe("orders", event, resume=[place], rewinds=True)
    return client


def sequences(client: Client) -> list[int]:
    return [message.sequence for message in client.take()]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("received", range(6))
def test_what_was_acked_and_not_received_comes_again_in_order(received: int, restarted: bool) -> None:
    harness, client = acked(*"abcde")
    client.disconnect(farewell=True)
    harness.flush()
    if restarted:
        harness.restart()
    client = back(harness, received)
    client.publish("orders", "f")
    assert sequences(client) == list(range(received + 1, 7))


def test_without_asking_for_it_nothing_comes_again() -> None:
    harness, client = acked(*"abc")
    client.disconnect(farewell=True)
    client = harness.connect("reader")
    client.subscribe("orders", resume=[Resume(harness.epoch("orders"), 1, [])])
    assert sequences(client) == []


def test_messages_before_it_that_are_not_settled_stay_so() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders", *"abcde")
    client.take()
    client.nack(1, 2, delay_ms=60_000)
    for sequence in (1, 3, 4, 5):
        client.ack(1, sequence)
    client.disconnect(farewell=True)
    client = back(harness, 4)
    assert sequences(client) == [5]
    client.ack(1, 5)
    harness.advance(60_000)
    again = client.take()
    assert [(message.sequence, message.attempt) for message in again] == [(2, 2)]


def test_what_waits_after_it_is_neither_forgotten_nor_hurried() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders", *"abcd")
    client.take()
    client.nack(1, 3, delay_ms=60_000)
    for sequence in (1, 2, 4):
        client.ack(1, sequence)
    client.disconnect(farewell=True)
    client = back(harness, 1)
    assert sequences(client) == [2, 4]
    client.ack(1, 2)
    client.ack(1, 4)
    harness.advance(60_000)
    assert sequences(client) == [3]


def test_what_it_does_not_want_does_not_come() -> None:
    harness, client = acked("a", "b", "a", "b", "a", event="a")
    client.disconnect(farewell=True)
    client = back(harness, 1, event="a")
    assert sequences(client) == [3, 5]
    client.ack(1, 3, 5)
    assert client.subscriptions()["reader:orders/a"].lag == 0


def test_what_the_queue_does_not_have_any_more_is_a_gap() -> None:
    harness, client = acked(*"ab")
    client.disconnect(farewell=True)
    other = harness.connect("other")
    harness.advance(limits.HISTORY_AGE_MS + 60_000)
    other.publish("orders", "c")
    assert harness.broker.state.queues["orders"].first_sequence == 3
    client = back(harness, 1)
    assert [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in client.gaps] == [(2, 2, "trimmed")]
    assert sequences(client) == [3]


def test_a_place_of_another_life_or_before_a_move_means_nothing() -> None:
    harness, client = acked(*"abc")
    client.call(Seek(subscription=NAME, to="latest"))
    client.disconnect(farewell=True)
    for epoch in (harness.epoch("orders"), 4_711):
        client = back(harness, 0, epoch=epoch)
        assert sequences(client) == []
        client.disconnect(farewell=True)


def test_it_holds_back_what_comes_again_until_it_is_acked() -> None:
    harness, client = acked(*"abc")
    client.disconnect(farewell=True)
    client = back(harness, 1)
    client.take()
    client.disconnect()
    harness.flush()
    harness.restart()
    client = back(harness, 1)
    assert [message.sequence for message in client.take()] == [2, 3]
    client.ack(1, 2, 3)
    assert client.subscriptions()[NAME].cursor == 3


def test_at_the_live_end_nothing_comes_twice_whatever_the_place() -> None:
    harness, client = acked(*"abc")
    for received in (3, 7, 10**9):
        client.disconnect(farewell=True)
        client = back(harness, received)
        assert sequences(client) == []
    client.publish("orders", "d")
    assert sequences(client) == [4]


def test_a_shared_subscription_is_not_rewound() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", name="team", shared=True)
    client.publish("orders", *"abc")
    assert all(after.sequence == before.sequence + 1 for before, after in pairwise(client.take()))
    client.ack(1, 1, 3)
    client.disconnect(farewell=True)
    client = harness.connect("reader")
    place = Resume(harness.epoch("orders"), 0, [])
    client.subscribe("orders", name="team", shared=True, resume=[place], rewinds=True)
    assert sequences(client) == []


def test_a_message_that_came_again_can_die_again_and_each_letter_can_be_deleted() -> None:
    harness, client = acked("a")
    client.publish("orders", "b")
    client.nack(1, 2, reject=True)
    client.disconnect(farewell=True)
    client = back(harness, 1)
    assert sequences(client) == [2]
    client.nack(1, 2, reject=True)
    assert [letter.number for letter in client.call(ListDeadLetters(subscription="reader"))] == [1, 2]
    for number in (1, 2):
        assert client.call(DeleteDeadLetters(subscription="reader", number=number)) == 1


def test_an_ack_costs_as_little_before_a_long_history_as_before_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    contains = Ranges.__contains__

    def counted(ranges: Ranges, number: int) -> bool:
        nonlocal looks
        looks += 1
        return contains(ranges, number)

    harness, client = acked(*"abcde" * 400)
    client.disconnect(farewell=True)
    client = harness.connect("reader")
    place = Resume(harness.epoch("orders"), 0, [])
    client.subscribe("orders", resume=[place], rewinds=True, in_flight_max=10)
    monkeypatch.setattr(Ranges, "__contains__", counted)
    monkeypatch.setattr(harness.invariants, "check", lambda: None)
    for _ in range(20):
        client.ack(1, 1, sequences(client)[-1])
    assert looks < 20 * 100


def test_who_has_nothing_of_other_queues_gets_again_what_was_acked_of_them() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.publish("orders.old", "before")
    client.subscribe("orders.*", rewinds=True)
    places = client.subscribed[1].places
    client.publish("orders.old", "a")
    client.publish("orders.new", "b")
    assert sequences(client) == [2, 1]
    client.ack(1, 2, queue="orders.old")
    client.ack(1, 1, queue="orders.new")
    client.disconnect(farewell=True)
    for resume, expected in [(places, [2, 1]), (places[1:], [2]), (places[:1], [2, 1]), ([], [])]:
        client = harness.connect("reader")
        client.subscribe("orders.*", resume=[Resume(epoch, received, []) for epoch, received in resume], rewinds=True)
        found = client.take()
        assert [message.sequence for message in found] == expected
        for message in found:
            client.ack(1, message.sequence, queue=message.queue)
        client.disconnect(farewell=True)


def test_who_has_nothing_of_other_queues_goes_on_where_it_was_moved_to() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders.*", name="s", rewinds=True)
    client.disconnect(farewell=True)
    client = harness.connect("reader")
    client.publish("orders.new", *"abcde")
    client.call(Seek(subscription="s", queue="orders.new", to="sequence", value=4))
    client.subscribe("orders.*", name="s", resume=[Resume(ELSEWHERE, 0, [])], rewinds=True)
    assert sequences(client) == [4, 5]


def test_only_who_rewinds_may_have_nothing_of_other_queues() -> None:
    harness, client = acked(*"abc")
    client.disconnect(farewell=True)
    client = harness.connect("reader")
    client.subscribe("orders", resume=[Resume(ELSEWHERE, 0, [])])
    assert sequences(client) == []
