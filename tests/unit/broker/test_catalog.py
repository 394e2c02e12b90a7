"""The catalog: subscribing with all its options and errors, detaching, expiring, deleting."""

from typing import Any

import pytest

from tests.unit.broker.harness import START_MS, Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs, ledger
from tidings.errors import (
    InvalidFilter,
    InvalidName,
    InvalidOption,
    LimitReached,
    NotFound,
    Refused,
    StoreUnavailable,
    SubscriptionConflict,
    SubscriptionInUse,
    SystemQueue,
    TidingsError,
)


def filled() -> tuple[Harness, Client]:
    """Returns a harness and a client, with three messages in `orders`, a second apart."""
    harness = Harness()
    client = harness.connect("reader")
    for _ in range(3):
        client.publish("orders")
        harness.advance(1000)
    return harness, client


# --- where a new subscription starts ---


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"start": "latest"}, []),
        ({"start": "earliest"}, [1, 2, 3]),
        ({"start": "sequence", "start_value": 1}, [1, 2, 3]),
        ({"start": "sequence", "start_value": 3}, [3]),
        ({"start": "sequence", "start_value": 4}, []),
        ({"start": "time", "start_value": 0}, [1, 2, 3]),
        ({"start": "time", "start_value": START_MS}, [1, 2, 3]),
        ({"start": "time", "start_value": START_MS + 1}, [2, 3]),
        ({"start": "time", "start_value": START_MS + 2000}, [3]),
        ({"start": "time", "start_value": START_MS + 9000}, []),
    ],
)
def test_a_new_subscription_starts_where_it_was_told(options: dict[str, Any], expected: list[int]) -> None:
    _, client = filled()
    client.subscribe("orders", **options)
    assert_delivered(client, "orders", expected)
    client.publish("orders")
    assert_delivered(client, "orders", [4])


def test_a_start_counts_only_for_a_new_subscription() -> None:
    harness, client = filled()
    client.subscribe("orders")
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders", start="earliest")
    assert client.subscribed[1].created is False
    assert client.take() == []


def test_a_start_at_a_time_moves_every_queue_of_a_pattern() -> None:
    _, client = filled()
    client.publish("bills")
    client.subscribe("*", start="time", start_value=START_MS + 2000)
    assert sorted((message.queue, message.sequence) for message in client.take()) == [("bills", 1), ("orders", 3)]


def test_a_subscriber_that_waits_for_its_start_gets_nothing_before_it() -> None:
    harness, client = filled()
    harness.reads_are_held = True
    client.subscribe("orders", start="time", start_value=START_MS + 2000)
    client.publish("orders")
    assert client.subscribed == {}
    harness.reads_are_held = False
    harness.answer_reads()
    assert_delivered(client, "orders", [3, 4])


def test_a_queue_deleted_while_a_start_is_looked_up_answers_all_the_same() -> None:
    harness, client = filled()
    harness.reads_are_held = True
    client.subscribe("orders", start="time", start_value=START_MS)
    client.delete("queue", "orders")
    harness.reads_are_held = False
    harness.answer_reads()
    assert client.subscribed[1].created


# --- names, durability, answers ---


def test_a_client_with_an_id_gets_a_durable_subscription_named_after_its_filter() -> None:
    harness = Harness()
    client = harness.connect("billing")
    client.subscribe("orders", "created")
    told = client.subscribed[1]
    assert (told.name, told.durable, told.created) == ("billing:orders/created", True, True)


def test_who_is_attached_is_told_the_settings_that_hold_now() -> None:
    harness = Harness()
    client = harness.connect("billing")
    client.subscribe("orders", ack_timeout_ms=9_000, attempts_max=3)
    assert (client.subscribed[1].ack_timeout_ms, client.subscribed[1].attempts_max) == (9_000, 3)
    client.unsubscribe(1)
    client.subscribe("orders")
    assert (client.subscribed[2].ack_timeout_ms, client.subscribed[2].attempts_max) == (9_000, 3)


