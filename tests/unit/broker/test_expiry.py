"""Expiry: a message whose ttl is over is delivered to nobody, and told to whom it waited for."""

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.batch import Batch
from tidings.broker import effects, inputs
from tidings.calls import ConfigureQueue, DeleteMessage, Peek, Redrive, Schedule, Seek
from tidings.errors import InvalidOption
from tidings.model import Run

STEP_MS = 20_000  # long enough that every queue is looked at


def publish(client: Client, *messages: tuple[str, int], queue: str = "orders") -> None:
    """Publishes one batch of (event, ttl in ms)."""
    body = bytes.fromhex("94c401" + "78" + "c0c0c0")
    runs = [Run(event, 1, len(body), ttl_ms=ttl_ms) for event, ttl_ms in messages]
    client._number += 1
    batch = Batch(runs, body * len(runs))
    batch.validate()
    client.harness.do(inputs.Publish(client.connection, client._number, 0, queue, batch))


def gaps(client: Client) -> list[tuple[int, int, str]]:
    found = [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in client.gaps]
    client.gaps.clear()
    return found


def reader(event: str = "#", **options: Any) -> tuple[Harness, Client]:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", event, start="earliest", **options)
    return harness, client


def away(event: str = "#", **options: Any) -> tuple[Harness, Client]:
    """Returns a durable subscription whose subscriber is away, and a publisher."""
    harness, client = reader(event, **options)
    client.disconnect(farewell=True)
    return harness, harness.connect()


def back(harness: Harness, event: str = "#") -> Client:
    client = harness.connect("reader")
    client.subscribe("orders", event)
    return client


def test_what_expired_while_it_waited_is_a_gap_in_its_place() -> None:
    harness, client = reader(in_flight_max=1)
    publish(client, ("a", 0), ("b", 1_000), ("c", 0), ("d", 5_000), ("e", 1_000))
    assert_delivered(client, "orders", [1])
    harness.advance(999)
    assert gaps(client) == []
    harness.advance(1)
    client.ack(1, 1)
    assert_delivered(client, "orders", [3])
    assert gaps(client) == [(2, 2, "expired")]
    client.ack(1, 3)
    assert_delivered(client, "orders", [4])
    assert gaps(client) == [(5, 5, "expired")]
    client.ack(1, 4)
    info = client.subscriptions()["reader:orders/#"]
    assert (info.lag, info.cut) == (0, 2)


def test_nothing_expires_before_its_time() -> None:
    harness, publisher = away()
    publish(publisher, ("a", 1_000))
    harness.advance(999)
    assert_delivered(back(harness), "orders", [1])


@pytest.mark.parametrize(
    ("own_ms", "queue_ms", "after_ms"),
    [(0, 1_000, 1_000), (1_000, 5_000, 1_000), (5_000, 1_000, 1_000), (900, None, 900)],
)
def test_of_a_messages_ttl_and_that_of_its_queue_the_shorter_one_counts(
    own_ms: int, queue_ms: int | None, after_ms: int
) -> None:
    harness, publisher = away()
    publisher.call(ConfigureQueue(name="orders", ttl_ms=queue_ms))
    publish(publisher, ("a", own_ms))
    harness.advance(after_ms - 1)
    assert [message.sequence for message in publisher.call(Peek(queue="orders"))] == [1]
    harness.advance(1)
    assert publisher.call(Peek(queue="orders")) == []
    client = back(harness)
    assert client.take() == []
    assert gaps(client) == [(1, 1, "expired")]


def test_the_ttl_of_a_queue_holds_for_what_is_there_and_can_be_taken_back() -> None:
    harness, publisher = away()
    publish(publisher, ("a", 0), ("b", 0))
    harness.advance(500)
    publisher.call(ConfigureQueue(name="orders", ttl_ms=10_000))
    publisher.call(ConfigureQueue(name="orders", ttl_ms=None))
    harness.advance(STEP_MS)
    assert_delivered(back(harness), "orders", [1, 2])


