"""Deliveries: at the tail, behind it, and again."""

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.broker.cursors import State
from tidings.broker.effects import Fetch
from tidings.errors import DeliveryTakenAway, InvalidOption, NeverDelivered
from tidings.transaction import Damage


def attached(queue: str = "orders", event: str = "#", **options: Any) -> tuple[Harness, Client]:
    """Returns a harness, and a client with a durable subscription at the tail of an empty queue."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe(queue, event, **options)
    return harness, client


def state_of(harness: Harness, name: str = "reader:orders/#") -> State:
    """Returns the state of the only cursor of a subscription."""
    (cursor,) = harness.broker.state.subscriptions[name].cursors.values()
    return cursor.state


# --- at the tail, behind it ---


def test_what_is_committed_is_delivered_in_order() -> None:
    _, client = attached()
    client.publish("orders", "a", "b")
    client.publish("orders", "c")
    messages = assert_delivered(client, "orders", [1, 2, 3])
    assert [message.payload for message in messages] == [b"a", b"b", b"c"]
    assert not any(message.redelivered for message in messages)


def test_a_transaction_brings_a_connection_no_more_than_a_send_buffer_at_once_and_the_rest_in_pages() -> None:
    harness, client = attached()
    client.subscribe("orders", name="second")
    harness.store_is_held = harness.reads_are_held = True
    payload = bytes(limits.SEND_BUFFER_BYTES_MAX // 4)
    for _ in range(16):
        client.publish("orders", payload=payload)
    while harness.under_way:
        harness.commit()
        assert _delivered_bytes(client) < limits.SEND_BUFFER_BYTES_MAX + limits.ROW_SIZE_BYTES_MAX
        client.deliveries.clear()
    harness.store_is_held = harness.reads_are_held = False
    harness.answer_reads()
    for handle in (1, 2):
        assert_delivered(client, "orders", range(1, 17), handle)


def _delivered_bytes(client: Client) -> int:
    return sum(len(row.batch.body) for delivery in client.deliveries for row in delivery.rows)


def test_an_absence_is_caught_up_with_in_order_and_then_live() -> None:
    harness, client = attached()
    client.disconnect()
    other = harness.connect()
    for _ in range(5):
        other.publish("orders", "a", "b", "c")
    client = harness.connect("reader")
    client.subscribe("orders")
    assert_delivered(client, "orders", range(1, 16))
    assert state_of(harness) is State.LIVE
    other.publish("orders")
    assert_delivered(client, "orders", [16])


def test_messages_committed_while_a_page_is_read_come_after_it_once() -> None:
    harness, client = attached()
    client.disconnect()
    other = harness.connect()
    other.publish("orders", "a", "b")
    harness.reads_are_held = True
    client = harness.connect("reader")
    client.subscribe("orders")
    other.publish("orders", "c")
    assert client.take() == []
    harness.reads_are_held = False
    harness.answer_reads()
    assert_delivered(client, "orders", [1, 2, 3])


def test_a_window_of_one_delivers_one_at_a_time() -> None:
    _, client = attached(in_flight_max=1)
    client.publish("orders", "a", "b", "c")
    for sequence in (1, 2, 3):
        assert_delivered(client, "orders", [sequence])
        client.ack(1, sequence)
    assert client.take() == []


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 7, 8, 20])
def test_no_window_is_ever_exceeded_and_every_message_comes(window: int) -> None:
    harness, client = attached(in_flight_max=window)
    for size in (1, 3, 7, 2):
        client.publish("orders", *["a", "b", "a", "a", "b", "b", "c"][:size])
    seen: list[int] = []
    open_messages: list[int] = []
    for _ in range(40):
        got = [message.sequence for message in client.take()]
        seen += got
        open_messages += got
        assert len(open_messages) <= window
        if open_messages:
            client.ack(1, open_messages.pop(0))
    assert seen == list(range(1, 14))
    assert harness.broker.state.subscriptions["reader:orders/#"].subscriber is not None


def test_a_full_send_buffer_stops_deliveries_and_an_empty_one_resumes_them() -> None:
    harness, client = attached()
    harness.do(inputs.SendBuffer(client.connection, full=True))
    client.publish("orders", "a", "b")
    assert client.take() == []
    assert client.subscriptions()["reader:orders/#"].paused.startswith("slow subscriber")
    harness.do(inputs.SendBuffer(client.connection, full=False))
    assert_delivered(client, "orders", [1, 2])
    client.publish("orders")
    assert_delivered(client, "orders", [3])


def test_a_slow_subscriber_stops_nobody_else() -> None:
    harness, slow = attached()
    fast = harness.connect("fast")
    fast.subscribe("orders")
    harness.do(inputs.SendBuffer(slow.connection, full=True))
    fast.publish("orders")
    assert_delivered(fast, "orders", [1])


def test_bytes_in_flight_are_bounded_whatever_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IN_FLIGHT_BYTES_MAX", 1000)
    monkeypatch.setattr(limits, "FETCH_SIZE_BYTES", 300)
    harness, client = attached()
    for _ in range(20):
        client.publish("orders", payload=bytes(200))
    first = len(client.take())
    assert 5 <= first < 20
    client.ack(1, 1, first)
    assert client.take()
    for last in range(first, 21):
        client.ack(1, 1, min(last, harness.broker.state.subscriptions["reader:orders/#"].cursors[2].position))
    assert client.subscriptions()["reader:orders/#"].lag == 0


def test_pages_of_many_rows_are_sent_in_several_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FETCH_SIZE_BYTES", 300)
    harness, client = attached()
    client.disconnect()
    other = harness.connect()
    for _ in range(10):
        other.publish("orders", payload=bytes(100))
    client = harness.connect("reader")
    client.subscribe("orders")
    assert_delivered(client, "orders", range(1, 11))
    assert len(client.deliveries) > 2


def test_no_delivery_has_more_runs_than_a_batch_may_have() -> None:
    harness, client = attached()
    client.disconnect()
    other = harness.connect()
    events = [f"e{number}" for number in range(700)]
    other.publish("orders", *events)
    other.publish("orders", *events)
    client = harness.connect("reader")
    client.subscribe("orders")
    assert_delivered(client, "orders", range(1, 1401))
    assert all(sum(len(row.batch.runs) for row in page.rows) <= limits.BATCH_RUNS_MAX for page in client.deliveries)


# --- event filters ---


def test_an_event_filter_leaves_holes_that_need_no_ack() -> None:
    _, client = attached(event="b")
    client.publish("orders", "a", "b", "a", "b", "a")
    messages = assert_delivered(client, "orders", [2, 4])
    assert {message.event for message in messages} == {"b"}
    client.ack(1, 2)
    client.ack(1, 4)
    info = client.subscriptions()["reader:orders/b"]
    assert (info.cursor, info.lag, info.in_flight) == (5, 0, 0)


def test_an_event_filter_behind_the_tail_skips_pages_without_matches() -> None:
    harness, client = attached(event="b", in_flight_max=2)
    client.disconnect()
    other = harness.connect()
    for events in ("a", "ab", "aaa", "bbb", "a"):
        other.publish("orders", *events)
    client = harness.connect("reader")
    client.subscribe("orders", "b", in_flight_max=2)
    assert_delivered(client, "orders", [3, 7])
    client.ack(1, 3)
    client.ack(1, 7)
    assert_delivered(client, "orders", [8, 9])
    client.ack(1, 1, 9)
    assert client.subscriptions()["reader:orders/b"].cursor == 10


def test_wildcard_events_select_by_token() -> None:
    _, client = attached(event="user.*")
    client.publish("orders", "user.new", "user", "user.new.x", "user.old")
    assert_delivered(client, "orders", [1, 4])


# --- several queues ---


def test_a_queue_pattern_reads_all_its_queues_and_later_ones_from_the_beginning() -> None:
    harness, client = attached(queue="shop.*")
    other = harness.connect()
    other.publish("shop.a", "x", "y")
    other.publish("elsewhere", "x")
    other.publish("shop.b", "x")
    assert [(message.queue, message.sequence) for message in client.take()] == [
        ("shop.a", 1),
        ("shop.a", 2),
        ("shop.b", 1),
    ]


def test_queues_that_appeared_during_an_absence_are_read_from_the_beginning() -> None:
    harness, client = attached(queue="#")
    client.disconnect()
    other = harness.connect()
    other.publish("new", "x", "y")
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("#")
    assert_delivered(client, "new", [1, 2])


def test_one_window_is_shared_by_all_queues_and_none_starves() -> None:
    harness, client = attached(queue="#", in_flight_max=2)
    client.disconnect()
    other = harness.connect()
    for queue in ("a", "b", "c"):
        other.publish(queue, "x", "x", "x", "x")
    client = harness.connect("reader")
    client.subscribe("#", in_flight_max=2)
    seen: list[tuple[str, int]] = []
    for _ in range(12):
        messages = client.take()
        assert len(messages) <= 2
        for message in messages:
            seen.append((message.queue, message.sequence))
            client.ack(1, message.sequence, queue=message.queue)
    assert sorted(seen) == [(queue, sequence) for queue in "abc" for sequence in (1, 2, 3, 4)]
    assert {queue for queue, _ in seen[:6]} == {"a", "b", "c"}


# --- acks ---


def test_acks_settle_in_any_order_and_may_be_repeated() -> None:
    _, client = attached()
    client.publish("orders", *"abcde")
    client.ack(1, 2, 3)
    assert client.subscriptions()["reader:orders/#"].cursor == 0
    client.ack(1, 1)
    assert client.subscriptions()["reader:orders/#"].cursor == 3
    client.ack(1, 1, 3)
    client.ack(1, 5)
    info = client.subscriptions()["reader:orders/#"]
    assert (info.cursor, info.lag, info.in_flight) == (3, 2, 1)
    client.ack(1, 1, 4)
    info = client.subscriptions()["reader:orders/#"]
    assert (info.cursor, info.lag, info.in_flight) == (5, 0, 0)
    assert client.refusals == []


def test_an_ack_with_a_request_is_answered_once_it_is_durable() -> None:
    harness, client = attached()
    client.publish("orders")
    harness.store_is_held = True
    client.ack(1, 1, request=5)
    assert client.done == []
    harness.commit()
    assert client.done == [5]
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert client.take() == []


def test_an_ack_of_what_was_never_delivered_is_refused_and_the_rest_of_it_counts() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    epoch = harness.epoch("orders")
    harness.do(inputs.Ack(client.connection, 1, [(epoch, 3, 3), (epoch, 1, 1)]))
    assert_refused(client, NeverDelivered, "sequence 3", "is 2")
    assert client.subscriptions()["reader:orders/#"].cursor == 1


def test_an_ack_of_an_empty_range_is_refused() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    harness.do(inputs.Ack(client.connection, 1, [(harness.epoch("orders"), 2, 1)]))
    assert_refused(client, InvalidOption, "2 to 1")


def test_an_ack_over_an_unknown_handle_is_refused() -> None:
    harness, client = attached()
    client.publish("orders")
    harness.do(inputs.Ack(client.connection, 99, [(harness.epoch("orders"), 1, 1)], 4))
    (refusal,) = client.refusals
    assert (refusal.kind, refusal.request) == ("ack", 4)
    assert isinstance(refusal.error, DeliveryTakenAway)


def test_an_ack_for_a_deleted_queue_is_no_error() -> None:
    harness, client = attached()
    client.publish("orders")
    epoch = harness.epoch("orders")
    client.delete("queue", "orders")
    harness.do(inputs.Ack(client.connection, 1, [(epoch, 1, 1)], 4))
    assert client.refusals == []
    assert 4 in client.done


def test_a_cumulative_ack_covers_what_an_event_filter_left_out() -> None:
    _, client = attached(event="b")
    client.publish("orders", "b", "a", "b", "a")
    client.ack(1, 1, 3)
    assert client.subscriptions()["reader:orders/b"].cursor == 4


# --- again ---


def test_what_was_in_flight_when_the_connection_was_lost_comes_again() -> None:
    harness, client = attached(concurrency=2)
    client.publish("orders", *"abcd")
    client.ack(1, 2)
    client.take()
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders")
    messages = assert_delivered(client, "orders", [1, 3, 4])
    assert all(message.redelivered for message in messages)
    assert [message.attempt for message in messages] == [2, 2, 1]


def test_a_farewell_counts_no_attempt() -> None:
    harness, client = attached()
    client.publish("orders")
    client.disconnect(farewell=True)
    client = harness.connect("reader")
    client.subscribe("orders")
    (message,) = assert_delivered(client, "orders", [1])
    assert (message.attempt, message.redelivered) == (1, True)


def test_attempts_survive_a_restart() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.disconnect()
    harness.flush()
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert [message.attempt for message in client.take()] == [2, 1]


def test_redeliveries_and_new_messages_come_in_sequence_order() -> None:
    harness, client = attached()
    client.publish("orders", *"abc")
    client.ack(1, 2)
    client.disconnect()
    other = harness.connect()
    other.publish("orders", *"de")
    client = harness.connect("reader")
    client.subscribe("orders")
    assert_delivered(client, "orders", [1, 3, 4, 5])


def test_late_acks_while_the_pages_with_their_messages_are_read_stop_nothing() -> None:
    harness, client = attached(queue="#", concurrency=9, ack_timeout_ms=1000)
    queues = ("a", "b", "c")
    for queue in queues:
        client.publish(queue)
    assert len(client.take()) == 3
    harness.reads_are_held = True
    harness.advance(1000)
    assert sum(isinstance(read, Fetch) for read in harness.reads) == 2
    for queue in queues:
        client.ack(1, 1, queue=queue)
    harness.reads_are_held = False
    harness.answer_reads()
    assert client.take() == []
    harness.do(inputs.SendBuffer(client.connection, full=True))
    for queue in queues:
        client.publish(queue)
    harness.do(inputs.SendBuffer(client.connection, full=False))
    assert sorted((message.queue, message.sequence) for message in client.take()) == [("a", 2), ("b", 2), ("c", 2)]


def test_a_page_asked_for_by_an_earlier_connection_does_no_harm() -> None:
    harness, client = attached()
    client.publish("orders", *"abc")
    client.disconnect()
    client = harness.connect("reader")
    harness.reads_are_held = True
    client.subscribe("orders")
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders")
    harness.reads_are_held = False
    harness.answer_reads()
    assert_delivered(client, "orders", [1, 2, 3])


# --- away ---


def test_an_idle_cursor_follows_the_tail_and_holds_nothing_back() -> None:
    harness, client = attached(event="rare")
    client.disconnect()
    other = harness.connect()
    for _ in range(3):
        other.publish("orders", "common")
    assert state_of(harness, "reader:orders/rare") is State.IDLE
    assert other.queues()["orders"].held_by is None
    other.publish("orders", "common", "rare")
    assert state_of(harness, "reader:orders/rare") is State.WAITING
    assert other.queues()["orders"].held_by == "reader:orders/rare"
    client = harness.connect("reader")
    client.subscribe("orders", "rare")
    assert_delivered(client, "orders", [5])


@pytest.mark.parametrize("event", ["rare", "r.*", "r.#", "#", "*"])
def test_every_kind_of_pattern_is_woken_by_what_it_wants_only(event: str) -> None:
    harness, client = attached(event=event)
    client.disconnect()
    other = harness.connect()
    wanted = "r.x" if "." in event else "rare"
    if event not in ("#", "*"):
        other.publish("orders", "common")
        assert state_of(harness, f"reader:orders/{event}") is State.IDLE
    other.publish("orders", wanted)
    assert state_of(harness, f"reader:orders/{event}") is State.WAITING


def test_after_a_restart_a_filtering_cursor_is_looked_through_and_found_idle() -> None:
    harness, client = attached(event="rare")
    client.disconnect()
    other = harness.connect()
    for _ in range(5):
        other.publish("orders", "common")
    harness.restart()
    assert state_of(harness, "reader:orders/rare") is State.IDLE


def test_after_a_restart_a_filtering_cursor_with_a_match_waits() -> None:
    harness, client = attached(event="rare")
    client.disconnect()
    other = harness.connect()
    other.publish("orders", "common", "rare")
    harness.restart()
    assert state_of(harness, "reader:orders/rare") is State.WAITING
    client = harness.connect("reader")
    client.subscribe("orders", "rare")
    assert_delivered(client, "orders", [2])


def test_a_subscriber_that_leaves_while_its_page_is_read_is_looked_through_later() -> None:
    harness, client = attached(event="rare")
    client.disconnect()
    other = harness.connect()
    for _ in range(5):
        other.publish("orders", "common")
    harness.restart()
    harness.reads_are_held = True
    # The background looks at nothing more while this page is on its way.
    other = harness.connect()
    other.publish("orders", "common", "rare")
    client = harness.connect("reader")
    client.subscribe("orders", "rare")
    client.disconnect()
    harness.reads_are_held = False
    harness.answer_reads()
    assert state_of(harness, "reader:orders/rare") is State.WAITING


def test_a_fetch_that_outlives_its_subscriber_does_not_stop_the_background_scan() -> None:
    harness, client = attached(event="rare", start="earliest")
    other = harness.connect()
    harness.do(inputs.SendBuffer(client.connection, full=True))
    for _ in range(3):
        other.publish("orders", "common")
    harness.reads_are_held = True
    harness.do(inputs.SendBuffer(client.connection, full=False))
    assert harness.reads
    client.disconnect()
    harness.reads_are_held = False
    harness.answer_reads()
    assert state_of(harness, "reader:orders/rare") is State.IDLE


def test_deleting_a_queue_that_is_being_scanned_does_not_stop_other_scans() -> None:
    harness, client = attached(queue="doomed", event="rare")
    client.subscribe("orders", "rare")
    client.disconnect()
    other = harness.connect()
    other.publish("doomed", "common")
    other.publish("orders", "common")
    harness.reads_are_held = True
    harness.restart()
    other = harness.connect()
    assert harness.broker.state.scanning is not None
    doomed = harness.broker.state.scanning.queue.name
    other.delete("queue", doomed)
    harness.reads_are_held = False
    harness.answer_reads()
    left = ({"doomed", "orders"} - {doomed}).pop()
    assert state_of(harness, f"reader:{left}/rare") is State.IDLE


# --- gaps ---


def test_what_cannot_be_read_is_told_in_place() -> None:
    harness, client = attached()
    client.disconnect()
    other = harness.connect()
    for _ in range(3):
        other.publish("orders", "a", "b")
    harness.reads_are_held = True
    client = harness.connect("reader")
    client.subscribe("orders")
    (fetch,) = harness.reads
    assert isinstance(fetch, Fetch)
    harness.reads.clear()
    held = harness.store._queues[fetch.epoch].rows
    harness.reads_are_held = False
    harness.do(inputs.Fetched(fetch.subscription, fetch.epoch, [held[0], Damage(3, 4, "the page is torn"), held[2]]))
    assert_delivered(client, "orders", [1, 2, 5, 6])
    (gap,) = client.gaps
    assert (gap.queue, gap.first_sequence, gap.last_sequence, gap.reason) == ("orders", 3, 4, "the page is torn")
    client.ack(1, 1, 6)
    assert client.subscriptions()["reader:orders/#"].cursor == 6


def test_an_empty_page_tells_no_gap_of_what_was_committed_after_it_was_read() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders", "old")
    harness.reads_are_held = True
    client.subscribe("orders", start="earliest")
    (fetch,) = harness.reads
    assert isinstance(fetch, Fetch)
    harness.reads.clear()
    client.publish("orders", "new")
    harness.reads_are_held = False
    harness.do(inputs.Fetched(fetch.subscription, fetch.epoch, []))
    assert [(gap.first_sequence, gap.last_sequence) for gap in client.gaps] == [(1, 1)]
    assert_delivered(client, "orders", [2])


def test_whoever_leaves_a_pattern_has_only_those_places_written_that_moved() -> None:
    harness = Harness()
    client = harness.connect("reader")
    publisher = harness.connect()
    client.subscribe("#")
    for number in range(5):
        publisher.publish(f"orders-{number}")
        client.ack(1, 1, queue=f"orders-{number}")
    harness.flush()
    publisher.publish("orders-3")
    before = len(harness.commits)
    client.disconnect()
    harness.flush()
    written = [key for commit in harness.commits[before:] for key, _ in commit.puts if key.startswith("cursor/")]
    assert written == [f"cursor/1/{harness.epoch('orders-3')}"]
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("#")
    [message] = client.take()
    assert (message.queue, message.sequence, message.attempt) == ("orders-3", 2, 2)
