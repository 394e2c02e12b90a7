"""Retention: what is trimmed when, what is never, and what a late reader is told."""

import pytest

from tests.unit.broker.harness import Harness, assert_delivered
from tidings import limits
from tidings.broker import ledger
from tidings.broker.cursors import Cursor
from tidings.broker.queues import Queue
from tidings.calls import ConfigureQueue

STEP_MS = 20_000  # long enough that every queue is looked at


@pytest.fixture(autouse=True)
def short_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets history be old after a minute."""
    monkeypatch.setattr(limits, "HISTORY_AGE_MS", 60_000)


def first(harness: Harness, queue: str = "orders") -> int:
    """Returns the first sequence that a queue holds, after checking that the listing says the same."""
    bounds = harness.bounds().get(harness.epoch(queue))
    info = harness.connect().queues()[queue]
    if bounds:
        assert (info.first_sequence, info.last_sequence, info.bytes) == bounds[:3]
    else:
        assert (info.messages, info.bytes) == (0, 0)
    return info.first_sequence


def test_a_queue_without_durable_subscriptions_keeps_a_message_for_its_age() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders")
    harness.advance(59_000)
    client.publish("orders")
    assert first(harness) == 1
    harness.advance(STEP_MS)
    assert first(harness) == 2
    harness.advance(60_000 + STEP_MS)
    assert first(harness) == 3
    client.publish("orders")
    assert client.confirms[3].first_sequence == 3


def test_what_is_not_settled_stays_whatever_its_age() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", attempts_max=1_000)
    for _ in range(3):
        client.publish("orders")
    client.ack(1, 2)
    harness.advance(10 * 60_000)
    assert first(harness) == 1
    client.ack(1, 1)
    harness.advance(STEP_MS)
    assert first(harness) == 3


def test_an_ephemeral_subscription_holds_nothing_back_and_is_told_of_the_gap() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("orders", in_flight_max=1)
    for _ in range(3):
        client.publish("orders")
    assert_delivered(client, "orders", [1])
    harness.advance(60_000 + STEP_MS)
    assert first(harness) == 4
    client.take()
    client.publish("orders")
    client.ack(1, 1)
    (gap,) = client.gaps
    assert (gap.first_sequence, gap.last_sequence, gap.reason) == (2, 3, "trimmed")
    assert_delivered(client, "orders", [4])


def test_history_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_BYTES", 3_000)
    harness = Harness()
    client = harness.connect()
    for _ in range(10):
        client.publish("orders", payload=bytes(1_000))
    harness.advance(STEP_MS)
    assert first(harness) in (8, 9)
    assert harness.bounds()[harness.epoch("orders")].size_bytes <= 3_100


def test_presence_is_trimmed_whoever_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()
    watcher = harness.connect("watcher")
    watcher.subscribe("$presence")
    watcher.disconnect()
    harness.connect("other")
    harness.advance(60_000 + 2 * STEP_MS)
    assert first(harness, "$presence") > 2
    watcher = harness.connect("watcher")
    watcher.subscribe("$presence")
    assert {(gap.queue, gap.reason) for gap in watcher.gaps} == {("$presence", "trimmed")}
    told = [number for gap in watcher.gaps for number in range(gap.first_sequence, gap.last_sequence + 1)]
    assert told == list(range(1, first(harness, "$presence")))


def test_no_step_removes_more_rows_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRIM_ROWS_MAX", 2)
    harness = Harness()
    client = harness.connect()
    for _ in range(7):
        client.publish("orders")
    harness.advance(60_000 + STEP_MS)
    assert first(harness) == 8
    epoch = harness.epoch("orders")
    trims = [trim.to_sequence for commit in harness.commits for trim in commit.trims if trim.queue == epoch]
    assert trims == [2, 4, 6, 7]


def test_a_refused_trim_is_tried_again() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders")
    harness.advance(60_000)
    harness.store_is_held = True
    harness.advance(STEP_MS)
    while harness.under_way is not None and not harness.under_way.trims:
        harness.commit()
        harness.advance(1_000)
    harness.refuse()
    harness.store_is_held = False
    harness.advance(STEP_MS)
    harness.advance(STEP_MS)
    assert first(harness) == 2


def test_every_queue_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.broker.retention._LOOKED_AT_MAX", 3)
    harness = Harness()
    client = harness.connect()
    for number in range(10):
        client.publish(f"q{number}")
    harness.advance(60_000 + 5 * STEP_MS)
    assert [harness.broker.state.queues[f"q{number}"].first_sequence for number in range(10)] == [2] * 10


def test_a_deleted_queue_leaves_nothing_in_the_store() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    for _ in range(200):
        client.publish("orders")
    epoch = harness.epoch("orders")
    client.delete("queue", "orders")
    harness.advance(STEP_MS)
    harness.flush()
    assert epoch not in harness.store._queues
    left = [key for key in harness.records() if key.startswith(("queue/", "trash/", "cursor/"))]
    assert left == [f"queue/{harness.epoch('$presence')}"]


def test_a_deleted_queue_is_removed_after_a_restart_too() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders")
    epoch = harness.epoch("orders")
    client.delete("queue", "orders")
    harness.restart()
    assert epoch in harness.store._queues
    harness.advance(STEP_MS)
    assert epoch not in harness.store._queues


def test_a_trimmed_queue_keeps_its_last_sequence_over_a_restart() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders", "a", "b")
    harness.advance(60_000 + STEP_MS)
    assert first(harness) == 3
    harness.restart()
    client = harness.connect()
    client.publish("orders")
    assert client.confirms[1].first_sequence == 3


@pytest.mark.parametrize("crashed", [False, True])
def test_a_start_at_a_sequence_that_is_trimmed_is_told_whatever_crashes(crashed: bool) -> None:
    harness = Harness()
    publisher = harness.connect()
    publisher.publish("orders")
    harness.advance(50_000)
    publisher.publish("orders")
    harness.advance(STEP_MS)
    client = harness.connect("reader")
    harness.reads_are_held = crashed
    client.subscribe("orders", start="sequence", start_value=1)
    harness.flush()
    if crashed:
        harness.reads_are_held = False
        harness.restart()
        client = harness.connect("reader")
        client.subscribe("orders")
    [gap] = client.gaps
    assert (gap.first_sequence, gap.last_sequence, gap.reason) == (1, 1, "trimmed")
    assert_delivered(client, "orders", [2])


def test_a_start_at_the_beginning_of_a_trimmed_queue_begins_with_what_is_there() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders")
    harness.advance(50_000)
    client.publish("orders")
    harness.advance(STEP_MS)
    client.subscribe("orders", start="earliest")
    assert_delivered(client, "orders", [2])
    assert client.gaps == []


def test_an_old_record_of_an_idle_cursor_tells_no_gap_of_what_was_settled() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", "rare")
    client.disconnect()
    other = harness.connect()
    for _ in range(3):
        other.publish("orders", "common")
    harness.advance(60_000 + STEP_MS)
    other.publish("orders", "rare")
    assert first(harness) == 4
    # The cursor's record is the one from before all this, as after a crash within the delay of its writing.
    key = next(key for key in harness.store._records if key.startswith("cursor/"))
    harness.store._records[key] = b"\x93\x00\x90\x80"
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders", "rare")
    assert_delivered(client, "orders", [4])
    assert client.gaps == []


def test_queues_with_many_subscriptions_take_turns_and_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.broker.retention._CURSORS_MAX", 10)
    harness = Harness()
    client = harness.connect("reader")
    names = {f"queue{number}" for number in range(6)}
    for name in sorted(names):
        for each in range(6):
            client.subscribe(name, name=f"{name}-{each}")
        client.publish(name)
    looked_at: list[str] = []
    slowest = Queue.slowest

    def counted(queue: Queue) -> Cursor | None:
        looked_at.append(queue.name)
        return slowest(queue)

    monkeypatch.setattr(Queue, "slowest", counted)
    found: set[str] = set()
    for _ in range(10):
        looked_at.clear()
        harness.advance(1_000)
        assert len(names & set(looked_at)) <= 2
        found |= set(looked_at)
    assert found >= names


def test_an_idle_cursor_is_written_once_it_has_passed_by_enough_and_not_when_it_is_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "FOLLOW_PERSIST_MESSAGES", 20)
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", "rare")
    client.disconnect()
    harness.flush()
    (cursor,) = harness.broker.state.subscriptions["reader:orders/rare"].cursors.values()
    other = harness.connect()

    def written() -> int:
        return sum(key == cursor.key for commit in harness.commits for key, _ in commit.puts)

    before = written()
    other.publish("orders", *["common"] * 10, "rare")
    harness.advance(2_000)
    assert written() == before
    client = harness.connect("reader")
    client.subscribe("orders", "rare")
    client.ack(1, 11)
    client.disconnect()
    harness.flush()
    before = written()
    for _ in range(4):
        other.publish("orders", *["common"] * 10)
        harness.advance(2_000)
    assert 1 <= written() - before <= 2
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders", "rare")
    assert_delivered(client, "orders", [])


def test_a_trim_brings_the_end_of_its_queue_along_however_much_else_is_to_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = Harness()
    client = harness.connect()
    client.call(ConfigureQueue(name="orders", history_messages=0))
    client.publish("orders")
    harness.flush()
    monkeypatch.setattr(ledger, "_PUTS_MAX", 1)
    for number in range(5):
        harness.connect(f"client-{number}")
    harness.store_is_held = True
    trimmed = False
    while not trimmed:
        if harness.under_way is None:
            harness.advance(1_000)
            continue
        trimmed = bool(harness.under_way.trims)
        for _ in range(2):
            harness.connect(f"client-{harness._connections}")
        harness.commit()
    harness.store_is_held = False
    harness.restart()
    client = harness.connect()
    number = client.publish("orders")
    assert client.confirms[number].first_sequence == 2
