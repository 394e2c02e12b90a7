"""Listening sockets of the native protocol, and the heartbeat of their connections."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from tidings.gateways.native.peer import NativePeer
from tidings.node import Node

_SWEEP_S = 1.0  # how often connections are looked at for heartbeats


class NativeGateway:
    """Accepts native connections for a node. An async context manager: entered, it keeps heartbeats going."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._peers: dict[NativePeer, None] = {}  # not a set: its order would differ from run to run
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def protocol_factory(self) -> Callable[[], NativePeer]:
        """Makes the server's side of a connection."""
        return lambda: NativePeer(self._node, self._peers)

    async def __aenter__(self) -> "NativeGateway":
        self._sweep()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_accepting()
        if self._sweeper:
            self._sweeper.cancel()

    async def listen(self, host: str, port: int) -> str:
        """Accepts connections on an address; port 0 takes a free one. Returns the address as a URL."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self.protocol_factory, host, port, backlog=1024)
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        host = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"tidings://{host}:{bound[1]}"

    def stop_accepting(self) -> None:
        """Closes the listening sockets; open connections stay."""
        for server in self._servers:
            server.close()
        self._servers = []

    def _sweep(self) -> None:
        for peer in list(self._peers):
            peer.tick()
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