def test_an_anonymous_client_gets_an_ephemeral_one_that_ends_with_the_connection() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders")
    assert client.subscribed[1].durable is False
    client.disconnect()
    assert harness.broker.state.subscriptions == {}
    harness.flush()
    assert not [key for key in harness.records() if key.startswith(("subscription/", "cursor/"))]


def test_a_name_makes_a_subscription_of_an_anonymous_client_durable() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders", name="audit")
    client.disconnect()
    other = harness.connect()
    other.publish("orders")
    other.subscribe("orders", name="audit")
    assert_delivered(other, "orders", [1])


def test_a_new_durable_subscription_is_told_once_it_is_on_disk() -> None:
    harness = Harness()
    client = harness.connect("reader")
    harness.store_is_held = True
    client.subscribe("orders")
    assert client.subscribed == {}
    harness.commit()
    assert client.subscribed[1].created
    harness.restart()
    assert "reader:orders/#" in harness.broker.state.subscriptions


def test_who_takes_over_a_subscription_is_told_of_it_only_once_it_is_on_disk() -> None:
    harness = Harness()
    harness.store_is_held = True
    harness.connect("reader").subscribe("orders")
    after = harness.connect("reader", take_over=True)
    after.subscribe("orders")
    assert after.subscribed == {}
    harness.commit()
    harness.commit()
    assert not after.subscribed[1].created
    harness.restart()
    assert "reader:orders/#" in harness.broker.state.subscriptions


def test_a_subscription_that_could_not_be_stored_is_refused_and_can_be_asked_for_again() -> None:
    harness = Harness()
    client = harness.connect("reader")
    harness.store_is_held = True
    client.subscribe("orders")
    harness.refuse("no")
    assert_refused(client, StoreUnavailable, "no")
    assert "reader:orders/#" not in harness.broker.state.subscriptions
    harness.store_is_held = False
    harness.advance(1000)
    client.subscribe("orders")
    assert client.subscribed[2].created


def test_two_filters_on_one_queue_are_two_subscriptions() -> None:
    harness = Harness()
    client = harness.connect("reader")
    one, two = client.subscribe("orders", "a"), client.subscribe("orders", "b")
    client.publish("orders", "a", "b")
    assert_delivered(client, "orders", [1], one)
    assert_delivered(client, "orders", [2], two)


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"in_flight_max": -1}, ["in_flight_max", "-1"]),
        ({"in_flight_max": limits.IN_FLIGHT_MAX + 1}, ["in_flight_max", str(limits.IN_FLIGHT_MAX)]),
        ({"concurrency": 0}, ["concurrency", "0"]),
        ({"concurrency": limits.CONCURRENCY_MAX + 1}, ["concurrency"]),
        ({"ack_timeout_ms": limits.ACK_TIMEOUT_MS_MIN - 1}, ["ack_timeout_ms", str(limits.ACK_TIMEOUT_MS_MIN)]),
        ({"ack_timeout_ms": limits.ACK_TIMEOUT_MS_MAX + 1}, ["ack_timeout_ms"]),
        ({"expires_after_ms": -5}, ["expires_after_ms", "-5"]),
        ({"start": "yesterday"}, ["yesterday", "earliest"]),
        ({"start": "sequence", "start_value": 0}, ["start sequence", "0"]),
        ({"start": "sequence", "start_value": 5}, ["sequence 5", "ends at 3", "4"]),
    ],
)
def test_options_out_of_range_are_refused_with_the_range(options: dict[str, Any], words: list[str]) -> None:
    _, client = filled()
    client.subscribe("orders", **options)
    assert_refused(client, InvalidOption, *words)
    assert client.subscriptions() == {}


def test_a_start_at_a_sequence_needs_one_queue() -> None:
    _, client = filled()
    client.subscribe("*", start="sequence", start_value=1)
    assert_refused(client, InvalidOption, "'*'", "time")