def test_who_is_away_is_told_later_and_holds_nothing_back_meanwhile() -> None:
    harness, publisher = away()
    publisher.call(ConfigureQueue(name="orders", ttl_ms=1_000))
    for _ in range(3):
        publish(publisher, ("a", 0))
    harness.advance(STEP_MS)
    info = publisher.subscriptions()["reader:orders/#"]
    assert (info.lag, info.cut) == (0, 3)
    assert harness.bounds().get(harness.epoch("orders")) is None, "nobody can get them any more"
    harness.restart()
    client = back(harness)
    assert gaps(client) == [(1, 3, "expired")], "one after the other is one gap"


def test_what_comes_before_anything_else_is_cut_from_who_is_away_and_the_rest_stays_in_its_place() -> None:
    harness, publisher = away(event="a")
    publish(publisher, ("b", 0), ("a", 1_000), ("b", 1_000), ("a", 1_000), ("a", 0), ("a", 1_000))
    harness.advance(2 * limits.EXPIRY_PAUSE_MS)
    info = publisher.subscriptions()["reader:orders/a"]
    assert (info.cursor, info.cut) == (4, 2)
    client = back(harness, "a")
    assert gaps(client) == [(2, 2, "expired"), (4, 4, "expired"), (6, 6, "expired")]
    assert_delivered(client, "orders", [5])


def test_several_subscriptions_are_cut_each_as_far_as_it_has_come() -> None:
    harness, publisher = away()
    other = harness.connect("other")
    other.subscribe("orders", "b")
    publish(publisher, ("a", 1_000), ("b", 0))
    publish(publisher, ("a", 1_000), ("b", 1_000))
    other.disconnect(farewell=True)
    harness.advance(2 * limits.EXPIRY_PAUSE_MS)
    infos = publisher.subscriptions()
    assert (infos["reader:orders/#"].cursor, infos["reader:orders/#"].cut) == (1, 1)
    assert (infos["other:orders/b"].cursor, infos["other:orders/b"].cut) == (1, 1), "what was in flight is due again"


def test_what_is_in_flight_may_be_acked_after_its_time_and_is_not_delivered_again() -> None:
    harness, client = reader(backoff_min_ms=10, backoff_max_ms=10)
    publish(client, ("a", 1_000), ("b", 1_000))
    harness.advance(STEP_MS)
    assert_delivered(client, "orders", [1, 2])
    client.ack(1, 1, request=7)
    assert 7 in client.done
    client.nack(1, 2)
    harness.advance(100)
    assert client.take() == []
    assert gaps(client) == [(2, 2, "expired")]
    assert client.subscriptions()["reader:orders/#"].cut == 1


def test_what_fails_for_the_last_time_after_its_time_is_a_dead_letter_and_redriven_it_is_delivered() -> None:
    harness, client = reader(attempts_max=1)
    publish(client, ("a", 1_000))
    harness.advance(5_000)
    client.take()
    client.nack(1, 1)
    assert client.subscriptions()["reader:orders/#"].dead == 1
    client.call(Redrive(subscription="reader"))
    harness.advance(STEP_MS)
    assert [message.queue for message in client.take()] == ["orders"]


def test_at_the_tail_what_took_longer_to_store_than_it_lives_is_not_delivered() -> None:
    harness, client = reader()
    harness.store_is_held = True
    publish(client, ("a", 1_000), ("b", 0))
    harness.advance(1_500)
    harness.store_is_held = False
    harness.commit()
    harness.settle()
    assert_delivered(client, "orders", [2])
    assert gaps(client) == [(1, 1, "expired")]


def test_a_filter_is_told_of_nothing_that_it_does_not_want() -> None:
    harness, publisher = away(event="b")
    publish(publisher, ("a", 1_000), ("b", 0), ("a", 1_000))
    harness.advance(STEP_MS)
    client = back(harness, "b")
    assert_delivered(client, "orders", [2])
    assert gaps(client) == []


