"""A connection that may say anything: frames of the protocol, in any order, and any bytes."""

import asyncio
from itertools import count
from types import TracebackType
from typing import TypeVar

from tidings import limits
from tidings.batch import encode_item
from tidings.model import BYTES, Run
from tidings.wire import Frame, Goodbye, Heartbeat, Hello, Publish, Refusal, Welcome
from tidings.wire.codec import Reader, encode
from tidings.wire.frames import SERVER_KINDS, VERSION

_F = TypeVar("_F", bound=Frame)
_DEADLINE_S = 30.0
_numbers = count(1)


class RawConnection:
    """The client's end of a connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._frames = Reader(SERVER_KINDS, limits.DELIVERY_BODY_SIZE_BYTES_MAX)
        self._received: list[Frame] = []

    async def __aenter__(self) -> "RawConnection":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    async def greet(self, client_id: str | None = None, *, token: str = "", take_over: bool = False) -> Welcome:
        """Sends a Hello, as a client process of its own, and returns the Welcome."""
        self.send(Hello(VERSION, client_id, f"raw-{next(_numbers)}", token, take_over))
        return await self.receive(Welcome)

    def send(self, frame: Frame, body: bytes = b"") -> None:
        """Sends a frame with a body."""
        self.send_bytes(encode(frame, len(body)) + body)

    def send_bytes(self, data: bytes) -> None:
        """Sends bytes, whatever they are."""
        self.writer.write(data)

    async def receive(self, kind: type[_F]) -> _F:
        """Returns the next frame, which must be of this kind; heartbeats are skipped."""
        frame = await self.next()
        assert isinstance(frame, kind), f"expected a {kind.__name__}, came {frame}"
        return frame

    async def next(self) -> Frame | None:
        """Returns the next frame that is not a heartbeat; None at the end of the connection."""
        async with asyncio.timeout(_DEADLINE_S):
            while True:
                while self._received:
                    frame = self._received.pop(0)
                    if not isinstance(frame, Heartbeat):
                        return frame
                try:
                    data = await self.reader.read(65_536)
                except ConnectionResetError:
                    data = b""  # the server closed with bytes of ours unread
                if not data:
                    return None
                self._received += [received.frame for received in self._frames.receive_data(data)]

    async def refused(self, code: str) -> Refusal:
        """Returns the refusal that comes next, which must have this code and a text."""
        refusal = await self.receive(Refusal)
        assert refusal.code == code, refusal
        assert refusal.text
        return refusal

    async def closed(self, code: str) -> Goodbye:
        """Returns the farewell that comes next, with this code and a text, and after which nothing comes."""
        goodbye = await self.receive(Goodbye)
        assert goodbye.code == code, goodbye
        assert goodbye.text
        assert await self.next() is None
        return goodbye


def publish_frame(number: int, queue: str, *payloads: bytes, event: str = "made") -> tuple[Publish, bytes]:
    """Returns a valid publish with its body."""
    body = b"".join(encode_item(payload, None, None, None) for payload in payloads)
    return Publish(number, 0, queue, [Run(event, len(payloads), len(body), BYTES)]), body
