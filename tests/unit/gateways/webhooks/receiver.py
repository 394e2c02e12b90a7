"""A receiver of webhooks that answers as it is told to."""

import asyncio
import json
from types import TracebackType
from typing import Any, NamedTuple, Self


class Posted(NamedTuple):
    """One request."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Receiver:
    """Listens on this machine. `answers` are heads of responses, one for each request; afterwards it says 204."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: asyncio.Queue[Posted] = asyncio.Queue()
        self.connections = 0
        self.at_once = 0
        self.at_once_max = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.hang_up()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?shop=1"

    def hang_up(self) -> None:
        """Ends all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.put_nowait(Posted(head[0].split()[1], headers, body))
                self.at_once += 1
                self.at_once_max = max(self.at_once_max, self.at_once)
                await self.gate.wait()
                self.at_once -= 1
                answer = self.answers.pop(0) if self.answers else b"HTTP/1.1 204 No Content\r\n\r\n"
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer or not answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the poster has gone
        finally:
            self._writers.discard(writer)
            writer.close()
