"""What the handlers of the HTTP door share: the node, the conversation in which all of them ask, and who pulls."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from tidings.gateways.http.pullers import Pullers
from tidings.gateways.messages import message_entry
from tidings.gateways.spellings import Spellings
from tidings.node import Conversation, Histogram, Node, open_conversation

if TYPE_CHECKING:
    from tidings.gateways.http.event_streams import EventStream

PROTOCOL: Final = "http"
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_Reader: TypeAlias = tuple[str | None, str]
"""A client id, None for anonymous clients, and the name of a subscription."""


class Door:
    """Made once for each gateway.

    Args:
        node: the node behind it.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pullers = Pullers(node, PROTOCOL)
        self.spellings = Spellings(lambda delivery, _: msgspec.json.encode(message_entry(delivery)))
        """Messages as JSON shows them."""
        self._streams: dict[_Reader, dict[EventStream, None]] = {}
        self._clerk: Conversation | None = None
        self._opening = asyncio.Lock()
        self.connections: Collection[object] = ()
        """The connections of the HTTP door, as its gateway keeps them."""
        self.answered: dict[tuple[str, int], int] = {}
        """Requests by method and status."""
        self.seconds: dict[str, Histogram] = {}
        """How long they took, by method."""

    async def clerk(self) -> Conversation:
        """Returns the anonymous conversation for requests that end with their answer: publishing, looking, changing."""
        clerk = self._clerk
        if clerk is not None and clerk.error is None:
            return clerk
        async with self._opening:
            if self._clerk is None or self._clerk.error is not None:
                self._clerk = await self._open(None)
            return self._clerk

    def streams(self, reader: _Reader) -> "list[EventStream]":
        """Returns the streams over which a reader is delivered what it acks by requests, the latest last."""
        return list(self._streams.get(reader, ()))

    def add_stream(self, reader: _Reader, stream: "EventStream") -> None:
        """Lets a stream be found."""
        self._streams.setdefault(reader, {})[stream] = None

    def remove_stream(self, reader: _Reader, stream: "EventStream") -> None:
        """Forgets a stream that has ended; may be called more than once."""
        streams = self._streams.get(reader, {})
        streams.pop(stream, None)
        if not streams:
            self._streams.pop(reader, None)

    @asynccontextmanager
    async def acting_as(self, client_id: str | None) -> AsyncIterator[Conversation]:
        """Gives a conversation of a client for the time of a request.

        Raises:
            ClientIdInUse: it is connected, and not over HTTP.
        """
        held = await self.clerk() if client_id is None else self.pullers.conversation(client_id)
        if held is not None:
            yield held
            return
        own = await self._open(client_id)
        try:
            yield own
        finally:
            own.close()

    def note(self, method: str, status: int, seconds: float) -> None:
        """Takes note of a request that was answered."""
        if method not in METHODS:
            method = "other"  # a client may call it anything, and each name would be kept
        self.answered[method, status] = self.answered.get((method, status), 0) + 1
        self.seconds.setdefault(method, Histogram()).observe(seconds)

    def close(self) -> None:
        """Ends what it holds."""
        self.pullers.close()
        if self._clerk:
            self._clerk.close()

    async def _open(self, client_id: str | None) -> Conversation:
        return await open_conversation(self.node, client_id=client_id, protocol=PROTOCOL, address="the HTTP door")