@pytest.mark.parametrize(("queue", "event"), [("", "#"), ("a..b", "#"), ("orders", "#.x"), ("$other", "#")])
def test_malformed_filters_are_refused(queue: str, event: str) -> None:
    client = Harness().connect()
    client.subscribe(queue, event)
    assert_refused(client, InvalidFilter, repr(queue) if queue != "orders" else repr(event))


@pytest.mark.parametrize(("name", "told"), [("", "is empty"), ("a b", "'a b'"), ("x" * 256, "of 256 bytes")])
def test_malformed_subscription_names_are_refused(name: str, told: str) -> None:
    client = Harness().connect()
    client.subscribe("orders", name=name)
    assert_refused(client, InvalidName, f"subscription name {told}")


def test_a_handle_can_be_used_once() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders")
    harness.do(inputs.Subscribe(connection=client.connection, request=2, handle=1, queue="bills", event="#"))
    assert_refused(client, InvalidOption, "handle 1")


def test_a_name_of_another_owner_or_filter_is_a_conflict() -> None:
    harness = Harness()
    one, two = harness.connect("one"), harness.connect("two")
    one.subscribe("orders", name="audit")
    two.subscribe("orders", name="audit")
    assert_refused(two, SubscriptionConflict, "'one'", "shared=")
    one.subscribe("orders", "created", name="audit")
    assert_refused(one, SubscriptionConflict, "orders/#", "orders/created")


def test_a_name_that_has_a_subscriber_is_in_use() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.subscribe("orders")
    assert_refused(client, SubscriptionInUse, "10.0.0.1:5000")


def test_a_connection_can_have_only_so_many_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBSCRIPTIONS_PER_CONNECTION_MAX", 2)
    client = Harness().connect()
    for queue in ("a", "b", "c"):
        client.subscribe(queue)
    assert_refused(client, LimitReached, "2 subscriptions")


def test_there_can_be_only_so_many_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUES_MAX", 2)
    client = Harness().connect()
    client.publish("one")
    client.publish("two")
    assert_refused(client, LimitReached, "2 queues")
    client.publish("one")
    assert 3 in client.confirms


# --- coming back ---


def test_an_ephemeral_subscription_continues_after_what_was_received() -> None:
    harness, _ = filled()
    client = harness.connect()
    client.subscribe("orders", resume=[inputs.Resume(harness.epoch("orders"), 1, [])])
    assert_delivered(client, "orders", [2, 3])


@pytest.mark.parametrize("received", [-5, 0, 99])
def test_an_ephemeral_subscription_cannot_continue_outside_of_its_queue(received: int) -> None:
    harness, _ = filled()
    client = harness.connect()
    client.subscribe("orders", resume=[inputs.Resume(harness.epoch("orders"), received, [])])
    assert_delivered(client, "orders", [1, 2, 3] if received < 1 else [])


@pytest.mark.parametrize(
    "start",
    [
        {"start": "latest"},
        {"start": "last"},
        {"start": "sequence", "start_value": 9},
        {"start": "time", "start_value": 10**15},
    ],
)
def test_an_ephemeral_subscription_reads_from_its_beginning_what_appeared_while_it_was_away(
    start: dict[str, Any],
) -> None:
    harness, _ = filled()
    client = harness.connect()
    client.subscribe("orders", resume=[inputs.Resume(harness.epoch("orders") - 1, 1, [])], **start)
    assert_delivered(client, "orders", [1, 2, 3])


def test_an_ephemeral_subscription_that_there_was_no_queue_for_reads_what_appeared_while_it_was_away() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders.*")
    places = client.subscribed[1].places
    client.disconnect()
    client = harness.connect()
    client.publish("orders.eu", *"abc")
    client.subscribe("orders.*", resume=[inputs.Resume(epoch, received, []) for epoch, received in places])
    assert_delivered(client, "orders.eu", [1, 2, 3])


def test_an_ephemeral_subscription_that_may_not_know_all_queues_starts_as_asked_in_others() -> None:
    harness, _ = filled()
    client = harness.connect()
    many = [inputs.Resume(epoch, 1, []) for epoch in range(1000, 1000 + limits.RESUME_QUEUES_MAX)]
    client.subscribe("orders", resume=many)
    assert client.take() == []


