"""Recent ids: which message ids a queue has seen lately, so that a message published twice is stored once.

An id counts from when its message gets its sequence. The ids of one round have one record, a page, which is
written in the transaction that stores their messages; a page is forgotten as a whole once its window has passed.
"""

from __future__ import annotations

from typing import NamedTuple

from tidings import limits
from tidings.batch import Batch, decode_items
from tidings.model import Flags


class IdPage(NamedTuple):
    """The ids that one round brought, with their sequences."""

    key: str
    time_ms: int
    ids: dict[str, int]


class RecentIds:
    """The ids of one queue."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._pages: list[IdPage] = []  # a deque takes 760 bytes when empty, and there are many queues
        self._sequences: dict[str, int] = {}
        self._placing: IdPage | None = None

    def sift(self, batch: Batch, sequence: int, now_ms: int) -> tuple[Batch | None, list[tuple[int, int]]]:
        """Takes messages that were published before out of a batch whose first message would get `sequence`.

        Returns what is left of it, None if nothing is, and (place in the batch, sequence) of what was taken out.
        """
        if self._placing is None:
            self._placing = IdPage(f"ids/{self._epoch}/{sequence}", now_ms, {})
        placing, known = self._placing.ids, self._sequences
        fresh: list[tuple[int, int]] = []
        duplicates: list[tuple[int, int]] = []
        place = offset = 0
        for run in batch.runs:
            if run.flags & Flags.IDS:
                items = decode_items(run.count, run.flags, batch.body[offset : offset + run.size])
                for at, (_, id, _, _) in enumerate(items, place):
                    before = None if id is None else known.get(id) or placing.get(id)
                    if before is not None:
                        duplicates.append((at, before))
                        continue
                    if id is not None:
                        placing[id] = sequence
                    sequence += 1
                    _extend(fresh, at, at)
            else:
                sequence += run.count
                _extend(fresh, place, place + run.count - 1)
            place += run.count
            offset += run.size
        if not duplicates:
            return batch, duplicates
        kept = batch.keep(fresh)
        return kept and Batch([run for run in kept.runs if run.event is not None], kept.body), duplicates

    def page_to_write(self) -> IdPage | None:
        """Returns the page of the round that is being placed; None if it brought no id that is new."""
        if self._placing and not self._placing.ids:
            self._placing = None
        return self._placing

    def round_ended(self, *, stored: bool) -> None:
        """Keeps the ids of the round that was placed, or forgets them as its messages were."""
        placed, self._placing = self._placing, None
        if stored and placed:
            self.add(placed)

    def add(self, page: IdPage) -> None:
        """Takes on a page that is stored."""
        self._pages.append(page)
        self._sequences.update(page.ids)

    def expired(self, now_ms: int) -> list[str]:
        """Forgets what is older than the window, or too much; returns the keys of the records that go with it."""
        keys: list[str] = []
        for page in self._pages:
            if page.time_ms > now_ms - limits.ID_WINDOW_MS and len(self._sequences) <= limits.IDS_PER_QUEUE_MAX:
                break
            keys.append(page.key)
            for id, sequence in page.ids.items():
                if self._sequences.get(id) == sequence:
                    del self._sequences[id]
        del self._pages[: len(keys)]
        return keys

    def record_keys(self) -> list[str]:
        """Returns the keys of all its records."""
        return [page.key for page in self._pages]


def _extend(ranges: list[tuple[int, int]], first: int, last: int) -> None:
    if ranges and ranges[-1][1] == first - 1:
        ranges[-1] = (ranges[-1][0], last)
    else:
        ranges.append((first, last))
