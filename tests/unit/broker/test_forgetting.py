"""Forgetting: what is purged or deleted is delivered to nobody, and told to whom it was still to be delivered."""

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker.inputs import Ack
from tidings.calls import DeleteMessage, Pause, Purge, Seek
from tidings.errors import InvalidOption, LimitReached, NotFound, SystemQueue

STEP_MS = 20_000  # long enough that every queue is looked at


def gaps(client: Client) -> list[tuple[int, int, str]]:
    """Returns the gaps that a client was told since it was last asked, as (first, last, reason)."""
    found = [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in client.gaps]
    client.gaps.clear()
    return found


def filled(count: int = 5, **options: object) -> tuple[Harness, Client]:
    """Returns a client that reads a queue of so many messages, stored singly."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", start="earliest", **options)
    for _ in range(count):
        client.publish("orders")
    return harness, client


# --- purge ---


def test_a_purge_tells_how_many_there_were_and_empties_the_queue_at_once() -> None:
    harness, client = filled()
    client.ack(1, 1, 5)
    assert client.call(Purge(queue="orders")) == 5
    info = client.queues()["orders"]
    assert (info.messages, info.first_sequence, info.last_sequence) == (0, 6, 5)
    assert client.call(Purge(queue="orders")) == 0
    harness.advance(STEP_MS)
    assert harness.bounds().get(harness.epoch("orders")) is None
    client.publish("orders")
    assert client.confirms[6].first_sequence == 6, "sequences go on"
    assert gaps(client) == []


def test_what_waited_is_one_gap_and_what_is_in_flight_may_still_be_acked() -> None:
    harness, client = filled(in_flight_max=2)
    assert_delivered(client, "orders", [1, 2])
    client.call(Purge(queue="orders"))
    assert gaps(client) == [(3, 5, "purged")]
    assert client.subscriptions()["reader:orders/#"].cut == 3
    client.ack(1, 1, 2, request=9)
    assert 9 in client.done
    client.publish("orders")
    assert_delivered(client, "orders", [6])
    assert client.subscriptions()["reader:orders/#"].cut == 3
    harness.advance(STEP_MS)
    assert harness.bounds()[harness.epoch("orders")].first_sequence == 6


def test_what_was_in_flight_and_fails_is_not_delivered_again() -> None:
    harness, client = filled(in_flight_max=2)
    client.call(Purge(queue="orders"))
    client.nack(1, 1, delay_ms=0)
    client.ack(1, 2)
    harness.advance(10)
    assert_delivered(client, "orders", [1, 2])
    assert gaps(client) == [(3, 5, "purged"), (1, 1, "purged")]
    assert client.subscriptions()["reader:orders/#"].cut == 4
    harness.advance(STEP_MS)
    assert harness.bounds().get(harness.epoch("orders")) is None


def test_what_was_in_flight_and_was_given_up_is_a_gap_and_no_dead_letter() -> None:
    _, client = filled(in_flight_max=1)
    client.call(Purge(queue="orders"))
    client.nack(1, 1, reject=True)
    assert gaps(client) == [(2, 5, "purged"), (1, 1, "purged")]
    assert client.subscriptions()["reader:orders/#"].dead == 0


def test_what_waits_for_a_retry_is_cut_too() -> None:
    _, client = filled(3, backoff_min_ms=1_000, backoff_max_ms=1_000)
    client.nack(1, 2)
    client.call(Purge(queue="orders"))
    assert gaps(client) == [(2, 2, "purged")]
    client.ack(1, 1)
    client.ack(1, 3)
    assert client.subscriptions()["reader:orders/#"].lag == 0


def test_an_absent_subscription_is_told_when_it_comes_back_also_after_a_crash() -> None:
    harness, client = filled(in_flight_max=2)
    client.ack(1, 1)
    client.disconnect(farewell=True)
    harness.flush()
    operator = harness.connect()
    operator.call(Purge(queue="orders"))
    info = operator.subscriptions()["reader:orders/#"]
    assert (info.lag, info.cut) == (0, 4)
    harness.restart()
    client = harness.connect("reader")
    assert client.subscriptions()["reader:orders/#"].cut == 4
    client.subscribe("orders")
    assert gaps(client) == [(2, 5, "purged")]
    client.publish("orders")
    assert_delivered(client, "orders", [6])
    client.ack(1, 2, 5)
    client.disconnect(farewell=True)
    client = harness.connect("reader")
    client.subscribe("orders")
    assert gaps(client) == [], "it was acked"


def test_a_crash_before_the_purge_is_stored_leaves_all_as_it_was() -> None:
    harness, client = filled(in_flight_max=4)
    client.disconnect(farewell=True)
    harness.flush()
    client = harness.connect()
    harness.store_is_held = True
    client.call(Purge(queue="orders"))
    harness.store_is_held = False
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert_delivered(client, "orders", [1, 2, 3, 4])
    client.ack(1, 1, 4)
    assert_delivered(client, "orders", [5])
    assert gaps(client) == []


def test_a_page_on_its_way_while_the_queue_is_purged_delivers_nothing() -> None:
    harness, client = filled()
    client.disconnect(farewell=True)
    harness.reads_are_held = True
    client = harness.connect("reader")
    client.subscribe("orders")
    harness.connect().call(Purge(queue="orders"))
    harness.reads_are_held = False
    harness.answer_reads()
    assert client.take() == []
    assert gaps(client) == [(1, 5, "purged")]


def test_a_filter_is_told_an_upper_bound_and_one_that_is_up_to_date_nothing() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", "paid", start="earliest", in_flight_max=1)
    client.publish("orders", "paid", "paid", "created")
    other = harness.connect("other")
    other.subscribe("orders", "created")
    client.call(Purge(queue="orders"))
    assert gaps(client) == [(2, 3, "purged")]
    assert gaps(other) == []


def test_a_new_reader_begins_after_the_purge_and_a_move_back_is_told_of_it() -> None:
    harness, client = filled(in_flight_max=1)
    client.call(Purge(queue="orders"))
    client.publish("orders")
    late = harness.connect("late")
    late.subscribe("orders", start="earliest")
    assert_delivered(late, "orders", [6])
    assert gaps(late) == []
    late.call(Seek(subscription="late", to="sequence", value=4))
    assert gaps(late) == [(4, 5, "purged")]
    assert_delivered(late, "orders", [6])
    # The first message is in flight to the reader: its row is there, and nobody else gets it.
    late.call(Seek(subscription="late", to="earliest"))
    assert_delivered(late, "orders", [6])


def test_an_ephemeral_subscription_is_told_at_once() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders", in_flight_max=1)
    for _ in range(3):
        client.publish("orders")
    client.call(Purge(queue="orders"))
    assert gaps(client) == [(2, 3, "purged")]
    client.ack(1, 1)
    client.publish("orders")
    assert_delivered(client, "orders", [1, 4])


def test_the_rest_of_a_queue_that_is_deleted_is_told_without_what_was_settled_or_told_before() -> None:
    _, client = filled(6, in_flight_max=5)
    client.ack(1, 2)
    client.ack(1, 4)
    client.call(DeleteMessage(queue="orders", sequence=1))
    client.delete("queue", "orders")
    assert gaps(client) == [(1, 1, "queue deleted"), (3, 3, "queue deleted"), (5, 6, "queue deleted")]


# --- one message ---


def test_a_deleted_message_is_a_gap_in_its_place() -> None:
    _, client = filled(in_flight_max=1)
    client.call(DeleteMessage(queue="orders", sequence=3))
    assert gaps(client) == []
    for sequence in (1, 2, 4, 5):
        assert_delivered(client, "orders", [sequence])
        client.ack(1, sequence)
        assert gaps(client) == ([(3, 3, "deleted")] if sequence == 1 else []), "after what is before it was sent"
    info = client.queues()["orders"]
    assert (info.messages, info.first_sequence) == (4, 1)
    assert client.subscriptions()["reader:orders/#"].cut == 1


def test_of_messages_that_were_stored_together_only_the_deleted_one_is_missing() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.publish("orders", "a", "b", "b", "a", "b")
    for sequence in (2, 5):
        client.call(DeleteMessage(queue="orders", sequence=sequence))
    client.subscribe("orders", start="earliest")
    assert [message.event for message in assert_delivered(client, "orders", [1, 3, 4])] == ["a", "b", "a"]
    assert gaps(client) == [(2, 2, "deleted"), (5, 5, "deleted")]
    client.subscribe("orders", "a", start="earliest")
    assert_delivered(client, "orders", [1, 4], handle=2)
    assert gaps(client) == [], "it had not asked for them"


def test_a_shared_subscription_skips_what_was_deleted_also_in_a_key() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders", name="team", shared=True)
    client.publish("orders", keys=["k", "k", "k"])
    assert_delivered(client, "orders", [1])
    client.call(DeleteMessage(queue="orders", sequence=2))
    client.ack(1, 1)
    assert gaps(client) == [(2, 2, "deleted")]
    assert_delivered(client, "orders", [3])


def test_a_deleted_message_stays_so_after_a_restart_and_is_forgotten_once_it_is_trimmed() -> None:
    harness, client = filled(3, in_flight_max=1)
    client.call(DeleteMessage(queue="orders", sequence=2))
    harness.flush()
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.ack(1, 1)
    assert_delivered(client, "orders", [1, 3])
    assert gaps(client) == [(2, 2, "deleted")]
    client.ack(1, 1, 3)
    harness.advance(limits.HISTORY_AGE_MS + STEP_MS)
    assert not harness.broker.state.queues["orders"].deleted


def test_a_message_that_is_in_flight_may_be_acked_after_it_was_deleted() -> None:
    _, client = filled(2)
    client.call(DeleteMessage(queue="orders", sequence=1))
    client.ack(1, 1, request=5)
    assert 5 in client.done
    assert gaps(client) == []
    assert client.subscriptions()["reader:orders/#"].cut == 0


def test_a_message_that_is_not_there_cannot_be_deleted() -> None:
    _, client = filled(3)
    client.call(DeleteMessage(queue="orders", sequence=2))
    for sequence in (0, 2, 4, -1):
        client.call(DeleteMessage(queue="orders", sequence=sequence))
        assert_refused(client, NotFound, f"no message {sequence}", "1 to 3")
    client.call(Purge(queue="orders"))
    client.call(DeleteMessage(queue="orders", sequence=1))
    assert_refused(client, NotFound, "it holds none")


def test_deleted_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DELETED_RANGES_MAX", 2)
    _, client = filled(7)
    for sequence in (1, 3, 2, 5):
        client.call(DeleteMessage(queue="orders", sequence=sequence))
    client.call(DeleteMessage(queue="orders", sequence=7))
    assert_refused(client, LimitReached, "2 ranges")
    assert client.queues()["orders"].messages == 3


@pytest.mark.parametrize("call", [Purge(queue="bills"), DeleteMessage(queue="bills", sequence=1)])
def test_a_queue_that_is_not_there_is_not_found(call: Purge | DeleteMessage) -> None:
    _, client = filled(1)
    client.call(call)
    assert_refused(client, NotFound, "bills")


@pytest.mark.parametrize("call", [Purge(queue="$presence"), DeleteMessage(queue="$presence", sequence=1)])
def test_the_servers_own_queue_is_not_touched(call: Purge | DeleteMessage) -> None:
    _, client = filled(1)
    client.call(call)
    assert_refused(client, SystemQueue, "$presence")


def test_a_malformed_ack_leaves_a_gap_as_it_is() -> None:
    harness, client = filled(1)
    client.call(Pause(subscription="reader:orders/#", paused=True))
    for _ in range(9):
        client.publish("orders")
    client.call(Purge(queue="orders"))
    client.harness.do(Ack(client.connection, 1, [(harness.epoch("orders"), 8, 3)]))
    assert_refused(client, InvalidOption, "the range is empty")
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert gaps(client) == [(2, 10, "purged")]
