"""The rules of one connection, without I/O: handshake, heartbeats, who may say what.

States and transitions, the same for both roles:

    OPENING --Hello received (server) / Welcome received (client)--> OPEN
    OPENING, OPEN --Goodbye sent or received, violation, silence--> CLOSED

The shell around it passes on what it receives (`receive_data`, `receive_eof`), acts on `frames_received`,
writes `data_to_send`, and calls `tick` at `next_deadline_ms`. Time is in milliseconds of any steady clock.
"""

from collections.abc import Sequence
from enum import Enum

from tidings import limits
from tidings.errors import ConnectionLost, ProtocolViolation, TidingsError
from tidings.wire.codec import Reader, encode
from tidings.wire.frames import CLIENT_KINDS, SERVER_KINDS, Frame, Goodbye, Heartbeat, Hello, Received, Welcome


class Role(Enum):
    """Which side of the connection this is."""

    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    """Where the connection stands."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


class Connection:
    """One side of a native connection.

    Args:
        role: which side.
        now_ms: the time it begins.
        heartbeat_ms: the server's choice; a client learns it from the Welcome.
    """

    __slots__ = (
        "__weakref__",
        "_greeting",
        "_heard_ms",
        "_opened_ms",
        "_out",
        "_reader",
        "_received",
        "_spoke_ms",
        "error",
        "heartbeat_ms",
        "role",
        "state",
    )

    def __init__(self, role: Role, now_ms: int, heartbeat_ms: int = limits.HEARTBEAT_MS) -> None:
        self.role = role
        self.state = State.OPENING
        self.heartbeat_ms = heartbeat_ms
        self.error: TidingsError | None = None
        """Why the connection is closed, if not by a plain farewell."""
        server = role is Role.SERVER
        self._reader = Reader(
            CLIENT_KINDS if server else SERVER_KINDS,
            limits.BATCH_BODY_SIZE_BYTES_MAX if server else limits.DELIVERY_BODY_SIZE_BYTES_MAX,
        )
        self._greeting = Hello if server else Welcome
        self._received: list[Received] = []
        self._out: list[bytes] = []
        self._opened_ms = now_ms
        self._heard_ms = now_ms
        self._spoke_ms = now_ms

    def receive_data(self, data: bytes, now_ms: int) -> None:
        """Takes bytes of the peer. After a violation a Goodbye is ready to be sent and the state is CLOSED."""
        if self.state is State.CLOSED:
            return
        self._heard_ms = now_ms
        try:
            for received in self._reader.receive_data(data):
                self._frame_received(received)
        except ProtocolViolation as error:
            self.close(error)

    def receive_eof(self) -> None:
        """Takes note that the peer sends nothing more."""
        if self.state is State.CLOSED:
            return
        try:
            self._reader.receive_eof()
            self.error = ConnectionLost("the peer closed the connection without a farewell")
        except ProtocolViolation as error:
            self.error = _without_frames(error)
        self.state = State.CLOSED

    def presume_alive(self, now_ms: int) -> None:
        """Takes note that the peer cannot be heard, since nothing is read from it now."""
        self._heard_ms = now_ms

    def frames_received(self) -> list[Received]:
        """Returns the frames that came since the last call, in order. Heartbeats are not among them."""
        received, self._received = self._received, []
        return received

    def send(self, frame: Frame, body: Sequence[bytes] = ()) -> None:
        """Queues a frame. Body parts are sent as they are, without copying. Ignored once closed."""
        if self.state is State.CLOSED:
            return
        if body:
            self._out.append(encode(frame, sum(map(len, body))))
            self._out.extend(body)
        else:
            self._out.append(encode(frame))

    def close(self, error: TidingsError | None = None) -> None:
        """Queues a Goodbye that tells the reason and closes."""
        if self.state is State.CLOSED:
            return
        self.send(Goodbye(error.code, error.text) if error else Goodbye())
        self.error = _without_frames(error) if error else None
        self.state = State.CLOSED

    def data_to_send(self, now_ms: int) -> list[bytes]:
        """Returns the bytes to write, in order, and forgets them."""
        out = self._out
        if out:
            self._out = []
            self._spoke_ms = now_ms
        return out

    def next_deadline_ms(self) -> int:
        """Returns when `tick` wants to be called at the latest."""
        if self.state is State.OPENING:
            return self._opened_ms + limits.HELLO_TIMEOUT_MS
        dead_ms = self._heard_ms + int(self.heartbeat_ms * limits.HEARTBEATS_MISSED_MAX)
        return min(dead_ms, self._spoke_ms + self.heartbeat_ms)

    def tick(self, now_ms: int) -> None:
        """Sends a heartbeat if this side was silent, closes if the peer was silent for too long."""
        if self.state is State.CLOSED:
            return
        silence_ms = now_ms - self._heard_ms
        if self.state is State.OPENING:
            if now_ms - self._opened_ms >= limits.HELLO_TIMEOUT_MS:
                self.close(ConnectionLost(f"no greeting within {limits.HELLO_TIMEOUT_MS} ms"))
        elif silence_ms >= self.heartbeat_ms * limits.HEARTBEATS_MISSED_MAX:
            self.close(
                ConnectionLost(f"the peer was silent for {silence_ms} ms, heartbeats are {self.heartbeat_ms} ms")
            )
        elif now_ms - self._spoke_ms >= self.heartbeat_ms:
            self.send(Heartbeat())

    def _frame_received(self, received: Received) -> None:
        frame = received.frame
        if isinstance(frame, Heartbeat):
            return
        if self.state is State.OPENING and not isinstance(frame, self._greeting | Goodbye):
            raise ProtocolViolation(
                f"the first frame is a {type(frame).__name__}, it must be a {self._greeting.__name__}"
            )
        if self.state is State.OPEN and isinstance(frame, self._greeting):
            raise ProtocolViolation(f"a second {self._greeting.__name__}; it is allowed once, at the beginning")
        if self.state is State.CLOSED:
            return
        if isinstance(frame, Goodbye):
            self.state = State.CLOSED
        else:
            if isinstance(frame, Welcome):
                self.heartbeat_ms = frame.heartbeat_ms
            self.state = State.OPEN
        self._received.append(received)


def _without_frames(error: TidingsError) -> TidingsError:
    # Its traceback leads to this connection, and in a circle nothing is freed before the garbage collector comes:
    # thousands of connections that ended badly would wait for it.
    return error.with_traceback(None)
