"""A server inside the test's process, for what takes hours on a real clock or gigabytes with real limits."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tidings.broker.inputs import Tick
from tidings.config import Address
from tidings.server import Server, make_store


class MovableClock:
    """The wall clock, and as much later as a test says."""

    def __init__(self) -> None:
        self._ahead_ms = 0
        self.server: Server | None = None

    def now_ms(self) -> int:
        """Returns UTC in milliseconds since 1970."""
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def advance(self, *, hours: float) -> None:
        """Lets time pass, and the server notice."""
        self._ahead_ms += int(hours * 3_600_000)
        if self.server is not None:
            self.server.node.submit(Tick())


@asynccontextmanager
async def server_in_process(data_file: Path, clock: MovableClock | None = None) -> AsyncIterator[str]:
    """Runs a server on a data file; yields its URL and drains it at the end."""
    server = Server(make_store(str(data_file)), clock)
    if clock is not None:
        clock.server = server
    ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run([Address("127.0.0.1", 0)], ready.set_result))
        [url] = await ready
        try:
            yield url
        finally:
            await server.drain()