def test_a_durable_subscription_takes_acks_that_were_lost() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders", *"abcde")
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders", resume=[inputs.Resume(harness.epoch("orders"), 5, [(1, 2), (4, 4)])])
    assert_delivered(client, "orders", [3, 5])


def test_a_durable_subscription_takes_acks_that_are_ahead_of_its_record_after_a_crash() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", "b")
    client.publish("orders", *"abab")
    client.disconnect()
    records = dict(harness.store._records)
    harness.flush()
    # The newest record of the cursor is lost, as after a crash within the delay of its writing.
    harness.store._records.update({key: value for key, value in records.items() if key.startswith("cursor/")})
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders", "b", resume=[inputs.Resume(harness.epoch("orders"), 4, [(4, 4)])])
    assert_delivered(client, "orders", [2])
    client.ack(1, 2)
    assert client.subscriptions()["reader:orders/b"].lag == 0


def test_lost_acks_outside_of_the_queue_are_ignored() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders", "a", "b")
    client.disconnect()
    epoch = harness.epoch("orders")
    client = harness.connect("reader")
    client.subscribe("orders", resume=[inputs.Resume(epoch, 9, [(7, 9), (3, 1), (-4, 0)]), inputs.Resume(77, 1, [])])
    assert_delivered(client, "orders", [1, 2])


# --- detaching, expiring ---


def test_unsubscribing_keeps_a_durable_subscription_and_ends_an_ephemeral_one() -> None:
    harness = Harness()
    durable, ephemeral = harness.connect("reader"), harness.connect()
    for client in (durable, ephemeral):
        handle = client.subscribe("orders")
        request = client.unsubscribe(handle)
        assert client.done == [request]
    assert list(harness.broker.state.subscriptions) == ["reader:orders/#"]
    durable.publish("orders")
    assert durable.take() == []
    handle = durable.subscribe("orders")
    assert_delivered(durable, "orders", [1], handle)


def test_unsubscribing_before_it_is_attached_answers_both_requests() -> None:
    harness = Harness()
    client = harness.connect("reader")
    harness.store_is_held = True
    handle = client.subscribe("orders")
    request = client.unsubscribe(handle)
    assert_refused(client, Refused, f"handle {handle}", "before it was attached")
    harness.store_is_held = False
    harness.commit()
    assert (client.subscribed, client.done) == ({}, [request])


def test_unsubscribing_while_its_start_is_looked_up_answers_both_requests() -> None:
    harness, client = filled()
    harness.reads_are_held = True
    handle = client.subscribe("orders", start="time")
    request = client.unsubscribe(handle)
    assert_refused(client, Refused, f"handle {handle}", "before it was attached")
    harness.answer_reads()
    assert (client.subscribed, client.done) == ({}, [request])


def test_unsubscribing_an_unknown_handle_is_refused() -> None:
    client = Harness().connect()
    client.unsubscribe(5)
    assert_refused(client, NotFound, "handle 5")


def test_a_subscription_expires_only_when_asked_and_only_while_it_is_away() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", expires_after_ms=10_000)
    client.subscribe("bills")
    harness.advance(60_000)
    assert len(client.subscriptions()) == 2
    client.disconnect()
    harness.advance(9_999)
    assert len(harness.broker.state.subscriptions) == 2
    harness.advance(1)
    assert list(harness.broker.state.subscriptions) == ["reader:bills/#"]
    harness.flush()
    assert len([key for key in harness.records() if key.startswith("subscription/")]) == 1


def test_coming_back_starts_an_expiry_anew_and_zero_removes_it() -> None:
    harness = Harness()
    for expires_after_ms in (10_000, 10_000, 0):
        client = harness.connect("reader")
        client.subscribe("orders", expires_after_ms=expires_after_ms)
        assert client.subscribed[1].created == (harness.now_ms < START_MS + 9_000)
        client.disconnect()
        harness.advance(9_000)
    harness.advance(100_000)
    assert harness.broker.state.subscriptions


