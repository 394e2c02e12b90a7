"""Listening sockets for HTTP, and what they lead to: the doorkeeper, our application, and others on the same port."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final

import uvicorn
from litestar.types import ASGIApp
from uvicorn.server import ServerState

from tidings import limits
from tidings.gateways.http.application import make_application
from tidings.gateways.http.connection import HttpConnection
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import Doorkeeper
from tidings.gateways.http.websocket import WebSocketDoor
from tidings.gateways.http.websocket_connection import WebSocketConnection
from tidings.node import Node

_log: Final = logging.getLogger("tidings.gateways.http")
_STEP_S: Final = 0.02  # how often it is looked whether all requests are answered


class HttpGateway:
    """Accepts HTTP for a node. An async context manager: left, it ends its connections.

    Args:
        node: the node behind it.
        mounts: other ASGI applications on the same port, by the beginning of their paths ("/socket.io").
        hosts: names, beside addresses and localhost, under which clients may reach it.
        origins: origins whose pages may use it, beside its own.
    """

    def __init__(
        self,
        node: Node,
        *,
        mounts: Mapping[str, ASGIApp] | None = None,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
    ) -> None:
        self.door = Door(node)
        mounts = {"/ws": WebSocketDoor(self.door), **(mounts or {})}
        self._doorkeeper = Doorkeeper(make_application(self.door), mounts=mounts, hosts=hosts, origins=origins)
        self._state = ServerState()
        self.door.connections = self._state.connections
        self._config = uvicorn.Config(
            self._doorkeeper,
            http=HttpConnection,
            ws=WebSocketConnection,
            ws_max_size=limits.WEBSOCKET_FRAME_BYTES_MAX,
            ws_per_message_deflate=False,  # it takes 300 KiB a connection
            ws_ping_interval=limits.HEARTBEAT_MS / 1000,
            ws_ping_timeout=limits.HEARTBEAT_MS * (limits.HEARTBEATS_MISSED_MAX - 1) / 1000,
            lifespan="off",
            log_config=None,
            log_level="warning",  # it would tell of each WebSocket
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whoever connects from this machine could claim any address
            timeout_keep_alive=limits.HTTP_IDLE_TIMEOUT_MS // 1000,
        )
        self._config.load()
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> "HttpGateway":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_accepting()
        self.door.close()
        await self._end_connections()

    async def listen(self, host: str, port: int) -> str:
        """Accepts connections on an address; port 0 takes a free one. Returns the address as a URL."""
        server = await asyncio.get_running_loop().create_server(self._connect, host, port, backlog=1024)
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        host = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{host}:{bound[1]}"

    def stop_accepting(self) -> None:
        """Closes the listening sockets and refuses new requests; those under way go on."""
        self._doorkeeper.draining = True
        for server in self._servers:
            server.close()
        self._servers = []

    def _connect(self) -> asyncio.Protocol:
        return HttpConnection(config=self._config, server_state=self._state, app_state={})

    async def _end_connections(self) -> None:
        """Lets answers be written that are under way, then cuts who is left."""
        state = self._state
        for connection in list(state.connections):
            connection.shutdown()
        deadline_s = asyncio.get_running_loop().time() + limits.HTTP_DRAIN_TIMEOUT_MS / 1000
        # uvicorn tells of an end only by taking it out of these sets.
        while (state.connections or state.tasks) and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(_STEP_S)  # uvicorn tells of an end by taking it out of these sets
        for connection in list(state.connections):
            transport: Any = connection.transport
            if transport is not None:
                _log.info("cutting a connection that does not end")
                transport.abort()
        # They are told that their client is gone; who does not end by it is cancelled, so that none outlives the loop.
        tasks = list(state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_STEP_S)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
