"""Frames to bytes and back.

    0         4      5           8
    +---------+------+-----------+------------------+--------+
    | size    | kind | envelope  | envelope         | body   |
    | u32     | u8   | size u24  | MessagePack      |        |
    +---------+------+-----------+------------------+--------+

Integers are big-endian. `size` counts what follows the eight bytes of the header: envelope and body.
"""

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Any, Final

import msgspec

from tidings import limits
from tidings.errors import ProtocolViolation
from tidings.wire.frames import KIND_OF, WITH_BODY, Frame, Received

_HEADER: Final = Struct("!II")
HEADER_SIZE_BYTES: Final = _HEADER.size
_CHUNKS_MAX: Final = 1_024  # so that a frame that comes byte by byte takes no more memory than its bytes
_encode: Final = msgspec.msgpack.Encoder().encode
# One for each kind and not for each connection: they are a kilobyte.
_DECODERS: Final[dict[int, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(frame) for frame, kind in KIND_OF.items()
}


def encode(frame: Frame, body_size: int = 0) -> bytes:
    """Returns header and envelope; `body_size` bytes of body must follow."""
    envelope = _encode(frame)
    size = len(envelope)
    if size > limits.ENVELOPE_SIZE_BYTES_MAX:
        raise ProtocolViolation(
            f"envelope of {size} bytes exceeds the limit of {limits.ENVELOPE_SIZE_BYTES_MAX} bytes; use fewer runs"
        )
    return _HEADER.pack(size + body_size, KIND_OF[type(frame)] << 24 | size) + envelope


def check(frame: Frame) -> None:
    """Checks that each field of a frame is what the peer expects; for frames that are made of what others passed.

    Raises:
        TypeError, ValueError, OverflowError, msgspec.MsgspecError: one is not.
    """
    _DECODERS[KIND_OF[type(frame)]].decode(_encode(frame))


class Reader:
    """Cuts a stream of bytes into frames of the given kinds.

    Args:
        kinds: the frames the peer may send, by kind.
        body_size_max: largest body, in bytes.
    """

    __slots__ = ("_body_size_max", "_chunks", "_first", "_kinds", "_needed_bytes", "_size_bytes")

    def __init__(self, kinds: Mapping[int, type[Frame]], body_size_max: int) -> None:
        self._kinds = kinds
        self._body_size_max = body_size_max
        self._first = True
        self._chunks: list[bytes] = []  # of a frame that is not complete, joined only once it is
        self._size_bytes = 0
        self._needed_bytes = HEADER_SIZE_BYTES

    def receive_data(self, data: bytes) -> Iterator[Received]:
        """Yields the frames that `data` completes; must be exhausted.

        Raises:
            ProtocolViolation: the bytes cannot be frames; nothing after them can be read.
        """
        source = data
        if self._chunks:
            self._chunks.append(data)
            self._size_bytes += len(data)
            if self._size_bytes < self._needed_bytes:
                if len(self._chunks) > _CHUNKS_MAX:
                    self._chunks = [b"".join(self._chunks)]
                return
            source = b"".join(self._chunks)
            self._chunks = []
            self._size_bytes = 0
        self._needed_bytes = HEADER_SIZE_BYTES
        view = memoryview(source)
        offset, end = 0, len(source)
        while end - offset >= HEADER_SIZE_BYTES:
            size, word = _HEADER.unpack_from(source, offset)
            kind, envelope_size = word >> 24, word & 0xFFFFFF
            self._check(size, kind, envelope_size)
            start = offset + HEADER_SIZE_BYTES
            if end - start < size:
                self._needed_bytes = HEADER_SIZE_BYTES + size
                break
            self._first = False
            middle, offset = start + envelope_size, start + size
            try:
                frame = _DECODERS[kind].decode(view[start:middle])
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ProtocolViolation(f"the envelope of a frame of kind {kind} is malformed: {error}") from None
            except RecursionError:
                raise ProtocolViolation(f"the envelope of a frame of kind {kind} is nested too deeply") from None
            yield Received(frame, source[middle:offset] if middle < offset else b"")
        if offset < end:
            self._chunks.append(source[offset:] if offset else source)
            self._size_bytes = end - offset

    def receive_eof(self) -> None:
        """Raises ProtocolViolation if the stream ended inside a frame."""
        if self._chunks:
            raise ProtocolViolation(f"the connection ended inside a frame, {self._size_bytes} bytes of it had come")

    def _check(self, size: int, kind: int, envelope_size: int) -> None:
        if self._first and (size > limits.HELLO_SIZE_BYTES_MAX or kind not in self._kinds):
            raise ProtocolViolation("this is not the Tidings protocol; the peer may speak HTTP or TLS, check the URL")
        if kind not in self._kinds:
            raise ProtocolViolation(f"frame of unknown kind {kind}; known are {sorted(self._kinds)}")
        if envelope_size > size or envelope_size > limits.ENVELOPE_SIZE_BYTES_MAX:
            raise ProtocolViolation(
                f"envelope of {envelope_size} bytes exceeds its frame of {size} bytes"
                f" or the limit of {limits.ENVELOPE_SIZE_BYTES_MAX} bytes"
            )
        body_size = size - envelope_size
        if body_size > (self._body_size_max if kind in WITH_BODY else 0):
            allowed = self._body_size_max if kind in WITH_BODY else 0
            raise ProtocolViolation(f"body of {body_size} bytes exceeds the limit of {allowed} bytes for kind {kind}")
