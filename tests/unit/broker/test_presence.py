"""Presence: messages on `$presence`, and listings."""

from collections.abc import Iterator

import pytest

from tests.unit.broker.harness import START_MS, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.broker.subscriptions import Subscription
from tidings.errors import InvalidOption


def events(harness: Harness) -> list[tuple[str, str | None]]:
    """Returns event and client id of all messages of `$presence`."""
    return [(event, who["client_id"]) for event, who in harness.presence()]


def test_coming_attaching_detaching_and_going_are_told_in_order() -> None:
    harness = Harness()
    client = harness.connect("billing")
    handle = client.subscribe("orders", "created")
    client.unsubscribe(handle)
    client.disconnect()
    told = harness.presence()
    assert [event for event, _ in told] == ["connected", "subscribed", "unsubscribed", "disconnected"]
    assert told[0][1] == {"client_id": "billing", "address": "10.0.0.1:5000", "protocol": "test"}
    assert told[1][1]["subscription"] == "billing:orders/created"
    assert (told[1][1]["queue"], told[1][1]["event"], told[1][1]["durable"]) == ("orders", "created", True)
    assert told[3][1]["reason"] == "gone"


def test_an_anonymous_client_is_told_of_once_it_publishes_or_subscribes() -> None:
    harness = Harness()
    publisher, reader = harness.connect(), harness.connect()
    assert events(harness) == []
    publisher.publish("orders")
    publisher.publish("orders")
    assert events(harness) == [("connected", None)]
    reader.subscribe("orders")
    assert events(harness)[1:] == [("connected", None), ("subscribed", None)]


def test_who_only_looks_is_neither_told_of_nor_listed() -> None:
    harness = Harness()
    looker = harness.connect()
    assert looker.clients() == {}
    looker.disconnect()
    assert events(harness) == []


def test_who_looked_first_and_then_published_is_listed() -> None:
    harness = Harness()
    client = harness.connect()
    client.listing("clients")
    client.publish("orders")
    assert client.clients()[None].queues == ["orders"]
    assert events(harness) == [("connected", None)]


def test_presence_can_be_read_like_any_queue() -> None:
    harness = Harness()
    watcher = harness.connect("watcher")
    watcher.subscribe("$presence", "connected")
    harness.flush()
    watcher.take()
    harness.connect("billing")
    harness.flush()
    (message,) = watcher.take()
    assert (message.queue, message.event) == ("$presence", "connected")
    assert b'"billing"' in message.payload


def test_presence_hurries_no_transaction() -> None:
    harness = Harness()
    harness.flush()
    before = len(harness.commits)
    harness.connect("billing")
    assert len(harness.commits) == before
    harness.flush()
    assert len(harness.commits) == before + 1


def test_presence_of_a_refused_transaction_is_stored_with_the_next_one() -> None:
    harness = Harness()
    harness.flush()
    harness.store_is_held = True
    harness.connect("billing")
    harness.flush()
    harness.refuse()
    harness.store_is_held = False
    assert events(harness) == [("connected", "billing")]


def test_after_a_crash_who_was_connected_is_told_to_be_gone_once() -> None:
    harness = Harness()
    harness.connect("billing")
    harness.flush()
    harness.restart()
    assert events(harness) == [("connected", "billing"), ("disconnected", "billing")]
    assert harness.presence()[1][1]["reason"] == "the server stopped"
    harness.restart()
    assert len(events(harness)) == 2


def test_connected_clients_are_listed_with_what_they_are_attached_to() -> None:
    harness = Harness()
    client = harness.connect("billing")
    client.subscribe("orders", "created", start="earliest")
    client.publish("audit")
    client.publish("orders", "created", "created")
    harness.advance(5000)
    info = harness.connect().clients()["billing"]
    assert info.connected
    assert (info.address, info.protocol) == ("10.0.0.1:5000", "test")
    assert (info.connected_since, info.last_seen) == (START_MS, START_MS + 5000)
    assert info.queues == ["audit", "orders"]
    assert info.subscriptions == ["billing:orders/created"]
    assert info.waiting == 2


def test_clients_that_are_away_are_listed_with_what_waits_for_them_also_after_a_restart() -> None:
    harness = Harness()
    client = harness.connect("billing")
    client.subscribe("orders")
    harness.advance(5000)
    client.disconnect()
    harness.connect().publish("orders", "a", "b", "c")
    for _ in range(2):
        info = harness.connect().clients()["billing"]
        assert (info.connected, info.connected_since, info.last_seen) == (False, None, START_MS + 5000)
        assert (info.queues, info.subscriptions) == (["orders"], ["billing:orders/#"])
        assert info.waiting == 3
        harness.flush()
        harness.restart()


