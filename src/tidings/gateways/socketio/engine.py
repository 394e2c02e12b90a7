"""Engine.IO 4: the rules of one connection, over HTTP long polling, over WebSocket, or first one and then the other.

                 receive_payload / payload_to_send      POST and GET of long polling
    POLLING      receive_probe                          a WebSocket beside it: 2probe, 3probe, then 5 (upgrade)
       | 5
    WEBSOCKET    receive_frame / frames_to_send
       | 1, a violation, no pong in time
    CLOSED       `closed` says why

The server sends pings, the client answers with pongs. Beside proving life, a pong proves that all arrived that was
sent before its ping; so does a GET, for the body that answered the one before it. `proven` counts those messages.
Therefore pings are sent sooner while messages are unproven that somebody wants to be proved: see `want_proof`.
"""

from typing import Final, NamedTuple

import msgspec

from tidings import limits
from tidings.errors import ProtocolViolation
from tidings.gateways.socketio.engine_packets import (
    CLOSE,
    MESSAGE,
    NOOP,
    OPEN,
    PING,
    PONG,
    UPGRADE,
    Packet,
    decode_frame,
    decode_payload,
    encode_frame,
    encode_payload,
)

_PROBE: Final = "probe"
_NEVER_MS: Final = 1 << 62


class Timing(NamedTuple):
    """How often it pings, how long it waits for a pong, and how long messages stay unproven; in milliseconds."""

    ping_interval_ms: int = limits.HEARTBEAT_MS
    ping_timeout_ms: int = int(limits.HEARTBEAT_MS * (limits.HEARTBEATS_MISSED_MAX - 1))
    proof_delay_ms: int = limits.SOCKETIO_PROOF_DELAY_MS


