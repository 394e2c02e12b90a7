"""The pytest plugin: a server for each test, in the test's own process, and a client of it.

    async def test_orders_are_announced(tidings_client):
        async with tidings_client.subscribe("orders") as orders:
            await tidings_client.publish("orders", "created", {"id": 7})
            async for message in orders:
                assert message.payload == {"id": 7}
                break

Installed with Tidings; nothing needs to be imported. `tidings_client` wants pytest-asyncio, or another plugin that
runs asynchronous fixtures. Each test has a broker of its own, in memory: what one test publishes no other sees.
"""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

# Nothing of Tidings is imported before it is used: every run of pytest loads this module.
if TYPE_CHECKING:
    from tidings import Client

_asynchronous_fixture: Any = pytest.fixture
try:
    import pytest_asyncio
except ImportError:  # another plugin may run asynchronous fixtures; the URL alone is of use to `tidings.sync`
    pass
else:
    _asynchronous_fixture = pytest_asyncio.fixture


@pytest.fixture
def tidings_server() -> Iterator[str]:
    """The URL of a server that belongs to this test, for `tidings.connect` or `tidings.sync.connect`."""
    url = f"memory:{uuid4().hex}"
    yield url
    from tidings import embedded

    embedded.stop(url)


@_asynchronous_fixture  # type: ignore[untyped-decorator]
async def tidings_client(tidings_server: str) -> "AsyncIterator[Client]":
    """A connected client of `tidings_server`, with the client id "test"."""
    import tidings

    async with tidings.connect(tidings_server, client_id="test") as client:
        yield client
