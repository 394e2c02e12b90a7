"""Transactions: stored and settled as one, or not at all."""

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.errors import (
    DeliveryTakenAway,
    DiskFull,
    Draining,
    InvalidName,
    InvalidOption,
    LimitReached,
    ProtocolViolation,
    StoreUnavailable,
    SystemQueue,
    TidingsError,
)


def worker_with_a_message(harness: Harness) -> Client:
    """Returns a client with one message of `orders` in flight over handle 1."""
    worker = harness.connect("worker")
    worker.subscribe("orders", backoff_min_ms=60_000, backoff_max_ms=60_000)
    worker.publish("orders")
    assert_delivered(worker, "orders", [1])
    return worker


def test_a_transaction_stores_and_settles_with_one_commit() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    harness.flush()
    before = len(harness.commits)
    number = worker.transact("bills", "mails", acks=[(1, "orders", 1, 1)])
    [commit] = harness.commits[before:]
    keys = [key for key, _ in commit.puts]
    assert {append.queue for append in commit.appends} == {harness.epoch("bills"), harness.epoch("mails")}
    assert any(key.startswith("cursor/") for key in keys)
    assert "producer/producer-1" in keys
    confirms = worker.transacted[number].confirms
    assert [(confirm.number, confirm.epoch, confirm.first_sequence) for confirm in confirms] == [
        (0, harness.epoch("bills"), 1),
        (1, harness.epoch("mails"), 1),
    ]
    assert worker.subscriptions()["worker:orders/#"].cursor == 1


def test_until_it_is_durable_nothing_of_it_is_to_be_seen() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    reader = harness.connect()
    reader.subscribe("bills")
    harness.store_is_held = True
    worker.transact("bills", acks=[(1, "orders", 1, 1)])
    assert worker.transacted == {}
    assert reader.take() == []
    assert worker.subscriptions()["worker:orders/#"].cursor == 0
    assert worker.subscriptions()["worker:orders/#"].in_flight == 0
    harness.commit()
    assert list(worker.transacted) == [2]
    assert_delivered(reader, "bills", [1])
    assert worker.subscriptions()["worker:orders/#"].cursor == 1


def test_its_acks_are_in_no_earlier_commit_than_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    worker.publish("orders")
    fast = harness.connect("fast")
    harness.store_is_held = True
    fast.publish("noise")  # under way
    monkeypatch.setattr(limits, "COMMIT_BYTES_MAX", 10)
    fast.publish("noise", payload=b"x" * 10)
    worker.transact("bills", acks=[(1, "orders", 1, 1)])
    worker.ack(1, 2)  # its cursor is to be written
    harness.commit()
    assert harness.under_way is not None
    assert [append.queue for append in harness.under_way.appends] == [harness.epoch("noise")]
    harness.commit()
    harness.restart()  # before the transaction of the messages
    again = harness.connect("worker")
    again.subscribe("orders")
    assert_delivered(again, "orders", [1])
    assert harness.stored("bills") == []


def test_a_crash_before_the_commit_leaves_nothing_and_one_after_it_leaves_all() -> None:
    for stored in (False, True):
        harness = Harness()
        worker = worker_with_a_message(harness)
        harness.flush()
        harness.store_is_held = True
        worker.transact("bills", acks=[(1, "orders", 1, 1)])
        if stored:
            harness.commit()
        harness.restart()
        harness.store_is_held = False
        again = harness.connect("worker")
        again.subscribe("orders")
        if stored:
            assert again.take() == []
            assert len(harness.stored("bills")) == 1
        else:
            assert_delivered(again, "orders", [1])
            assert again.queues().get("bills") is None or not harness.stored("bills")


def test_one_that_is_sent_again_after_a_crash_is_confirmed_and_not_stored_twice() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    number = worker.transact("bills", "mails", acks=[(1, "orders", 1, 1)])
    first = worker.transacted[number].confirms
    harness.restart()
    again = harness.connect("worker", producer="producer-1")
    again.transact("bills", "mails", number=number)
    assert [confirm.first_sequence for confirm in again.transacted[number].confirms] == [1, 1]
    assert [confirm.epoch for confirm in again.transacted[number].confirms] == [confirm.epoch for confirm in first]
    assert len(harness.stored("bills")) == len(harness.stored("mails")) == 1


