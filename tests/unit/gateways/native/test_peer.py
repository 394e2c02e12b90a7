"""The server's side of a native connection, with a fake transport and a node that keeps its inputs."""

from collections.abc import Iterable
from typing import Any, cast

import msgspec
import pytest

from tests.unit.broker.harness import batch_of
from tidings import limits
from tidings.batch import StoredBatch
from tidings.broker import effects, inputs
from tidings.errors import Draining, InternalError, NotFound, TakenOver
from tidings.gateways.native import NativePeer
from tidings.node import Node
from tidings.store.memory import MemoryStore
from tidings.wire import Connection, Role
from tidings.wire.frames import (
    Ack,
    Confirmed,
    Deliver,
    Done,
    Frame,
    Gap,
    Goodbye,
    Hello,
    List,
    Listing,
    Publish,
    Received,
    Refusal,
    Resume,
    Subscribe,
    Subscribed,
    Welcome,
)


class FakeTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = self.aborted = False
        self.reading = True

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is buffered here."""

    def get_extra_info(self, name: str) -> tuple[str, int]:
        """Returns where the client is."""
        return ("10.1.1.1", 999)

    def is_closing(self) -> bool:
        """Whether close or abort was called."""
        return self.closed

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Takes bytes."""
        assert not self.closed
        for part in parts:
            self.written += part

    def close(self) -> None:
        """Takes note."""
        self.closed = True

    def abort(self) -> None:
        """Takes note."""
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        """Takes note; asyncio refuses it twice in a row."""
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        """Takes note."""
        assert not self.reading
        self.reading = True


class FakeNode:
    """Keeps what is submitted."""

    id = "node-1"

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.inputs: list[inputs.Input] = []
        self.removed: list[tuple[int, bool, str]] = []

    def fresh_token(self) -> str:
        """Returns a token that is easy to guess."""
        return "fresh"

    def add_peer(self, peer: NativePeer) -> int:
        """Returns the number of the only connection."""
        return 7

    def remove_peer(self, connection: int, *, farewell: bool, reason: str) -> None:
        """Takes note."""
        self.removed.append((connection, farewell, reason))

    def submit(self, input: inputs.Input) -> None:
        """Takes an input."""
        self.inputs.append(input)

    def publish(self, input: inputs.Publish) -> None:
        """Takes an input."""
        self.inputs.append(input)


class Scene:
    """A peer between a client's wire, a transport and a node."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.node = FakeNode()
        self.transport = FakeTransport()
        self.client = Connection(Role.CLIENT, 0)
        self.open: dict[NativePeer, None] = {}
        self.peer = NativePeer(cast(Node, self.node), self.open)
        self.peer.connection_made(cast(Any, self.transport))

    def say(self, frame: Frame, body: bytes = b"") -> None:
        """Lets the client say something."""
        self.client.send(frame, [body] if body else [])
        self.peer.data_received(b"".join(self.client.data_to_send(0)))

    def greet(self) -> None:
        """Opens the connection."""
        self.say(Hello(1, "billing", "producer"))
        self.tell(effects.Welcome(7, "token"))

    def tell(self, effect: effects.ToConnection) -> list[Received]:
        """Lets the node tell something; returns the frames that reach the client."""
        self.peer.obey(effect)
        self.peer.flush()
        return self.heard()

    def heard(self) -> list[Received]:
        """Returns the frames that reached the client."""
        data, self.transport.written = bytes(self.transport.written), bytearray()
        self.client.receive_data(data, 0)
        return self.client.frames_received()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A connection that is open, at a time that only the test moves."""
    found: Scene = Scene.__new__(Scene)
    monkeypatch.setattr("tidings.gateways.native.peer._steady_ms", lambda: int(found.now_s * 1000))
    found.now_s = 100.0
    found.__init__()  # type: ignore[misc]  # its time is asked for while it is made
    return found


def test_a_greeting_becomes_a_connect_and_a_welcome(scene: Scene) -> None:
    scene.say(Hello(1, "billing", "producer", token="t" * 999, take_over=True))
    (connect,) = scene.node.inputs
    assert isinstance(connect, inputs.Connect)
    assert (connect.connection, connect.client_id, connect.producer) == (7, "billing", "producer")
    assert (connect.take_over, connect.address, connect.protocol) == (True, "10.1.1.1:999", "tidings")
    assert (connect.fresh_token, len(connect.token)) == ("fresh", limits.ID_LENGTH_MAX)
    ((welcome, _),) = scene.tell(effects.Welcome(7, "token"))
    assert isinstance(welcome, Welcome)
    assert (welcome.token, welcome.node, welcome.durability) == ("token", "node-1", "memory")
    assert scene.peer in scene.open


