"""Every store keeps the contract."""

from pathlib import Path

import pytest

from tidings.store.memory import MemoryStore
from tidings.store.port import Store
from tidings.store.sqlite import SqliteStore
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
