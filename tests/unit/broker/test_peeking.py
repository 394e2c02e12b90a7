"""Peeking: messages are seen as their queue holds them, and nothing changes by it."""

import pytest

from tests.unit.broker.harness import Client, Harness, assert_refused
from tidings import limits
from tidings.calls import DeleteMessage, Peek, Purge
from tidings.errors import InvalidOption, NotFound


def filled() -> tuple[Harness, Client]:
    """Returns a queue of five messages in three rows, a second apart."""
    harness = Harness()
    client = harness.connect("reader")
    client.publish("orders", "a", "b", payload=b"one")
    harness.advance(1_000)
    client.publish("orders", "a", payload=b"two")
    harness.advance(1_000)
    client.publish("orders", "b", "a", payload=b"three", keys=["k", "l"])
    return harness, client


def sequences(client: Client, **fields: object) -> list[int]:
    return [message.sequence for message in client.call(Peek(queue="orders", **fields))]  # type: ignore[arg-type]


def test_a_message_is_shown_with_all_it_has() -> None:
    harness, client = filled()
    (message,) = client.call(Peek(queue="orders", start="sequence", value=4, count_max=1))
    assert (message.queue, message.epoch, message.sequence, message.event) == (
        "orders",
        harness.epoch("orders"),
        4,
        "b",
    )
    assert (message.payload, message.key, message.id, message.headers) == (b"three", "k", None, {})
    assert message.published == harness.now_ms


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"count_max": 2}, [1, 2]),
        ({"start": "latest"}, [1, 2, 3, 4, 5]),
        ({"start": "latest", "count_max": 2}, [4, 5]),
        ({"start": "sequence", "value": 2, "count_max": 2}, [2, 3]),
        ({"start": "sequence", "value": 6}, []),
        ({"start": "time", "value": 0, "count_max": 1}, [1]),
    ],
)
@pytest.mark.parametrize("page_bytes", [1, limits.FETCH_SIZE_BYTES])
def test_where_a_peek_begins_and_how_much_it_shows(
    monkeypatch: pytest.MonkeyPatch, page_bytes: int, fields: dict[str, object], expected: list[int]
) -> None:
    monkeypatch.setattr(limits, "FETCH_SIZE_BYTES", page_bytes)
    _, client = filled()
    assert sequences(client, **fields) == expected


def test_a_peek_begins_at_a_time() -> None:
    harness, client = filled()
    assert sequences(client, start="time", value=harness.now_ms - 1_000) == [3, 4, 5]
    assert sequences(client, start="time", value=harness.now_ms + 1) == []


def test_what_was_removed_is_not_shown() -> None:
    _, client = filled()
    client.call(DeleteMessage(queue="orders", sequence=4))
    assert sequences(client) == [1, 2, 3, 5]
    assert sequences(client, start="latest", count_max=2) == [3, 5]
    client.call(Purge(queue="orders"))
    assert sequences(client) == []
    assert sequences(client, start="latest") == []


def test_looking_settles_nothing_and_holds_nothing_back() -> None:
    _, client = filled()
    client.subscribe("orders", start="earliest", in_flight_max=1)
    before = client.subscriptions()
    assert sequences(client) == [1, 2, 3, 4, 5]
    assert client.subscriptions() == before


def test_an_answer_stays_within_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DELIVERY_BODY_SIZE_BYTES_MAX", 16)
    _, client = filled()
    assert sequences(client) == [1, 2]
    monkeypatch.setattr(limits, "DELIVERY_BODY_SIZE_BYTES_MAX", 2)
    assert sequences(client) == [1], "one at least, or nobody could go on"


def test_a_queue_that_is_deleted_meanwhile_shows_nothing() -> None:
    harness, client = filled()
    harness.reads_are_held = True
    client.call(Peek(queue="orders"))
    client.delete("queue", "orders")
    harness.reads_are_held = False
    harness.answer_reads()
    assert [len(answer) for answer in client.answers.values()] == [5]
    client.call(Peek(queue="orders"))
    assert_refused(client, NotFound, "orders")


@pytest.mark.parametrize(
    "fields",
    [
        {"start": "latest", "count_max": 0},
        {"count_max": limits.PEEK_COUNT_MAX + 1},
        {"start": "sequence", "value": 0},
        {"start": "middle"},
    ],
)
def test_what_cannot_be_asked_is_refused(fields: dict[str, object]) -> None:
    _, client = filled()
    client.call(Peek(queue="orders", **fields))  # type: ignore[arg-type]
    assert_refused(client, InvalidOption)


def test_the_queue_of_who_comes_and_goes_can_be_seen() -> None:
    harness, client = filled()
    harness.flush()
    assert [message.event for message in client.call(Peek(queue="$presence", count_max=1))] == ["connected"]
