"""Socket.IO 5: the rules of one connection, above Engine.IO: which namespaces are open, and what they are asked.

    namespace:  --connect--> ASKED --accept--> OPEN --disconnect, leave--> LEFT
                               |                                            |
                               +--refuse--> LEFT  <------- connect -------- +   (LEFT may ask again)

A client that begins with anything but a connect, or names a namespace that it never asked for, breaks the protocol.
What it still sends to one that it has left is dropped.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import msgspec

from tidings import limits
from tidings.errors import LimitReached, ProtocolViolation, TidingsError
from tidings.gateways.socketio.packets import (
    ACK,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    Body,
    Decoder,
    Packet,
    encode,
    encode_body,
    encode_event,
)

RESERVED: Final = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
"""Event names that the standard client takes for its own: it closes the connection when a server sends one."""


class Connecting(NamedTuple):
    """A client wants into a namespace; `accept` or `refuse` answers."""

    namespace: str
    auth: msgspec.Raw | bytes | None


class Emitted(NamedTuple):
    """A client emitted an event; with an id it wants an answer."""

    namespace: str
    name: str
    id: int | None
    arguments: Sequence[msgspec.Raw | bytes]
    attachments: Sequence[bytes]


class Acknowledged(NamedTuple):
    """A client acknowledged an event that was emitted to it."""

    namespace: str
    id: int
    arguments: Sequence[msgspec.Raw | bytes]
    attachments: Sequence[bytes]


class Left(NamedTuple):
    """A client left a namespace."""

    namespace: str


Received: TypeAlias = Connecting | Emitted | Acknowledged | Left


class _State(Enum):
    ASKED = 1
    OPEN = 2
    LEFT = 3


class Connection:
    """The server's side of one connection."""

    __slots__ = ("_decoder", "_namespaces", "_out")

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._namespaces: dict[str, _State] = {}
        self._out: list[str | bytes] = []

    @property
    def is_idle(self) -> bool:
        """Whether no namespace is open or asked for."""
        return all(state is _State.LEFT for state in self._namespaces.values())

    # --- receiving ---

    def receive_message(self, message: str | bytes) -> Received | None:
        """Takes a message of Engine.IO; returns what happened, if anything did.

        Raises:
            ProtocolViolation: the connection is to be closed.
        """
        packet = self._decoder.decode(message)
        if packet is None:
            return None
        state = self._namespaces.get(packet.namespace)
        if packet.kind == CONNECT:
            return self._connect(packet, state)
        if state is None:
            raise ProtocolViolation(f"namespace {packet.namespace!r} was not connected to")
        if state is not _State.OPEN:
            if state is _State.ASKED and packet.kind == DISCONNECT:
                self._namespaces[packet.namespace] = _State.LEFT
                return Left(packet.namespace)
            return None
        if packet.kind == DISCONNECT:
            self._namespaces[packet.namespace] = _State.LEFT
            return Left(packet.namespace)
        if packet.kind == ACK:
            assert packet.id is not None, "the decoder lets no ack without an id through"
            return Acknowledged(packet.namespace, packet.id, packet.arguments, packet.attachments)
        return Emitted(
            packet.namespace, _name(packet.arguments[0]), packet.id, packet.arguments[1:], packet.attachments
        )

    def _connect(self, packet: Packet, state: _State | None) -> Connecting | None:
        if state in (_State.ASKED, _State.OPEN):
            raise ProtocolViolation(f"namespace {packet.namespace!r} was connected to twice")
        if state is None and len(self._namespaces) >= limits.SOCKETIO_NAMESPACES_MAX:
            error = LimitReached(
                f"this connection has {limits.SOCKETIO_NAMESPACES_MAX} namespaces, no more are allowed;"
                " use events, or another connection"
            )
            self._put(Packet(CONNECT_ERROR, packet.namespace, None, [_refusal(error)]))
            return None
        self._namespaces[packet.namespace] = _State.ASKED
        return Connecting(packet.namespace, packet.arguments[0] if packet.arguments else None)

    # --- sending ---

    def messages_to_send(self) -> list[str | bytes]:
        """Returns what is to be sent, as messages of Engine.IO."""
        out, self._out = self._out, []
        return out

    def accept(self, namespace: str, *, sid: str, pid: str) -> None:
        """Lets a client into a namespace that it asked for, unless it has left meanwhile."""
        if self._namespaces.get(namespace) is _State.ASKED:
            self._namespaces[namespace] = _State.OPEN
            self._put(Packet(CONNECT, namespace, None, [msgspec.json.encode({"sid": sid, "pid": pid})]))

    def refuse(self, namespace: str, error: TidingsError) -> None:
        """Does not let a client into a namespace that it asked for."""
        if self._namespaces.get(namespace) is _State.ASKED:
            self._namespaces[namespace] = _State.LEFT
            self._put(Packet(CONNECT_ERROR, namespace, None, [_refusal(error)]))

    def emit(
        self,
        namespace: str,
        name: str,
        arguments: Sequence[bytes | msgspec.Raw],
        *,
        id: int | None = None,
        attachments: Sequence[bytes] = (),
    ) -> None:
        """Emits an event to an open namespace; with an id the client is asked to acknowledge it."""
        self.emit_body(namespace, spell_event(name, arguments, attachments), id=id)

    def emit_body(self, namespace: str, body: Body, *, id: int | None = None) -> None:
        """Emits an event that is spelled already."""
        if self._namespaces.get(namespace) is _State.OPEN:
            self._out += encode_event(namespace, id, body)

    def answer(self, namespace: str, id: int, value: object, attachments: Sequence[bytes] = ()) -> None:
        """Answers an event of the client."""
        self._put(Packet(ACK, namespace, id, [msgspec.json.encode(value)], attachments))

    def leave(self, namespace: str) -> None:
        """Ends a namespace; the standard client does not come back to it by itself."""
        if self._namespaces.get(namespace) is _State.OPEN:
            self._namespaces[namespace] = _State.LEFT
            self._put(Packet(DISCONNECT, namespace))

    def _put(self, packet: Packet) -> None:
        if packet.kind in (EVENT, ACK) and self._namespaces.get(packet.namespace) is not _State.OPEN:
            return  # it has left: nobody waits for that any more
        self._out += encode(packet)


def spell_event(name: str, arguments: Sequence[bytes | msgspec.Raw], attachments: Sequence[bytes] = ()) -> Body:
    """Returns an event for `emit_body`."""
    return encode_body(f"${name}" if name in RESERVED else name, arguments, attachments)


def _name(value: msgspec.Raw | bytes) -> str:
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.DecodeError as error:
        raise ProtocolViolation(f"the name of an event is not a string: {error}") from None


def _refusal(error: TidingsError) -> bytes:
    # What the standard client makes an Error of: its `message` and its `data`.
    data = {"code": error.code, "text": error.text, "retryable": error.retryable}
    return msgspec.json.encode({"message": error.text, "data": data})
