"""One HTTP/1.1 connection: uvicorn's, with bounds on a client that is slow, large or never reads.

An upgrade to anything but WebSocket is ignored (RFC 9110, section 7.8): Java's HttpClient offers one to HTTP/2 with
each request. The parser stops there, before the body, so another one begins again with a head that does not offer it.

Beside uvicorn's own keep-alive time-out:

    head    must be complete within HTTP_HEAD_TIMEOUT_MS of its first byte (or of connecting) and HTTP_HEAD_BYTES_MAX,
            however it is cut into packets, and whatever comes with its end
    body    is bounded by the application, which knows what it is for
    answer  some of it must be taken every HTTP_WRITE_TIMEOUT_MS, or the connection is cut
"""

import asyncio
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
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
        self._ignores_upgrade = False

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
        is_offered = self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers)
        self._ignores_upgrade = is_offered and not self._should_upgrade()
        if not self.transport.is_closing() and not self._ignores_upgrade:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is complete, if it was looked for."""
        if not self._ignores_upgrade:
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Takes bytes; a head without an end is counted while it comes."""
        self._open_bytes += len(data)
        self._unset_keepalive_if_required()
        rest: bytes | None = data
        while rest is not None:
            rest = self._feed(rest)
        if self._in_head:
            self._check(self._open_bytes)

    def _feed(self, data: bytes) -> bytes | None:
        """Lets the parser take bytes; returns those that another one is to begin with."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as stopped:
            if self._ignores_upgrade:
                return self._head_again() + data[stopped.args[0] :]
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        return None

    def _head_again(self) -> bytes:
        """Returns the head without the upgrade that it offers, for a parser that knows nothing of it."""
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        return b"".join([line, *fields, b"\r\n"])

    def _should_upgrade(self) -> bool:
        # Any other method is none that a WebSocket begins with (RFC 6455, section 4.1).
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

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