def test_an_expiry_goes_on_after_a_restart() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", expires_after_ms=1_000_000)
    client.disconnect()
    harness.advance(500_000)
    harness.restart()
    harness.advance(499_999)
    assert harness.broker.state.subscriptions
    harness.advance(1)
    assert harness.broker.state.subscriptions == {}


def test_after_a_restart_there_is_time_to_come_back_before_an_expiry() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", expires_after_ms=1_000_000)
    client.disconnect()
    harness.advance(999_999)
    harness.restart()
    harness.advance(59_999)
    assert harness.broker.state.subscriptions
    harness.advance(1)
    assert harness.broker.state.subscriptions == {}


# --- deleting ---


def test_a_deleted_queue_is_gone_and_its_name_begins_a_new_life() -> None:
    harness, client = filled()
    old = harness.epoch("orders")
    request = client.delete("queue", "orders")
    assert client.done == [request]
    assert "orders" not in client.queues()
    client.publish("orders", number=50)
    assert client.confirms[50].first_sequence == 1
    assert client.confirms[50].epoch > old


@pytest.mark.parametrize(("is_taken", "error"), [(True, NotFound), (False, StoreUnavailable)])
def test_that_it_is_gone_is_told_once_that_is_durable(is_taken: bool, error: type[TidingsError]) -> None:
    harness, client = filled()
    other = harness.connect()
    harness.store_is_held = True
    client.delete("queue", "orders")
    other.delete("queue", "orders")
    harness.refuse()
    assert_refused(client, StoreUnavailable)
    assert other.refusals == [], "a crash might bring it back"
    if is_taken:
        harness.commit()
    else:
        harness.refuse()
    assert_refused(other, error)


def test_deleting_a_queue_tells_its_subscribers_what_they_lose() -> None:
    harness, client = filled()
    client.subscribe("orders", start="earliest", in_flight_max=1)
    old = harness.epoch("orders")
    client.ack(1, 1)
    harness.connect().delete("queue", "orders")
    (gap,) = client.gaps
    assert (gap.epoch, gap.first_sequence, gap.last_sequence, gap.reason) == (old, 2, 3, "queue deleted")
    client.take()
    client.publish("orders")
    assert_delivered(client, "orders", [1])


def test_who_was_told_of_a_subscription_keeps_it_although_the_store_refuses_what_came_later() -> None:
    harness = Harness()
    first = harness.connect("billing")
    harness.store_is_held = True
    first.subscribe("orders")
    first.disconnect()
    client = harness.connect("billing")
    client.subscribe("orders")
    assert not client.subscribed
    harness.commit()
    assert [told.created for told in client.subscribed.values()] == [False]
    harness.refuse()
    assert client.refusals == []
    harness.store_is_held = False
    harness.settle()
    client.publish("orders")
    assert_delivered(client, "orders", [1])


def test_what_a_deleted_queue_loses_is_told_once_it_is_durable_however_often_the_store_refuses_it() -> None:
    harness, client = filled()
    client.subscribe("orders", start="earliest", in_flight_max=1)
    harness.store_is_held = True
    harness.connect().delete("queue", "orders")
    assert client.gaps == []
    for _ in range(2):
        harness.refuse()
        assert client.gaps == []
        assert harness.under_way is None, "the store is asked again at once"
        harness.advance(limits.CURSOR_DELAY_MS)
    harness.commit()
    assert [gap.reason for gap in client.gaps] == ["queue deleted"]


def test_what_a_deleted_queue_loses_is_not_told_over_a_handle_that_is_detached_meanwhile() -> None:
    harness, client = filled()
    handle = client.subscribe("orders", start="earliest", in_flight_max=1)
    harness.store_is_held = True
    harness.connect().delete("queue", "orders")
    client.unsubscribe(handle)
    harness.store_is_held = False
    harness.commit()
    assert client.gaps == []


