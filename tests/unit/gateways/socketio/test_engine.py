"""Engine.IO's rules: handshake, heartbeats, what is proved, going over to WebSocket, and the end."""

import json

import pytest

from tidings import limits
from tidings.errors import ProtocolViolation
from tidings.gateways.socketio.engine import Engine, Timing

TIMING = Timing(ping_interval_ms=300, ping_timeout_ms=200, proof_delay_ms=50)


def opened(*, websocket: bool = True) -> Engine:
    """Returns a connection that has told of itself, at time 0."""
    engine = Engine("sid", 0, websocket=websocket, timing=TIMING)
    if websocket:
        engine.frames_to_send(0)
    else:
        engine.payload_to_send(0)
    return engine


@pytest.mark.parametrize(("websocket", "upgrades"), [(True, []), (False, ["websocket"])])
def test_it_opens_with_what_the_client_has_to_know(websocket: bool, upgrades: list[str]) -> None:
    [frame] = Engine("sid", 0, websocket=websocket, timing=TIMING).frames_to_send(0)
    assert isinstance(frame, str)
    assert frame[0] == "0"
    assert json.loads(frame[1:]) == {
        "sid": "sid",
        "upgrades": upgrades,
        "pingInterval": 300,
        "pingTimeout": 200,
        "maxPayload": limits.WEBSOCKET_FRAME_BYTES_MAX,
    }


def test_messages_go_both_ways() -> None:
    engine = opened()
    assert engine.receive_frame("4hello", 1) == ["hello"]
    assert engine.receive_frame(b"\1\2", 1) == [b"\1\2"]
    engine.send("world")
    engine.send(b"\3")
    assert engine.frames_to_send(2) == ["4world", b"\3"]
    engine = opened(websocket=False)
    assert engine.receive_payload(b"4hello\x1ebAQI=", 1) == ["hello", b"\1\2"]
    engine.send("world")
    engine.send(b"\3")
    assert engine.payload_to_send(2) == b"4world\x1ebAw=="
    assert engine.payload_to_send(2) is None


def test_it_pings_and_gives_up_who_does_not_answer() -> None:
    engine = opened()
    for start in (0, 300, 600):
        assert engine.next_deadline_ms() == start + 300
        engine.tick(start + 299)
        assert engine.frames_to_send(start + 299) == []
        engine.tick(start + 300)
        assert engine.frames_to_send(start + 300) == ["2"]
        if start < 600:
            assert engine.receive_frame("3", start + 310) == []
    assert engine.next_deadline_ms() == 900 + 200
    engine.tick(1_099)
    assert not engine.closed
    engine.tick(1_100)
    assert engine.closed
    assert engine.frames_to_send(1_100) == ["1"]


def test_a_pong_proves_what_was_sent_before_its_ping_and_nothing_after() -> None:
    engine = opened()
    engine.send("one")
    engine.want_proof()
    engine.frames_to_send(10)
    assert engine.next_deadline_ms() == 60, "sooner than a heartbeat, since something is unproven"
    engine.tick(60)
    engine.send("two")
    engine.want_proof()
    assert engine.frames_to_send(60) == ["2", "4two"]
    assert engine.receive_frame("4unrelated", 61) == ["unrelated"]
    assert engine.proven == 0
    engine.receive_frame("3", 62)
    assert engine.proven == 1
    assert engine.next_deadline_ms() == 112
    engine.tick(112)
    engine.frames_to_send(112)
    engine.receive_frame("3", 113)
    assert (engine.proven, engine.next_deadline_ms()) == (2, 412)


def test_a_pong_that_answers_nothing_proves_nothing() -> None:
    engine = opened()
    engine.send("one")
    engine.want_proof()
    engine.frames_to_send(10)
    engine.receive_frame("3", 11)
    assert engine.proven == 0
    engine.tick(60)
    engine.receive_frame("3", 61)
    assert engine.proven == 0, "its ping was not sent yet"


def test_much_that_is_sent_is_asked_after_at_once() -> None:
    engine = opened()
    for _ in range(3):
        engine.send("x" * (limits.SOCKETIO_PROOF_BYTES // 2))
    engine.want_proof()
    frames = engine.frames_to_send(10)
    assert [frame[0] for frame in frames] == ["4", "4", "4", "2"]
    engine.receive_frame("3", 11)
    assert engine.proven == 3


def test_what_nobody_wants_to_be_proved_is_proved_by_heartbeats_only() -> None:
    engine = opened()
    for _ in range(3):
        engine.send("x" * limits.SOCKETIO_PROOF_BYTES)
    assert len(engine.frames_to_send(10)) == 3
    assert engine.next_deadline_ms() == 300
    engine.tick(300)
    engine.frames_to_send(300)
    engine.receive_frame("3", 301)
    assert engine.proven == 3


def test_the_next_poll_proves_the_body_before_it() -> None:
    engine = opened(websocket=False)
    engine.send("one")
    engine.poll_received(1)
    assert engine.payload_to_send(1) == b"4one"
    assert engine.proven == 0
    engine.send("two")
    engine.poll_received(2)
    assert engine.proven == 1
    assert engine.payload_to_send(2) == b"4two"


def test_it_goes_over_to_websocket_and_loses_nothing() -> None:
    engine = opened(websocket=False)
    assert engine.receive_probe("2probe") == "3probe"
    assert engine.payload_to_send(1) == b"6", "the last poll ends"
    engine.send("later")
    assert engine.receive_probe("5") is None
    assert engine.websocket
    assert engine.frames_to_send(2) == ["4later"]


@pytest.mark.parametrize("frames", [["5"], ["4hello"], ["2"], ["2probe", "2probe"], ["2probe", "4early"], [b"2probe"]])
def test_a_websocket_that_does_not_probe_does_not_take_over(frames: list[str | bytes]) -> None:
    engine = opened(websocket=False)
    with pytest.raises(ProtocolViolation):
        [engine.receive_probe(frame) for frame in frames]
    assert not engine.websocket
    assert not engine.closed


@pytest.mark.parametrize("data", ["", "abc", "0", "5", "7"])
def test_it_ends_over_what_is_no_packet_of_a_client(data: str) -> None:
    engine = opened()
    with pytest.raises(ProtocolViolation):
        engine.receive_frame(data, 1)
    assert engine.closed
    assert not engine.farewell
    engine = opened(websocket=False)
    with pytest.raises(ProtocolViolation):
        engine.receive_payload(data.encode(), 1)
    assert engine.payload_to_send(1) == b"1"


def test_a_client_closes_it_and_what_follows_is_not_taken() -> None:
    engine = opened(websocket=False)
    assert engine.receive_payload(b"4last\x1e1\x1e4too late", 1) == ["last"]
    assert engine.farewell
    assert engine.payload_to_send(1) == b"6", "a poll that waits ends, with nothing"


def test_what_is_taken_at_a_time_is_bounded() -> None:
    engine = opened(websocket=False)
    size = limits.WEBSOCKET_FRAME_BYTES_MAX // 4
    for _ in range(4):
        engine.send("x" * size)
    assert engine.waiting_bytes == 4 * (size + 1)
    body = engine.payload_to_send(1)
    assert body is not None
    assert len(body) <= limits.WEBSOCKET_FRAME_BYTES_MAX
    assert engine.waiting_bytes > 0
