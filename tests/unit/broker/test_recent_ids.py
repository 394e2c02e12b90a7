"""Recent ids: a message published twice under one id is stored once, whatever happens in between."""

from itertools import product

import pytest

from tests.unit.broker.harness import Client, Harness
from tidings import limits
from tidings.batch import Batch, decode_items, encode_item
from tidings.broker import inputs
from tidings.broker.recent_ids import RecentIds
from tidings.calls import Redrive
from tidings.model import Flags, Run


def batch_with(*ids: str | None) -> Batch:
    """Returns a batch with one message for each id, or without one; payloads are their places."""
    runs, parts = [], []
    for place, id in enumerate(ids):
        item = encode_item(f"{place}".encode(), id, None, None)
        runs.append(Run("created", 1, len(item), flags=Flags.IDS if id is not None else 0))
        parts.append(item)
    return Batch(runs, b"".join(parts))


def publish(client: Client, number: int, *ids: str | None, queue: str = "orders", answered: int = 0) -> None:
    client.harness.do(inputs.Publish(client.connection, number, answered, queue, batch_with(*ids)))


def answer(client: Client, number: int) -> tuple[int, list[tuple[int, int]]]:
    confirm = client.confirms[number]
    return confirm.first_sequence, confirm.duplicates


@pytest.mark.parametrize("ids", list(product([None, "a", "b"], repeat=4)))
def test_every_small_batch_is_sifted_like_a_set_would(ids: tuple[str | None, ...]) -> None:
    recent = RecentIds(1)
    recent.sift(batch_with("b"), 1, 0)
    assert recent.page_to_write()
    recent.round_ended(stored=True)
    kept, duplicates = recent.sift(batch_with(*ids), 2, 0)
    seen: dict[str, int] = {"b": 1}
    expected_kept, expected_duplicates, sequence = [], [], 2
    for place, id in enumerate(ids):
        if id is not None and id in seen:
            expected_duplicates.append((place, seen[id]))
            continue
        if id is not None:
            seen[id] = sequence
        sequence += 1
        expected_kept.append(str(place).encode())
    assert duplicates == expected_duplicates
    payloads = []
    if kept:
        offset = 0
        for run in kept.runs:
            payloads += [item[0] for item in decode_items(run.count, run.flags, kept.body[offset : offset + run.size])]
            offset += run.size
    assert payloads == expected_kept


def test_a_duplicate_is_not_stored_and_its_confirm_says_of_what() -> None:
    harness = Harness()
    client = harness.connect()
    publish(client, 1, "a", "b")
    publish(client, 2, "b", "c", None)
    assert answer(client, 1) == (1, [])
    assert answer(client, 2) == (3, [(0, 2)])
    assert len(harness.stored("orders")) == 4


def test_a_duplicate_of_a_message_on_its_way_waits_for_it() -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    publish(client, 1, "a")
    publish(client, 2, "a")
    assert client.confirms == {}
    harness.commit()
    assert list(client.confirms) == [1]
    harness.commit()
    assert answer(client, 2) == (2, [(0, 1)])


def test_both_are_refused_if_the_message_on_its_way_is_and_it_may_be_published_again() -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.publish("other", number=9)
    publish(client, 1, "a")
    publish(client, 2, "a")
    harness.commit()
    harness.refuse()
    assert {refusal.request for refusal in client.refusals} == {1, 2}
    client.refusals.clear()
    harness.store_is_held = False
    harness.settle()
    publish(client, 3, "a", answered=3)
    assert answer(client, 3) == (1, [])


def test_ids_are_known_after_a_crash_and_a_batch_sent_again_gets_the_same_answer() -> None:
    harness = Harness()
    client = harness.connect(producer="p")
    publish(client, 1, "a")
    publish(client, 2, None, "a", None)
    harness.restart()
    client = harness.connect(producer="p")
    publish(client, 2, None, "a", None)
    publish(client, 3, "a")
    assert answer(client, 2) == (2, [(1, 1)])
    assert answer(client, 3) == (4, [(0, 1)])
    assert len(harness.stored("orders")) == 3


def test_an_id_counts_within_its_queue_and_its_window() -> None:
    harness = Harness()
    client = harness.connect()
    publish(client, 1, "a")
    publish(client, 2, "a", queue="bills")
    harness.advance(limits.ID_WINDOW_MS - 1)
    publish(client, 3, "a")
    assert answer(client, 3) == (2, [(0, 1)])
    harness.advance(1)
    publish(client, 4, "a")
    assert answer(client, 4) == (2, [])


def test_expired_ids_leave_no_record_behind() -> None:
    harness = Harness()
    publish(harness.connect(), 1, "a")
    assert any(key.startswith("ids/") for key in harness.records())
    harness.advance(limits.ID_WINDOW_MS + 60_000)
    assert not any(key.startswith("ids/") for key in harness.records())


def test_ids_of_a_deleted_queue_are_forgotten() -> None:
    harness = Harness()
    client = harness.connect()
    publish(client, 1, "a")
    client.delete("queue", "orders")
    publish(client, 2, "a")
    assert answer(client, 2) == (1, [])
    assert len([key for key in harness.records() if key.startswith("ids/")]) == 1


def test_ids_that_were_stored_while_their_queue_was_deleted_are_cleaned_up_by_the_next_start() -> None:
    harness = Harness()
    client = harness.connect()
    publish(client, 1, None)
    harness.store_is_held = True
    publish(client, 2, "a")
    client.delete("queue", "orders")
    harness.store_is_held = False
    harness.commit()
    harness.flush()
    harness.restart()
    harness.flush()
    assert not any(key.startswith("ids/") for key in harness.records())


def test_too_many_ids_end_the_window_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDS_PER_QUEUE_MAX", 2)
    harness = Harness()
    client = harness.connect()
    for number, id in enumerate("abcd", 1):
        publish(client, number, id)
    publish(client, 5, "d")
    assert answer(client, 5) == (5, [(0, 4)])
    publish(client, 6, "a")
    assert answer(client, 6) == (5, [])


def test_a_message_with_an_id_can_be_redriven_again_and_again() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", name="billing")
    publish(client, 1, "a")
    (message,) = client.take()
    client.nack(1, message.sequence, reject=True)
    for sequence in (1, 2, 3):
        assert client.call(Redrive(subscription="billing")) == 1
        (message,) = client.take()
        assert message.sequence == sequence
        client.nack(1, message.sequence, queue="$redriven/1/orders", reject=True)
