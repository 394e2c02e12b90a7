"""Replays: a part of a queue, in a subscription of its own, up to an end and at a pace."""

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.broker.pace import Pace
from tidings.calls import DeleteMessage, Pause, Purge
from tidings.errors import InvalidOption, NotFound
from tidings.model import HeaderFilter

ALL = {"start": "earliest", "end": "latest"}


def filled(count: int = 10, *, client_id: str | None = "reader") -> tuple[Harness, Client]:
    """Returns a harness whose queue holds messages, three a batch, and a client."""
    harness = Harness()
    client = harness.connect(client_id)
    for first in range(0, count, 3):
        client.publish("orders", *["a", "b", "c"][: count - first])
        harness.advance(1000)
    return harness, client


def sequences(client: Client, handle: int = 1) -> list[int]:
    """Returns what was delivered, and settles it."""
    found = [message.sequence for message in client.take(handle)]
    for sequence in found:
        client.ack(handle, sequence)
    return found


def read(client: Client, handle: int = 1) -> list[int]:
    """Returns all of a replay, which must end."""
    found: list[int] = []
    while more := sequences(client, handle):
        found += more
    assert client.ended == [handle]
    return found


@pytest.mark.parametrize("first", range(1, 12))
@pytest.mark.parametrize("last", [1, 2, 3, 4, 9, 10, 1000])
@pytest.mark.parametrize("window", [1, 4, 100])
def test_exactly_the_sequences_of_the_range_come_and_then_the_end(first: int, last: int, window: int) -> None:
    _, client = filled()
    client.subscribe(
        "orders", start="sequence", start_value=first, end="sequence", end_value=last, in_flight_max=window
    )
    assert client.subscribed[1].end == min(last, 10)
    assert read(client) == list(range(first, min(last, 10) + 1))


def test_it_ends_only_once_all_of_it_is_settled() -> None:
    harness, client = filled()
    client.subscribe("orders", **ALL)
    assert_delivered(client, "orders", range(1, 11))
    client.ack(1, 1, 9)
    assert not client.ended
    client.nack(1, 10)
    assert not client.ended
    harness.advance(10)
    (again,) = assert_delivered(client, "orders", [10])
    assert again.attempt == 2
    client.ack(1, 10)
    assert client.ended == [1]
    client.unsubscribe(1)
    assert not client.subscriptions()


def test_what_is_given_up_is_a_gap_and_the_end_comes() -> None:
    _, client = filled(3)
    client.subscribe("orders", **ALL)
    client.ack(1, 1, 2)
    client.nack(1, 3, reject=True)
    assert [(gap.first_sequence, gap.last_sequence) for gap in client.gaps] == [(3, 3)]
    assert client.ended == [1]


def test_what_is_published_meanwhile_is_not_part_of_it() -> None:
    harness, client = filled()
    client.subscribe("orders", in_flight_max=1, **ALL)
    client.publish("orders", "a")
    assert read(client) == list(range(1, 11))
    client.publish("orders", "a")
    harness.advance(1000)
    assert not client.take()
    assert client.ended == [1]


def test_other_subscriptions_are_not_touched() -> None:
    harness, client = filled()
    client.subscribe("orders", start="earliest")
    client.ack(1, 1, 4)
    before = client.subscriptions()["reader:orders/#"]
    client.subscribe("orders", **ALL)
    assert len(client.subscriptions()) == 2
    sequences(client, 2)
    assert client.ended == [2]
    client.unsubscribe(2)
    assert client.subscriptions() == {"reader:orders/#": before}
    harness.flush()
    assert not [key for key in harness.records() if key.startswith("subscription/2")]


@pytest.mark.parametrize("event", ["b", "none", "*"])
def test_filters_choose_and_the_end_comes_also_if_the_last_messages_are_not_wanted(event: str) -> None:
    _, client = filled()
    client.subscribe("orders", event, **ALL)
    assert read(client) == {"b": [2, 5, 8], "none": [], "*": list(range(1, 11))}[event]


def test_headers_choose() -> None:
    _, client = filled(0)
    client.publish("orders", headers=[{"region": "eu"}, {"region": "us"}, {"region": "eu"}, None])
    client.subscribe("orders", headers=[HeaderFilter("region", ("eu",))], **ALL)
    assert read(client) == [1, 3]


def test_a_range_of_time() -> None:
    harness, client = filled()
    start_ms = harness.now_ms
    client.publish("orders", "x", "x")
    harness.advance(1000)
    client.publish("orders", "x")
    client.subscribe("orders", start="time", start_value=start_ms, end="time", end_value=harness.now_ms)
    assert read(client) == [11, 12]
    client.ended.clear()
    client.subscribe("orders", start="time", start_value=start_ms, end="time", end_value=harness.now_ms + 60_000)
    assert read(client, 2) == [11, 12, 13]


def test_one_that_comes_back_gets_the_rest_up_to_the_same_end() -> None:
    harness, client = filled(client_id=None)
    client.subscribe("orders", in_flight_max=4, **ALL)
    assert sequences(client)[:4] == [1, 2, 3, 4]
    end = client.subscribed[1].end
    client.disconnect()
    client = harness.connect()
    client.publish("orders", "a")
    place = inputs.Resume(harness.epoch("orders"), 4, [])
    client.subscribe("orders", start="earliest", end="sequence", end_value=end, resume=[place])
    assert read(client) == [5, 6, 7, 8, 9, 10]


