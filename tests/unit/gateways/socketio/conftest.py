"""A server with a Socket.IO door, in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from tidings.config import parse_address
from tidings.server import Server
from tidings.store.memory import MemoryStore

DEADLINE_S = 10


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    """A server that belongs to this test."""
    server = Server(MemoryStore(), origins=["https://app.example"])
    ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.run([parse_address("http://127.0.0.1:0")], ready.set_result))
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    server.url = ready.result()[0]  # type: ignore[attr-defined]
    yield server
    draining = asyncio.ensure_future(server.drain())  # which has no end if the test has drained it
    async with asyncio.timeout(DEADLINE_S):
        await task
    draining.cancel()


@pytest_asyncio.fixture
async def url(server: Server) -> str:
    """Its base URL."""
    return server.url  # type: ignore[attr-defined, no-any-return]
