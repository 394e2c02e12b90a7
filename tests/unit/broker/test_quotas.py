"""Quotas: what is above them is refused with both numbers, what is below is not, and they change while all runs."""

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_refused, batch_of
from tidings import limits
from tidings.calls import ConfigureClient, ConfigureQueue, Schedule
from tidings.errors import DeliveryTakenAway, InvalidName, InvalidOption, LimitReached, QuotaExceeded
from tidings.model import ClientQuotas


def limited(client_id: str = "shop", **quotas: Any) -> tuple[Harness, Client]:
    """Returns a client with quotas."""
    harness = Harness()
    client = harness.connect(client_id)
    harness.connect().call(ConfigureClient(client_id=client_id, **quotas))
    return harness, client


def took(client: Client, *events: str, queue: str = "orders") -> bool:
    """Publishes, having heard of all answers before, and returns whether it was taken."""
    client.publish(queue, *events, answered=client._number + 1)
    if not client.refusals:
        return True
    assert_refused(client, QuotaExceeded)
    return False


def test_what_a_second_allows_is_taken_at_once_and_then_as_much_as_passes() -> None:
    harness, client = limited(publish_rate=10)
    for _ in range(10):
        assert took(client)
    assert took(client), "a batch is taken while nothing is owed"
    assert not took(client)
    harness.advance(99)
    assert not took(client)
    harness.advance(1)
    assert took(client)
    assert not took(client)
    harness.advance(60_000)
    assert [took(client) for _ in range(12)] == [True] * 11 + [False], "who was quiet has a second's worth, no more"


def test_a_large_batch_is_taken_whole_and_waited_for_afterwards() -> None:
    harness, client = limited(publish_rate=10)
    assert took(client, *["e"] * 50)
    client.publish("orders", answered=2)
    assert_refused(client, QuotaExceeded, "client 'shop'", "10 messages a second", "in 4 s")
    harness.advance(3_999)
    assert not took(client)
    harness.advance(1)
    assert took(client)


def test_bytes_are_counted_as_they_are_stored() -> None:
    size_bytes = len(batch_of("e", payload=b"x" * 500).body)
    harness, client = limited(publish_rate_bytes=size_bytes)
    assert [took(client, "e") for _ in range(1)] == [True]
    harness.advance(10_000)
    client.publish("orders", "e", payload=b"x" * 500, answered=client._number)
    client.publish("orders", "e", payload=b"x" * 500, answered=client._number)
    assert not client.refusals
    client.publish("orders", "e", payload=b"x" * 500, answered=client._number)
    assert_refused(client, QuotaExceeded, f"{size_bytes} bytes a second", "in 1 s")


def test_a_queue_has_a_rate_whoever_publishes() -> None:
    harness = Harness()
    one, two = harness.connect("one"), harness.connect()
    one.call(ConfigureQueue(name="orders", publish_rate=1))
    assert (took(one), took(two)) == (True, True)
    assert (took(one), took(two)) == (False, False)
    assert took(two, queue="others")
    two.publish("orders", answered=two._number)
    assert_refused(two, QuotaExceeded, "queue 'orders' may publish 1 messages a second")


def test_what_one_quota_refuses_does_not_count_against_another() -> None:
    harness, client = limited(publish_rate=2)
    client.call(ConfigureQueue(name="orders", publish_rate=1))
    assert [took(client) for _ in range(2)] == [True, True]
    harness.advance(1_000)
    assert [took(client) for _ in range(2)] == [True, False]
    assert [took(client, queue="others") for _ in range(3)] == [True, True, False]


def test_nothing_of_a_transaction_above_a_quota_is_stored() -> None:
    harness = Harness()
    client = harness.connect("shop")
    client.call(ConfigureQueue(name="bills", publish_rate=1))
    assert took(client, *["e"] * 5, queue="bills")
    client.transact("orders", "bills")
    assert_refused(client, QuotaExceeded, "queue 'bills'")
    assert "orders" not in client.queues()


