"""How a client reaches a server: dialers, and the link between a transport and the session."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from tidings.errors import InvalidOption


class Dialer(Protocol):
    """Opens connections to one address."""

    @property
    def address(self) -> str:
        """Where it leads, for messages to people."""
        ...

    async def dial(
        self, protocol_factory: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Opens a connection.

        Raises:
            OSError: nobody is there.
            TidingsError: it cannot work, or not now.
        """
        ...

    async def close(self) -> None:
        """Gives back what it holds. May be called twice."""
        ...


class TcpDialer:
    """Dials a server over TCP.

    Args:
        host: name or IP address.
        port: 1 to 65535.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.address = f"tidings://[{host}]:{port}" if ":" in host else f"tidings://{host}:{port}"

    async def dial(
        self, protocol_factory: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Opens a connection. asyncio sets TCP_NODELAY: frames are joined here, per turn of the loop."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_connection(protocol_factory, self._host, self._port)
        except ValueError as error:  # UnicodeError is one
            raise InvalidOption(f"host {self._host!r} of {self.address} is not a name: {error}") from None

    async def close(self) -> None:
        """Does nothing: there is nothing to give back."""


class Owner(Protocol):
    """What a link tells its client."""

    def link_made(self, link: "Link") -> None:
        """The connection is there."""
        ...

    def link_received(self, link: "Link", data: bytes) -> None:
        """Bytes came."""
        ...

    def link_writable(self, link: "Link", *, writable: bool) -> None:
        """The transport takes more, or no more."""
        ...

    def link_lost(self, link: "Link", error: Exception | None) -> None:
        """The connection ended."""
        ...


class Link(asyncio.Protocol):
    """The asyncio side of one connection: passes everything on.

    Args:
        owner: who is told.
        ended: a future that is done once the connection has ended.
    """

    def __init__(self, owner: Owner, ended: "asyncio.Future[None]") -> None:
        self._owner = owner
        self.ended = ended
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self.transport = cast(asyncio.Transport, transport)
        self._owner.link_made(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._owner.link_received(self, data)

    def pause_writing(self) -> None:
        """Called by asyncio when its buffer is full."""
        self._owner.link_writable(self, writable=False)

    def resume_writing(self) -> None:
        """Called by asyncio when its buffer has room again."""
        self._owner.link_writable(self, writable=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio at the end."""
        self._owner.link_lost(self, exc)
        if not self.ended.done():
            self.ended.set_result(None)
