"""Keys: messages of one key go to the members of a shared subscription one after another, in order.

1. The first unsettled message of a key is its *head*: in flight, or due, or waiting for its retry. Until the head is
   settled the others of its key wait, whoever has room; then the next one is the head.
2. A head that becomes a dead letter is settled, and frees its key.
3. Messages are looked at in the order of their sequences: before the head of a key is known, none that follows is.
   After a restart only the heads that wait for a retry are known, since those are passed over; that is recorded.
4. How many wait is bounded together with what waits for a retry (`PARKED_MAX`); then reading stops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from tidings import limits
from tidings.batch import StoredBatch
from tidings.model import Flags

_ROWS_MAX = 4  # whose keys are kept: those of a page or two


class Admission(NamedTuple):
    """What of a row is to be delivered now, what waits for its key, and what is to be looked at later."""

    ready: list[tuple[int, int]]
    waiting: list[int]
    rest: list[tuple[int, int]]


class Keys:
    """Which keys of a queue have unsettled messages that were looked at, and which messages wait for which."""

    __slots__ = ("_followers", "_fresh", "_heads", "_of", "_rows", "stopped_at")

    def __init__(self) -> None:
        self._of: dict[int, str] = {}  # of every message that was looked at and is not settled
        self._heads: dict[str, int] = {}
        self._followers: dict[str, deque[int]] = {}  # only of keys for which some wait
        self._fresh: set[int] = set()  # heads that have followed, and were not delivered yet
        # Of the rows looked at last, by their first sequences: they are read again as long as there are followers.
        self._rows: dict[int, list[str | None]] = {}
        self.stopped_at: int | None = None
        """Which message could not even wait, since too many did; None once something was settled."""

    @property
    def waiting(self) -> int:
        """How many messages wait for their key."""
        return len(self._of) - len(self._heads)

    def begin(self, heads: dict[int, str]) -> None:
        """Takes on what was recorded: the keys of messages that wait for a retry."""
        self._of.update(heads)
        self._heads.update((key, sequence) for sequence, key in heads.items())

    def all(self) -> dict[int, str]:
        """Returns the key of every message that was looked at and is not settled."""
        return self._of

    def of(self, sequences: Iterable[int]) -> dict[int, str]:
        """Returns the keys of those of the messages that have one."""
        return {sequence: self._of[sequence] for sequence in sequences if sequence in self._of}

    def admit(self, row: StoredBatch, wanted: list[tuple[int, int]], room: int, parked: int) -> Admission:
        """Lets messages of a row through whose key is free, up to `room`; `parked` wait already, for whatever."""
        keys: list[str | None] | None = None  # found once one is not known yet
        of, heads, first_sequence = self._of, self._heads, row.first_sequence
        ready: list[tuple[int, int]] = []
        waiting: list[int] = []
        begin = 0  # of the range that grows
        for place, (first, last) in enumerate(wanted):
            begin = first
            for sequence in range(first, last + 1):
                key = of.get(sequence)
                if key is None:
                    if keys is None:
                        keys = self._keys_in(row)
                    key = keys[sequence - first_sequence]
                head = sequence if key is None else heads.get(key, 0)
                if (head == sequence or not head) and room > 0:
                    room -= 1
                    if key is not None and not head:
                        heads[key] = sequence
                        of[sequence] = key
                    continue
                if begin < sequence:
                    ready.append((begin, sequence - 1))
                begin = sequence + 1
                if key is None or head in (0, sequence) or parked >= limits.PARKED_MAX:
                    if room > 0:
                        self.stopped_at = sequence
                    return Admission(ready, waiting, [(sequence, last), *wanted[place + 1 :]])
                parked += 1
                waiting.append(sequence)
                of[sequence] = key
                self._followers.setdefault(key, deque()).append(sequence)
            if begin <= last:
                ready.append((begin, last))
        return Admission(ready, waiting, [])

    def _keys_in(self, row: StoredBatch) -> list[str | None]:
        found = self._rows.pop(row.first_sequence, None)
        if found is None or len(found) < row.batch.count:
            found = row.batch.keys()
        self._rows[row.first_sequence] = found
        if len(self._rows) > _ROWS_MAX:
            del self._rows[next(iter(self._rows))]
        return found

    def delivered(self, first: int, last: int) -> int:
        """Returns how many of a range are delivered for the first time, though they were looked at before."""
        if not self._fresh:
            return 0
        fresh = self._fresh
        if last - first < len(fresh):
            found = [sequence for sequence in range(first, last + 1) if sequence in fresh]
        else:
            found = [sequence for sequence in fresh if first <= sequence <= last]
        self._fresh.difference_update(found)
        return len(found)

    def settled(self, first: int, last: int) -> list[int]:
        """Forgets what was settled of a range; returns which messages are heads now in place of others."""
        self.stopped_at = None
        of, heads = self._of, self._heads
        sequences = range(first, last + 1) if last - first < len(of) else sorted(s for s in of if first <= s <= last)
        freed: list[int] = []
        for sequence in sequences:
            key = of.pop(sequence, None)
            if key is None:
                continue
            followers = self._followers.get(key)
            if followers is None:
                del heads[key]
                continue
            if heads[key] == sequence:
                heads[key] = followers.popleft()
                freed.append(heads[key])
            else:
                followers.remove(sequence)
            if not followers:
                del self._followers[key]
        if not of:
            self._rows.clear()
        if freed:
            self._fresh.update(freed)
        if self._fresh:
            self.delivered(first, last)
        return freed


def has_keys(row: StoredBatch) -> bool:
    """Whether messages of a row may have keys."""
    return any(run.flags & Flags.KEYS for run in row.batch.runs)
