"""A server that does what each test tells it, and a client of it."""

import random
from collections.abc import AsyncIterator

import pytest

import tidings
from tests.unit.client.fake_server import FakeServer


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer().listening() as server:
        yield server


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[tidings.Client]:
    async with tidings.connect(server.url, client_id="me", randomness=random.Random(1)) as client:
        yield client