def test_one_that_is_sent_again_while_it_is_under_way_is_confirmed_once_it_is_stored() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    harness.store_is_held = True
    number = worker.transact("bills", acks=[(1, "orders", 1, 1)])
    worker.disconnect()
    again = harness.connect("worker", producer="producer-1")
    again.transact("bills", number=number)
    assert again.transacted == {}
    harness.store_is_held = False
    harness.settle()
    assert list(again.transacted) == [number]
    again.subscribe("orders")
    assert again.take() == []
    assert len(harness.stored("bills")) == 1


def test_an_answered_one_is_forgotten() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    number = worker.transact("bills")
    worker.publish("orders", answered=number + 1)
    assert harness.broker.state.producers["producer-1"].transactions == {}


def test_a_number_is_for_a_batch_or_for_a_transaction() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders", number=1)
    client.transact(number=1, acks=())
    assert_refused(client, ProtocolViolation, "something else")
    client.transact("orders", number=2)
    client.publish("orders", number=2)
    assert_refused(client, ProtocolViolation, "something else")


def test_acks_alone_are_a_transaction_too() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    number = worker.transact(acks=[(1, "orders", 1, 1)])
    assert worker.transacted[number].confirms == []
    harness.restart()
    again = harness.connect("worker", producer="producer-1")
    again.transact(number=number, acks=[(1, "orders", 1, 1)])
    assert list(again.transacted) == [number], "it was stored, so it is confirmed although the delivery is gone"
    again.subscribe("orders")
    assert again.take() == []


def test_a_message_that_is_acked_twice_in_it_is_settled_once() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    worker.publish("orders")
    number = worker.transact(acks=[(1, "orders", 1, 2), (1, "orders", 2, 2)])
    assert number in worker.transacted
    assert worker.subscriptions()["worker:orders/#"].cursor == 2


@pytest.mark.parametrize("how", ["timeout", "acked", "nacked", "detached", "other connection"])
def test_an_ack_of_what_was_taken_away_refuses_all(how: str) -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    if how == "timeout":
        harness.advance(limits.ACK_TIMEOUT_MS)
    elif how == "acked":
        worker.ack(1, 1)
    elif how == "nacked":
        worker.nack(1, 1, delay_ms=60_000)
    elif how == "detached":
        worker.unsubscribe(1)
    else:
        worker.disconnect()
        worker = harness.connect("worker", producer="producer-1")
    worker.transact("bills", acks=[(1, "orders", 1, 1)], number=2)
    assert_refused(worker, DeliveryTakenAway)
    assert "bills" not in worker.queues()
    assert worker.transacted == {}


@pytest.mark.parametrize(
    ("queue", "error"),
    [("$presence", SystemQueue), ("a b", InvalidName), ("x" * 256, InvalidName)],
)
def test_what_is_wrong_with_one_queue_refuses_all(queue: str, error: type[TidingsError]) -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    worker.transact("bills", queue, acks=[(1, "orders", 1, 1)])
    assert_refused(worker, error)
    assert "bills" not in worker.queues()
    info = worker.subscriptions()["worker:orders/#"]
    assert (info.cursor, info.in_flight) == (0, 1)


def test_a_full_disk_refuses_messages_and_lets_acks_through() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    harness.do(inputs.DiskSpace(limits.DISK_RESERVE_BYTES - 1))
    worker.transact("bills", acks=[(1, "orders", 1, 1)])
    assert_refused(worker, DiskFull)
    number = worker.transact(acks=[(1, "orders", 1, 1)], answered=3)
    assert number in worker.transacted


def test_a_draining_server_refuses_it() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    harness.do(inputs.Drain())
    worker.transact("bills", acks=[(1, "orders", 1, 1)])
    assert_refused(worker, Draining)


