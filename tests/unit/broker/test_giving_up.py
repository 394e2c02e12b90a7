"""Giving up: from a failed message to a dead letter and back, whatever happens between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.calls import DeleteDeadLetters, ListDeadLetters, Redrive
from tidings.errors import DeliveryTakenAway, InvalidOption, LimitReached, NotFound
from tidings.model import DeadLetterInfo, Failure
from tidings.transaction import Damage

NAME = "reader:orders/#"


def with_dead(count: int, **options: Any) -> tuple[Harness, Client]:
    """Returns a harness, and a client that rejected so many messages, as their payloads count them."""
    harness, client = delivered(count, **options)
    client.nack(1, 1, count, reject=True)
    harness.flush()
    return harness, client


def delivered(count: int, **options: Any) -> tuple[Harness, Client]:
    """Returns a harness, and a client with so many messages in flight."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", **options)
    client.publish("orders", *(f"e{number}" for number in range(1, count + 1)))
    assert_delivered(client, "orders", range(1, count + 1))
    harness.flush()
    return harness, client


def letters(client: Client) -> list[DeadLetterInfo]:
    """Returns the dead letters."""
    found: list[DeadLetterInfo] = client.call(ListDeadLetters(subscription=NAME))
    return found


def whereabouts(harness: Harness) -> list[str]:
    """Returns what the store alone says of each message: dead, waiting (in its queue or a side queue), or neither."""
    harness.restart()
    client = harness.connect("reader")
    dead = [letter.payload.decode() for letter in letters(client)]
    client.subscribe("orders")
    harness.advance(1000)
    return sorted([f"{event} dead" for event in dead] + [f"{message.event} waits" for message in client.take()])


# --- dying ---


@pytest.mark.parametrize("refusals", [0, 1, 2])
@pytest.mark.parametrize("crash", range(6))
def test_a_message_is_dead_or_waits_wherever_the_server_crashes(crash: int, refusals: int) -> None:
    harness, client = delivered(2)
    harness.store_is_held = harness.reads_are_held = True
    client.nack(1, 1, reject=True)
    expected = "waits"
    for step in range(crash):
        if step == 1:
            harness.answer_reads()
        elif step == 2:
            harness.flush()
            for _ in range(refusals):
                harness.refuse()
                harness.flush()
        elif step == 3:
            harness.commit()
            expected = "dead"
        elif step == 4:
            harness.flush()
    harness.store_is_held = harness.reads_are_held = False
    assert whereabouts(harness) == [f"e1 {expected}", "e2 waits"]


def test_the_letter_and_the_cursor_are_written_in_one_transaction() -> None:
    harness, client = delivered(1)
    count = len(harness.commits)
    client.nack(1, 1, reject=True)
    harness.flush()
    (commit,) = [c for c in harness.commits[count:] if any(key.startswith("dead") for key, _ in c.puts)]
    assert {key.split("/")[0] for key, _ in commit.puts} >= {"dead", "dead-content", "cursor"}


def test_a_dead_letter_tells_how_it_failed_within_bounds() -> None:
    harness, client = delivered(1)
    failure = Failure("T" * 999, "x" * 9999, "p" * 999, "a" * 9999 + "end")
    client.nack(1, 1, reject=True, failure=failure)
    harness.flush()
    (letter,) = letters(client)
    assert letter.failure
    assert (letter.reason, letter.attempts, letter.client_id, letter.died) == ("rejected", 1, "reader", letter.died)
    sizes = [len(text) for text in (letter.failure.type, letter.failure.text, letter.failure.place)]
    assert sizes == [limits.NAME_SIZE_BYTES_MAX, limits.FAILURE_TEXT_LENGTH_MAX, limits.NAME_SIZE_BYTES_MAX]
    assert len(letter.failure.traceback) == limits.FAILURE_TRACEBACK_LENGTH_MAX
    assert letter.failure.traceback.endswith("end")


def test_an_ack_before_the_message_is_buried_settles_it_and_after_it_is_refused() -> None:
    harness, client = delivered(2)
    harness.reads_are_held = True
    client.nack(1, 1, 2, reject=True)
    client.ack(1, 1)
    harness.reads_are_held = False
    harness.settle()
    assert [letter.sequence for letter in letters(client)] == [2]
    client.ack(1, 2)
    assert_refused(client, DeliveryTakenAway, "dead letter 1", "rejected")
    assert harness.broker.state.subscriptions[NAME].dying == 0


