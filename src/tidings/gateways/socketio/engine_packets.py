r"""Packets of Engine.IO 4, the lower of the two protocols: how they stand in WebSocket frames and in HTTP bodies.

    frame     =  type [data]              one WebSocket text frame; type is one digit
              |  bytes                    one WebSocket binary frame: always a message
    payload   =  packet *( %x1E packet )  one body of long polling
    packet    =  type [data]
              |  "b" Base64               a message of bytes

Types: 0 open, 1 close, 2 ping, 3 pong, 4 message, 5 upgrade, 6 noop. The text is UTF-8.
"""

import binascii
from collections.abc import Iterable
from typing import Final, NamedTuple

from tidings import limits
from tidings.errors import ProtocolViolation

OPEN: Final = "0"
CLOSE: Final = "1"
PING: Final = "2"
PONG: Final = "3"
MESSAGE: Final = "4"
UPGRADE: Final = "5"
NOOP: Final = "6"
_KINDS: Final = frozenset("0123456")
SEPARATOR: Final = "\x1e"


class Packet(NamedTuple):
    """One packet; `data` are bytes only in a message of bytes."""

    kind: str
    data: str | bytes = ""


def decode_frame(frame: str | bytes) -> Packet:
    """Returns the packet of one WebSocket frame.

    Raises:
        ProtocolViolation: it is none.
    """
    if isinstance(frame, bytes):
        return Packet(MESSAGE, frame)
    if frame[:1] not in _KINDS or not frame:
        raise ProtocolViolation(f"an Engine.IO packet begins with a digit from 0 to 6, not with {frame[:1]!r}")
    return Packet(frame[0], frame[1:])


def encode_frame(packet: Packet) -> str | bytes:
    """Returns a packet as one WebSocket frame."""
    return packet.data if isinstance(packet.data, bytes) else packet.kind + packet.data


def decode_payload(body: bytes) -> list[Packet]:
    """Returns the packets of one body, in order.

    Raises:
        ProtocolViolation: it is not UTF-8, has an empty or unknown packet, wrong Base64, or too many packets.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation(f"the body is not UTF-8: {error}") from None
    pieces = text.split(SEPARATOR, limits.SOCKETIO_PACKETS_MAX)
    if len(pieces) > limits.SOCKETIO_PACKETS_MAX:
        raise ProtocolViolation(f"the body has more than {limits.SOCKETIO_PACKETS_MAX} packets; send several bodies")
    return [_decode_piece(piece) for piece in pieces]


def encode_payload(packets: Iterable[Packet]) -> bytes:
    """Returns packets as one body."""
    return SEPARATOR.join(map(_encode_piece, packets)).encode()


def _decode_piece(piece: str) -> Packet:
    if piece[:1] != "b":
        return decode_frame(piece)
    try:
        return Packet(MESSAGE, binascii.a2b_base64(piece[1:], strict_mode=True))
    except (binascii.Error, ValueError) as error:
        raise ProtocolViolation(f"a packet of bytes is not Base64: {error}") from None


def _encode_piece(packet: Packet) -> str:
    if isinstance(packet.data, bytes):
        return "b" + binascii.b2a_base64(packet.data, newline=False).decode()
    return packet.kind + packet.data