def test_nothing_overtakes_what_was_refused_for_the_moment() -> None:
    harness = Harness()
    client = harness.connect()
    harness.do(inputs.DiskSpace(0))
    client.transact("bills", number=1)
    assert_refused(client, DiskFull)
    harness.do(inputs.DiskSpace(2**40))
    client.publish("bills", number=2)
    assert_refused(client, DiskFull)
    client.transact("bills", number=1)
    client.publish("bills", number=2)
    assert client.transacted[1].confirms[0].first_sequence == 1
    assert client.confirms[2].first_sequence == 2


def test_what_the_store_refuses_is_refused_as_a_whole_and_delivered_again() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    harness.flush()
    harness.store_is_held = True
    number = worker.transact("bills", acks=[(1, "orders", 1, 1)])
    behind = worker.transact("bills")
    harness.store_is_held = False
    harness.refuse()
    first, second = worker.refusals
    assert [(refusal.kind, refusal.request) for refusal in (first, second)] == [
        ("transact", number),
        ("transact", behind),
    ]
    assert isinstance(first.error, StoreUnavailable)
    worker.refusals.clear()
    [message] = assert_delivered(worker, "orders", [1])
    assert message.attempt == 1
    worker.transact("bills", acks=[(1, "orders", 1, 1)], number=number)
    assert number in worker.transacted
    harness.flush()
    harness.restart()
    again = harness.connect("worker")
    again.subscribe("orders")
    assert again.take() == []


def test_what_the_store_refuses_waits_for_its_subscriber_if_that_is_gone() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    harness.store_is_held = True
    worker.transact("bills", acks=[(1, "orders", 1, 1)])
    worker.disconnect()
    harness.store_is_held = False
    harness.refuse()
    again = harness.connect("worker")
    again.subscribe("orders")
    assert_delivered(again, "orders", [1])


def test_a_message_it_acks_is_not_delivered_again_while_it_is_stored() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    harness.store_is_held = True
    worker.transact("bills", acks=[(1, "orders", 1, 1)])
    harness.now_ms += limits.ACK_TIMEOUT_MS
    harness.do(inputs.Tick())
    worker.extend(1, 1)  # as the client of a handler that waits for the confirm does
    assert worker.refusals == []
    worker.disconnect()
    again = harness.connect("worker")
    again.subscribe("orders")
    harness.store_is_held = False
    harness.settle()
    assert again.take() == []


def test_queue_and_subscription_may_be_deleted_while_it_is_stored() -> None:
    for what, name in (("queue", "orders"), ("subscription", "worker:orders/#")):
        harness = Harness()
        worker = worker_with_a_message(harness)
        harness.store_is_held = True
        number = worker.transact("bills", acks=[(1, "orders", 1, 1)])
        if what == "subscription":
            worker.unsubscribe(1)
        worker.delete(what, name)
        harness.store_is_held = False
        harness.commit()
        assert number in worker.transacted
        harness.restart()
        assert len(harness.stored("bills")) == 1


def test_it_settles_for_an_ephemeral_subscription_as_well() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders")
    client.publish("orders")
    number = client.transact("bills", acks=[(1, "orders", 1, 1)])
    assert number in client.transacted
    [info] = [info for info in client.subscriptions().values() if info.queue == "orders"]
    assert (info.cursor, info.in_flight) == (1, 0)


def test_it_is_bounded() -> None:
    harness = Harness()
    worker = worker_with_a_message(harness)
    worker.transact()
    assert_refused(worker, InvalidOption, "empty")
    worker.transact(*[f"q{number}" for number in range(limits.TRANSACTION_QUEUES_MAX + 1)])
    assert_refused(worker, LimitReached, str(limits.TRANSACTION_QUEUES_MAX))
    worker.transact(acks=[(1, "orders", 1, limits.TRANSACTION_ACKS_MAX + 1)])
    assert_refused(worker, LimitReached, str(limits.TRANSACTION_ACKS_MAX))
    worker.transact(acks=[(1, "orders", 2, 1)])
    assert_refused(worker, InvalidOption, "range")
