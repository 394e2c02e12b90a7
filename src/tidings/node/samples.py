"""Samples: rows spread evenly over a queue, without their bodies."""

from tidings import limits
from tidings.store.port import Row, Store


async def sample(store: Store, epoch: int, to_sequence: int) -> list[Row]:
    """Returns about `MARKS_SAMPLED` rows of a queue, all if there are fewer; the last one holds `to_sequence`."""
    rows: list[Row] = []
    after, step = 0, 0
    while after < to_sequence:
        found = await store.survey(epoch, after, 1)
        if not found:
            break  # all of it was trimmed
        [row] = found
        if row.first_sequence > to_sequence:
            break
        rows.append(row)
        step = step or max(0, to_sequence - row.last_sequence) // limits.MARKS_SAMPLED
        after = row.last_sequence
        if after < to_sequence:
            after = min(after + step, to_sequence - 1)
    return rows