def test_an_ack_of_a_dead_letter_is_refused_also_when_its_queue_was_deleted() -> None:
    harness, client = delivered(2)
    epoch = harness.epoch("orders")
    client.nack(1, 2, 2, reject=True)
    harness.connect().delete("queue", "orders")
    harness.do(inputs.Ack(client.connection, 1, [(epoch, 1, 1)]))
    assert client.refusals == []
    harness.do(inputs.Ack(client.connection, 1, [(epoch, 2, 2)]))
    assert_refused(client, DeliveryTakenAway, "dead letter 1", "rejected")


def test_a_reject_is_answered_when_its_dead_letters_are_on_disk() -> None:
    harness, client = delivered(3)
    harness.store_is_held = harness.reads_are_held = True
    client.nack(1, 1, 2, reject=True, request=77)
    harness.flush()
    assert client.done == [], "its messages are not read yet"
    harness.answer_reads()
    assert client.done == []
    harness.flush()
    harness.commit()
    assert client.done == [77]
    assert len([key for key in harness.records() if key.startswith("dead/")]) == 2
    client.nack(1, 1, 3, reject=True, request=78)
    assert_refused(client, DeliveryTakenAway)
    harness.store_is_held = harness.reads_are_held = False
    harness.answer_reads()
    harness.flush()
    assert client.done == [77], "what was refused is not answered once more"


def test_an_ephemeral_subscription_is_told_a_gap_instead() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders", attempts_max=1)
    client.publish("orders", "a", "b")
    client.nack(1, 1)
    (gap,) = client.gaps
    assert (gap.first_sequence, gap.last_sequence) == (1, 1)
    assert gap.reason == "given up after 1 attempts: attempts"
    harness.flush()
    assert not [key for key in harness.records() if key.startswith(("dead", "cursor", "subscription"))]


def test_a_subscription_that_ends_while_its_message_dies_leaves_nothing() -> None:
    harness, client = delivered(1)
    harness.reads_are_held = True
    client.nack(1, 1, reject=True)
    client.unsubscribe(1)
    client.delete("subscription", NAME)
    harness.reads_are_held = False
    harness.settle()
    harness.flush()
    assert not [key for key in harness.records() if key.startswith(("dead", "cursor", "subscription"))]


def test_a_queue_that_is_deleted_while_its_message_dies_leaves_no_letter() -> None:
    harness, client = delivered(2)
    harness.reads_are_held = True
    client.nack(1, 1, reject=True)
    client.delete("queue", "orders")
    harness.reads_are_held = False
    harness.settle()
    assert letters(client) == []
    assert harness.broker.state.subscriptions[NAME].dying == 0
    assert [gap.reason for gap in client.gaps] == ["queue deleted"]


def test_a_message_that_cannot_be_read_any_more_is_told_as_a_gap() -> None:
    harness, client = delivered(2)
    harness.reads_are_held = True
    client.nack(1, 1, reject=True)
    (read,) = harness.reads
    harness.reads.clear()
    harness._handle(inputs.RowsRead(read.ticket, [Damage(1, 2, "damaged")]))  # type: ignore[union-attr]
    assert [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in client.gaps] == [(1, 1, "damaged")]
    harness.reads_are_held = False
    assert letters(client) == []
    assert client.subscriptions()[NAME].cursor == 1


def test_at_the_bound_of_dead_letters_messages_are_retried_and_listings_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "DEAD_LETTERS_MAX", 2)
    harness, client = delivered(4, attempts_max=1)
    client.nack(1, 1, 4)
    harness.flush()
    assert client.subscriptions()[NAME].dead == 2
    harness.advance(1000)
    assert sorted({message.sequence for message in client.take()}) == [3, 4]
    client.nack(1, 3, 4, delay_ms=5)
    assert client.subscriptions()[NAME].retrying == 2
    assert "2 dead letters" in client.subscriptions()[NAME].paused
    client.call(DeleteDeadLetters(subscription=NAME))
    harness.advance(1000)
    client.nack(1, 3, 4)
    assert [letter.sequence for letter in letters(client)] == [3, 4]
    assert client.subscriptions()[NAME].paused == ""


