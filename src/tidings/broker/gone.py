"""Gone: what a queue has stored and yet delivers to nobody any more: it was purged or deleted, or its ttl is over.

It is told as a gap, in its place, to whoever would have got it. Who has it in flight may still settle it.
"""

from __future__ import annotations

from tidings.batch import StoredBatch
from tidings.broker.filters import Filter
from tidings.broker.queues import Queue
from tidings.model import Run
from tidings.ranges import Ranges


def why_gone(queue: Queue, sequence: int) -> str | None:
    """Returns why a stored message is gone, None if it is not."""
    if sequence <= queue.purged_to:
        return "purged"
    return "deleted" if sequence in queue.deleted else None


def has_expired(row: StoredBatch, queue: Queue, now_ms: int) -> bool:
    """Whether a message of a row is older than its ttl, or than that of its queue."""
    age_ms = now_ms - row.time_ms
    limit_ms = queue.settings.ttl_ms
    if limit_ms is not None and age_ms >= limit_ms:
        return True
    return any(run.ttl_ms and age_ms >= run.ttl_ms for run in row.batch.runs)


def expires_ms(row: StoredBatch, run: Run, queue: Queue) -> int | None:
    """Returns when the messages of a run expire, None if they never do."""
    ttls = [ttl_ms for ttl_ms in (run.ttl_ms, queue.settings.ttl_ms) if ttl_ms]
    return row.time_ms + min(ttls) if ttls else None


def gone_of(row: StoredBatch, queue: Queue, filter: Filter, now_ms: int) -> list[tuple[int, int, str]]:
    """Returns the ranges of a row that are gone and would be wanted, in order, each with its reason."""
    expired = has_expired(row, queue, now_ms)
    if row.first_sequence > queue.purged_to and not queue.deleted and not expired:
        return []
    found: list[tuple[int, int, str]] = []
    if row.first_sequence <= queue.purged_to:
        found.append((row.first_sequence, min(row.last_sequence, queue.purged_to), "purged"))
    after = max(row.first_sequence, queue.purged_to + 1)
    first = row.first_sequence
    for run in row.batch.runs if expired else ():
        last = first + run.count - 1
        end_ms = expires_ms(row, run, queue)
        if last >= after and end_ms is not None and now_ms >= end_ms:
            found += [(low, high, "deleted") for low, high in queue.deleted.within(after, first - 1)]
            found.append((max(first, after), last, "expired"))
            after = last + 1
        first = last + 1
    found += [(low, high, "deleted") for low, high in queue.deleted.within(after, row.last_sequence)]
    if not found or filter.everything:
        return found
    wanted = wanted_of(row, filter)
    return [(low, high, reason) for begin, end, reason in found for low, high in wanted.within(begin, end)]


def wanted_of(row: StoredBatch, filter: Filter) -> Ranges:
    """Returns what a filter wants of a row."""
    selected = filter.select(row.batch)
    first = row.first_sequence
    return Ranges((first + low, first + high) for low, high in selected.present()) if selected else Ranges()
