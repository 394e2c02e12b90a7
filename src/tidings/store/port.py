"""The store port: one atomic write, a few reads.

A store keeps two things: the batches of queues, by epoch and sequence, and records, small documents by key.
Queues are known here by their epoch (an integer that is never used again), not by name. One node at a time has
a store open. All methods are awaited, since an engine may be elsewhere; calls of one method do not overlap
for `commit`, and reads may run beside a commit: they see all of it or nothing.

`tidings.testing.store_contract` states what every store must keep, as tests.
"""

from collections.abc import Awaitable, Sequence
from typing import Protocol

from tidings.batch import StoredBatch
from tidings.errors import TidingsError
from tidings.transaction import Append, Bounds, Commit, Damage, Row, Trim

__all__ = [
    "Append",
    "Backup",
    "Bounds",
    "Commit",
    "CommitFailed",
    "Damage",
    "Disk",
    "OutcomeUnknown",
    "Row",
    "Store",
    "Trim",
]


class CommitFailed(TidingsError):
    """A commit was not stored, no part of it. `full` says that there was no space for it."""

    code = "store_unavailable"
    retryable = True

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full


class OutcomeUnknown(TidingsError):
    """Whether a commit was stored is not known; the records read next tell."""

    code = "store_unavailable"
    retryable = True


class Store(Protocol):
    """What a node needs from an engine."""

    @property
    def durability(self) -> str:
        """The level that a commit reaches: "memory", "disk" or "quorum"."""
        ...

    async def open(self) -> None:
        """Opens the store, creating it if it does not exist. Fast, whatever it holds.

        Raises:
            StoreUnusable: it is not ours, from a newer version, locked or damaged; nothing was changed.
        """
        ...

    async def close(self) -> None:
        """Closes the store; committed work stays. May be called twice."""
        ...

    def commit(self, commit: Commit) -> Awaitable[None]:
        """Makes a transaction durable; done only then. May begin when it is called, or when it is awaited.

        Appends to one queue must continue it without a gap: the store refuses others with AssertionError.
        If the caller is cancelled, the commit still happens or not as a whole.

        Raises:
            CommitFailed: nothing was stored.
            OutcomeUnknown: it may or may not have been stored.
        """
        ...

    async def read(self, queue: int, after: int, limit_bytes: int) -> list[StoredBatch | Damage]:
        """Returns rows that hold sequences above `after`, in order, about `limit_bytes` of them.

        The first row is returned whatever its size and may begin at or before `after`. Empty at the end.
        """
        ...

    async def survey(self, queue: int, after: int, rows_max: int) -> list[Row]:
        """Returns at most `rows_max` rows that hold sequences above `after`, in order, without bodies."""
        ...

    async def locate(self, queue: int, time_ms: int) -> int | None:
        """Returns the first sequence of the first row taken at or after `time_ms`; None if there is none."""
        ...

    async def bounds(self, queues: Sequence[int]) -> dict[int, Bounds]:
        """Returns the bounds of those of `queues` that hold rows."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Returns a record."""
        ...

    async def list(self, prefix: str, after: str = "", limit_bytes: int | None = None) -> list[tuple[str, bytes]]:
        """Returns the records whose keys start with `prefix` and come after `after`, in the order of their keys.

        With a limit, about that many bytes of them, and one at least if there is one.
        """
        ...


class Disk(Protocol):
    """An ability of stores that live on a disk which can fill up."""

    def free_bytes(self) -> int:
        """Returns the free space where the store lives."""
        ...


class Backup(Protocol):
    """An ability of stores that can copy themselves while they are open."""

    async def backup(self, path: str) -> int:
        """Writes a consistent copy to a new file and returns its size in bytes.

        Raises:
            InvalidOption: the file exists or cannot be written.
        """
        ...
