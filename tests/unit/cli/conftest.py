"""Every test of a verb has a client that reaches no server."""

import pytest

import tidings
from tests.unit.cli.fakes import FakeClient


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(tidings, "connect", fake.connect, raising=False)
    monkeypatch.delenv("TIDINGS_SERVER", raising=False)
    return fake
