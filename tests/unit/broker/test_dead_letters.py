"""Dead letters: looked at, grouped, edited, deleted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.broker.effects import ReadRecords
from tidings.calls import DeadLetterGroups, DeleteDeadLetters, EditDeadLetter, ListDeadLetters, Redrive
from tidings.errors import InvalidName, InvalidOption, NotFound, PayloadTooLarge, TidingsError
from tidings.model import DeadLetterGroup, DeadLetterInfo, Failure

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


# --- pages and groups ---


def with_failures(*types: str) -> tuple[Harness, Client]:
    """Returns a harness, and a client whose messages failed with errors of these types, in this order."""
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders", *(f"e{number}" for number in range(1, len(types) + 1)))
    for sequence, type in enumerate(types, 1):
        client.nack(1, sequence, reject=True, failure=Failure(type, "broken", "bill()", ""))
        harness.advance(1000)
    return harness, client


def test_groups_tell_each_way_to_fail_once_the_largest_first() -> None:
    _harness, client = with_failures("KeyError", "ValueError", "KeyError", "KeyError")
    groups: list[DeadLetterGroup] = client.call(DeadLetterGroups(subscription=NAME))
    assert [(group.text, group.count, group.last_number) for group in groups] == [
        ("KeyError: broken in bill()", 3, 4),
        ("ValueError: broken in bill()", 1, 2),
    ]
    assert groups[0].last_died - groups[0].first_died == 3000
    numbers = [letter.number for letter in listed(client, fingerprint=groups[0].fingerprint)]
    assert numbers == [1, 3, 4]
    assert listed(client, fingerprint="00000000") == []


def test_pages_follow_each_other_without_a_gap_or_a_copy() -> None:
    harness, client = with_dead(*(f"e{number}" for number in range(1, 8)))
    harness.flush()
    found, after = list[int](), 0
    while page := listed(client, after=after, count_max=3):
        assert len(page) <= 3
        found += [letter.number for letter in page]
        after = page[-1].number
    assert found == [1, 2, 3, 4, 5, 6, 7]


def test_a_page_ends_before_its_bytes_are_too_many_and_has_one_letter_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DELIVERY_BODY_SIZE_BYTES_MAX", 2)
    harness, client = with_dead("a", "b")
    harness.flush()
    assert [letter.number for letter in listed(client)] == [1]
    assert [letter.number for letter in listed(client, after=1)] == [2]


@pytest.mark.parametrize("count", [0, -1, limits.DEAD_LETTERS_PAGE_COUNT + 1])
def test_a_page_of_too_many_or_none_is_refused_with_the_range(count: int) -> None:
    _, client = with_dead("a")
    client.call(ListDeadLetters(subscription=NAME, count_max=count))
    assert_refused(client, InvalidOption, str(count), f"1 to {limits.DEAD_LETTERS_PAGE_COUNT}")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"event": "two words"}, InvalidName, "two words"),
        ({"payload": bytes(limits.PAYLOAD_SIZE_BYTES_MAX + 1)}, PayloadTooLarge, str(limits.PAYLOAD_SIZE_BYTES_MAX)),
        ({"headers": {str(n): "" for n in range(limits.HEADERS_MAX + 1)}}, InvalidOption, str(limits.HEADERS_MAX)),
        ({"content_type": ""}, InvalidOption, "content type"),
        ({"number": 2}, NotFound, "no dead letter 2"),
        ({"subscription": "nobody"}, NotFound, "nobody"),
    ],
)
def test_a_dead_letter_is_not_edited_into_what_could_not_be_published(
    changes: dict[str, Any], error: type[TidingsError], words: str
) -> None:
    _harness, client = with_dead("a")
    client.call(EditDeadLetter(**({"subscription": NAME, "number": 1} | changes)))
    assert_refused(client, error, words)
    assert [(letter.event, letter.edited) for letter in listed(client)] == [("a", False)]
