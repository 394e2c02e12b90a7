"""A network in memory: connections that delay, split and lose what is sent over them.

    client's protocol <--> Transport <== two directions ==> Transport <--> server's protocol

Bytes keep their order within a connection. Each chunk is cut at a random place and takes a random time; a receiver
that does not read lets the sender's buffer fill, as TCP does. A cut connection loses what is on its way; each end
notices after a time of its own, or never, and then has heartbeats to find out. A connection may also be half open
(one end hears nothing any more), frozen for a while, or stranded: its client has given it up and connects anew, and
what was on its way arrives at the server beside what comes over the new one.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

_WIRE_BYTES_MAX: Final = 64 * 1024
"""Bytes on their way or unread by the receiver, in one direction; TCP's window."""

_WRITE_BUFFER_BYTES_MAX: Final = 64 * 1024
"""asyncio's default high-water mark."""


_APART_S: Final = 1e-7
"""Least time between the arrivals of two chunks."""


class NetworkFaults(msgspec.Struct, frozen=True, kw_only=True):
    """How slow a network is, and how small the pieces are that it cuts messages into."""

    delay_s_max: float = 0.02
    chunk_bytes_max: int = 32 * 1024
    notice_s_max: float = 2.0
    """Time until an end notices that the connection was cut, if it notices."""


class Network:
    """One server and everybody who dials it.

    Args:
        randomness: decides delays and chunks.
        faults: how slow it is.
    """

    def __init__(self, randomness: random.Random, faults: NetworkFaults | None = None) -> None:
        self.randomness = randomness
        self.faults = faults or NetworkFaults()
        self.connections: list[SimulatedConnection] = []
        """The connections that at least one end believes in."""
        self._accept: Callable[[], asyncio.Protocol] | None = None
        self._dialled = 0
        self._stranded: dict[str, list[tuple[SimulatedConnection, int]]] = {}

    def listen(self, protocol_factory: Callable[[], asyncio.Protocol]) -> None:
        """Lets dialers in from now on."""
        self._accept = protocol_factory

    def stop_listening(self) -> None:
        """Refuses dialers from now on; open connections stay."""
        self._accept = None

    def kill_server(self) -> None:
        """The server's process is gone: its ends of all connections fall silent; clients notice, or not."""
        self.stop_listening()
        for connection in list(self.connections):
            connection.kill(connection.server)

    async def connect(
        self, name: str, protocol_factory: Callable[[], asyncio.Protocol]
    ) -> tuple["Transport", asyncio.Protocol]:
        """Opens a connection.

        Raises:
            ConnectionRefusedError: nobody listens.
        """
        await asyncio.sleep(self.delay_s())
        if self._accept is None:
            raise ConnectionRefusedError(f"connection of {name} refused: nobody listens")
        self._dialled += 1
        connection = SimulatedConnection(self, protocol_factory(), self._accept(), name, self._dialled)
        self.connections.append(connection)
        connection.open()
        return connection.client, connection.client.get_protocol()

    def _heard(self, connection: "SimulatedConnection") -> None:
        # The server has read a chunk: what is stranded of the same client may arrive now.
        waiting = self._stranded.get(connection.name)
        if waiting:
            counted = [(old, chunks - (old is not connection)) for old, chunks in waiting]
            self._stranded[connection.name] = [item for item in counted if item[1] > 0]
            for old, chunks in counted:
                if chunks <= 0:
                    old.arrive_late()

    def delay_s(self) -> float:
        """Returns how long the next chunk takes: mostly little, sometimes all of it."""
        return self.faults.delay_s_max * self.randomness.random() ** 3