class Engine:
    """The server's side of one connection.

    Args:
        sid: the name by which requests find it.
        now_ms: the time.
        websocket: whether it was opened over WebSocket.
        timing: heartbeats.
    """

    __slots__ = (
        "_bodies",
        "_mark",
        "_out",
        "_ping_due_ms",
        "_pong_due_ms",
        "_timing",
        "_unproven_bytes",
        "_unproven_due_ms",
        "closed",
        "farewell",
        "is_deaf",
        "numbered",
        "probed",
        "probing",
        "proven",
        "sent",
        "sid",
        "waiting_bytes",
        "wanted",
        "websocket",
    )

    def __init__(self, sid: str, now_ms: int, *, websocket: bool, timing: Timing | None = None) -> None:
        self.sid = sid
        self.websocket = websocket
        """Whether WebSocket is what it runs over now."""
        self.probing = False
        """Whether there is a WebSocket beside long polling."""
        self.probed = False
        """Whether a WebSocket beside long polling was probed, and not taken yet."""
        self.closed = ""
        """Why it is closed; empty while it is open."""
        self.farewell = False
        """Whether the client closed it."""
        self.is_deaf = False
        """Whether the client reads nothing any more: what it said before may still count, but is not answered."""
        self.numbered = 0
        """How many messages were given to `send`: the number of the last."""
        self.sent = 0
        """The number of the last message that was sent."""
        self.proven = 0
        """The number of the last message that is known to have arrived."""
        self.wanted = 0
        """The number of the last message that is to be proved soon."""
        self.waiting_bytes = 0
        """Size of what waits to be sent."""
        self._timing = timing or Timing()
        self._out: list[tuple[Packet, int]] = []  # with the number of the last message so far
        self._bodies = 0  # number of the last message of the last body
        self._mark: int | None = None  # what the pong that is waited for will prove
        self._ping_due_ms = now_ms + self._timing.ping_interval_ms
        self._pong_due_ms = _NEVER_MS
        self._unproven_due_ms = _NEVER_MS
        self._unproven_bytes = 0
        self._put(Packet(OPEN, self._handshake()))

    # --- receiving ---

    def receive_payload(self, body: bytes, now_ms: int) -> list[str | bytes]:
        """Takes the body of a POST; returns the messages in it.

        Raises:
            ProtocolViolation: and it is closed.
        """
        try:
            packets = decode_payload(body)
            return [message for packet in packets for message in self._receive(packet, now_ms)]
        except ProtocolViolation as error:
            self.close(error.text)
            raise

    def receive_frame(self, frame: str | bytes, now_ms: int) -> list[str | bytes]:
        """Takes a frame of the WebSocket that it runs over; returns the message in it, if any.

        Raises:
            ProtocolViolation: and it is closed.
        """
        try:
            return self._receive(decode_frame(frame), now_ms)
        except ProtocolViolation as error:
            self.close(error.text)
            raise

    def receive_probe(self, frame: str | bytes) -> str | None:
        """Takes a frame of a WebSocket beside long polling; returns the answer to a probe.

        Returns None once the WebSocket has taken over, see `websocket`.

        Raises:
            ProtocolViolation: it is neither a probe nor the upgrade after one. Long polling goes on.
        """
        packet = decode_frame(frame)
        if packet == Packet(PING, _PROBE) and not self.probed:
            self.probed = True
            return PONG + _PROBE
        if packet.kind == UPGRADE and self.probed:
            self.probed, self.websocket = False, True
            return None
        raise ProtocolViolation("a WebSocket beside long polling begins with 2probe, and 5 once that is answered")

    def poll_received(self, now_ms: int) -> None:
        """Takes note of a GET: the client has read the body before it."""
        self._prove(self._bodies, now_ms)

    def _receive(self, packet: Packet, now_ms: int) -> list[str | bytes]:
        if self.closed:
            return []
        if packet.kind == MESSAGE:
            return [packet.data]
        if packet.kind == PONG:
            self._pong_due_ms = _NEVER_MS
            if self._mark is not None:
                mark, self._mark = self._mark, None
                self._prove(mark, now_ms)
        elif packet.kind == CLOSE:
            self.closed, self.farewell = "the client closed it", True
        elif packet.kind == PING:
            self._put(Packet(PONG, packet.data))  # of revision 3; harmless
        elif packet.kind != NOOP:
            raise ProtocolViolation(f"a client does not send packets of type {packet.kind} here")
        return []

    # --- sending ---

    def send(self, message: str | bytes) -> None:
        """Puts a message behind what waits to be sent; its number is `numbered` then."""
        self.numbered += 1
        self._put(Packet(MESSAGE, message))

    def want_proof(self) -> None:
        """Lets pings ask soon whether what was given to `send` has arrived."""
        self.wanted = self.numbered

    def frames_to_send(self, now_ms: int) -> list[str | bytes]:
        """Returns what waits, for the WebSocket."""
        return [encode_frame(packet) for packet in self._take(now_ms, limits.SEND_BUFFER_BYTES_MAX)]

    def payload_to_send(self, now_ms: int) -> bytes | None:
        """Returns what waits as the body that answers a GET; None if nothing does.

        A client that is about to go over to WebSocket is told so that it polls no more.
        """
        packets = self._take(now_ms, limits.WEBSOCKET_FRAME_BYTES_MAX // 2)
        if not packets:
            if not self.probed and not self.closed:
                return None
            packets = [Packet(NOOP)]
        self._bodies = self.sent
        return encode_payload(packets)

    def deafen(self) -> None:
        """Throws away what waits, and all that would: the client's side of the WebSocket has ended."""
        self.is_deaf = True
        self._out, self.waiting_bytes = [], 0

    def _put(self, packet: Packet) -> None:
        if self.is_deaf:
            return
        self._out.append((packet, self.numbered))
        self.waiting_bytes += len(packet.data) + 1

    def _take(self, now_ms: int, size_max: int) -> list[Packet]:
        packets: list[Packet] = []
        size = 0
        for packet, number in self._out:  # which may grow by a ping
            if size >= size_max:
                break
            packets.append(packet)
            size += len(packet.data) + 1
            self.sent = number
            if packet.kind == MESSAGE and number <= self.wanted:
                self._unproven_bytes += len(packet.data)
                if self._unproven_bytes >= limits.SOCKETIO_PROOF_BYTES:
                    self.ping(now_ms)
            elif packet.kind == PING:
                self._mark, self._unproven_bytes = number, 0
        del self._out[: len(packets)]
        self.waiting_bytes -= size
        if min(self.sent, self.wanted) > self.proven and self._unproven_due_ms == _NEVER_MS:
            self._unproven_due_ms = now_ms + self._timing.proof_delay_ms
        return packets

    # --- time ---

    def next_deadline_ms(self) -> int:
        """Returns when `tick` is due."""
        if self._pong_due_ms != _NEVER_MS:
            return self._pong_due_ms
        return min(self._ping_due_ms, self._unproven_due_ms)

    def tick(self, now_ms: int) -> None:
        """Sends a ping that is due, or gives up a client that did not answer one."""
        if now_ms >= self._pong_due_ms:
            self.close("no pong in time")
        elif self._pong_due_ms == _NEVER_MS and now_ms >= min(self._ping_due_ms, self._unproven_due_ms):
            self.ping(now_ms)

    def ping(self, now_ms: int) -> None:
        """Sends a ping, unless one is waiting for its pong."""
        if self._pong_due_ms == _NEVER_MS and not self.closed:
            self._put(Packet(PING))
            self._pong_due_ms = now_ms + self._timing.ping_timeout_ms
            self._ping_due_ms = now_ms + self._timing.ping_interval_ms
            self._unproven_due_ms = _NEVER_MS

    def _prove(self, number: int, now_ms: int) -> None:
        if number > self.proven:
            self.proven = number
            is_proved = min(self.sent, self.wanted) <= number
            self._unproven_due_ms = _NEVER_MS if is_proved else now_ms + self._timing.proof_delay_ms

    def close(self, reason: str) -> None:
        """Closes it; the client is told, if it still can be."""
        if not self.closed:
            self.closed = reason
            self._put(Packet(CLOSE))

    def _handshake(self) -> str:
        upgrades = [] if self.websocket else ["websocket"]
        return msgspec.json.encode(
            {
                "sid": self.sid,
                "upgrades": upgrades,
                "pingInterval": self._timing.ping_interval_ms,
                "pingTimeout": self._timing.ping_timeout_ms,
                "maxPayload": limits.WEBSOCKET_FRAME_BYTES_MAX,
            }
        ).decode()
