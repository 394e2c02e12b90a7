"""Records: a restored broker is the one from before."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.harness import Harness
from tidings.broker import Broker, inputs, queue_epochs, restore
from tidings.errors import StoreNewer
from tidings.ranges import Ranges


def picture(broker: Broker) -> dict[str, object]:
    """Returns everything of a broker that survives its end."""
    state = broker.state
    return {
        "next_epoch": state.counters.next_epoch,
        "queues": {
            queue.name: (queue.epoch, queue.created_ms, queue.first_sequence, queue.committed, queue.size_bytes)
            for queue in state.queues.values()
            if not queue.is_system
        },
        "subscriptions": {
            item.name: (
                item.number,
                item.client_id,
                str(item.filter),
                item.created_ms,
                (item.in_flight_max, item.concurrency, item.ack_timeout_ms, item.expires_after_ms),
                (item.last_seen_ms, item.last_ack_ms),
                item.gaps,
                {
                    cursor.queue.name: (cursor.settled_to, Ranges(cursor.unsettled), dict(cursor.attempts))
                    for cursor in item.cursors.values()
                },
            )
            for item in state.subscriptions.values()
        },
        "clients": {
            client.client_id: (client.address, client.protocol, client.last_seen_ms)
            for client in state.clients.values()
        },
        "producers": {producer.id: (producer.answered, dict(producer.stored)) for producer in state.producers.values()},
        "trash": set(state.trash),
    }


def assert_restored(harness: Harness) -> None:
    """Checks that the store, once everything is written, holds the broker."""
    for client in list(harness.clients.values()):
        client.disconnect()
    harness.flush()
    before = picture(harness.broker)
    harness.restart()
    after = picture(harness.broker)
    # A publisher without anything stored has no record, and needs none.
    for which in (before, after):
        which["producers"] = {id: item for id, item in which["producers"].items() if item[1]}  # type: ignore[attr-defined]
    assert after == before
    # The numbers of ephemeral subscriptions have no records and may be used again, those of durable ones may not.
    assert harness.broker.state.counters.next_subscription > max(harness.broker.state.numbers, default=0)


def test_an_empty_broker() -> None:
    assert_restored(Harness())


def test_a_broker_with_everything() -> None:
    harness = Harness()
    reader, other = harness.connect("reader"), harness.connect(producer="p")
    reader.subscribe("orders", concurrency=2, ack_timeout_ms=500, in_flight_max=50, expires_after_ms=10**9)
    reader.subscribe("*", "b", name="wide")
    other.publish("orders", *"abcb")
    other.publish("bills", *"ba", answered=1)
    harness.advance(700)
    reader.ack(1, 2)
    reader.ack(2, 1, queue="bills")
    reader.unsubscribe(2)
    other.delete("queue", "bills")
    other.publish("bills", "b", answered=2)
    other.publish("empty")
    assert_restored(harness)


step = st.tuples(
    st.sampled_from(["connect", "disconnect", "subscribe", "publish", "ack", "delete", "advance", "unsubscribe"]),
    st.integers(0, 7),
    st.integers(0, 7),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=30))
def test_any_history(steps: list[tuple[str, int, int]]) -> None:
    harness = Harness()
    for what, one, two in steps:
        clients = list(harness.clients.values())
        client = clients[one % len(clients)] if clients else None
        queue = f"q{two % 3}"
        if what == "connect":
            harness.connect(f"client-{two % 3}" if two < 6 else None)
        elif what == "advance":
            harness.advance(10 ** (two % 5))
        elif client is None:
            continue
        elif what == "disconnect":
            client.disconnect(farewell=bool(two % 2))
        elif what == "subscribe":
            client.subscribe(["*", queue][two % 2], ["#", "a"][one % 2], in_flight_max=1 + two)
        elif what == "publish":
            client.publish(queue, *"abba"[: 1 + two % 4])
        elif what == "delete" and two == 7:
            client.delete("queue", f"q{one % 3}")
        elif what == "unsubscribe":
            client.unsubscribe(1 + two)
        elif what == "ack" and queue in harness.broker.state.queues:
            client.ack(1 + one % 2, 1 + two // 2, 1 + two, queue=queue)
    assert_restored(harness)


def test_every_restart_gives_the_same_broker_again() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", "a")
    client.publish("orders", "b", "a")
    client.disconnect()
    harness.flush()
    harness.restart()
    once = picture(harness.broker)
    harness.restart()
    assert picture(harness.broker) == once


def test_what_a_crash_takes_from_a_cursor_comes_again() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders", "a", "b")
    harness.flush()
    harness.store_is_held = True
    client.ack(1, 1, 2)
    harness.store_is_held = False
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert [message.sequence for message in client.take()] == [1, 2]


def test_a_damaged_record_is_an_error_and_not_a_guess() -> None:
    harness = Harness()
    harness.flush()
    records = harness.records() | {"queue/1": b"\xc1"}
    with pytest.raises(msgspec.MsgspecError):
        restore(records, {}, harness.now_ms)


@pytest.mark.parametrize("ending", ["", "x", "-1", "1_0", "\u0661", str(2**63)])
@pytest.mark.parametrize("prefix", ["queue/", "subscription/", "trash/"])
def test_a_key_without_a_number_is_an_error_and_not_a_guess(prefix: str, ending: str) -> None:
    harness = Harness()
    harness.connect("reader").subscribe("orders")
    harness.flush()
    records = harness.records()
    sound = next(key for key in ("queue/1", "subscription/1") if key.startswith(prefix) or prefix == "trash/")
    with pytest.raises(ValueError, match="no number"):
        restore({prefix + ending: records[sound]}, {}, harness.now_ms)


def test_fields_added_by_a_newer_version_are_ignored() -> None:
    harness = Harness()
    harness.connect().publish("orders")
    key = f"queue/{harness.epoch('orders')}"
    fields = msgspec.msgpack.decode(harness.store._records[key])
    harness.store._records[key] = msgspec.msgpack.encode([*fields, "new"])
    harness.restart()
    assert harness.broker.state.queues["orders"].committed == 1


def test_epochs_and_subscription_numbers_are_never_used_again() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.publish("orders")
    client.subscribe("orders")
    old = (harness.epoch("orders"), harness.broker.state.subscriptions["reader:orders/#"].number)
    client.delete("queue", "orders")
    client.disconnect()
    harness.do(inputs.Tick())
    other = harness.connect()
    other.delete("subscription", "reader")
    harness.advance(60_000)
    harness.restart()
    client = harness.connect("reader")
    client.publish("orders")
    client.subscribe("orders")
    new = (harness.epoch("orders"), harness.broker.state.subscriptions["reader:orders/#"].number)
    assert new[0] > old[0]
    assert new[1] > old[1]


def test_fields_and_records_of_a_later_version_are_passed_over() -> None:
    harness = Harness()
    reader = harness.connect("reader")
    reader.subscribe("orders")
    reader.publish("orders", "a", "b")
    reader.ack(1, 1)
    reader.disconnect()
    harness.flush()
    before = picture(harness.broker)
    records = {key: msgspec.msgpack.decode(value) for key, value in harness.records().items()}
    later = {
        key: msgspec.msgpack.encode([*value, "later"] if isinstance(value, list) else value)
        for key, value in records.items()
    }
    later["shelf/1"] = b"later"
    assert picture(restore(later, harness.bounds(), harness.now_ms)) == before


def test_records_of_a_format_that_is_not_known_are_refused() -> None:
    newer = {"format": msgspec.msgpack.encode(2), "queue/new": b"whatever that is"}
    for read in (lambda: restore(newer, {}, 0), lambda: queue_epochs(newer)):
        with pytest.raises(StoreNewer, match=r"version 2.*up to 1"):
            read()
    restore({"format": msgspec.msgpack.encode(1)}, {}, 0)