def test_what_a_deleted_queue_loses_is_told_without_what_is_acked_until_it_is_durable() -> None:
    harness, client = filled()
    handle, epoch = client.subscribe("orders", start="earliest"), harness.epoch("orders")
    harness.store_is_held = True
    harness.connect().delete("queue", "orders")
    harness.do(inputs.Ack(client.connection, handle, [(epoch, 1, 1)]))
    harness.store_is_held = False
    harness.commit()
    assert [(gap.first_sequence, gap.last_sequence) for gap in client.gaps] == [(2, 3)]


def test_whoever_comes_back_before_a_deletion_is_durable_is_told_once_it_is() -> None:
    harness, client = filled()
    client.subscribe("orders", start="earliest")
    client.disconnect()
    harness.store_is_held = True
    harness.connect().delete("queue", "orders")
    again = harness.connect("reader")
    again.subscribe("orders")
    assert again.gaps == []
    harness.store_is_held = False
    harness.commit()
    assert [(gap.first_sequence, gap.last_sequence) for gap in again.gaps] == [(1, 3)]


def test_a_subscriber_that_was_away_is_told_when_it_comes_back_even_after_a_restart() -> None:
    harness, client = filled()
    client.subscribe("orders", start="earliest")
    client.disconnect()
    harness.connect().delete("queue", "orders")
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    (gap,) = client.gaps
    assert (gap.queue, gap.first_sequence, gap.last_sequence) == ("orders", 1, 3)


def test_nothing_is_told_of_a_deleted_queue_that_was_settled() -> None:
    _, client = filled()
    client.subscribe("orders", start="earliest")
    client.ack(1, 1, 3)
    client.delete("queue", "orders")
    assert client.gaps == []


def test_system_and_unknown_queues_cannot_be_deleted() -> None:
    client = Harness().connect()
    client.delete("queue", "$presence")
    assert_refused(client, SystemQueue, "$presence")
    client.delete("queue", "nothing")
    assert_refused(client, NotFound, "'nothing'", "tidings queues")
    client.delete("client", "x")
    assert_refused(client, InvalidOption, "'client'", "'queue'")


def test_a_subscription_can_be_deleted_while_nobody_is_attached() -> None:
    harness, client = filled()
    client.subscribe("orders")
    other = harness.connect()
    other.delete("subscription", "reader:orders/#")
    assert_refused(other, SubscriptionInUse, "10.0.0.1:5000")
    client.disconnect()
    other.delete("subscription", "reader:orders/#")
    assert len(other.done) == 1
    harness.restart()
    assert harness.broker.state.subscriptions == {}
    assert not [key for key in harness.records() if key.startswith(("subscription/", "cursor/"))]


def test_a_client_id_stands_for_its_only_subscription() -> None:
    harness, client = filled()
    client.subscribe("orders")
    client.subscribe("bills")
    client.disconnect()
    other = harness.connect()
    other.delete("subscription", "reader")
    assert_refused(other, Refused, "2 subscriptions", "'reader:bills/#'")
    other.delete("subscription", "reader:bills/#")
    other.delete("subscription", "reader")
    assert harness.broker.state.subscriptions == {}
    other.delete("subscription", "reader")
    assert_refused(other, NotFound, "'reader'")


def test_all_who_lose_by_a_deleted_queue_are_told_after_a_crash_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = Harness()
    client = harness.connect()
    for number in range(5):
        reader = harness.connect()
        reader.subscribe("orders", name=f"reader-{number}")
        reader.disconnect()
    client.publish("orders")
    harness.flush()
    monkeypatch.setattr(ledger, "_PUTS_MAX", 3)
    harness.store_is_held = True
    client.delete("queue", "orders")
    harness.commit()
    harness.store_is_held = False
    harness.restart()
    for number in range(5):
        reader = harness.connect()
        reader.subscribe("orders", name=f"reader-{number}")
        assert [gap.reason for gap in reader.gaps] == ["queue deleted"]
