"""A server with an HTTP door, in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import pytest_asyncio

from tidings.config import parse_address
from tidings.server import Server
from tidings.store.memory import MemoryStore

DEADLINE_S = 10


@asynccontextmanager
async def serving(store: MemoryStore | None = None) -> AsyncIterator[list[str]]:
    """Runs a server, drained at the end; gives its HTTP and its native URL."""
    server = Server(store or MemoryStore(), hosts=["queue.example"], origins=["https://app.example"])
    ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    addresses = [parse_address("http://127.0.0.1:0"), parse_address("tidings://127.0.0.1:0")]
    task = asyncio.create_task(server.run(addresses, ready.set_result))
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    yield ready.result()
    async with asyncio.timeout(DEADLINE_S):
        await server.drain()
        await task


def http_client(url: str) -> httpx.AsyncClient:
    """Returns an HTTP client of a server."""
    return httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False)


@pytest_asyncio.fixture
async def urls() -> AsyncIterator[list[str]]:
    """The HTTP and the native URL of a server that belongs to this test."""
    async with serving() as found:
        yield found


@pytest.fixture
def url(urls: list[str]) -> str:
    """The base URL of its HTTP door."""
    return urls[0]


@pytest.fixture
def native(urls: list[str]) -> str:
    """The URL of its native door."""
    return urls[1]


@pytest_asyncio.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of it."""
    async with http_client(url) as client:
        yield client
