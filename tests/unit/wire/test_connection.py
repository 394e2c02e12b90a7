"""One connection: handshake, heartbeats, farewells, and what neither side may do."""

import gc
import weakref
from collections.abc import Callable

import pytest

from tidings import limits
from tidings.errors import ConnectionLost, ProtocolViolation, TakenOver
from tidings.wire import Connection, Done, Frame, Goodbye, Heartbeat, Hello, List, Publish, Role, Welcome
from tidings.wire.codec import encode
from tidings.wire.connection import State

HELLO = Hello(1, "me", "producer")
WELCOME = Welcome(1, "token", "node", 4_000, "disk")


def bytes_of(connection: Connection, now_ms: int = 0) -> bytes:
    return b"".join(connection.data_to_send(now_ms))


def frames_of(connection: Connection) -> list[Frame]:
    return [received.frame for received in connection.frames_received()]


def pair() -> tuple[Connection, Connection]:
    """A client and a server that have greeted each other at time 0."""
    client, server = Connection(Role.CLIENT, 0), Connection(Role.SERVER, 0, heartbeat_ms=4_000)
    client.send(HELLO)
    server.receive_data(bytes_of(client), 0)
    server.send(WELCOME)
    client.receive_data(bytes_of(server), 0)
    assert (frames_of(server), frames_of(client)) == ([HELLO], [WELCOME])
    return client, server


def test_after_the_greeting_both_sides_are_open() -> None:
    client, server = pair()
    assert (client.state, server.state) == (State.OPEN, State.OPEN)
    assert client.heartbeat_ms == 4_000, "the server chooses"


def test_frames_and_bodies_arrive_in_order() -> None:
    client, server = pair()
    client.send(Publish(1, 1, "q", []), (b"ab", b"c"))
    client.send(List(2, "queues"))
    server.receive_data(bytes_of(client), 1)
    received = server.frames_received()
    assert [(type(each.frame), each.body) for each in received] == [(Publish, b"abc"), (List, b"")]
    assert server.frames_received() == []


@pytest.mark.parametrize(
    ("role", "frame"), [(Role.SERVER, List(1, "queues")), (Role.CLIENT, Done(1))], ids=["server", "client"]
)
def test_anything_before_the_greeting_is_a_violation(role: Role, frame: Frame) -> None:
    connection = Connection(role, 0)
    connection.receive_data(encode(frame), 0)
    assert connection.state is State.CLOSED
    assert isinstance(connection.error, ProtocolViolation)
    assert "the first frame is a" in connection.error.text
    assert frames_of(connection) == []


@pytest.mark.parametrize("side", [0, 1], ids=["client", "server"])
def test_a_second_greeting_is_a_violation(side: int) -> None:
    connection = pair()[side]
    connection.receive_data(encode(HELLO if side else WELCOME), 1)
    assert isinstance(connection.error, ProtocolViolation)
    assert "a second" in connection.error.text


def test_frames_of_the_other_direction_are_a_violation() -> None:
    client, server = pair()
    server.receive_data(encode(Done(1)), 1)
    assert isinstance(server.error, ProtocolViolation)
    client.receive_data(encode(List(1, "queues")), 1)
    assert isinstance(client.error, ProtocolViolation)


def test_a_violation_tells_the_peer_and_keeps_what_came_before() -> None:
    client, server = pair()
    server.receive_data(encode(List(1, "queues")) + b"\xff" * 8, 1)
    assert frames_of(server) == [List(1, "queues")]
    client.receive_data(bytes_of(server), 1)
    (goodbye,) = frames_of(client)
    assert isinstance(goodbye, Goodbye)
    assert goodbye.code == "protocol_violation"
    assert client.state is State.CLOSED


@pytest.mark.parametrize("side", [0, 1], ids=["client", "server"])
def test_a_farewell_closes_both_sides(side: int) -> None:
    one, other = pair()[side], pair()[1 - side]
    one.close(TakenOver("by another"))
    other.receive_data(bytes_of(one), 1)
    assert frames_of(other) == [Goodbye("taken_over", "by another")]
    assert (one.state, other.state) == (State.CLOSED, State.CLOSED)
    assert isinstance(one.error, TakenOver)


