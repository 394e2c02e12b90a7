"""A server for programs that nobody here wrote."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.integration.processes import Server


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server with the web doors, in a process of its own."""
    with Server(tmp_path, http=True) as server:
        yield server
