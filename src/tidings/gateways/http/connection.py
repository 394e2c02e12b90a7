"""One HTTP/1.1 connection: uvicorn's, with bounds on a client that is slow, large or never reads.

Beside uvicorn's own keep-alive time-out:

    head    must be complete within HTTP_HEAD_TIMEOUT_MS of its first byte (or of connecting) and HTTP_HEAD_BYTES_MAX,
            however it is cut into packets, and whatever comes with its end
    body    is bounded by the application, which knows what it is for
    answer  some of it must be taken every HTTP_WRITE_TIMEOUT_MS, or the connection is cut
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tidings import limits

_NO_TEXT: Final = b"content-length: 0\r\nconnection: close\r\n\r\n"


class HttpConnection(HttpToolsProtocol):
    """The server's side of one connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # of what is complete in it
        self._open_bytes = 0  # that came since it began; what it began with may be another one's end
        self._in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Waits for the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends its timers."""
        self._head_ended()
        self._stop_waiting()
        # Whoever reads is told before whoever writes: what was not written must not be taken for written.
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_bytes = self._open_bytes = 0
        self._in_head = True
        if self._deadline is None:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the request's target."""
        if self._takes(len(url)):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header."""
        if self._takes(len(name) + len(value)):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._head_ended()
        if not self.transport.is_closing():
            super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Takes bytes; a head without an end is counted while it comes."""
        self._open_bytes += len(data)
        super().data_received(data)
        if self._in_head:
            self._check(self._open_bytes)

    def shutdown(self) -> None:
        """Ends it once what was asked is answered; a body that is not complete by now is not waited for."""
        cycle = self.cycle
        if cycle is not None and cycle.more_body and not cycle.response_started and not self.pipeline:
            self._give_up(503)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """The client does not read: it has a while to begin."""
        super().pause_writing()
        if self._write_deadline is None:
            delay_s = limits.HTTP_WRITE_TIMEOUT_MS / 1000
            self._write_deadline = self.loop.call_later(delay_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._stop_waiting()
        if self.flow is not None:
            self.flow.resume_writing()

    def _stop_waiting(self) -> None:
        if self._write_deadline:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(limits.HTTP_HEAD_TIMEOUT_MS / 1000, self._give_up, 408)

    def _head_ended(self) -> None:
        self._in_head = False
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _takes(self, size_bytes: int) -> bool:
        self._head_bytes += size_bytes
        return self._check(self._head_bytes)

    def _check(self, head_bytes: int) -> bool:
        if head_bytes <= limits.HTTP_HEAD_BYTES_MAX:
            return True
        if not self.transport.is_closing():
            self._give_up(431)
        return False

    def _give_up(self, status: int) -> None:
        self._head_ended()
        self.transport.write(STATUS_LINE[status] + _NO_TEXT)
        self.transport.close()