def test_queues_are_listed_with_what_they_hold_and_who_holds_it() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", in_flight_max=1)
    client.publish("orders", "a", "b", payload=b"12345")
    info = client.queues()["orders"]
    assert (info.first_sequence, info.last_sequence, info.messages) == (1, 2, 2)
    assert info.bytes == harness.bounds()[harness.epoch("orders")].size_bytes
    assert (info.subscriptions, info.held_by, info.created) == (1, "reader:orders/#", START_MS)
    client.ack(1, 1)
    client.ack(1, 2)
    assert client.queues()["orders"].held_by is None
    assert "$presence" in client.queues()


def test_subscriptions_are_listed_with_their_place() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", "a", expires_after_ms=60_000)
    client.publish("orders", "a", "b", "a")
    harness.advance(1000)
    client.ack(1, 1)
    info = client.subscriptions()["reader:orders/a"]
    assert (info.client_id, info.durable, info.filter) == ("reader", True, "orders/a")
    assert (info.queue, info.event) == ("orders", "a")
    assert (info.cursor, info.lag, info.lag_exact, info.in_flight) == (2, 1, False, 1)
    assert (info.connected, info.last_ack) == (True, START_MS + 1000)
    assert info.expires_after_ms == 60_000
    client.disconnect()
    info = harness.connect().subscriptions()["reader:orders/a"]
    assert (info.connected, info.in_flight, info.last_seen) == (False, 0, START_MS + 1000)


def test_a_subscription_without_a_queue_yet_is_listed() -> None:
    client = Harness().connect("reader")
    client.subscribe("later.*")
    info = client.subscriptions()["reader:later.*/#"]
    assert (info.queue, info.cursor, info.lag) == ("later.*", 0, 0)


def test_a_full_window_is_shown_as_the_reason_of_a_pause() -> None:
    client = Harness().connect("reader")
    client.subscribe("orders", in_flight_max=1)
    client.publish("orders", "a", "b")
    assert "window" in client.subscriptions()["reader:orders/#"].paused
    client.ack(1, 1)
    client.ack(1, 2)
    assert client.subscriptions()["reader:orders/#"].paused == ""


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8])
def test_long_listings_come_in_pages_without_gap_or_duplicate(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(limits, "LISTING_PAGE_COUNT", 4)
    harness = Harness()
    client = harness.connect()
    for number in range(count):
        client.publish(f"q{number}")
        other = harness.connect(f"client-{number}")
        other.subscribe(f"q{number}")
        if number % 2:
            other.disconnect()
    assert sorted(info.name for info in client.listing("queues")) == ["$presence", *[f"q{n}" for n in range(count)]]
    assert [info.client_id for info in client.listing("clients") if info.client_id] == [
        f"client-{number}" for number in range(count)
    ]
    assert len(client.listing("subscriptions")) == count


def test_an_unknown_listing_is_refused() -> None:
    harness = Harness()
    client = harness.connect()
    harness.do(inputs.List(client.connection, 1, "secrets"))
    assert_refused(client, InvalidOption, "'secrets'", "'queues'")


def test_looking_changes_nothing_that_a_subscriber_gets() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders")
    for what in ("clients", "queues", "subscriptions"):
        client.listing(what)
    assert_delivered(client, "orders", [1])


def test_a_page_looks_at_no_more_subscriptions_than_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LISTING_PAGE_COUNT", 3)
    harness = Harness()
    client = harness.connect("reader")
    for queue in ("a", "b", "c", "d", "e"):
        client.publish(queue)
    for number in range(20):
        client.subscribe("*" if number % 4 == 0 else "a", name=f"s{number * 7 % 20:02}")
    state = harness.broker.state
    looked_at: list[str] = []
    all_from = state.subscriptions_from

    def counted(name: str) -> Iterator[Subscription]:
        for subscription in all_from(name):
            looked_at.append(subscription.name)
            yield subscription

    monkeypatch.setattr(state, "subscriptions_from", counted)
    listed = [(info.name, info.queue) for info in client.listing("subscriptions")]
    assert listed == sorted(
        (item.name, cursor.queue.name) for item in state.subscriptions.values() for cursor in item.cursors.values()
    )
    assert len(listed) == 5 * 5 + 15
    assert len(looked_at) <= 6 * (len(listed) // 3 + 1)
    client.unsubscribe(1)
    client.delete("subscription", "s00")
    assert "s00" not in {info.name for info in client.listing("subscriptions")}


def test_a_deleted_queue_is_not_among_those_that_a_client_uses() -> None:
    harness = Harness()
    client = harness.connect("shop")
    client.publish("orders")
    assert client.clients()["shop"].queues == ["orders"]
    client.delete("queue", "orders")
    assert client.clients()["shop"].queues == []
