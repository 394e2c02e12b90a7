"""What the handlers of the HTTP door share: the node, and the conversation in which all of them publish and ask."""

import asyncio
from typing import Final

from tidings.node import Conversation, Node, open_conversation

PROTOCOL: Final = "http"


class Door:
    """Made once for each gateway.

    Args:
        node: the node behind it.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._clerk: Conversation | None = None
        self._opening = asyncio.Lock()

    async def clerk(self) -> Conversation:
        """Returns the anonymous conversation for requests that end with their answer: publishing, looking, changing."""
        clerk = self._clerk
        if clerk is not None and clerk.error is None:
            return clerk
        async with self._opening:
            if self._clerk is None or self._clerk.error is not None:
                self._clerk = await open_conversation(
                    self.node, client_id=None, protocol=PROTOCOL, address="the HTTP door"
                )
            return self._clerk

    def close(self) -> None:
        """Ends what it holds."""
        if self._clerk:
            self._clerk.close()