def test_a_reject_at_the_bound_of_dead_letters_is_not_answered_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEAD_LETTERS_MAX", 1)
    harness, client = delivered(3)
    client.nack(1, 1, 3, reject=True, request=9)
    assert_refused(client, LimitReached, f"{NAME!r} has 1 dead letters", "2 rejected messages", "redrive or delete")
    harness.flush()
    assert client.done == []
    assert client.subscriptions()[NAME].dead == 1
    client.call(DeleteDeadLetters(subscription=NAME))
    harness.advance(limits.BACKOFF_MAX_MS)
    assert sorted({message.sequence for message in client.take()}) == [2, 3]
    client.nack(1, 2, reject=True, request=10)
    assert client.done == [10]


def test_too_many_that_wait_for_a_retry_pause_deliveries_and_drop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PARKED_MAX", 2)
    harness, client = delivered(2)
    client.nack(1, 1, 2, delay_ms=1000)
    client.publish("orders", "c")
    assert client.take() == []
    assert "2 messages wait" in client.subscriptions()[NAME].paused
    harness.advance(1000)
    assert sorted(message.sequence for message in client.take()) == [1, 2, 3]
    assert client.subscriptions()[NAME].paused == ""


# --- redriving ---


def test_redriven_messages_come_to_the_subscription_that_failed_only_and_die_again() -> None:
    harness, client = with_dead(2)
    other = harness.connect("other")
    other.subscribe("orders", start="earliest")
    other.take()
    assert client.call(Redrive(subscription=NAME, number=2)) == 1
    harness.flush()
    (message,) = client.take()
    assert (message.queue, message.event) == ("orders", "e2")
    assert client.deliveries[-1].redriven
    assert other.take() == []
    epoch = client.deliveries[-1].epoch
    harness.do(inputs.Nack(client.connection, 1, [(epoch, 1, 1)], reject=True))
    assert [(letter.number, letter.queue, letter.payload) for letter in letters(client)] == [
        (1, "orders", b"e1"),
        (3, "orders", b"e2"),
    ]
    assert set(client.queues()) == {"$presence", "orders"}


def test_a_subscription_that_reads_only_what_was_redriven_is_listed_once_that_is_settled() -> None:
    harness, client = with_dead(1)
    client.call(Redrive(subscription=NAME))
    harness.flush()
    client.take()
    client.delete("queue", "orders")
    epoch = client.deliveries[-1].epoch
    harness.do(inputs.Ack(client.connection, 1, [(epoch, 1, 1)]))
    harness.flush()
    listed = client.subscriptions()[NAME]
    assert (listed.queue, listed.lag, listed.connected) == ("orders", 0, True)


def test_a_side_queue_is_trimmed_when_settled_and_goes_with_its_subscription() -> None:
    harness, client = with_dead(1)
    client.call(Redrive(subscription=NAME))
    harness.flush()
    epoch = client.deliveries[-1].epoch
    harness.do(inputs.Ack(client.connection, 1, [(epoch, 1, 1)]))
    harness.advance(3 * limits.TRIM_INTERVAL_MS)
    assert harness.broker.state.epochs[epoch].size_bytes == 0
    client.unsubscribe(1)
    client.delete("subscription", NAME)
    assert epoch not in harness.broker.state.epochs
    harness.advance(3 * limits.TRIM_INTERVAL_MS)
    assert not [key for key in harness.records() if key.startswith(("trash", "cursor", "subscription", "dead"))]


@pytest.mark.parametrize("refusals", [0, 1, 2])
@pytest.mark.parametrize("crash", range(6))
def test_a_redriven_message_is_never_lost_and_never_doubled_wherever_the_server_crashes(
    crash: int, refusals: int
) -> None:
    harness, client = with_dead(2)
    harness.store_is_held = harness.reads_are_held = True
    harness.do(inputs.Call(client.connection, 9, Redrive(subscription=NAME)))
    expected = "dead"
    for step in range(crash):
        if step == 1:
            harness.answer_reads()
        elif step == 2:
            for _ in range(refusals):
                harness.refuse()
        elif step == 3:
            harness.commit()
            expected = "waits"
        elif step == 4:
            harness.flush()
    harness.store_is_held = harness.reads_are_held = False
    assert whereabouts(harness) == [f"e1 {expected}", f"e2 {expected}"]


