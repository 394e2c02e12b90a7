"""A store that crashes: what was committed survives, what was under way happened as a whole or not at all.

    CrashingStore (one life of a server) ---> Disk (survives)

A commit takes time before and after the moment it becomes durable. A crash in the first part loses it, a crash in
the second keeps it although nobody was told.
"""

import asyncio
import random
from collections.abc import Sequence

import msgspec

from tidings.batch import StoredBatch
from tidings.errors import StoreUnavailable
from tidings.store.memory import MemoryStore
from tidings.store.port import Append, Bounds, Commit, CommitFailed, Damage, OutcomeUnknown, Row


class StoreFaults(msgspec.Struct, frozen=True, kw_only=True):
    """How slow and how unreliable a store is; probabilities are per call."""

    commit_s_max: float = 0.02
    read_s_max: float = 0.02
    commit_fails: float = 0.0
    """Nothing is stored: an I/O error."""
    disk_full: float = 0.0
    """Nothing is stored: there is no space. From 1 on the store also says that none is free."""
    outcome_unknown: float = 0.0
    """Stored or not, and nobody knows."""
    read_fails: float = 0.0
    """An I/O error; also when a record is to tell an unknown outcome."""


class Disk:
    """What survives: a memory store, and for checkers all that ever happened to it."""

    def __init__(self) -> None:
        self.content = MemoryStore()
        self.commits: list[Commit] = []
        """Every transaction that became durable."""
        self.appended: list[Append] = []
        """What these have appended."""
        self.damaged: set[tuple[int, int]] = set()
        """Epoch and first sequence of rows that cannot be read any more."""

    async def commit(self, commit: Commit) -> None:
        """Makes a transaction durable, at once."""
        await self.content.commit(commit)
        self.commits.append(commit)
        self.appended.extend(commit.appends)


class CrashingStore:
    """One life of a store on a disk.

    Args:
        disk: what survives.
        randomness: decides how long calls take, which of them fail, and what becomes of a commit in a crash.
        faults: what may go wrong.
    """

    def __init__(self, disk: Disk, randomness: random.Random, faults: StoreFaults | None = None) -> None:
        self.disk = disk
        self.faults = faults or StoreFaults()
        self.injected: dict[str, int] = {}
        """How often which fault happened."""
        self.committing = False
        """Whether a commit is under way: the moment for a crash."""
        self._randomness = randomness
        self._crashed = False
        self._uncertain = False

    @property
    def durability(self) -> str:
        """As good as its disk."""
        return "disk"

    def crash(self) -> None:
        """Ends this life: nothing that is under way ever returns, nothing more reaches the disk."""
        self._crashed = True

    async def open(self) -> None:
        """Takes a moment."""
        await self._pass(self.faults.read_s_max)

    async def close(self) -> None:
        """Does nothing: there is nothing to close."""

    async def commit(self, commit: Commit) -> None:
        """Makes a transaction durable, some time between call and return.

        Raises:
            CommitFailed, OutcomeUnknown: as the faults say.
        """
        self.committing = True
        try:
            await self._commit(commit)
        finally:
            self.committing = False

    async def _commit(self, commit: Commit) -> None:
        faults, chance = self.faults, self._randomness.random()
        await self._pass(faults.commit_s_max)
        if chance < faults.commit_fails:
            self._count("commit failed, I/O error")
            raise CommitFailed("the simulated disk failed")
        chance -= faults.commit_fails
        if chance < faults.disk_full:
            self._count("commit failed, disk full")
            raise CommitFailed("the simulated disk is full", full=True)
        unknown = self._uncertain = chance - faults.disk_full < faults.outcome_unknown
        if unknown and self._randomness.random() < 0.5:
            self._count("outcome unknown, not stored")
            raise OutcomeUnknown("the simulated disk does not answer")
        await self.disk.commit(commit)
        await self._pass(faults.commit_s_max)
        if unknown:
            self._count("outcome unknown, stored")
            raise OutcomeUnknown("the simulated disk does not answer")

    async def read(self, queue: int, after: int, limit_bytes: int) -> list[StoredBatch | Damage]:
        """Returns rows, as they were some time between call and return."""
        await self._before_read()
        rows = [self._readable(queue, row) for row in await self.disk.content.read(queue, after, limit_bytes)]
        await self._pass(self.faults.read_s_max)
        return rows

    async def survey(self, queue: int, after: int, rows_max: int) -> list[Row]:
        """Returns rows without their bodies."""
        await self._before_read()
        return await self.disk.content.survey(queue, after, rows_max)

    async def locate(self, queue: int, time_ms: int) -> int | None:
        """Returns the first sequence of the first row at or after a time."""
        await self._before_read()
        return await self.disk.content.locate(queue, time_ms)

    async def bounds(self, queues: Sequence[int]) -> dict[int, Bounds]:
        """Returns the bounds of queues."""
        await self._pass(self.faults.read_s_max)
        return await self.disk.content.bounds(queues)

    async def get(self, key: str) -> bytes | None:
        """Returns a record."""
        await (self._before_read() if self._uncertain else self._pass(self.faults.read_s_max))
        return await self.disk.content.get(key)

    async def list(self, prefix: str, after: str = "", limit_bytes: int | None = None) -> list[tuple[str, bytes]]:
        """Returns the records whose keys start with `prefix` and come after `after`."""
        await self._pass(self.faults.read_s_max)
        return await self.disk.content.list(prefix, after, limit_bytes)

    def free_bytes(self) -> int:
        """Returns the free space."""
        return 0 if self.faults.disk_full >= 1 else 1 << 40

    async def _before_read(self) -> None:
        await self._pass(self.faults.read_s_max)
        if self._randomness.random() < self.faults.read_fails:
            self._count("read failed")
            raise StoreUnavailable("the simulated disk failed to read")

    async def _pass(self, longest_s: float) -> None:
        await asyncio.sleep(self._randomness.uniform(0, longest_s))
        if self._crashed:
            await asyncio.get_running_loop().create_future()  # for ever: whoever waited is gone

    def _readable(self, queue: int, row: StoredBatch | Damage) -> StoredBatch | Damage:
        if (queue, row.first_sequence) in self.disk.damaged:
            return Damage(row.first_sequence, row.last_sequence, "damaged")
        return row

    def _count(self, fault: str) -> None:
        self.injected[fault] = self.injected.get(fault, 0) + 1