def test_what_was_trimmed_of_the_range_is_told_and_nothing_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_AGE_MS", 0)
    harness, client = filled(7)
    harness.advance(60_000)
    client.publish("orders", "a")
    first_kept = client.queues()["orders"].first_sequence
    assert first_kept == 8
    client.subscribe("orders", start="sequence", start_value=2, end="sequence", end_value=5)
    assert [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in client.gaps] == [(2, 5, "trimmed")]
    assert client.ended == [1]
    client.subscribe("orders", **ALL)
    assert sequences(client, 2) == [8]
    assert len(client.gaps) == 1


def test_a_queue_that_is_deleted_ends_it() -> None:
    _, client = filled()
    client.subscribe("orders", in_flight_max=1, **ALL)
    client.delete("queue", "orders")
    assert {gap.reason for gap in client.gaps} == {"queue deleted"}
    assert client.ended == [1]


def test_what_is_purged_meanwhile_is_told_up_to_the_end_and_ends_it() -> None:
    _, client = filled()
    client.subscribe("orders", start="earliest", end="sequence", end_value=6, in_flight_max=2)
    assert_delivered(client, "orders", [1, 2])
    client.call(Purge(queue="orders"))
    assert [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in client.gaps] == [(3, 6, "purged")]
    assert not client.ended
    client.ack(1, 1, 2)
    assert client.ended == [1]


def test_a_deleted_message_of_the_range_is_told_and_none_beyond_it() -> None:
    _, client = filled()
    for sequence in (2, 5):
        client.call(DeleteMessage(queue="orders", sequence=sequence))
    client.subscribe("orders", start="earliest", end="sequence", end_value=4)
    assert read(client) == [1, 3, 4]
    assert [(gap.first_sequence, gap.last_sequence) for gap in client.gaps] == [(2, 2)]


def test_a_paused_queue_waits() -> None:
    _, client = filled()
    client.call(Pause(queue="orders"))
    client.subscribe("orders", **ALL)
    assert not client.take()
    assert not client.ended
    client.call(Pause(queue="orders", paused=False))
    assert read(client) == list(range(1, 11))


# --- its pace ---


@pytest.mark.parametrize("rate", [0.5, 1, 7, 20, 150, 3000])
def test_no_second_brings_more_than_the_rate_and_none_much_less(rate: float) -> None:
    harness, client = filled(0)
    for _ in range(40):
        client.publish("orders", *["a"] * 250)
    client.subscribe("orders", rate=rate, **ALL)
    times: list[int] = []
    seconds = 10 if rate < 1000 else 3
    for _ in range(seconds * 100):
        times += [harness.now_ms] * len(sequences(client))
        harness.advance(10)
    per_second = [sum(start <= time < start + 1000 for time in times) for start in range(times[0], harness.now_ms, 500)]
    burst = max(1, int(rate * 0.1))
    assert max(per_second) <= rate + burst + 1
    assert len(times) >= int(rate * seconds * 0.95)


def test_what_a_slow_subscriber_did_not_take_is_not_made_up_for() -> None:
    harness, client = filled(0)
    client.publish("orders", *["a"] * 5000)
    client.subscribe("orders", rate=100, in_flight_max=1, ack_timeout_ms=60_000, **ALL)
    harness.advance(10_000)
    got = 0
    for _ in range(50):
        got += len(sequences(client))
    assert 1 <= got <= 11


def test_it_ends_at_its_pace_too_and_is_listed_with_its_reason() -> None:
    harness, client = filled(5)
    client.subscribe("orders", rate=1, **ALL)
    info = next(iter(client.subscriptions().values()))
    assert (info.replays_to, info.durable, info.paused) == (5, False, "it replays 1 messages a second")
    got: list[int] = []
    for _ in range(6):
        got += sequences(client)
        harness.advance(1000)
    assert got == [1, 2, 3, 4, 5]
    assert client.ended == [1]


def test_a_pace_grants_what_its_rate_says_whenever_it_is_asked() -> None:
    pace = Pace(10, 1000)
    granted = [pace.grow(0, 1000 + after_ms) for after_ms in (0, 1, 99, 100, 101, 250, 299, 300)]
    assert granted == [1, 0, 0, 1, 0, 1, 0, 1]
    assert pace.grow(0, 100_000) == 1
    assert pace.grow(0, 100_099) == 0
    assert pace.grow(0, 100_100) == 1


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"end": "never"}, "latest, sequence, time"),
        ({"name": "x"}, "its own"),
        ({"name": "x", "shared": True}, "its own"),
        ({"pulls": True}, "its own"),
        ({"start": "latest"}, "'latest'"),
        ({"start": "last"}, "'last'"),
        ({"rate": 1e9}, "100000"),
        ({"rate": -1.0}, "0.001"),
        ({"rate": float("nan")}, "0.001"),
        ({"end": "", "rate": 1.0}, "say where it ends"),
        ({"queue": "*"}, "one queue"),
    ],
)
def test_what_is_no_replay_is_refused_and_leaves_nothing(options: dict[str, Any], word: str) -> None:
    _, client = filled()
    client.subscribe(**{"queue": "orders", **ALL, **options})
    assert_refused(client, InvalidOption, word)
    assert not client.subscriptions()


def test_a_queue_that_is_not_there_is_not_made() -> None:
    _, client = filled()
    client.subscribe("order", **ALL)
    assert_refused(client, NotFound, "'order'")
    assert "order" not in client.queues()


def test_a_queue_that_is_deleted_and_made_again_is_not_replayed() -> None:
    _, client = filled(3)
    client.subscribe("orders", **ALL)
    assert len(client.take()) == 3
    client.delete("queue", "orders")
    client.publish("orders", "d")
    assert client.take() == []
    assert client.ended == [1]
