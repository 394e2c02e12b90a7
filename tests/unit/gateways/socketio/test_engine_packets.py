"""Packets of Engine.IO: the examples of the protocol's text, round trips, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import limits
from tidings.errors import ProtocolViolation
from tidings.gateways.socketio.engine_packets import (
    MESSAGE,
    NOOP,
    PING,
    SEPARATOR,
    Packet,
    decode_frame,
    decode_payload,
    encode_frame,
    encode_payload,
)

TEXTS = st.text(st.characters(exclude_characters=SEPARATOR, codec="utf-8"))
PACKETS = st.builds(Packet, st.sampled_from("0123456"), TEXTS) | st.builds(Packet, st.just(MESSAGE), st.binary())


@pytest.mark.parametrize(
    ("body", "packets"),
    [
        (b"4hello\x1e2\x1e4world", [Packet(MESSAGE, "hello"), Packet(PING), Packet(MESSAGE, "world")]),
        (b"4hello\x1ebAQIDBA==", [Packet(MESSAGE, "hello"), Packet(MESSAGE, b"\1\2\3\4")]),
        (b"6", [Packet(NOOP)]),
        ("4€".encode(), [Packet(MESSAGE, "€")]),
    ],
)
def test_bodies_of_the_protocols_text(body: bytes, packets: list[Packet]) -> None:
    assert decode_payload(body) == packets
    assert encode_payload(packets) == body


@given(st.lists(PACKETS, min_size=1))
def test_packets_come_back_from_a_body(packets: list[Packet]) -> None:
    assert decode_payload(encode_payload(packets)) == packets


@given(PACKETS)
def test_a_packet_comes_back_from_a_frame(packet: Packet) -> None:
    assert decode_frame(encode_frame(packet)) == packet


@pytest.mark.parametrize("body", [b"", b"abc", b"7", b"4a\x1e", b"\x1e4a", b"bAQ", b"b****", b"4\xff", "b€".encode()])
def test_what_is_no_body_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_payload(body)


def test_a_body_has_so_many_packets_and_no_more() -> None:
    count = limits.SOCKETIO_PACKETS_MAX
    assert len(decode_payload(SEPARATOR.join(["2"] * count).encode())) == count
    with pytest.raises(ProtocolViolation, match=str(count)):
        decode_payload(SEPARATOR.join(["2"] * (count + 1)).encode())
