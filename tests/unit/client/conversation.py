"""A client session and the server's side of its connection, talking without I/O."""

from collections.abc import Callable

from tidings.batch import encode_item
from tidings.client.outgoing import Entry
from tidings.client.session import Session
from tidings.client.subscriber import Options, Subscriber
from tidings.model import BYTES, Confirm
from tidings.wire import Confirmed, Connection, Frame, Hello, Publish, Received, Role, Subscribe, Subscribed, Welcome


class Heard:
    """A waiter that remembers what it was told."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self.error: BaseException | None = None
        self.cancelled = False

    def done(self) -> bool:
        return self.cancelled or bool(self.results) or self.error is not None

    def set_result(self, result: object, /) -> None:
        assert not self.done()
        self.results.append(result)

    def set_exception(self, exception: BaseException, /) -> None:
        assert not self.done()
        self.error = exception

    @property
    def confirm(self) -> Confirm:
        assert isinstance(self.results[0], Confirm)
        return self.results[0]


class Conversation:
    """Carries bytes between a session and a server's connection when told to."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self.session = Session(client_id="me", producer="p", take_over=False, agent="test", wake=wake)
        self.server: Connection
        self.received: list[Received] = []
        """What the server got on the present connection, Hello aside."""
        self.hello: Hello
        self.now_ms = 0

    def connect(self, *, welcome: bool = True) -> None:
        self.server = Connection(Role.SERVER, self.now_ms)
        self.received = []
        self.session.connected(self.now_ms)
        self.carry()
        if welcome:
            self.answer(Welcome(1, "token", "node", 10_000, "disk"))
            self.carry()

    def carry(self) -> list[Frame]:
        """Flushes the session and returns the frames that reached the server by it."""
        self.session.flush()
        for data in self.session.data_to_send(self.now_ms):
            self.server.receive_data(data, self.now_ms)
        arrived = self.server.frames_received()
        for received in arrived:
            if isinstance(received.frame, Hello):
                self.hello = received.frame
            else:
                self.received.append(received)
        return [received.frame for received in arrived]

    def answer(self, frame: Frame, body: bytes = b"") -> None:
        """Sends a frame of the server."""
        self.server.send(frame, (body,) if body else ())
        for data in self.server.data_to_send(self.now_ms):
            self.session.receive_data(data, self.now_ms)

    def lose(self) -> None:
        """Cuts the connection."""
        self.session.disconnected()

    def publish(self, queue: str, event: str, payload: bytes = b"x") -> tuple[Heard, Entry]:
        heard = Heard()
        body = encode_item(payload, None, None, None)
        return heard, self.session.publish(queue, event, BYTES, 0, 1, body, heard)

    def confirm(
        self,
        number: int,
        first_sequence: int,
        subscriptions: list[int] | None = None,
        duplicates: list[tuple[int, int]] | None = None,
    ) -> None:
        matching = [0] if subscriptions is None else subscriptions
        self.answer(Confirmed(number, 1, first_sequence, "disk", matching, duplicates or []))

    def subscribe(self, queue: str = "orders", *, durable: bool = True) -> Subscriber:
        """Opens a subscription and attaches it."""
        subscriber = self.session.subscribe(Options(queue, "#"), Heard())
        self.attach(durable=durable)
        return subscriber

    def attach(self, *, durable: bool = True) -> list[Subscribe]:
        """Answers all Subscribes that the session sends now."""
        self.carry()
        asked = [frame for frame, _ in self.received if isinstance(frame, Subscribe)]
        for frame in asked:
            self.answer(Subscribed(frame.request, frame.name or f"me:{frame.queue}/{frame.event}", durable, True))
        return asked

    def of(self, kind: type[Frame]) -> list[Frame]:
        """Returns the frames of a kind on the present connection."""
        return [frame for frame, _ in self.received if isinstance(frame, kind)]

    @property
    def publishes(self) -> list[Publish]:
        return [frame for frame, _ in self.received if isinstance(frame, Publish)]
