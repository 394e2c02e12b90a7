"""One WebSocket connection: uvicorn's, with bounds on a client that never reads.

uvicorn notices a client that does not answer its pings, but then waits for it to take what was written; and it answers
pings of the client whether that takes the answers or not.
"""

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from tidings import limits


class WebSocketConnection(WebSocketsSansIOProtocol):
    """The server's side of one connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._write_deadline: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The client does not read: it has a while to begin."""
        super().pause_writing()
        if self._write_deadline is None:
            delay_s = limits.HTTP_WRITE_TIMEOUT_MS / 1000
            self._write_deadline = self.loop.call_later(delay_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._stop_waiting()
        super().resume_writing()

    def handle_ping(self) -> None:
        """Answers pings, unless the client takes no answers: then a later one may do (RFC 6455, section 5.5.3)."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # and is not sent

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends its timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._write_deadline:
            self._write_deadline.cancel()
            self._write_deadline = None