@pytest.mark.parametrize(("hello", "word"), [(Hello(2, None, "p"), "version 2"), (Hello(1, None, ""), "producer id")])
def test_a_greeting_that_cannot_work_closes_the_connection_with_the_reason(
    scene: Scene, hello: Hello, word: str
) -> None:
    scene.say(hello)
    assert scene.node.inputs == []
    assert scene.transport.closed
    ((goodbye, _),) = scene.heard()
    assert isinstance(goodbye, Goodbye)
    assert goodbye.code == "protocol_violation"
    assert word in goodbye.text


def test_bytes_that_are_no_frames_close_the_connection_with_the_reason(scene: Scene) -> None:
    scene.peer.data_received(b"GET / HTTP/1.1\r\nHost: tidings\r\n\r\n")
    assert scene.transport.closed
    ((goodbye, _),) = scene.heard()
    assert isinstance(goodbye, Goodbye)
    assert goodbye.code == "protocol_violation"


def test_every_request_becomes_its_input(scene: Scene) -> None:
    scene.greet()
    scene.node.inputs.clear()
    batch = batch_of("created", "deleted")
    scene.say(Publish(3, 2, "orders", list(batch.runs)), batch.body)
    scene.say(Subscribe(request=1, handle=2, queue="orders", event="#", resume=[Resume(5, 6, [(1, 2)])]))
    scene.say(Ack(2, [(5, 1, 3)], 9))
    scene.say(List(4, "queues", "a"))
    publish, subscribe, ack, listing = scene.node.inputs
    assert publish == inputs.Publish(7, 3, 2, "orders", batch)
    assert isinstance(subscribe, inputs.Subscribe)
    assert (subscribe.connection, subscribe.handle, subscribe.resume) == (7, 2, [inputs.Resume(5, 6, [(1, 2)])])
    assert ack == inputs.Ack(7, 2, [(5, 1, 3)], 9)
    assert listing == inputs.List(7, 4, "queues", "a")


def test_a_body_that_is_not_what_it_claims_is_refused_and_the_connection_works_on(scene: Scene) -> None:
    scene.greet()
    scene.node.inputs.clear()
    batch = batch_of("created")
    scene.say(Publish(3, 0, "orders", list(batch.runs)), batch.body + b"x")
    ((refusal, _),) = scene.heard()
    assert isinstance(refusal, Refusal)
    assert (refusal.request, refusal.code) == (3, "protocol_violation")
    assert scene.node.inputs == []
    scene.say(Publish(4, 0, "orders", list(batch.runs)), batch.body)
    assert len(scene.node.inputs) == 1


def test_every_effect_becomes_its_frame(scene: Scene) -> None:
    scene.greet()
    rows = [StoredBatch(4, 50, batch_of("a", "b")), StoredBatch(6, 60, batch_of("a"))]
    ((deliver, body),) = scene.tell(effects.Deliver(7, 2, "orders", 5, rows, True, [(4, 2)]))
    assert isinstance(deliver, Deliver)
    assert [(part.first_sequence, part.time_ms, list(part.runs)) for part in deliver.parts] == [
        (row.first_sequence, row.time_ms, list(row.batch.runs)) for row in rows
    ]
    assert body == b"".join(row.batch.body for row in rows)
    assert (deliver.redelivered, deliver.attempts) == (True, [(4, 2)])
    ((confirmed, _),) = scene.tell(effects.Confirm(7, 3, 5, 9, [1, 2], [(0, 4)]))
    assert confirmed == Confirmed(3, 5, 9, "memory", [1, 2], [(0, 4)])
    ((done, _),) = scene.tell(effects.Done(7, 8))
    assert done == Done(8)
    ((subscribed, _),) = scene.tell(effects.Subscribed(7, 1, "name", True, False, [(5, 3)], 9_000, 4))
    assert isinstance(subscribed, Subscribed)
    assert (subscribed.request, subscribed.name, subscribed.durable, subscribed.created) == (1, "name", True, False)
    assert [tuple(place) for place in subscribed.places] == [(5, 3)]
    assert (subscribed.ack_timeout_ms, subscribed.attempts_max) == (9_000, 4)
    ((gap, _),) = scene.tell(effects.Gap(7, 2, "orders", 5, 1, 3, "trimmed"))
    assert gap == Gap(2, "orders", 5, 1, 3, "trimmed")
    ((listing, _),) = scene.tell(effects.Listing(7, 4, [], "more"))
    assert isinstance(listing, Listing)
    assert (msgspec.msgpack.decode(listing.entries), listing.after) == ([], "more")
    ((refusal, _),) = scene.tell(effects.Refuse(7, "delete", 6, NotFound("there is none")))
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.request, refusal.code, refusal.text) == (13, 6, "not_found", "there is none")


