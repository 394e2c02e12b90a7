"""Subscriptions that filter by headers: at the tail, behind it, away, again, and shared."""

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker.cursors import State
from tidings.errors import InvalidFilter, SubscriptionConflict
from tidings.model import HeaderFilter

EU = HeaderFilter("region", ("eu",))
NAME = "reader:orders/#"


def attached(**options: Any) -> tuple[Harness, Client]:
    """Returns a harness, and a client with a durable subscription to what has the header region=eu."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", headers=[EU], **options)
    return harness, client


def regions(*values: str) -> list[dict[str, str] | None]:
    """Returns headers: a region each, "" for no headers at all."""
    return [{"region": value} if value else None for value in values]


def test_only_what_has_the_header_is_delivered_at_the_tail() -> None:
    _, client = attached()
    client.publish("orders", headers=regions("eu", "us", "eu", "", "eu"))
    client.publish("orders", "a", "b")
    client.publish("orders", headers=regions("us"))
    assert_delivered(client, "orders", [1, 3, 5])
    client.ack(1, 1)
    client.ack(1, 3)
    client.ack(1, 5)
    info = client.subscriptions()[NAME]
    assert (info.cursor, info.lag, info.in_flight) == (8, 0, 0)
    assert (info.filter, info.headers) == ("orders/#[region=eu]", [EU])


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_every_match_comes_once_through_any_window(window: int) -> None:
    harness, client = attached(in_flight_max=window)
    client.disconnect()
    other = harness.connect()
    expected = []
    sequence = 0
    for values in (("eu", "us"), ("us",), ("", "eu", "eu"), ("us", "us"), ("eu",) * 5, ("us", "eu") * 4):
        other.publish("orders", headers=regions(*values))
        expected += [sequence + place for place, value in enumerate(values, 1) if value == "eu"]
        sequence += len(values)
    client = harness.connect("reader")
    client.subscribe("orders", headers=[EU], in_flight_max=window)
    received = []
    while messages := client.take():
        assert len(messages) <= window
        received += [message.sequence for message in messages]
        for message in messages:
            client.ack(1, message.sequence)
    assert received == expected
    assert client.subscriptions()[NAME].cursor == sequence


def test_nobody_is_away_for_what_he_does_not_want() -> None:
    harness, client = attached()
    client.disconnect()
    other = harness.connect()
    (cursor,) = harness.broker.state.subscriptions[NAME].cursors.values()
    other.publish("orders", headers=regions("us", ""))
    other.publish("orders", "created")
    assert cursor.state is State.IDLE
    assert other.queues()["orders"].held_by is None
    other.publish("orders", headers=regions("us", "eu"))
    assert cursor.state is State.WAITING
    assert other.queues()["orders"].held_by == NAME
    client = harness.connect("reader")
    client.subscribe("orders", headers=[EU])
    assert_delivered(client, "orders", [5])


@pytest.mark.parametrize("region", ["us", "eu"])
def test_after_a_restart_the_filter_is_the_same_and_the_absence_is_looked_through(region: str) -> None:
    harness, client = attached()
    client.disconnect()
    harness.flush()
    harness.connect().publish("orders", headers=regions("us", region))
    harness.restart()
    (cursor,) = harness.broker.state.subscriptions[NAME].cursors.values()
    assert cursor.state is (State.WAITING if region == "eu" else State.IDLE)
    client = harness.connect("reader")
    client.subscribe("orders", headers=[EU])
    assert_delivered(client, "orders", [2] if region == "eu" else [])


def test_what_failed_comes_again_and_nothing_else() -> None:
    harness, client = attached()
    client.publish("orders", headers=regions("us", "eu", "us", "eu"))
    assert_delivered(client, "orders", [2, 4])
    client.nack(1, 2)
    harness.advance(10)
    (again,) = assert_delivered(client, "orders", [2])
    assert (again.attempt, again.redelivered) == (2, True)


def test_event_and_header_must_both_be_wanted() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", "a", headers=[EU])
    client.publish("orders", "a", "b", "a", headers=regions("eu", "eu", "us"))
    assert_delivered(client, "orders", [1])


def test_a_transaction_of_many_matches_far_apart_is_cut_into_deliveries_that_fit_their_frames() -> None:
    count = 3 * limits.DELIVERY_PIECES_MAX
    _, client = attached()
    client.publish("orders", headers=regions(*("eu", "us") * count))
    deliveries = client.deliveries
    assert max(len(row.batch.runs) for each in deliveries for row in each.rows) <= 2 * limits.DELIVERY_PIECES_MAX + 1
    assert_delivered(client, "orders", range(1, 2 * count, 2))


def test_members_share_what_is_wanted_only() -> None:
    harness = Harness()
    members = [harness.connect(name) for name in ("a", "b")]
    for member in members:
        member.subscribe("orders", name="team", shared=True, headers=[EU])
    members[0].publish("orders", headers=regions(*("eu", "us") * 10))
    got = [[message.sequence for message in member.take()] for member in members]
    assert sorted(got[0] + got[1]) == list(range(1, 21, 2))
    assert all(got)


def test_the_same_name_with_another_header_filter_is_a_conflict_that_says_both() -> None:
    harness, client = attached()
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders", headers=[HeaderFilter("region", ("us",))])
    assert_refused(client, SubscriptionConflict, "orders/#[region=eu]", "orders/#[region=us]")
    client.subscribe("orders")
    assert_refused(client, SubscriptionConflict, "orders/#[region=eu]")
    client.subscribe("orders", headers=[HeaderFilter("region", ("eu", "eu"))])
    assert not client.refusals


def test_a_header_filter_that_says_nothing_makes_no_subscription() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", headers=[HeaderFilter("region")])
    assert_refused(client, InvalidFilter, "region")
    assert not client.subscriptions()


def test_a_redriven_dead_letter_comes_back_whatever_its_headers() -> None:
    from tidings.calls import EditDeadLetter, Redrive

    harness, client = attached()
    client.publish("orders", headers=regions("eu"))
    client.nack(1, 1, reject=True)
    client.take()
    client.call(EditDeadLetter(subscription=NAME, number=1, headers={"region": "us"}))
    client.call(Redrive(subscription=NAME))
    harness.advance(1_000)
    assert [message.sequence for message in client.take()] == [1]


def test_who_attaches_to_a_subscription_as_it_is_gets_what_it_wants() -> None:
    harness, client = attached()
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("", "", name=NAME)
    client.publish("orders", headers=regions("us", "eu"))
    assert_delivered(client, "orders", [2])


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize("members", [1, 3])
def test_members_lose_nothing_of_many_matches_far_apart(members: int, with_keys: bool) -> None:
    count = 2 * limits.DELIVERY_PIECES_MAX + 100
    harness = Harness()
    clients = [harness.connect(f"member-{number}") for number in range(members)]
    for client in clients:
        client.subscribe("orders", name="team", shared=True, in_flight_max=10 * count, headers=[EU])
    keys = [f"key-{number}" for number in range(2 * count)] if with_keys else ()
    clients[0].publish("orders", headers=regions(*("eu", "us") * count), keys=keys)
    got: list[int] = []
    for _ in range(20):
        for client in clients:
            for message in client.take():
                got.append(message.sequence)
                client.ack(1, message.sequence)
    assert sorted(got) == list(range(1, 2 * count, 2))
    assert clients[0].subscriptions()["team"].cursor == 2 * count