def test_an_ephemeral_subscription_is_told_too() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders", in_flight_max=1)
    publish(client, ("a", 0), ("b", 1_000), ("c", 0))
    harness.advance(1_000)
    client.ack(1, 1)
    assert_delivered(client, "orders", [1, 3])
    assert gaps(client) == [(2, 2, "expired")]


def test_members_of_a_shared_subscription_get_what_is_left() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders", name="team", shared=True, in_flight_max=1)
    publish(client, ("a", 0), ("b", 1_000), ("c", 0))
    harness.advance(1_000)
    client.ack(1, 1)
    assert_delivered(client, "orders", [1, 3])
    assert gaps(client) == [(2, 2, "expired")]


def test_a_move_back_does_not_bring_again_what_expired() -> None:
    harness, client = reader()
    publish(client, ("a", 1_000), ("b", 0))
    client.ack(1, 1, 2)
    client.take()
    harness.advance(1_000)
    client.call(Seek(subscription="reader", to="sequence", value=1))
    assert_delivered(client, "orders", [2])
    assert gaps(client) == [(1, 1, "expired")]


def test_a_scheduled_message_lives_from_when_it_is_published() -> None:
    harness, publisher = away()
    publisher.call(Schedule(queue="orders", event="a", payload=b"", delay_ms=5_000, ttl_ms=1_000))
    harness.advance(5_500)
    client = back(harness)
    assert_delivered(client, "orders", [1])
    client.disconnect(farewell=True)
    harness.advance(600)
    assert gaps(back(harness)) == [(1, 1, "expired")]
    publisher.call(Schedule(queue="orders", event="a", payload=b"", ttl_ms=0))
    assert_refused(publisher, InvalidOption, f"1 to {limits.TTL_MS_MAX}")


@pytest.mark.parametrize("ttl_ms", [0, limits.TTL_MS_MAX + 1])
def test_a_ttl_out_of_range_is_refused(ttl_ms: int) -> None:
    _, client = reader()
    client.call(ConfigureQueue(name="orders", ttl_ms=ttl_ms))
    assert_refused(client, InvalidOption, f"1 to {limits.TTL_MS_MAX}")


def test_a_deleted_message_is_cut_from_who_is_away_as_one_that_expired() -> None:
    harness, publisher = away()
    publish(publisher, ("a", 0), ("b", 0))
    publisher.call(DeleteMessage(queue="orders", sequence=1))
    harness.advance(STEP_MS)
    info = publisher.subscriptions()["reader:orders/#"]
    assert (info.cursor, info.lag, info.cut) == (1, 1, 1)


def test_who_is_away_is_not_looked_at_all_the_time() -> None:
    harness, publisher = away()
    publish(publisher, ("a", 600_000))
    reads = 0
    handle = harness._answer_read

    def counted() -> None:
        nonlocal reads
        reads += isinstance(harness.reads[0], effects.ReadRows)
        handle()

    harness._answer_read = counted  # type: ignore[method-assign]
    harness.advance(600_000 - 1)
    assert reads <= 2 * 600_000 // limits.EXPIRY_PAUSE_MS
    harness.advance(STEP_MS)
    assert publisher.subscriptions()["reader:orders/#"].cut == 1


def test_a_queue_that_is_deleted_while_its_first_ttl_is_stored_stays_deleted() -> None:
    harness, client = reader()
    publish(client, ("a", 0))
    harness.store_is_held = True
    publish(client, ("b", 100))
    client.delete("queue", "orders")
    harness.store_is_held = False
    harness.commit()
    harness.flush()
    harness.restart()
    assert "orders" not in harness.connect().queues()


def test_what_has_a_ttl_is_looked_for_after_a_crash_too() -> None:
    harness, client = reader()
    publish(client, ("a", 0))
    client.ack(1, 1)
    client.disconnect()
    harness.flush()
    publish(harness.connect(), ("b", 100))
    harness.restart()
    harness.advance(STEP_MS)
    info = harness.connect().subscriptions()["reader:orders/#"]
    assert (info.cursor, info.cut) == (2, 1)