def test_each_redrive_keeps_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REDRIVE_STEP_COUNT", 2)
    harness, client = with_dead(9)
    client.call(Redrive(subscription=NAME, number=9))
    harness.flush()
    assert [message.event for message in client.take()] == ["e9"]
    assert client.call(Redrive(subscription=NAME, rate=1)) == 8
    client.call(Redrive(subscription=NAME, number=7, rate=1))
    harness.flush()
    assert sorted(message.event for message in client.take()) == ["e1", "e7"]
    harness.advance(990)
    assert [message.event for message in client.take()] == ["e2"]
    client.call(Redrive(subscription=NAME, number=8))
    harness.flush()
    assert [message.event for message in client.take()] == ["e8"]
    harness.advance(10_000)
    assert sorted(message.event for message in client.take()) == ["e3", "e4", "e5", "e6"]
    assert harness.broker.state.subscriptions[NAME].redriving == []


def test_no_more_than_one_step_of_a_redrive_waits_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REDRIVE_STEP_COUNT", 2)
    harness, client = with_dead(7)
    harness.store_is_held = True
    client.call(Redrive(subscription=NAME))
    harness.advance(1000)
    assert len(harness.broker.state.subscriptions[NAME].dead) == 5
    harness.refuse()
    harness.advance(1000)
    assert len(harness.broker.state.subscriptions[NAME].dead) == 5
    harness.commit()
    assert len(harness.broker.state.subscriptions[NAME].dead) == 3
    harness.store_is_held = False
    harness.settle()
    assert [message.event for message in client.take()] == [f"e{number}" for number in range(1, 8)]


@pytest.mark.parametrize("when", ["reading", "writing", "waiting"])
def test_a_subscription_deleted_while_a_redrive_is_under_way_stays_deleted(when: str) -> None:
    harness, client = with_dead(3)
    client.unsubscribe(1)
    harness.reads_are_held = when == "reading"
    harness.store_is_held = when == "writing"
    client.call(Redrive(subscription=NAME, rate=1))
    client.delete("subscription", NAME)
    harness.reads_are_held = harness.store_is_held = False
    harness.settle()
    harness.advance(10_000)
    assert not [queue for queue in harness.broker.state.queues if queue.startswith("$redriven")]
    kinds = ("dead", "cursor", "subscription", "trash")
    assert not [key for key in harness.records() if key.startswith(kinds)]
    harness.restart()
    assert harness.broker.state.subscriptions == {}


@pytest.mark.parametrize("rate", [-1.0, 5e-324, 0.0009, 100_001.0, float("inf"), float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    _harness, client = with_dead(1)
    client.call(Redrive(subscription=NAME, rate=rate))
    assert_refused(client, InvalidOption, "rate")
    assert len(letters(client)) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Redrive(subscription="nobody"),
        lambda: Redrive(subscription=NAME, number=9),
        lambda: Redrive(subscription=NAME, fingerprint="0"),
    ],
)
def test_what_is_not_there_cannot_be_redriven(ask: Callable[[], Redrive]) -> None:
    _harness, client = with_dead(1)
    client.call(ask())
    assert_refused(client, NotFound)


def test_redrives_of_the_same_letters_send_each_once() -> None:
    harness, client = with_dead(2)
    harness.reads_are_held = True
    client.call(Redrive(subscription=NAME))
    client.call(Redrive(subscription=NAME))
    client.call(DeleteDeadLetters(subscription=NAME, number=2))
    harness.reads_are_held = False
    harness.settle()
    harness.flush()
    assert [message.event for message in client.take()] == ["e1"]
    assert harness.broker.state.subscriptions[NAME].redriving == []


def test_a_number_is_not_used_again_after_a_restart() -> None:
    harness, client = with_dead(2)
    client.call(DeleteDeadLetters(subscription=NAME))
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders", "x")
    client.nack(1, 3, reject=True)
    assert [letter.number for letter in letters(client)] == [3]