def test_what_is_scheduled_counts_when_it_is_scheduled() -> None:
    harness, client = limited(publish_rate=1)
    call = Schedule(queue="orders", event="due", payload=b"1", delay_ms=60_000)
    assert client.call(call) is not None
    assert client.call(call) is not None
    assert client.call(call) is None
    assert_refused(client, QuotaExceeded)
    harness.advance(61_000)
    assert client.queues()["orders"].messages == 2


def test_what_was_sent_behind_a_refused_batch_does_not_overtake_it() -> None:
    harness, client = limited(publish_rate=1)
    assert took(client, *["e"] * 3)
    client.publish("orders", "first", answered=1)
    harness.advance(10_000)
    client.publish("orders", "second", answered=1)
    assert [type(refusal.error) for refusal in client.refusals] == [QuotaExceeded, QuotaExceeded]


def test_quotas_are_known_kept_and_lifted() -> None:
    harness, client = limited(publish_rate=1, in_flight_max=7, subscriptions_max=3)
    client.disconnect()
    harness.flush()
    harness.restart()
    client = harness.connect("shop")
    assert client.clients()["shop"].quotas == ClientQuotas(publish_rate=1, in_flight_max=7, subscriptions_max=3)
    assert [took(client) for _ in range(3)] == [True, True, False]
    client.call(ConfigureClient(client_id="shop", publish_rate=None))
    assert took(client)
    assert client.clients()["shop"].quotas == ClientQuotas(in_flight_max=7, subscriptions_max=3)


def test_a_reconnect_owes_as_much_as_before() -> None:
    harness, client = limited(publish_rate=1)
    assert took(client, *["e"] * 30)
    client.disconnect(farewell=True)
    assert not took(harness.connect("shop"))


