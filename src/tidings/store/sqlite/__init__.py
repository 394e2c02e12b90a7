"""The SQLite store: one file, durable on return."""

from tidings.store.sqlite.check import CheckResult, check
from tidings.store.sqlite.store import SqliteStore

__all__ = ["CheckResult", "SqliteStore", "check"]
