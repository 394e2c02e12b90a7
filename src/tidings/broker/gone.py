"""Gone: what a queue has stored and yet delivers to nobody any more, because somebody purged it or deleted it.

It is told as a gap, in its place, to whoever would have got it. Who has it in flight may still settle it.
"""

from __future__ import annotations

from tidings.batch import StoredBatch
from tidings.broker.filters import Filter
from tidings.broker.queues import Queue
from tidings.ranges import Ranges


def why_gone(queue: Queue, sequence: int) -> str | None:
    """Returns why a stored message is gone, None if it is not."""
    if sequence <= queue.purged_to:
        return "purged"
    return "deleted" if sequence in queue.deleted else None


def gone_of(row: StoredBatch, queue: Queue, filter: Filter) -> list[tuple[int, int, str]]:
    """Returns the ranges of a row that are gone and would be wanted, in order, each with its reason."""
    if row.first_sequence > queue.purged_to and not queue.deleted:
        return []
    found: list[tuple[int, int, str]] = []
    if row.first_sequence <= queue.purged_to:
        found.append((row.first_sequence, min(row.last_sequence, queue.purged_to), "purged"))
    after = max(row.first_sequence, queue.purged_to + 1)
    found += [(low, high, "deleted") for low, high in queue.deleted.within(after, row.last_sequence)]
    if not found or filter.everything:
        return found
    selected = filter.select(row.batch)
    first = row.first_sequence
    wanted = Ranges((first + low, first + high) for low, high in selected.present()) if selected else Ranges()
    return [(low, high, reason) for begin, end, reason in found for low, high in wanted.within(begin, end)]