def test_a_client_that_was_never_here_can_be_given_quotas() -> None:
    harness = Harness()
    harness.connect().call(ConfigureClient(client_id="later", publish_rate=1))
    client = harness.connect("later")
    assert [took(client) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("quota", ["publish_rate", "publish_rate_bytes", "in_flight_max"])
@pytest.mark.parametrize("value", [0, -1, 2**53 + 1])
def test_a_quota_out_of_range_is_refused(quota: str, value: int) -> None:
    client = Harness().connect()
    client.call(ConfigureClient(client_id="shop", **{quota: value}))
    assert_refused(client, InvalidOption, quota, str(value), f"1 to {2**53}")
    assert "shop" not in client.clients()
    if quota != "in_flight_max":
        client.call(ConfigureQueue(name="orders", **{quota: value}))
        assert_refused(client, InvalidOption, quota, str(value))
    client.call(ConfigureClient(client_id="", publish_rate=1))
    assert_refused(client, InvalidName)


# --- subscriptions ---


def test_a_client_makes_no_more_subscriptions_than_its_quota_and_keeps_those_it_has() -> None:
    harness, client = limited(subscriptions_max=2)
    client.subscribe("a", name="a")
    client.subscribe("b", name="b")
    client.subscribe("c", name="c")
    assert_refused(client, LimitReached, "client 'shop' has 2 subscriptions, its quota is 2")
    assert "c" not in client.queues(), "a subscription that is refused makes no queue"
    client.disconnect()
    client = harness.connect("shop")
    client.subscribe("a", name="a")
    assert not client.refusals
    client.subscribe("c", name="c")
    assert_refused(client, LimitReached)
    client.delete("subscription", "b")
    client.subscribe("c", name="c")
    assert not client.refusals


def test_a_queue_has_no_more_subscriptions_than_its_quota() -> None:
    harness = Harness()
    client = harness.connect("one")
    client.call(ConfigureQueue(name="orders", subscriptions_max=1))
    client.subscribe("orders", name="first")
    other = harness.connect("two")
    for pattern in ("orders", "#", "orders.#"):
        other.subscribe(pattern)
        assert_refused(other, LimitReached, "queue 'orders' has 1 subscriptions, its quota is 1")
    other.subscribe("others")
    assert not other.refusals


# --- in flight ---


def test_all_subscriptions_of_a_client_share_its_messages_in_flight() -> None:
    _, client = limited(in_flight_max=3)
    client.subscribe("a", name="a")
    client.subscribe("b", name="b")
    client.publish("a", *["e"] * 5)
    client.publish("b", *["e"] * 5)
    assert [len(client.take(handle)) for handle in (1, 2)] == [3, 0]
    client.ack(1, 1, 3, queue="a")
    got = [client.take(handle) for handle in (1, 2)]
    assert sum(map(len, got)) == 3
    for _ in range(20):
        for handle, queue in ((1, "a"), (2, "b")):
            for message in got[handle - 1]:
                client.ack(handle, message.sequence, queue=queue)
        got = [client.take(handle) for handle in (1, 2)]
        assert sum(map(len, got)) <= 3
    assert [info.lag for info in client.subscriptions().values()] == [0, 0]


def test_room_that_a_lost_delivery_made_is_used_within_a_second() -> None:
    harness, client = limited(in_flight_max=1)
    client.subscribe("a", name="a", ack_timeout_ms=100, backoff_min_ms=600_000, backoff_max_ms=600_000)
    client.subscribe("b", name="b")
    client.publish("a")
    client.publish("b")
    assert [len(client.take(handle)) for handle in (1, 2)] == [1, 0]
    harness.advance(100 + limits.TRIM_INTERVAL_MS)
    assert [len(client.take(handle)) for handle in (1, 2)] == [0, 1]


def test_a_lifted_quota_lets_all_flow() -> None:
    harness, client = limited(in_flight_max=1)
    client.subscribe("a", name="a")
    client.publish("a", *["e"] * 5)
    assert len(client.take()) == 1
    client.call(ConfigureClient(client_id="shop", in_flight_max=None))
    assert len(client.take()) == 4
    client.disconnect()
    assert harness.broker.state.limited == {}


def crowded(in_flight_max: int, *names: str, **options: Any) -> tuple[Harness, list[Client]]:
    """Returns durable subscribers of a queue that lets so many messages be in flight."""
    harness = Harness()
    clients = [harness.connect(name) for name in names]
    for client in clients:
        client.subscribe("orders", name=f"reader-{client.connection}", **options)
    harness.connect().call(ConfigureQueue(name="orders", in_flight_max=in_flight_max))
    return harness, clients


def test_all_subscriptions_of_a_queue_share_its_messages_in_flight_and_each_gets_its_turn() -> None:
    harness, clients = crowded(4, "a", "b", "c")
    clients[0].publish("orders", *["e"] * 10)
    got: list[list[int]] = [[], [], []]
    for _ in range(40):
        for client, numbers in zip(clients, got, strict=True):
            for message in client.take():
                numbers.append(message.sequence)
                cursors = harness.broker.state.queues["orders"].cursors
                assert sum(cursor.in_flight for cursor in cursors) <= 4
                client.ack(1, message.sequence)
    assert got == [list(range(1, 11))] * 3
    assert harness.broker.state.crowded_out == {}


def test_what_a_lost_connection_or_a_failure_makes_room_for_goes_to_the_others() -> None:
    harness, (first, second) = crowded(2, "a", "b", backoff_min_ms=600_000, backoff_max_ms=600_000)
    first.publish("orders", *["e"] * 5)
    assert [len(client.take()) for client in (first, second)] == [2, 0]
    first.nack(1, 1)  # who got what there was is in line before the other, and behind it from then on
    assert [len(client.take()) for client in (first, second)] == [1, 0]
    first.nack(1, 2)
    assert [len(client.take()) for client in (first, second)] == [0, 1]
    first.disconnect()
    assert len(second.take()) == 1
    assert harness.broker.state.queues["orders"].room(2) == 0


def test_members_of_a_shared_subscription_count_together() -> None:
    harness = Harness()
    first, second = harness.connect("a"), harness.connect("b")
    for client in (first, second):
        client.subscribe("orders", name="team", shared=True)
    first.call(ConfigureQueue(name="orders", in_flight_max=3))
    first.publish("orders", *["e"] * 10)
    got = [first.take(), second.take()]
    assert sum(map(len, got)) == 3
    seen = {message.sequence for messages in got for message in messages}
    for _ in range(20):
        for client, messages in zip((first, second), got, strict=True):
            for message in messages:
                client.ack(1, message.sequence)
        got = [first.take(), second.take()]
        assert sum(map(len, got)) <= 3
        seen |= {message.sequence for messages in got for message in messages}
    assert seen == set(range(1, 11))


def test_the_bound_of_a_queue_can_be_lowered_raised_and_taken_back() -> None:
    harness, (client,) = crowded(1, "a")
    client.publish("orders", *["e"] * 9)
    assert len(client.take()) == 1
    client.call(ConfigureQueue(name="orders", in_flight_max=4))
    assert len(client.take()) == 3
    client.call(ConfigureQueue(name="orders", in_flight_max=2))
    client.ack(1, 1, 2)
    assert client.take() == []
    client.ack(1, 3)
    assert [message.sequence for message in client.take()] == [5]
    harness.flush()
    harness.restart()
    client = harness.connect("a")
    client.subscribe("orders", name="reader-1")
    assert [message.sequence for message in client.take()] == [4, 5]
    client.call(ConfigureQueue(name="orders", in_flight_max=None))
    assert len(client.take()) == 4


def test_who_waits_and_is_deleted_is_forgotten() -> None:
    harness, (first, second) = crowded(1, "a", "b")
    first.publish("orders", *["e"] * 5)
    assert second.take() == []
    second.unsubscribe(1)
    first.delete("subscription", "reader-2")
    first.delete("queue", "orders")
    first.publish("orders")
    assert harness.broker.state.crowded_out == {}


def test_a_queue_that_lets_nothing_be_in_flight_is_refused() -> None:
    client = Harness().connect()
    client.call(ConfigureQueue(name="orders", in_flight_max=0))
    assert_refused(client, InvalidOption, "in_flight_max is 0")


def test_who_is_attached_twice_to_a_shared_subscription_gets_no_more_than_the_quota_and_all_in_the_end() -> None:
    _, client = limited(in_flight_max=2)
    handles = [client.subscribe("orders", name="work", shared=True) for _ in range(2)]
    client.publish("orders", *"abcdef")
    settled = 0
    while settled < 6:
        got = [(handle, message) for handle in handles for message in client.take(handle)]
        assert 1 <= len(got) <= 2
        for handle, message in got:
            client.ack(handle, message.sequence)
        settled += len(got)


def test_a_busy_one_of_two_that_are_attached_lets_the_other_go_on() -> None:
    _, client = limited(in_flight_max=3)
    handles = [client.subscribe("orders", name="work", shared=True, in_flight_max=1) for _ in range(2)]
    client.publish("orders", *"abcd")
    first, second = (client.take(handle) for handle in handles)
    assert [len(first), len(second)] == [1, 1]
    client.ack(handles[1], second[0].sequence)
    assert len(client.take(handles[1])) == 1


def test_what_is_owed_is_owed_still_when_something_else_is_configured() -> None:
    _, client = limited(publish_rate=1)
    client.call(ConfigureQueue(name="bills", publish_rate=1))
    other = client.harness.connect()
    assert took(client, "a", "b", "c")
    client.call(ConfigureClient(client_id="shop", subscriptions_max=5))
    assert not took(client)
    other.publish("bills", "a", "b", "c")
    client.call(ConfigureQueue(name="bills", history_messages=5))
    other.publish("bills", number=9, answered=9)
    assert_refused(other, QuotaExceeded)
    client.call(ConfigureClient(client_id="shop", publish_rate=2))
    assert took(client)


def test_a_transaction_whose_deliveries_were_taken_away_does_not_count() -> None:
    harness, client = limited(publish_rate=1)
    client.subscribe("orders", name="billing")
    assert took(client)
    client.ack(1, 1)
    harness.advance(2_000)
    client.transact("bills", acks=[(1, "orders", 1, 1)])
    assert_refused(client, DeliveryTakenAway)
    assert took(client)
    assert took(client)
