"""Frames survive their way through bytes, however these are cut; what is not a frame is refused."""

import struct
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import limits
from tidings.errors import ProtocolViolation
from tidings.wire import Ack, Confirmed, Deliver, Frame, Heartbeat, Hello, Listing, Publish, Received
from tidings.wire.codec import HEADER_SIZE_BYTES, Reader, encode
from tidings.wire.frames import CLIENT_KINDS, KIND_OF, SERVER_KINDS, WITH_BODY

ALL_KINDS = CLIENT_KINDS | SERVER_KINDS
BODY_SIZE_MAX = 1000


integers = st.integers(-(2**63), 2**64 - 1)
texts = st.text(max_size=20)
raws = st.lists(st.integers(0, 9)).map(lambda entries: msgspec.Raw(msgspec.msgpack.encode(entries)))


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Returns a strategy for whatever a field of a frame may hold."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        fields = {name: values_of(field) for name, field in get_type_hints(hint).items()}
        return st.builds(hint, **fields)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if origin is tuple and arguments[-1] is ...:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    if arguments:
        return st.one_of(*map(values_of, arguments))
    floats = st.floats(allow_nan=False)  # equal to nothing, itself included
    known = {int: integers, float: floats, str: texts, bool: st.booleans(), type(None): st.none(), msgspec.Raw: raws}
    return known[hint]


frames = st.one_of([values_of(kind) for kind in get_args(Frame)])
received = st.builds(
    lambda frame, body: Received(frame, body if KIND_OF[type(frame)] in WITH_BODY else b""),
    frames,
    st.binary(max_size=50),
)


def spell(received: Received) -> bytes:
    return encode(received.frame, len(received.body)) + received.body


def read(reader: Reader, data: bytes) -> list[Received]:
    return list(reader.receive_data(data))


def frame_bytes(kind: int, envelope: bytes, body: bytes = b"") -> bytes:
    return struct.pack("!II", len(envelope) + len(body), kind << 24 | len(envelope)) + envelope + body


def begun() -> Reader:
    """A reader that has read its first frame."""
    reader = Reader(ALL_KINDS, BODY_SIZE_MAX)
    assert read(reader, encode(Heartbeat())) == [Received(Heartbeat(), b"")]
    return reader


