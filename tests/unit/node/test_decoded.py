"""Decoded rows: shared by all who are delivered the same row, and by nobody else."""

from tidings import limits
from tidings.batch import StoredBatch
from tidings.broker import effects
from tidings.node.decoded import Decoded
from tidings.node.drafts import Draft, batches


def row(first_sequence: int = 1, *payloads: bytes) -> StoredBatch:
    [batch] = batches([Draft("created", payload) for payload in payloads or (b"1", b"2")])
    return StoredBatch(first_sequence, 5, batch)


def deliver(stored: StoredBatch, *, epoch: int = 7, attempts: list[tuple[int, int]] | None = None) -> effects.Deliver:
    return effects.Deliver(
        connection=1, handle=1, queue="orders", epoch=epoch, rows=[stored], redelivered=False, attempts=attempts or []
    )


def test_who_is_delivered_the_same_row_gets_the_same_deliveries() -> None:
    decoded, stored = Decoded(), row()
    first = decoded.deliveries(deliver(stored), stored)
    assert [(each.sequence, each.payload, each.attempt) for each in first] == [(1, b"1", 1), (2, b"2", 1)]
    assert decoded.deliveries(deliver(stored), stored) is first


def test_another_reading_of_a_row_and_another_attempt_are_other_deliveries() -> None:
    decoded, stored = Decoded(), row()
    first = decoded.deliveries(deliver(stored), stored)
    again = decoded.deliveries(deliver(stored, epoch=8), stored)
    assert [each.epoch for each in again] == [8, 8]
    tried = decoded.deliveries(deliver(stored, attempts=[(2, 3)]), stored)
    assert [each.attempt for each in tried] == [1, 3]
    assert [each.attempt for each in decoded.deliveries(deliver(stored), stored)] == [1, 1]
    assert decoded.deliveries(deliver(stored), stored) is first


def test_only_some_rows_are_kept_and_none_is_taken_for_another() -> None:
    decoded, first = Decoded(), row()
    before = decoded.deliveries(deliver(first), first)
    for sequence in range(100, 100 + 50 * limits.DECODED_ROWS_MAX):
        stored = row(sequence, b"%d" % sequence)
        [found] = decoded.deliveries(deliver(stored), stored)
        assert (found.sequence, found.payload) == (sequence, b"%d" % sequence)
    after = decoded.deliveries(deliver(first), first)
    assert after == before
    assert after is not before
