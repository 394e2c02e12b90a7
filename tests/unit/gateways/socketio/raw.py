"""A client of Socket.IO that sends what it is told, over WebSocket, and sees every packet."""

import asyncio
import json
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

DEADLINE_S = 10


class RawClient:
    """One connection over WebSocket; pings are answered by `expect` only, or never.

    Arguments:
        url: of the server.
        answers: whether `receive` answers pings and leaves them out.
        headers: of the handshake.
    """

    def __init__(self, url: str, *, answers: bool = True, headers: dict[str, str] | None = None) -> None:
        self._url = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        self._answers = answers
        self._headers = headers
        self._socket: ClientConnection | None = None

    async def __aenter__(self) -> Self:
        self._socket = await connect(
            self._url, proxy=None, ping_interval=None, additional_headers=self._headers, max_size=None, max_queue=None
        )
        self.handshake = json.loads((await self.receive())[1:])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()

    @property
    def socket(self) -> ClientConnection:
        """The WebSocket."""
        assert self._socket is not None, "not connected"
        return self._socket

    async def send(self, *frames: str | bytes) -> None:
        """Sends frames."""
        for frame in frames:
            await self.socket.send(frame)

    async def receive(self) -> Any:
        """Returns the next frame."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                frame = await self.socket.recv()
                if frame == "2" and self._answers:
                    await self.socket.send("3")
                    continue
                return frame

    async def answer_ping(self) -> None:
        """Answers the next ping, before which nothing else may come."""
        async with asyncio.timeout(DEADLINE_S):
            assert await self.socket.recv() == "2"
        await self.socket.send("3")

    async def enter(self, namespace: str = "/", **auth: object) -> dict[str, Any]:
        """Connects to a namespace; returns what the server said."""
        place = "" if namespace == "/" else f"{namespace},"
        await self.send(f"40{place}{json.dumps(auth)}")
        frame = await self.receive()
        assert frame.startswith((f"40{place}", f"44{place}")), frame
        return dict(json.loads(frame[2 + len(place) :]))

    async def ask(self, namespace: str, *arguments: object) -> Any:
        """Emits an event and returns its answer; nothing else may come before."""
        place = "" if namespace == "/" else f"{namespace},"
        await self.send(f"42{place}1{json.dumps(arguments)}")
        frame = await self.receive()
        assert frame.startswith(f"43{place}1["), frame
        return json.loads(frame[3 + len(place) :])[0]

    async def event(self, namespace: str) -> list[Any]:
        """Returns the next event: its name, its arguments, and last the number that an ack has, or None."""
        place = "" if namespace == "/" else f"{namespace},"
        frame = await self.receive()
        assert frame.startswith(f"42{place}"), frame
        number, bracket, rest = frame[2 + len(place) :].partition("[")
        return [*json.loads(bracket + rest), int(number) if number else None]

    async def closed(self) -> None:
        """Waits until the server has closed it."""
        async with asyncio.timeout(DEADLINE_S):
            await self.socket.wait_closed()
