"""One connection to a webhook's URL: POST requests, one after another, and nothing that they are answered is obeyed.

1. Addresses are looked up and judged for each connection (`addresses`), and tried one after another; TLS is checked
   against the URL's host.
2. Redirects are not followed: they are answers that are no 2xx.
3. Everything has its time, and of an answer no more is read than WEBHOOK_ANSWER_BYTES_MAX.
4. A connection is used again if the server keeps it. One that turns out to be closed before anything was answered is
   made anew, once; the message may have arrived twice then, under the same id.
"""

import asyncio
import ssl
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

import h11

from tidings import limits
from tidings.gateways.webhooks.addresses import Network, Unreachable, look_up


class Answer(NamedTuple):
    """What a URL answered: the status, how many seconds to wait if it says so, and how its body begins."""

    status: int
    retry_after_s: int | None
    text: str


class _Stale(Exception):
    """A connection that was kept had been closed."""


class Poster:
    """Posts to one URL.

    Args:
        url: http or https, valid.
        networks: addresses that are allowed beside those of the internet.
        timeout_ms: within which a connection is made, or given up.
    """

    def __init__(self, url: str, networks: Sequence[Network], timeout_ms: int) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _trust() if parts.scheme == "https" else None
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._host_header = parts.netloc
        self._networks = networks
        self._timeout_s = timeout_ms / 1000
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._http: h11.Connection | None = None

    async def post(self, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        """Posts a body. Cancelled, or after an error, the connection is closed.

        Raises:
            Unreachable, OSError, h11.ProtocolError: there was no answer.
        """
        is_new = self._http is None
        try:
            try:
                return await self._post(headers, body)
            except (_Stale, ConnectionError):
                if is_new:
                    raise
                self.close()
                return await self._post(headers, body)
        except _Stale:
            self.close()
            raise ConnectionResetError("the connection ended before the answer") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the connection; may be called more than once."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = self._http = None

    async def _post(self, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        http, writer = await self._connect()
        head = h11.Request(
            method="POST",
            target=self._target,
            headers=[("host", self._host_header), ("content-length", str(len(body))), *headers],
        )
        writer.write(
            (http.send(head) or b"") + (http.send(h11.Data(body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
        )
        await writer.drain()
        return await self._answer(http)

    async def _connect(self) -> tuple[h11.Connection, asyncio.StreamWriter]:
        if self._http is None or self._writer is None:
            self._reader, self._writer = await self._open()
            self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.HTTP_HEAD_BYTES_MAX)
        return self._http, self._writer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        addresses = await look_up(self._host, self._port, self._networks)
        failures: list[OSError] = []
        for address in addresses:
            try:
                # Of one that does not answer the others get their share of the time.
                async with asyncio.timeout(self._timeout_s / len(addresses)):
                    return await asyncio.open_connection(
                        address, self._port, ssl=self._tls, server_hostname=self._host if self._tls else None
                    )
            except OSError as error:
                failures.append(error)
        raise failures[0]

    async def _answer(self, http: h11.Connection) -> Answer:
        response: h11.Response | None = None
        text = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                assert self._reader is not None
                data = await self._reader.read(65_536)
                if not data and response is None:
                    raise _Stale
                http.receive_data(data)
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                text += bytes(event.data)
                if len(text) > limits.WEBHOOK_ANSWER_BYTES_MAX:
                    self.close()
                    break
            elif isinstance(event, h11.EndOfMessage):
                self._keep(http)
                break
            elif isinstance(event, h11.ConnectionClosed):
                self.close()
                break
        if response is None:
            raise _Stale
        return Answer(
            response.status_code,
            _retry_after(response),
            text[: limits.FAILURE_TEXT_LENGTH_MAX].decode(errors="replace"),
        )

    def _keep(self, http: h11.Connection) -> None:
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        else:
            self.close()


def _retry_after(response: h11.Response) -> int | None:
    for name, value in response.headers:
        if name == b"retry-after" and value.isdigit():
            return min(int(value), limits.RETRY_DELAY_MS_MAX // 1000)
    return None


@cache
def _trust() -> ssl.SSLContext:
    # Once for all: to read the certificates of the authorities takes 50 ms, in which the server does nothing else.
    return ssl.create_default_context()


__all__ = ["Answer", "Poster", "Unreachable"]