def test_a_server_may_refuse_instead_of_greeting() -> None:
    client = Connection(Role.CLIENT, 0)
    client.receive_data(encode(Goodbye("client_id_in_use", "since noon")), 0)
    assert client.state is State.CLOSED
    assert frames_of(client) == [Goodbye("client_id_in_use", "since noon")]


def test_nothing_is_sent_or_read_once_closed() -> None:
    client, _ = pair()
    client.close()
    assert bytes_of(client) == encode(Goodbye())
    client.send(List(1, "queues"))
    client.close(TakenOver("again"))
    client.receive_data(encode(Done(1)), 1)
    client.tick(1_000_000)
    client.receive_eof()
    assert bytes_of(client) == b""
    assert frames_of(client) == []
    assert client.error is None


def test_frames_after_a_farewell_in_the_same_data_are_not_read() -> None:
    client, _ = pair()
    client.receive_data(encode(Goodbye()) + encode(Done(1)), 1)
    assert frames_of(client) == [Goodbye()]


@pytest.mark.parametrize(
    ("cut", "error"), [(lambda data: b"", ConnectionLost), (lambda data: data[:-1], ProtocolViolation)]
)
def test_an_end_without_farewell_is_noticed(cut: Callable[[bytes], bytes], error: type[Exception]) -> None:
    client, _ = pair()
    client.receive_data(cut(encode(Done(1))), 1)
    client.receive_eof()
    assert client.state is State.CLOSED
    assert isinstance(client.error, error)


@pytest.mark.parametrize("role", list(Role))
def test_a_greeting_that_does_not_come_in_time_closes(role: Role) -> None:
    connection = Connection(role, 500)
    deadline_ms = connection.next_deadline_ms()
    assert deadline_ms == 500 + limits.HELLO_TIMEOUT_MS
    connection.tick(deadline_ms - 1)
    assert connection.state is State.OPENING
    connection.tick(deadline_ms)
    assert connection.state is State.CLOSED
    assert isinstance(connection.error, ConnectionLost)


def test_who_is_silent_sends_a_heartbeat_in_time() -> None:
    client, server = pair()
    assert client.next_deadline_ms() == 4_000
    client.tick(3_999)
    assert bytes_of(client) == b""
    client.tick(4_000)
    data = bytes_of(client, 4_000)
    assert data == encode(Heartbeat())
    server.receive_data(data, 4_001)
    assert frames_of(server) == [], "heartbeats are the connection's own"
    assert client.next_deadline_ms() == 8_000


def test_who_speaks_sends_no_heartbeat() -> None:
    client, _ = pair()
    client.send(List(1, "queues"))
    client.data_to_send(3_000)
    client.tick(4_000)
    assert bytes_of(client) == b""


def test_a_peer_silent_for_two_and_a_half_heartbeats_is_dead() -> None:
    client, _ = pair()
    client.receive_data(encode(Heartbeat()), 1_000)
    for now_ms in (4_000, 8_000, 10_999):
        client.tick(now_ms)
        client.data_to_send(now_ms)
    assert client.state is State.OPEN
    assert client.next_deadline_ms() == 11_000
    client.tick(11_000)
    assert client.state is State.CLOSED
    assert isinstance(client.error, ConnectionLost)
    assert "10000 ms" in client.error.text


def test_two_sides_that_only_beat_stay_connected() -> None:
    client, server = pair()
    now_ms = 0
    for _ in range(100):
        now_ms = min(client.next_deadline_ms(), server.next_deadline_ms())
        for one, other in ((client, server), (server, client)):
            one.tick(now_ms)
            other.receive_data(bytes_of(one, now_ms), now_ms)
    assert (client.state, server.state) == (State.OPEN, State.OPEN)
    assert now_ms > 100_000


@pytest.mark.parametrize("rest", [b"", b"\xff" * 16], ids=["it ends inside a frame", "it breaks the framing"])
def test_a_connection_that_ended_badly_is_freed_without_the_garbage_collector(rest: bytes) -> None:
    connection = Connection(Role.SERVER, 0)
    connection.receive_data((rest or encode(HELLO))[:-1], 0)
    connection.receive_eof()
    assert isinstance(connection.error, ProtocolViolation)
    freed = weakref.ref(connection)
    gc.disable()
    try:
        del connection
        assert freed() is None
    finally:
        gc.enable()