def test_a_mistake_of_ours_tells_nothing_of_the_inside(scene: Scene) -> None:
    scene.greet()
    ((refusal, _),) = scene.tell(effects.Refuse(7, "ack", 6, InternalError("line 17 of secrets.py")))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "internal_error"
    assert "secrets" not in refusal.text


def test_a_close_is_told_before_the_connection_ends(scene: Scene) -> None:
    scene.greet()
    ((goodbye, _),) = scene.tell(effects.Close(7, TakenOver("somebody else")))
    assert goodbye == Goodbye("taken_over", "somebody else")
    assert scene.transport.closed
    assert not scene.transport.aborted


def test_a_farewell_is_told_apart_from_a_loss(scene: Scene) -> None:
    scene.greet()
    scene.say(Goodbye())
    assert scene.transport.closed
    scene.peer.connection_lost(None)
    assert scene.node.removed == [(7, True, "closed")]
    assert scene.open == {}


def test_a_client_that_gives_up_a_silent_connection_says_no_farewell(scene: Scene) -> None:
    scene.greet()
    scene.say(Goodbye("connection_lost", "nothing was heard for 25 s"))
    assert scene.transport.closed
    scene.peer.connection_lost(None)
    ((_, farewell, _),) = scene.node.removed
    assert not farewell


def test_a_lost_connection_names_the_reason(scene: Scene) -> None:
    scene.greet()
    scene.peer.connection_lost(ConnectionResetError("reset by peer"))
    assert scene.node.removed == [(7, False, "reset by peer")]


def test_a_client_that_does_not_read_is_not_read_either(scene: Scene) -> None:
    scene.greet()
    scene.peer.pause_writing()
    assert scene.node.inputs[-1] == inputs.SendBuffer(7, full=True)
    assert not scene.transport.reading
    scene.peer.resume_writing()
    assert scene.node.inputs[-1] == inputs.SendBuffer(7, full=False)
    assert scene.transport.reading


def test_two_reasons_to_pause_need_two_resumes(scene: Scene) -> None:
    scene.greet()
    scene.peer.pause_writing()
    scene.peer.pause_reading()
    scene.peer.resume_writing()
    assert not scene.transport.reading
    scene.peer.resume_reading()
    assert scene.transport.reading


def test_a_silent_server_sends_a_heartbeat(scene: Scene) -> None:
    scene.greet()
    scene.now_s += limits.HEARTBEAT_MS / 1000
    scene.peer.tick()
    assert len(scene.transport.written) > 0
    assert not scene.transport.closed


def test_a_silent_client_is_given_up(scene: Scene) -> None:
    scene.greet()
    scene.now_s += limits.HEARTBEAT_MS * limits.HEARTBEATS_MISSED_MAX / 1000
    scene.peer.tick()
    assert scene.transport.aborted
    scene.peer.connection_lost(None)
    ((_, farewell, reason),) = scene.node.removed
    assert not farewell
    assert "silent" in reason


def test_a_client_without_a_greeting_is_given_up(scene: Scene) -> None:
    scene.now_s += limits.HELLO_TIMEOUT_MS / 1000
    scene.peer.tick()
    assert scene.transport.aborted
    ((goodbye, _),) = scene.heard()
    assert isinstance(goodbye, Goodbye)
    assert "greeting" in goodbye.text


def test_nothing_is_written_after_the_end(scene: Scene) -> None:
    scene.greet()
    scene.tell(effects.Close(7, Draining("bye")))
    assert scene.tell(effects.Done(7, 1)) == []
    scene.say(List(4, "queues"))
    assert not any(isinstance(input, inputs.List) for input in scene.node.inputs)
