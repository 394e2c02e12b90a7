"""Dead letters: looked at, grouped, edited, deleted."""

from __future__ import annotations

from typing import Any

from tests.unit.broker.harness import Client, Harness, assert_delivered
from tidings.broker import inputs
from tidings.broker.effects import ReadRecords
from tidings.calls import DeleteDeadLetters, EditDeadLetter, ListDeadLetters, Redrive
from tidings.model import DeadLetterInfo

NAME = "reader:orders/#"


def with_dead(*events: str, **options: Any) -> tuple[Harness, Client]:
    """Returns a harness, and a client that rejected a message for each event."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", **options)
    client.publish("orders", *events)
    assert_delivered(client, "orders", range(1, len(events) + 1))
    client.nack(1, 1, len(events), reject=True)
    return harness, client


def listed(client: Client, **options: Any) -> list[DeadLetterInfo]:
    """Returns a page of dead letters."""
    letters: list[DeadLetterInfo] = client.call(ListDeadLetters(subscription=NAME, **options))
    return letters


# --- looking ---


def test_what_died_a_moment_ago_is_listed_edited_and_redriven_before_it_is_written() -> None:
    harness, client = with_dead("a", "b")
    assert [letter.event for letter in listed(client)] == ["a", "b"]
    harness.store_is_held = True
    client.call(EditDeadLetter(subscription=NAME, number=1, payload=b"better"))
    assert client.refusals == []
    client.call(EditDeadLetter(subscription=NAME, number=1, event="c"))
    assert [(letter.event, letter.payload) for letter in listed(client)] == [("c", b"better"), ("b", b"b")]
    assert client.call(Redrive(subscription=NAME)) == 2
    harness.store_is_held = False
    harness.settle()
    harness.flush()
    assert sorted(message.payload for message in client.take()) == [b"b", b"better"]
    assert listed(client) == []


def test_a_record_that_is_stored_while_it_is_read_is_not_missed() -> None:
    harness, client = with_dead("a")
    harness.reads_are_held = True
    harness.store_is_held = True
    harness.flush()
    client._request += 1
    harness.do(inputs.Call(client.connection, 5, ListDeadLetters(subscription=NAME)))
    (read,) = [read for read in harness.reads if isinstance(read, ReadRecords)]
    harness.reads.clear()
    harness.commit()
    harness._handle(inputs.RecordsRead(read.ticket, [None]))  # as read before the commit
    assert [letter.event for letter in client.answers[5]] == ["a"]


def test_an_edit_outlives_a_transaction_that_failed_while_it_was_made() -> None:
    harness, client = with_dead("a")
    harness.store_is_held = True
    harness.flush()
    client.call(EditDeadLetter(subscription=NAME, number=1, payload=b"better"))
    harness.refuse()
    harness.commit()
    harness.restart()
    client = harness.connect("reader")
    assert [letter.payload for letter in listed(client)] == [b"better"]


def test_deleting_no_dead_letters_of_an_ephemeral_subscription_leaves_no_record() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders")
    assert client.call(DeleteDeadLetters(subscription=client.subscribed[1].name)) == 0
    harness.flush()
    assert not [key for key in harness.records() if key.startswith("subscription/")]
