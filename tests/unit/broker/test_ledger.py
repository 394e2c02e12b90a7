"""The ledger: what goes into a transaction, when, and what happens to it if it is refused."""

import pytest

from tests.unit.broker.harness import Harness
from tidings import limits
from tidings.broker import inputs


def test_changed_cursors_wait_for_their_delay_and_ride_on_an_earlier_transaction() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders", "a", "b")
    harness.flush()
    before = len(harness.commits)
    client.ack(1, 1)
    harness.advance(limits.CURSOR_DELAY_MS - 1)
    assert len(harness.commits) == before
    client.publish("orders")
    assert len(harness.commits) == before + 1
    assert any(key.startswith("cursor/") for key, _ in harness.commits[-1].puts)


def test_changed_cursors_go_by_themselves_after_their_delay() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.publish("orders")
    harness.flush()
    before = len(harness.commits)
    client.ack(1, 1)
    harness.advance(limits.CURSOR_DELAY_MS)
    assert len(harness.commits) == before + 1
    harness.advance(10 * limits.CURSOR_DELAY_MS)
    assert len(harness.commits) == before + 1


def test_a_quiet_broker_writes_nothing() -> None:
    harness = Harness()
    harness.flush()
    before = len(harness.commits)
    harness.advance(60_000)
    assert len(harness.commits) == before
    assert harness.do(inputs.StoreReady()) == []


def test_nobody_waits_behind_all_that_a_fast_publisher_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMMIT_BYTES_MAX", 1000)
    harness = Harness()
    fast, slow, other = harness.connect(), harness.connect(), harness.connect()
    harness.store_is_held = True
    other.publish("busy")
    for _ in range(10):
        fast.publish("orders", "fast", payload=bytes(400))
    slow.publish("orders", "slow")
    other.publish("orders", "other")
    harness.commit()
    harness.commit()
    assert (list(slow.confirms), list(other.confirms)) == ([1], [1, 2])
    assert 0 < len(fast.confirms) < 10
    while harness.under_way:
        harness.commit()
    assert [fast.confirms[number].first_sequence for number in range(1, 11)] == sorted(
        confirm.first_sequence for confirm in fast.confirms.values()
    )


def test_a_full_transaction_leaves_the_rest_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMMIT_BYTES_MAX", 1000)
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.publish("orders")
    for _ in range(5):
        client.publish("orders", payload=bytes(400))
    sizes = []
    while harness.under_way:
        epoch = harness.epoch("orders")
        sizes.append(sum(append.stored.batch.count for append in harness.under_way.appends if append.queue == epoch))
        harness.commit()
    assert sizes == [1, 3, 2]
    assert [confirm.first_sequence for confirm in client.confirms.values()] == [1, 2, 3, 4, 5, 6]


def test_rows_are_bounded_in_bytes_and_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROW_SIZE_BYTES_MAX", 1000)
    monkeypatch.setattr(limits, "BATCH_RUNS_MAX", 4)
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.publish("other")
    for _ in range(3):
        client.publish("orders", payload=bytes(400))
    client.publish("bills", "a", "b", "c")
    client.publish("bills", "c", "d")
    client.publish("bills", "e", "f")
    harness.commit()
    assert harness.under_way is not None
    rows = [
        (append.queue, append.stored.first_sequence, append.stored.last_sequence)
        for append in harness.under_way.appends
    ]
    orders, bills = harness.epoch("orders"), harness.epoch("bills")
    assert [row[1:] for row in rows if row[0] == orders] == [(1, 2), (3, 3)]
    assert [row[1:] for row in rows if row[0] == bills] == [(1, 3), (4, 7)]


def test_records_and_deletions_of_a_refused_transaction_are_due_again() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.subscribe("bills")
    client.publish("orders", "a", "b")
    client.unsubscribe(2)
    harness.flush()
    harness.store_is_held = True
    client.ack(1, 1)
    client.delete("subscription", "reader:bills/#")
    harness.refuse()
    assert client.refusals[-1].kind == "delete"
    harness.store_is_held = False
    harness.flush()
    harness.restart()
    assert list(harness.broker.state.subscriptions) == ["reader:orders/#"]
    (cursor,) = harness.broker.state.subscriptions["reader:orders/#"].cursors.values()
    assert cursor.settled_to == 1


def test_a_newer_change_wins_over_a_refused_deletion_and_the_other_way_round() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    harness.flush()
    client.publish("orders")
    harness.store_is_held = True
    client.ack(1, 1, request=5)
    assert harness.under_way is not None
    client.disconnect()
    other = harness.connect()
    other.delete("subscription", "reader")
    harness.refuse()
    harness.store_is_held = False
    harness.commit()
    harness.flush()
    assert not [key for key in harness.records() if key.startswith(("subscription/", "cursor/"))]


def test_an_answer_waits_until_all_its_records_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.broker.ledger._PUTS_MAX", 2)
    harness = Harness()
    client = harness.connect("reader")
    harness.flush()
    harness.store_is_held = True
    client.subscribe("*")
    client.publish("a")
    while not client.subscribed:
        assert harness.under_way is not None
        assert len(harness.under_way.puts) <= 4
        harness.commit()
    assert any(key.startswith("subscription/") for key in harness.records())


def test_an_answer_does_not_wait_for_what_changes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.broker.ledger._PUTS_MAX", 4)
    harness = Harness()
    client = harness.connect("reader")
    handles = [client.subscribe("orders", name=f"reader-{number}") for number in range(12)]
    client.publish("orders")
    harness.flush()
    harness.store_is_held = True
    client.publish("orders")
    client.ack(handles[0], 1, request=77)
    # Every message changes more cursors than a transaction has room for.
    for _ in range(20):
        client.publish("orders")
        if harness.under_way:
            harness.commit()
    assert 77 in client.done


def test_a_late_answer_tells_of_a_refused_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.broker.ledger._PUTS_MAX", 1)
    harness = Harness()
    client = harness.connect("reader")
    handle = client.subscribe("orders")
    client.subscribe("#")
    client.publish("orders")
    harness.flush()
    harness.store_is_held = True
    client.ack(2, 1)
    client.ack(handle, 1, request=77)
    while harness.under_way and not client.refusals:
        harness.refuse("no")
    assert [(refusal.kind, refusal.request) for refusal in client.refusals] == [("ack", 77)]
    assert client.done == []


def test_a_publisher_that_said_goodbye_and_is_back_in_the_same_transaction_is_remembered() -> None:
    harness = Harness()
    client = harness.connect(producer="one")
    client.publish("orders")
    harness.flush()
    client.disconnect(farewell=True)
    client = harness.connect(producer="one")
    client.publish("orders", "b", number=1)
    harness.restart()
    client = harness.connect(producer="one")
    client.publish("orders", "b", number=1)
    assert len(harness.stored("orders")) == 2