class SimulatedDialer:
    """Dials the network's server, as `tidings.client.transport.Dialer` wants it.

    Args:
        network: where.
        name: whose it is, which becomes the address that the server sees.
    """

    def __init__(self, network: Network, name: str) -> None:
        self.address = f"simulated://{name}"
        self._network = network
        self._name = name
        self.transports: list[Transport] = []
        """The process's ends of its connections, the latest one last."""
        self._dead = False

    async def dial(
        self, protocol_factory: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Opens a connection.

        Raises:
            OSError: nobody is there.
        """
        if self._dead:
            raise ConnectionRefusedError("this process is gone")
        transport, protocol = await self._network.connect(self._name, protocol_factory)
        self.transports = [open for open in self.transports if not open.is_closing()] + [transport]
        return transport, protocol

    async def close(self) -> None:
        """Does nothing: there is nothing to give back."""

    def kill(self) -> None:
        """The dialing process is gone: nothing it says is heard any more; the server notices, or not."""
        self._dead = True
        for transport in self.transports:
            transport.connection.kill(transport)


class SimulatedConnection:
    """Two transports and what is between them."""

    def __init__(
        self, network: Network, client: asyncio.Protocol, server: asyncio.Protocol, name: str, number: int
    ) -> None:
        self.network = network
        self.name = name
        self.is_cut = False
        self.late_bytes = 0
        """What has arrived at the server after the client had given up."""
        self.client = Transport(self, client, ("server", 7433))
        self.server = Transport(self, server, (name, number))
        self.client.other, self.server.other = self.server, self.client

    def open(self) -> None:
        """Tells both ends."""
        self.server.get_protocol().connection_made(self.server)
        self.client.get_protocol().connection_made(self.client)

    def cut(self, *, client_notices: bool = True, server_notices: bool = True) -> None:
        """Loses all that is on its way and ever will be; an end that does not notice has its heartbeats."""
        self.is_cut = True
        for transport, notices in ((self.client, client_notices), (self.server, server_notices)):
            if notices:
                self._notice(transport)

    def kill(self, end: "Transport") -> None:
        """The process at one end is gone. The other notices most of the time: its kernel may be gone, too."""
        end.die()
        if self.network.randomness.random() < 0.8:
            self._notice(end.other)

    def silence(self, end: "Transport") -> None:
        """Lets an end hear nothing any more; what it says is heard, and it believes the connection to be alive."""
        end.deaf = True

    def freeze(self) -> None:
        """Lets everything that is sent wait on its way, in both directions."""
        self.client.hold()
        self.server.hold()

    def thaw(self) -> None:
        """Lets what waits arrive."""
        self.client.release()
        self.server.release()

    def strand(self, chunks: int) -> None:
        """Lets the client lose the connection at once; what it sent arrives late.

        Args:
            chunks: how many chunks of the client's next connection the server reads before that.
        """
        self.server.hold()
        self.client.lose(ConnectionResetError("connection reset by peer"))
        self.network._stranded.setdefault(self.name, []).append((self, chunks))

    def arrive_late(self) -> None:
        """Lets what is stranded arrive, and then the server notice that the client is gone."""
        if not self.server.ended:
            self.late_bytes += self.server.release()
            self.server.lose(ConnectionResetError("connection reset by peer"))

    def _notice(self, transport: "Transport") -> None:
        delay_s = self.network.randomness.uniform(0, self.network.faults.notice_s_max)
        asyncio.get_running_loop().call_later(delay_s, transport.lose, ConnectionResetError("connection reset by peer"))

    def forget(self) -> None:
        """Called by an end that has ended."""
        if self.client.ended and self.server.ended and self in self.network.connections:
            self.network.connections.remove(self)


class Transport(asyncio.Transport):
    """One end of a simulated connection; to be used like any asyncio transport."""

    other: "Transport"

    def __init__(self, connection: SimulatedConnection, protocol: asyncio.Protocol, peername: tuple[str, int]) -> None:
        super().__init__({"peername": peername})
        self.connection = connection
        self.ended = False
        """Its protocol was told, or will be in this turn of the loop, or is gone."""
        self.deaf = False
        """Nothing arrives here any more, and the other end does not know."""
        self._held: list[bytes | None] | None = None  # what arrives waits here, while it is not None
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._closing = False
        self._dead = False
        self._reading_paused = False
        self._writing_paused = False
        self._high = _WRITE_BUFFER_BYTES_MAX
        self._low = self._high // 4
        self._waiting = bytearray()  # written here, not on the wire yet
        self._wire_bytes = 0  # on the wire, or arrived and not read
        self._arrives_at = 0.0  # when the chunk sent last arrives at the other end
        self._unread: deque[bytes | None] = deque()  # arrived here while reading was paused; None is the end

    # --- asyncio.Transport ---

    def get_protocol(self) -> asyncio.Protocol:
        """Returns who is told."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Changes who is told."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether it reads."""
        return not (self._reading_paused or self._closing)

    def pause_reading(self) -> None:
        """Lets what arrives wait."""
        self._reading_paused = True

    def resume_reading(self) -> None:
        """Reads on."""
        if self._reading_paused:
            self._reading_paused = False
            self._loop.call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Sets when the protocol is asked to pause, and to resume."""
        if high is None:
            high = _WRITE_BUFFER_BYTES_MAX if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low
        self._watch_buffer()

    def get_write_buffer_size(self) -> int:
        """Returns how many bytes wait to be sent."""
        return len(self._waiting)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Returns the marks, low and high."""
        return self._low, self._high

    def write(self, data: Any) -> None:
        """Sends bytes; nothing happens to them once the connection is lost."""
        if self.ended or self._closing:
            return
        self._waiting += data
        self._send()
        self._watch_buffer()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Sends bytes."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Half of a connection cannot be closed."""
        return False

    def close(self) -> None:
        """Sends what waits, then ends."""
        if not self._closing:
            self._closing = True
            self._unread.clear()
            self._finish()

    def abort(self) -> None:
        """Ends at once; what waits is lost."""
        if not self.ended:
            self.lose(None)
            if not self._dead and not self.connection.is_cut:
                self._at_arrival(self.other.lose, ConnectionResetError("connection reset by peer"))

    # --- for the connection ---

    def die(self) -> None:
        """Its process is gone: nothing goes out, nobody is told."""
        self._dead = True
        self._waiting.clear()
        self._end()

    def hold(self) -> None:
        """Lets what arrives here wait."""
        if self._held is None:
            self._held = []

    @property
    def held_bytes(self) -> int:
        """How much waits because of `hold`."""
        return sum(len(chunk or b"") for chunk in self._held or ())

    def release(self) -> int:
        """Lets what waits arrive; returns how many bytes that are."""
        size_bytes = self.held_bytes
        held, self._held = self._held or [], None
        for chunk in held:
            self._arrive(chunk)
        return size_bytes

    def lose(self, error: Exception | None) -> None:
        """Ends without sending what waits."""
        if not self.ended:
            self._waiting.clear()
            self._end()
            self._loop.call_soon(self._protocol.connection_lost, error)

    # --- inside ---

    def _send(self) -> None:
        network = self.connection.network
        while self._waiting and self._wire_bytes < _WIRE_BYTES_MAX:
            size = min(len(self._waiting), _WIRE_BYTES_MAX - self._wire_bytes)
            size = min(size, network.randomness.randint(1, network.faults.chunk_bytes_max))
            chunk = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._wire_bytes += size
            self._at_arrival(self.other._arrive, chunk)

    def _at_arrival(self, callback: Callable[..., object], *args: object) -> None:
        # Always after what was sent earlier: a loop does not keep the order of timers for the same time.
        self._arrives_at = max(self._arrives_at + _APART_S, self._loop.time() + self.connection.network.delay_s())
        self._loop.call_at(self._arrives_at, callback, *args)

    def _arrive(self, chunk: bytes | None) -> None:
        if self.connection.is_cut or self.ended or self._closing or self.deaf:
            return
        if self._held is not None:
            self._held.append(chunk)
            return
        self._unread.append(chunk)
        self._read()

    def _read(self) -> None:
        while self._unread and not self._reading_paused and not self._closing:
            chunk = self._unread.popleft()
            if chunk is None:
                self._protocol.eof_received()
                self.close()
                return
            self._protocol.data_received(chunk)
            self.other._taken(len(chunk))
            if self is self.connection.server:
                self.connection.network._heard(self.connection)

    def _taken(self, size: int) -> None:
        self._wire_bytes -= size
        if not self.ended:
            self._send()
            self._watch_buffer()
            self._finish()

    def _finish(self) -> None:
        if self._closing and not self._waiting and not self.ended:
            if not self.connection.is_cut:
                self._at_arrival(self.other._arrive, None)
            self._end()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def _end(self) -> None:
        self._closing = self.ended = True
        self._unread.clear()
        self.connection.forget()

    def _watch_buffer(self) -> None:
        size = len(self._waiting)
        if self.ended or self._dead:
            return
        if not self._writing_paused and size > self._high:
            self._writing_paused = True
            self._protocol.pause_writing()
        elif self._writing_paused and size <= self._low:
            self._writing_paused = False
            self._protocol.resume_writing()
