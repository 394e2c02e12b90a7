r"""Packets of Socket.IO 5, the upper of the two protocols, as messages of Engine.IO.

    message   =  type [count "-"] [namespace ","] [id] [JSON]      then `count` messages of bytes, the attachments
    type      =  0 connect, 1 disconnect, 2 event, 3 ack, 4 connect error, 5 event and 6 ack with attachments
    namespace =  "/" text without a comma                          left out for "/"

The JSON of an event is an array that begins with its name; that of an ack is an array; that of connecting is an object.
{"_placeholder":true,"num":0} in it stands for the first attachment. Arguments are kept as the text that they came as:
what a client publishes is stored as it wrote it.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tidings import limits
from tidings.errors import InvalidPayload, ProtocolViolation

CONNECT: Final = 0
DISCONNECT: Final = 1
EVENT: Final = 2
ACK: Final = 3
CONNECT_ERROR: Final = 4
_BINARY: Final = 3  # from EVENT and ACK to the same with attachments

PLACEHOLDER: Final = b'{"_placeholder":true,"num":0}'
"""Where the only attachment of a packet belongs."""

_HEAD: Final = re.compile(r"([0-6])(?:([0-9]{1,5})-)?(?:(/[^,]*),?)?([0-9]{1,15})?")


class Packet(NamedTuple):
    """One packet. `arguments` are JSON; the first of an event is its name, connecting has at most one, an object."""

    kind: int
    namespace: str
    id: int | None = None
    arguments: Sequence[bytes | msgspec.Raw] = ()
    attachments: Sequence[bytes] = ()


class _Placeholder(msgspec.Struct, forbid_unknown_fields=True):
    placeholder: bool = msgspec.field(name="_placeholder")
    num: int = 0


_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PLACEHOLDERS: Final = msgspec.json.Decoder(_Placeholder)


def encode(packet: Packet) -> list[str | bytes]:
    """Returns the messages of a packet: its text, and its attachments."""
    body = b",".join(packet.arguments)
    if packet.kind in (EVENT, ACK):
        body = b"[" + body + b"]"
    return [
        _head(packet.kind, packet.namespace, packet.id, len(packet.attachments)) + body.decode(),
        *packet.attachments,
    ]


class Body(NamedTuple):
    """What packets of an event have in common, whoever they go to: the text of its arguments, and its attachments."""

    text: str
    attachments: Sequence[bytes]


def encode_body(name: str, arguments: Sequence[bytes | msgspec.Raw], attachments: Sequence[bytes]) -> Body:
    """Returns an event, to be sent with `encode_event`."""
    return Body(f"[{b','.join([msgspec.json.encode(name), *arguments]).decode()}]", attachments)


def encode_event(namespace: str, id: int | None, body: Body) -> list[str | bytes]:
    """Returns the messages of an event."""
    return [_head(EVENT, namespace, id, len(body.attachments)) + body.text, *body.attachments]


def _head(kind: int, namespace: str, id: int | None, count: int) -> str:
    head = f"{kind + _BINARY}{count}-" if count else str(kind)
    if namespace != "/":
        head += namespace + ","
    return head if id is None else f"{head}{id}"


def payload_of(value: bytes | msgspec.Raw, attachments: Sequence[bytes]) -> bytes | msgspec.Raw:
    """Returns what an argument means: its JSON as `Raw`, or the bytes of the attachment that it stands for.

    Raises:
        InvalidPayload: bytes are inside it, or beside it.
    """
    if not attachments:
        return value
    if len(attachments) == 1 and len(value) < 2 * len(PLACEHOLDER):
        try:
            if _PLACEHOLDERS.decode(value) == _Placeholder(placeholder=True, num=0):
                return attachments[0]
        except msgspec.DecodeError:
            pass  # something else, which bytes are inside of
    raise InvalidPayload(
        "bytes are a payload as a whole, and not a part of one; send them alone, or encode them as text"
    )


class Decoder:
    """Puts packets together from messages."""

    __slots__ = ("_attachments", "_head", "_missing", "_size_bytes")

    def __init__(self) -> None:
        self._head: Packet | None = None  # whose attachments are missing
        self._missing = 0
        self._attachments: list[bytes] = []
        self._size_bytes = 0

    def decode(self, message: str | bytes) -> Packet | None:
        """Takes a message; returns the packet that it completes.

        Raises:
            ProtocolViolation: it is malformed, or text came where an attachment had to come, or the reverse.
        """
        if isinstance(message, str):
            if self._head is not None:
                raise ProtocolViolation(f"{self._missing} attachments of a packet are missing, and text came")
            packet, self._missing = _decode_text(message)
            if not self._missing:
                return packet
            self._head, self._attachments, self._size_bytes = packet, [], len(message)
            return None
        if self._head is None:
            raise ProtocolViolation("bytes came that no packet announced as an attachment")
        self._size_bytes += len(message)
        if self._size_bytes > limits.WEBSOCKET_FRAME_BYTES_MAX:
            raise ProtocolViolation(
                f"a packet of {self._size_bytes} bytes with its attachments exceeds the limit of"
                f" {limits.WEBSOCKET_FRAME_BYTES_MAX} bytes"
            )
        self._attachments.append(message)
        self._missing -= 1
        if self._missing:
            return None
        head, self._head = self._head, None
        return head._replace(attachments=self._attachments)


def _decode_text(text: str) -> tuple[Packet, int]:
    """Returns a packet, and how many attachments are to come."""
    head = _HEAD.match(text)
    if head is None:
        raise ProtocolViolation(f"a Socket.IO packet begins with a digit from 0 to 6, not with {text[:1]!r}")
    kind, count = int(head[1]), int(head[2] or 0)
    if (count > 0) != (kind > CONNECT_ERROR) or count > limits.SOCKETIO_ATTACHMENTS_MAX:
        raise ProtocolViolation(
            f"a packet of type {kind} with {count} attachments; types 5 and 6 have 1 to"
            f" {limits.SOCKETIO_ATTACHMENTS_MAX}, the others none"
        )
    kind -= _BINARY if count else 0
    identity = int(head[4]) if head[4] else None
    return Packet(kind, head[3] or "/", identity, _arguments(kind, identity, text[head.end() :])), count


def _arguments(kind: int, identity: int | None, text: str) -> Sequence[msgspec.Raw]:
    try:
        data = text.encode()
        if kind in (EVENT, ACK):
            found = _ARRAY.decode(data)
            if (kind == ACK and identity is None) or (kind == EVENT and not found):
                raise ProtocolViolation("an event is an array with its name, and an ack has an id")
            return found
        if data and kind == CONNECT and identity is None:
            _OBJECT.decode(data)
            return [msgspec.Raw(data)]
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ProtocolViolation(f"a packet of type {kind} is not what it should be: {error}") from None
    if data or identity is not None or kind == CONNECT_ERROR:
        raise ProtocolViolation(f"a client sends no packet of type {kind} like this")
    return []
