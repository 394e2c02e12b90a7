"""`tidings` with a disk that takes 40 MB/s: each commit waits for as long as its bytes would take."""

import asyncio

import tidings.server
from tidings.cli.main import run
from tidings.store.memory import MemoryStore
from tidings.store.port import Commit, Store
from tidings.store.sqlite import SqliteStore

BYTES_PER_S = 40_000_000


class SlowStore(SqliteStore):
    """A store on a slow disk."""

    async def commit(self, commit: Commit) -> None:
        """Takes its time."""
        await asyncio.sleep(sum(len(append.stored.batch.body) for append in commit.appends) / BYTES_PER_S)
        await super().commit(commit)


def _make_store(path: str | None) -> Store:
    return MemoryStore() if path is None else SlowStore(path)


if __name__ == "__main__":
    tidings.server.make_store = _make_store
    raise SystemExit(run())
