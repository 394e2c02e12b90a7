"""Packets of Socket.IO: the examples of the protocol's text, round trips, attachments, and what is none."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import limits
from tidings.errors import InvalidPayload, ProtocolViolation
from tidings.gateways.socketio.packets import (
    ACK,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    PLACEHOLDER,
    Decoder,
    Packet,
    encode,
    payload_of,
)

ONE = b'{"_placeholder":true,"num":1}'
NAMESPACES = st.text(st.characters(exclude_characters=",", codec="utf-8")).map(lambda text: "/" + text)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=5,
).map(msgspec.json.encode)
EVENTS = st.builds(
    Packet,
    st.just(EVENT),
    NAMESPACES,
    st.none() | st.integers(0, 10**15 - 1),
    st.lists(VALUES, min_size=1),
    st.lists(st.binary(), max_size=limits.SOCKETIO_ATTACHMENTS_MAX),
)


def decoded(*messages: str | bytes) -> Packet:
    """Returns the packet of messages, the last of which completes it."""
    decoder = Decoder()
    packets = [decoder.decode(message) for message in messages]
    assert all(packet is None for packet in packets[:-1])
    assert packets[-1] is not None
    return packets[-1]


def plain(packet: Packet) -> Packet:
    """Returns a packet whose arguments compare as bytes."""
    return packet._replace(arguments=[bytes(value) for value in packet.arguments], attachments=[*packet.attachments])


@pytest.mark.parametrize(
    ("packet", "messages"),
    [
        (Packet(CONNECT, "/"), ["0"]),
        (Packet(CONNECT, "/admin", None, [b'{"token":"123"}']), ['0/admin,{"token":"123"}']),
        (Packet(EVENT, "/", None, [b'"foo"']), ['2["foo"]']),
        (Packet(EVENT, "/admin", None, [b'"bar"']), ['2/admin,["bar"]']),
        (Packet(EVENT, "/", 12, [b'"foo"']), ['212["foo"]']),
        (Packet(EVENT, "/admin", 1, [b'"tellme"']), ['2/admin,1["tellme"]']),
        (Packet(ACK, "/admin", 13, [b'"bar"']), ['3/admin,13["bar"]']),
        (Packet(ACK, "/", 12, []), ["312[]"]),
        (Packet(DISCONNECT, "/"), ["1"]),
        (Packet(DISCONNECT, "/admin"), ["1/admin,"]),
        (
            Packet(EVENT, "/", None, [b'"baz"', PLACEHOLDER], [b"\1\2\3\4"]),
            ['51-["baz",{"_placeholder":true,"num":0}]', b"\1\2\3\4"],
        ),
        (
            Packet(EVENT, "/admin", None, [b'"baz"', PLACEHOLDER, ONE], [b"\1\2", b"\3\4"]),
            ['52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\1\2", b"\3\4"],
        ),
        (
            Packet(ACK, "/", 15, [b'"bar"', PLACEHOLDER], [b"\1\2\3\4"]),
            ['61-15["bar",{"_placeholder":true,"num":0}]', b"\1\2\3\4"],
        ),
    ],
)
def test_packets_of_the_protocols_text(packet: Packet, messages: list[str | bytes]) -> None:
    assert encode(packet) == messages
    assert plain(decoded(*messages)) == plain(packet)


def test_refusals_are_spelled_as_the_protocols_text_has_them() -> None:
    packet = Packet(CONNECT_ERROR, "/", None, [b'{"message":"Not authorized"}'])
    assert encode(packet) == ['4{"message":"Not authorized"}']


@given(EVENTS)
def test_events_come_back(packet: Packet) -> None:
    assert plain(decoded(*encode(packet))) == plain(packet)


def test_arguments_stay_as_they_were_written() -> None:
    packet = decoded('2["e", 1.0 ,{"a":12345678901234567890123, "a":1e-7}]')
    assert [bytes(value) for value in packet.arguments[1:]] == [b"1.0", b'{"a":12345678901234567890123, "a":1e-7}']


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "7",
        '2abc["e"]',
        "2{}",
        "2",
        "2[]",
        '2["e"',
        '2["e"]x',
        '3["no id"]',
        "312{}",
        "0[]",
        "0{",
        '012{"a":1}',
        "1[]",
        "112",
        '4{"message":"a client refuses nothing"}',
        '5["no count"]',
        '50-["e"]',
        '511-["e"]',
        '21-["e"]',
        '2["\ud800"]',
        "2" + "[" * 100_000,
    ],
)
def test_what_is_no_packet_is_refused(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        Decoder().decode(text)


def test_attachments_come_when_they_are_announced_and_only_then() -> None:
    with pytest.raises(ProtocolViolation, match="announced"):
        Decoder().decode(b"bytes")
    decoder = Decoder()
    assert decoder.decode('51-["e",{"_placeholder":true,"num":0}]') is None
    with pytest.raises(ProtocolViolation, match="missing"):
        decoder.decode('2["e"]')


def test_attachments_are_bounded_together() -> None:
    decoder = Decoder()
    decoder.decode('53-["e"]')
    half = bytes(limits.WEBSOCKET_FRAME_BYTES_MAX // 2)
    assert decoder.decode(half) is None
    with pytest.raises(ProtocolViolation, match=str(limits.WEBSOCKET_FRAME_BYTES_MAX)):
        decoder.decode(half)


def test_a_payload_is_json_or_the_whole_attachment() -> None:
    value = msgspec.Raw(b'{"a":1}')
    assert payload_of(value, []) is value
    assert payload_of(PLACEHOLDER, []) == PLACEHOLDER
    assert payload_of(b'{ "num": 0, "_placeholder": true }', [b"bytes"]) == b"bytes"
    for inside in (b'{"a":{"_placeholder":true,"num":0}}', ONE, b"null", b'{"_placeholder":false,"num":0}'):
        with pytest.raises(InvalidPayload):
            payload_of(inside, [b"bytes"])
    with pytest.raises(InvalidPayload):
        payload_of(PLACEHOLDER, [b"one", b"two"])
