"""Publishing: from a batch to its confirm, and everything that refuses it."""

import pytest

from tests.unit.broker.harness import Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.errors import (
    DiskFull,
    Draining,
    InvalidName,
    LimitReached,
    ProtocolViolation,
    StoreUnavailable,
    SystemQueue,
)


def test_sequences_are_dense_across_batches_and_rounds() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders", "a", "b")
    client.publish("orders", "a")
    client.publish("bills", "a")
    assert [client.confirms[number].first_sequence for number in (1, 2, 3)] == [1, 3, 1]
    assert [event for event, _ in harness.stored("orders")] == ["a", "b", "a"]


def test_a_confirm_comes_only_after_the_transaction() -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.publish("orders")
    assert client.confirms == {}
    harness.commit()
    assert client.confirms[1].first_sequence == 1


def test_what_arrives_during_a_commit_becomes_one_row_of_the_next_one() -> None:
    harness = Harness()
    one, two = harness.connect(), harness.connect()
    harness.store_is_held = True
    one.publish("orders")
    two.publish("orders", "x")
    one.publish("orders", "y", "x")
    harness.commit()
    assert harness.under_way is not None
    (append,) = [append for append in harness.under_way.appends if append.queue == harness.epoch("orders")]
    assert (append.stored.first_sequence, append.stored.last_sequence) == (2, 4)
    harness.commit()
    assert (two.confirms[1].first_sequence, one.confirms[2].first_sequence) == (2, 3)


def test_a_confirm_counts_the_subscriptions_that_match_each_run() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", "created")
    client.subscribe("orders", "#")
    client.subscribe("*", "user.*")
    client.publish("orders", "created", "deleted", "user.new")
    assert client.confirms[1].subscriptions == [2, 1, 2]


def test_subscriptions_that_are_away_count_and_deleted_ones_do_not() -> None:
    harness = Harness()
    reader, client = harness.connect("reader"), harness.connect()
    reader.subscribe("orders")
    reader.disconnect()
    client.publish("orders")
    assert client.confirms[1].subscriptions == [1]
    client.delete("subscription", "reader:orders/#")
    client.publish("orders")
    assert client.confirms[2].subscriptions == [0]


def test_a_stored_batch_that_comes_again_is_confirmed_and_not_stored_twice() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders", "a", "b")
    first = client.confirms.pop(1)
    client.publish("orders", "a", "b", number=1)
    assert client.confirms[1] == first
    assert len(harness.stored("orders")) == 2


@pytest.mark.parametrize("under_way", [False, True])
def test_a_batch_that_comes_again_before_it_is_stored_is_confirmed_to_the_new_connection(under_way: bool) -> None:
    harness = Harness()
    other, client = harness.connect(), harness.connect(producer="p")
    harness.store_is_held = True
    if not under_way:
        other.publish("other")
    client.publish("orders")
    client.disconnect()
    again = harness.connect(producer="p")
    again.publish("orders", number=1)
    harness.store_is_held = False
    harness.commit()
    assert again.confirms[1].first_sequence == 1
    assert len(harness.stored("orders")) == 1


def test_a_stored_batch_that_comes_again_after_a_crash_is_not_stored_twice() -> None:
    harness = Harness()
    client = harness.connect(producer="p")
    client.publish("orders")
    client.publish("orders", "x")
    harness.restart()
    again = harness.connect(producer="p")
    again.publish("orders", "x", number=2)
    assert again.confirms[2].first_sequence == 2
    assert len(harness.stored("orders")) == 2


def test_answered_batches_are_forgotten_and_refused_if_they_come_again() -> None:
    harness = Harness()
    client = harness.connect(producer="p")
    client.publish("orders")
    client.publish("orders", answered=2)
    assert list(harness.broker.state.producers["p"].stored) == [2]
    client.publish("orders", number=1)
    assert_refused(client, ProtocolViolation, "batch 1")


def test_a_refused_transaction_refuses_its_batches_and_uses_no_sequence() -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.publish("orders", "lost")
    harness.refuse("the disk is on fire")
    assert_refused(client, StoreUnavailable, "the disk is on fire")
    client.publish("orders", "lost", number=1)
    harness.store_is_held = False
    harness.commit()
    assert client.confirms[1].first_sequence == 1
    assert harness.stored("orders") == [("lost", b"lost")]


def test_a_full_disk_is_told_as_such() -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.publish("orders")
    harness.refuse("no space left", full=True)
    assert_refused(client, DiskFull, "no space left")


def test_batches_of_others_behind_a_refused_transaction_are_stored() -> None:
    harness = Harness()
    one, two = harness.connect(), harness.connect()
    harness.store_is_held = True
    one.publish("orders", "lost")
    two.publish("orders", "kept")
    harness.refuse()
    harness.commit()
    assert two.confirms[1].first_sequence == 1
    assert harness.stored("orders") == [("kept", b"kept")]


def test_what_follows_a_refused_batch_is_refused_until_the_client_has_heard_of_it() -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.publish("orders", "first")
    client.publish("orders", "second")
    harness.refuse()
    harness.store_is_held = False
    client.publish("orders", "third", answered=1)
    assert [refusal.request for refusal in client.refusals] == [1, 2, 3]
    client.publish("orders", "fourth", answered=4)
    assert harness.stored("orders") == [("fourth", b"fourth")]


