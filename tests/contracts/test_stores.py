"""Every store keeps the contract."""

import random
from pathlib import Path

import pytest

from tidings.store.memory import MemoryStore
from tidings.store.port import Store
from tidings.store.sqlite import SqliteStore
from tidings.testing.crashing_store import CrashingStore, Disk, StoreFaults
from tidings.testing.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    async def make_store(self) -> Store:
        return MemoryStore()


class TestSqliteStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path
        self.made = 0

    async def make_store(self) -> Store:
        self.made += 1
        return SqliteStore(self.directory / f"events{self.made}.db")

    async def reopen(self, store: Store) -> Store:
        assert isinstance(store, SqliteStore)
        await store.close()
        again = SqliteStore(store.path)
        await again.open()
        return again


class TestCrashingStore(StoreContract):
    """The simulator's store, while nothing goes wrong."""

    async def make_store(self) -> Store:
        return self._on(Disk())

    async def reopen(self, store: Store) -> Store:
        assert isinstance(store, CrashingStore)
        await store.close()
        again = self._on(store.disk)
        await again.open()
        return again

    def _on(self, disk: Disk) -> CrashingStore:
        return CrashingStore(disk, random.Random(1), StoreFaults(commit_s_max=0, read_s_max=0))
