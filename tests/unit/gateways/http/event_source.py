"""A reader of Server-Sent Events, as the standard says: what EventSource does, in the tests' own loop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

DEADLINE_S = 10


class Event(NamedTuple):
    """One event that was dispatched."""

    type: str
    id: str
    data: Any


class EventSource:
    """Reads one response. `last_event_id` and `retry` are as a browser would have them."""

    def __init__(self, response: httpx.Response, last_event_id: str = "") -> None:
        self.response = response
        self.last_event_id = last_event_id
        self.retry = 0
        self.comments = 0
        self._lines = response.aiter_lines()

    async def next(self) -> Event:
        """Returns the next event; StopAsyncIteration when the stream has ended."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                event = await self._dispatch()
                if event:
                    return event

    async def take(self, count: int) -> list[Event]:
        """Returns the next events."""
        return [await self.next() for _ in range(count)]

    async def opened(self) -> None:
        """Waits for the first block, which has no data."""
        async with asyncio.timeout(DEADLINE_S):
            assert await self._dispatch() is None

    async def _dispatch(self) -> Event | None:
        data: list[str] = []
        name = ""
        while line := await anext(self._lines):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match field:
                case "":
                    self.comments += 1
                case "data":
                    data.append(value)
                case "event":
                    name = value
                case "id":
                    self.last_event_id = value
                case "retry":
                    self.retry = int(value)
        return Event(name or "message", self.last_event_id, json.loads("\n".join(data))) if data else None


@asynccontextmanager
async def event_source(
    http: httpx.AsyncClient, path: str, last_event_id: str | None = None
) -> AsyncIterator[EventSource]:
    """Opens a stream, which must be answered with 200, and waits until it has begun."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with http.stream("GET", path, headers=headers) as response:
        if response.status_code != 200:
            raise AssertionError((await response.aread()).decode())
        assert response.headers["content-type"].startswith("text/event-stream")
        source = EventSource(response, last_event_id or "")
        await source.opened()
        yield source