def test_what_was_refused_over_a_lost_connection_is_sent_again_and_stored_in_its_order() -> None:
    harness = Harness()
    before = harness.connect("publisher", producer="process")
    harness.store_is_held = True
    before.publish("orders", "first")
    before.publish("orders", "second")
    harness.refuse()  # which nobody hears
    before.publish("orders", "third", answered=1)
    harness.store_is_held = False
    after = harness.connect("publisher", producer="process", token=before.token)
    for number, event in enumerate(("first", "second", "third"), 1):
        after.publish("orders", event, number=number, answered=1)
    assert [event for event, _ in harness.stored("orders")] == ["first", "second", "third"]
    assert after.refusals == []


def test_nothing_overtakes_a_batch_that_was_refused_for_lack_of_space() -> None:
    harness = Harness()
    client = harness.connect()
    harness.do(inputs.DiskSpace(0))
    client.publish("orders", "first", answered=1)
    harness.do(inputs.DiskSpace(limits.DISK_RESERVE_BYTES))
    client.publish("orders", "second", answered=1)
    assert "orders" not in harness.broker.state.queues
    client.publish("orders", "first", number=1, answered=1)
    client.publish("orders", "second", number=2, answered=1)
    assert [event for event, _ in harness.stored("orders")] == ["first", "second"]


@pytest.mark.parametrize("name", ["", "a b", "a..b", ".", "a*", "a/b", "#", "x" * 256])
def test_invalid_names_are_refused(name: str) -> None:
    client = Harness().connect()
    client.publish(name)
    assert_refused(client, InvalidName, "queue")
    client.publish("orders", name)
    assert_refused(client, InvalidName, "event")
    assert client.confirms == {}


@pytest.mark.parametrize("queue", ["$presence", "$", "$other"])
def test_system_queues_cannot_be_published_into(queue: str) -> None:
    client = Harness().connect()
    client.publish(queue)
    assert_refused(client, SystemQueue, repr(queue))


def test_below_the_disk_reserve_publishes_are_refused_and_acks_go_on() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders")
    harness.do(inputs.DiskSpace(limits.DISK_RESERVE_BYTES - 1))
    client.publish("orders")
    assert_refused(client, DiskFull, str(limits.DISK_RESERVE_BYTES - 1), str(limits.DISK_RESERVE_BYTES))
    client.ack(1, 1, request=7)
    assert client.done == [7]
    harness.do(inputs.DiskSpace(limits.DISK_RESERVE_BYTES))
    client.publish("orders", answered=3)
    assert client.confirms[3].first_sequence == 2


def test_a_draining_server_refuses_new_batches_and_confirms_old_ones() -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.publish("orders")
    harness.do(inputs.Drain())
    client.publish("orders")
    assert_refused(client, Draining, "connect again")
    harness.commit()
    assert client.confirms[1].first_sequence == 1
    client.publish("orders", number=1)
    assert client.confirms[1].first_sequence == 1


def test_a_publisher_that_never_says_what_was_answered_is_stopped() -> None:
    harness = Harness()
    client = harness.connect()
    most = 4 * limits.UNCONFIRMED_BATCHES_MAX
    for _ in range(most + 1):
        client.publish("orders")
    assert client.refusals == []
    client.publish("orders")
    assert_refused(client, LimitReached, str(most))
    client.publish("orders", answered=most)
    assert most + 3 in client.confirms


def test_publishes_of_a_connection_that_is_gone_are_dropped() -> None:
    harness = Harness()
    client = harness.connect()
    client.disconnect()
    assert harness.do(inputs.Publish(client.connection, 1, 0, "orders", None)) == []  # type: ignore[arg-type]


def test_a_batch_confirmed_into_a_queue_that_was_deleted_meanwhile_is_gone_with_it() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders")
    old = harness.epoch("orders")
    harness.store_is_held = True
    client.publish("orders")
    client.delete("queue", "orders")
    client.publish("orders")
    harness.store_is_held = False
    harness.commit()
    assert (client.confirms[2].epoch, client.confirms[2].first_sequence) == (old, 2)
    assert (client.confirms[3].epoch, client.confirms[3].first_sequence) == (harness.epoch("orders"), 1)
    assert harness.epoch("orders") > old
    harness.advance(10 * limits.TRIM_INTERVAL_MS)
    assert old not in harness.store._queues


def test_publishers_away_for_long_are_forgotten_and_connected_ones_are_not() -> None:
    harness = Harness()
    gone, here = harness.connect(producer="gone"), harness.connect(producer="here")
    gone.publish("orders")
    here.publish("orders")
    gone.disconnect()
    harness.advance(limits.PRODUCER_AGE_MS - 1)
    assert set(harness.broker.state.producers) == {"gone", "here"}
    harness.advance(120_000)
    assert set(harness.broker.state.producers) == {"here"}
    assert "producer/gone" not in harness.records()
    assert "producer/here" in harness.records()


def test_too_many_publishers_away_go_longest_away_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRODUCERS_MAX", 2)
    harness = Harness()
    for name in ("first", "second", "third"):
        client = harness.connect(producer=name)
        client.publish("orders")
        client.disconnect()
        harness.advance(10)
    harness.advance(60_000)
    assert set(harness.broker.state.producers) == {"second", "third"}


def test_a_farewell_forgets_the_publisher() -> None:
    harness = Harness()
    client = harness.connect(producer="p")
    client.publish("orders")
    client.disconnect(farewell=True)
    harness.flush()
    assert "producer/p" not in harness.records()


def test_delivery_follows_the_confirm_in_the_same_turn() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    harness.store_is_held = True
    client.publish("orders")
    assert client.take() == []
    harness.commit()
    assert_delivered(client, "orders", [1])