@given(st.lists(received, max_size=5), st.data())
def test_frames_survive_any_cut(sent: list[Received], data: st.DataObject) -> None:
    stream = b"".join(map(spell, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = begun()
    got: list[Received] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += read(reader, stream[start:end])
    assert got == sent
    reader.receive_eof()


@given(received)
def test_frames_survive_byte_by_byte(sent: Received) -> None:
    reader = begun()
    got: list[Received] = []
    for byte in spell(sent):
        got += read(reader, bytes([byte]))
    assert got == [sent]


@pytest.mark.parametrize("kind", get_args(Frame))
def test_every_kind_has_a_number_in_one_direction_or_both(kind: type[Frame]) -> None:
    number = KIND_OF[kind]
    assert ALL_KINDS[number] is kind
    assert (number in CLIENT_KINDS) == (number % 2 == 1 or number >= 64)


@given(received.filter(lambda each: len(spell(each)) > 1), st.data())
def test_an_end_inside_a_frame_is_noticed(sent: Received, data: st.DataObject) -> None:
    stream = spell(sent)
    reader = begun()
    assert read(reader, stream[: data.draw(st.integers(1, len(stream) - 1))]) == []
    with pytest.raises(ProtocolViolation, match="ended inside a frame"):
        reader.receive_eof()


@given(st.binary(min_size=HEADER_SIZE_BYTES, max_size=200))
def test_noise_is_refused_or_read_but_never_breaks(noise: bytes) -> None:
    reader = begun()
    try:
        read(reader, noise)
        reader.receive_eof()
    except ProtocolViolation:
        pass


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", b"\x10\x1e\x00\x04MQTT\x05", b"\0" * 8],
)
def test_other_protocols_are_recognised_by_their_first_bytes(noise: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="not the Tidings protocol"):
        read(Reader(CLIENT_KINDS, BODY_SIZE_MAX), noise)


def test_a_first_frame_larger_than_a_hello_is_refused_before_it_has_come() -> None:
    hello = Hello(1, "x" * limits.HELLO_SIZE_BYTES_MAX, "p")
    with pytest.raises(ProtocolViolation, match="not the Tidings protocol"):
        read(Reader(CLIENT_KINDS, BODY_SIZE_MAX), encode(hello)[:HEADER_SIZE_BYTES])


@pytest.mark.parametrize("kind", [0, 2, 63, 66, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    reader = Reader(CLIENT_KINDS, BODY_SIZE_MAX)
    read(reader, encode(Heartbeat()))
    with pytest.raises(ProtocolViolation, match=f"unknown kind {kind}"):
        read(reader, frame_bytes(kind, b"\x90"))


@pytest.mark.parametrize("kind", [KIND_OF[Publish], KIND_OF[Deliver]])
def test_a_body_up_to_its_limit_is_read_and_one_above_is_refused(kind: int) -> None:
    frame = Publish(1, 1, "q", []) if kind == KIND_OF[Publish] else Deliver(1, "q", 1, [])
    body = b"x" * BODY_SIZE_MAX
    assert read(begun(), spell(Received(frame, body))) == [Received(frame, body)]
    header = encode(frame, BODY_SIZE_MAX + 1)[:HEADER_SIZE_BYTES]
    with pytest.raises(ProtocolViolation, match=f"body of {BODY_SIZE_MAX + 1} bytes exceeds the limit"):
        read(begun(), header)


def test_a_body_where_none_belongs_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="body of 1 bytes exceeds the limit of 0 bytes"):
        read(begun(), encode(Heartbeat(), 1) + b"x")


@pytest.mark.parametrize(("size", "envelope_size"), [(3, 4), (0, 1), (2**24 - 1, 2**24 - 1)])
def test_an_envelope_larger_than_its_frame_or_the_limit_is_refused(size: int, envelope_size: int) -> None:
    with pytest.raises(ProtocolViolation, match="envelope of"):
        read(begun(), struct.pack("!II", size, KIND_OF[Heartbeat] << 24 | envelope_size))


def test_an_envelope_above_the_limit_cannot_be_spelled() -> None:
    ranges = [(1, 2**40 + number, 2**40 + number) for number in range(limits.ENVELOPE_SIZE_BYTES_MAX // 16)]
    with pytest.raises(ProtocolViolation, match="exceeds the limit"):
        encode(Ack(1, ranges))


@pytest.mark.parametrize(
    "envelope",
    [b"", b"\xc1", b"\x90", b"\x94\x01\x01\xa1q", b"\x94\xa1x\x01\xa1q\x90", b"\x80", b"\x94\x01\x01\xa1\xff\x90"],
    ids=["empty", "not MessagePack", "too few fields", "cut", "wrong type", "no array", "not UTF-8"],
)
def test_a_malformed_envelope_is_refused(envelope: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="malformed"):
        read(begun(), frame_bytes(KIND_OF[Publish], envelope))


def test_an_envelope_nested_without_end_is_refused() -> None:
    envelope = b"\x93\x01" + b"\x91" * 100_000
    with pytest.raises(ProtocolViolation, match=r"malformed|nested"):
        read(begun(), frame_bytes(KIND_OF[Listing], envelope))


def test_frames_before_a_bad_one_are_read() -> None:
    reader = begun()
    frames = reader.receive_data(encode(Heartbeat()) + frame_bytes(200, b"\x90"))
    assert next(frames) == Received(Heartbeat(), b"")
    with pytest.raises(ProtocolViolation):
        next(frames)


def test_fields_of_a_later_version_are_ignored_and_missing_ones_have_defaults() -> None:
    longer = msgspec.msgpack.encode([1, 2, 3, "disk", [4], [], "new field"])
    assert read(begun(), frame_bytes(KIND_OF[Confirmed], longer)) == [Received(Confirmed(1, 2, 3, "disk", [4]), b"")]
    shorter = msgspec.msgpack.encode([1, None, "p"])
    assert read(begun(), frame_bytes(KIND_OF[Hello], shorter)) == [Received(Hello(1, None, "p"), b"")]
