"""One client's connection: Engine.IO and Socket.IO on one side, a conversation with the node on the other.

    frames, bodies -> Engine -> Connection -> namespaces -> Conversation
    frames, bodies <- Engine <- Connection <- readers    <- Attachment

All namespaces of a connection are one conversation. Deliveries are taken only while the client takes what was sent
before: what it does not read waits in the node, and is bounded there. Nor is more taken from a client than it takes of
the answers: above SEND_BUFFER_BYTES_MAX of them what it asks waits in its socket.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from tidings import limits
from tidings.errors import InternalError, InvalidOption, ProtocolViolation, TidingsError, reconnects
from tidings.gateways.socketio.connection import Acknowledged, Connecting, Connection, Emitted, Left
from tidings.gateways.socketio.engine import Engine
from tidings.node import Conversation, open_conversation
from tidings.node.attachment import Attachment, Ranges

if TYPE_CHECKING:
    from tidings.gateways.socketio.gateway import SocketIoGateway

_log: Final = logging.getLogger("tidings.gateways.socketio")
PROTOCOL: Final = "socketio"

Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]


def frame_of(message: dict[str, Any]) -> str | bytes:
    """Returns the frame of a `websocket.receive`."""
    data: str | bytes | None = message.get("bytes")
    return message["text"] if data is None else data


class Namespace(Protocol):
    """What a namespace means: see `explicit` and `natural`."""

    async def received(self, emitted: Emitted) -> None:
        """Does what the client asked for."""
        ...

    def acknowledged(self, acknowledged: Acknowledged) -> None:
        """Settles what the client acknowledged."""
        ...

    def failed(self, error: TidingsError) -> None:
        """Tells the client of an error that belongs to no request."""
        ...

    async def close(self) -> None:
        """Detaches from what it reads."""
        ...


class Reader:
    """An attachment whose deliveries go to a namespace; `spell` takes the next one, and says whether there was one."""

    __slots__ = ("attachment", "spell")

    def __init__(self, attachment: Attachment | None, spell: Callable[["Reader"], bool]) -> None:
        self.attachment = attachment
        """None until it is attached."""
        self.spell = spell


class Session:
    """One connection, from its first request to its end.

    Args:
        gateway: whose connection it is.
        engine: its rules.
        address: where the client is.
    """

    __slots__ = (
        "_alarm",
        "_alarm_ms",
        "_ended",
        "_gateway",
        "_handling",
        "_idle_since_ms",
        "_poller",
        "_posting",
        "_ready",
        "_room",
        "_send",
        "_settling",
        "_turn",
        "_unproven",
        "_writing",
        "address",
        "connection",
        "conversation",
        "engine",
        "namespaces",
    )

    def __init__(self, gateway: "SocketIoGateway", engine: Engine, address: str) -> None:
        self.engine = engine
        self.address = address
        self.connection = Connection()
        self.conversation: Conversation | None = None
        self.namespaces: dict[str, Namespace] = {}
        self._gateway = gateway
        self._ready: dict[Reader, None] = {}
        self._unproven: deque[list[Any]] | None = None  # [number, attachment, reading, first, last]
        self._settling: dict[Attachment, Ranges] = {}
        self._send: Send | None = None  # of the WebSocket
        self._writing = False
        self._poller: asyncio.Future[None] | None = None
        self._posting = False
        self._turn = asyncio.Lock()
        self._handling = False
        self._room: asyncio.Future[None] | None = None  # of who waits until the client has taken some of its answers
        self._ended = False
        self._idle_since_ms = gateway.now_ms()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_ms = 0
        self._set_alarm()

    @property
    def durability(self) -> str:
        """How safely the store keeps what is confirmed."""
        return self._gateway.node.store.durability

    @property
    def gateway(self) -> "SocketIoGateway":
        """Whose connection it is."""
        return self._gateway

    def fresh_token(self) -> str:
        """Returns what nobody can guess."""
        return self._gateway.node.fresh_token()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something beside everything else, which ends with the conversation."""
        self._gateway.run(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # A bug of ours; it ends this connection and no other, and the client comes back.
            _log.exception("a mistake in a Socket.IO connection")
            self.end("the server made a mistake; its log says which")

    # --- over WebSocket ---

    async def serve_websocket(self, receive: Receive, send: Send) -> None:
        """Talks over a WebSocket until it ends."""
        self._send = send
        self.wake()
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._send = None
                farewell = message.get("code") in (1000, 1001)
                return self.end("the client closed it" if farewell else "connection lost", farewell=farewell)
            await self._receive(frame_of(message))

    async def _write(self, send: Send) -> None:
        try:
            while True:
                self._fill(limits.SOCKETIO_FILL_BYTES)
                frames = self.engine.frames_to_send(self._gateway.now_ms())
                if not frames:
                    break
                self._make_room()
                for frame in frames:
                    if isinstance(frame, bytes):
                        await send({"type": "websocket.send", "bytes": frame})
                    else:
                        await send({"type": "websocket.send", "text": frame})
            if self.engine.closed:
                await send({"type": "websocket.close", "code": 1000, "reason": self.engine.closed[:120]})
        except (OSError, RuntimeError):
            # The WebSocket has ended: whoever reads from it finds out, and ends the session.
            self._send = None
            self.engine.deafen()
        except Exception:
            # A bug of ours; it ends this connection and no other, and the client comes back.
            _log.exception("a mistake in a Socket.IO connection")
            self._send = None
            self.end("the server made a mistake; its log says which")
        finally:
            self._writing = False
            self._make_room()
            self._set_alarm()

    # --- over long polling ---

    async def poll(self) -> bytes | None:
        """Returns the body that answers a GET, as soon as there is something in it; None for one too many."""
        if self._poller is not None:
            self.engine.close("two GETs at a time")
            self.wake()
            return None
        self.engine.poll_received(self._gateway.now_ms())
        self._settle_proven()
        self._ack()
        while True:
            self._fill(limits.WEBSOCKET_FRAME_BYTES_MAX // 2)
            if self.engine.websocket:
                return b"6"
            body = self.engine.payload_to_send(self._gateway.now_ms())
            if body is not None:
                self._make_room()
                self._set_alarm()
                if self.engine.closed:
                    self.end(self.engine.closed)
                return body
            self._poller = asyncio.get_running_loop().create_future()
            try:
                await self._poller
            finally:
                self._poller = None

    def begin_post(self) -> bool:
        """Says whether a POST may be read: one at a time."""
        if self._posting:
            self.engine.close("two POSTs at a time")
            self.wake()
            return False
        self._posting = True
        return True

    def end_post(self) -> None:
        """Lets the next POST come."""
        self._posting = False

    async def receive_payload(self, body: bytes) -> None:
        """Takes the body of a POST.

        Raises:
            ProtocolViolation: it is malformed, and the connection is closed.
        """
        await self._receive(body, is_payload=True)
        if self.engine.closed and not self.engine.farewell:
            raise ProtocolViolation(self.engine.closed)

    # --- receiving ---

    async def _receive(self, data: str | bytes, *, is_payload: bool = False) -> None:
        """Does what a frame or a body asks for, in the order in which they came."""
        async with self._turn:
            await self._wait_for_room()
            await self._handle_all(data, is_payload=is_payload)
        self.flush()
        if self.engine.closed:
            self.end(self.engine.closed, farewell=self.engine.farewell)

    async def _handle_all(self, data: str | bytes, *, is_payload: bool) -> None:
        now_ms = self._gateway.now_ms()
        try:
            if is_payload:
                assert isinstance(data, bytes), "a body is bytes"
                messages = self.engine.receive_payload(data, now_ms)
            else:
                messages = self.engine.receive_frame(data, now_ms)
            self._settle_proven()
            for message in messages:
                await self._wait_for_room()
                await self._receive_message(message)
        except ProtocolViolation as error:
            self.engine.close(error.text)
        except TidingsError as error:
            # The conversation has ended meanwhile; the client is told by whoever ended it.
            self.engine.close(error.text)
        except Exception:
            # A bug of ours; it ends this connection and no other, and the client comes back.
            _log.exception("a mistake in a Socket.IO connection")
            self.engine.close("the server made a mistake; its log says which")

    async def _receive_message(self, message: str | bytes) -> None:
        self._handling = True
        try:
            received = self.connection.receive_message(message)
            if received is not None:
                await self._handle(received)
        finally:
            self._handling = False

    async def _handle(self, received: Connecting | Emitted | Acknowledged | Left) -> None:
        match received:
            case Connecting():
                await self._connect(received)
            case Emitted():
                await self.namespaces[received.namespace].received(received)
            case Acknowledged():
                self.namespaces[received.namespace].acknowledged(received)
            case Left():
                namespace = self.namespaces.pop(received.namespace, None)
                if namespace:
                    await namespace.close()
                self._idle_since_ms = self._gateway.now_ms()

    async def _connect(self, asked: Connecting) -> None:
        try:
            self.namespaces[asked.namespace] = await self._gateway.open_namespace(self, asked)
        except TidingsError as error:
            if error.retryable:
                # The standard client does not come back by itself from a refusal, but from a lost connection it does.
                self.engine.close(error.text)
                return
            self.connection.refuse(asked.namespace, error)
            self._idle_since_ms = self._gateway.now_ms()

    async def converse(self, client_id: str | None, *, take_over: bool, token: str) -> Conversation:
        """Returns the conversation of this connection, which begins with its first namespace.

        Raises:
            InvalidOption: it has begun under another client id.
            InvalidName, ClientIdInUse: the client is not let in.
        """
        conversation = self.conversation
        if conversation is None:
            conversation = self.conversation = await open_conversation(
                self._gateway.node,
                client_id=client_id,
                protocol=PROTOCOL,
                address=self.address,
                take_over=take_over,
                token=token,
                closed=self._conversation_ended,
            )
        elif client_id is not None and client_id != conversation.client_id:
            raise InvalidOption(
                f"this connection has the client id {conversation.client_id!r}, and now asks for {client_id!r};"
                " give all namespaces of one connection the same, or open another connection with forceNew"
            )
        return conversation

    def _conversation_ended(self, error: TidingsError) -> None:
        if self._ended:
            return
        if reconnects(error.code) or isinstance(error, InternalError):
            self.engine.close(error.text)
        else:
            for name, namespace in self.namespaces.items():
                namespace.failed(error)
                self.connection.leave(name)
            self.namespaces = {}
            self._idle_since_ms = self._gateway.now_ms()
        self.flush()

    async def _wait_for_room(self) -> None:
        """Waits while too much of what the client was answered waits for it."""
        while self._is_full():
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done() and not self._is_full():
            self._room.set_result(None)

    def _is_full(self) -> bool:
        return not self.engine.closed and self.engine.waiting_bytes > limits.SEND_BUFFER_BYTES_MAX

    # --- delivering ---

    def offer(self, reader: Reader) -> None:
        """Takes note that a reader may have something."""
        self._ready[reader] = None
        self.wake()

    def withdraw(self, reader: Reader) -> None:
        """Takes nothing more of a reader."""
        self._ready.pop(reader, None)

    def _fill(self, size_max: int) -> None:
        """Takes deliveries, of each reader in turn, until enough waits to be sent."""
        while self._ready and self.engine.waiting_bytes < size_max and not self.engine.closed:
            reader = next(iter(self._ready))
            del self._ready[reader]
            if reader.spell(reader):
                self._ready[reader] = None
            self._pass_on()

    def unproven(self, attachment: Attachment, reading: int, first: int, last: int) -> None:
        """Settles a delivery that was just spelled, once it is proved that it has arrived."""
        self._pass_on()
        self.engine.want_proof()
        number = self.engine.numbered
        if self._unproven is None:
            self._unproven = deque()  # None instead of an empty one: 760 bytes
        pending = self._unproven[-1] if self._unproven else None
        # What a ping on its way will prove is not joined with what it will not.
        if (
            pending
            and pending[1] is attachment
            and pending[2] == reading
            and pending[4] + 1 == first
            and pending[0] > self.engine.sent
        ):
            pending[0], pending[4] = number, last
        else:
            self._unproven.append([number, attachment, reading, first, last])

    def _settle_proven(self) -> None:
        while self._unproven and self._unproven[0][0] <= self.engine.proven:
            _, attachment, reading, first, last = self._unproven.popleft()
            self.settle_soon(attachment, (reading, first, last))
            if not self._unproven:
                self._unproven = None

    def settle_soon(self, attachment: Attachment, range: tuple[int, int, int]) -> None:
        """Acks with the next `flush`, together with what else is."""
        ranges = self._settling.setdefault(attachment, [])
        if ranges and ranges[-1][0] == range[0] and ranges[-1][2] + 1 == range[1]:
            ranges[-1] = (range[0], ranges[-1][1], range[2])
        else:
            ranges.append(range)

    # --- sending ---

    def _pass_on(self) -> None:
        for message in self.connection.messages_to_send():
            self.engine.send(message)

    def flush(self) -> None:
        """Sends what was spelled and settles what was acknowledged."""
        self._ack()
        self._pass_on()
        self.wake()

    def _ack(self) -> None:
        settling, self._settling = self._settling, {}
        for attachment, ranges in settling.items():
            attachment.ack_soon(ranges)

    def wake(self) -> None:
        """Sends what waits as soon as the client takes it."""
        self._make_room()
        if self._send is not None:
            if not self._writing:
                self._writing = True
                self._gateway.run(self._write(self._send))
        elif self._poller is not None and not self._poller.done():
            self._poller.set_result(None)

    # --- time ---

    def _set_alarm(self) -> None:
        if self._ended:
            return
        due_ms = self._deadline_ms()
        if self._alarm is not None:
            if self._alarm_ms <= due_ms:
                return
            self._alarm.cancel()
        delay_s = max(0.0, (due_ms - self._gateway.now_ms()) / 1000)
        self._alarm_ms = due_ms
        self._alarm = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def _deadline_ms(self) -> int:
        due_ms = self.engine.next_deadline_ms()
        return min(due_ms, self._idle_until_ms()) if self.connection.is_idle else due_ms

    def _idle_until_ms(self) -> int:
        return self._idle_since_ms + self._gateway.hello_timeout_ms

    def _ring(self) -> None:
        self._alarm = None
        now_ms = self._gateway.now_ms()
        if self._handling:
            # What it sent waits because of us: it is not dead.
            self._alarm_ms = now_ms + limits.HEARTBEAT_MS
            self._alarm = asyncio.get_running_loop().call_later(limits.HEARTBEAT_MS / 1000, self._ring)
            return
        if now_ms >= self.engine.next_deadline_ms():
            self.engine.tick(now_ms)
        if self.connection.is_idle and now_ms >= self._idle_until_ms():
            self.engine.close("no namespace was connected to")
        self.wake()
        if self.engine.closed:
            self.end(self.engine.closed)
        self._set_alarm()

    # --- the end ---

    def end(self, reason: str, *, farewell: bool = False) -> None:
        """Ends the conversation and forgets the connection; the client is told, if it still can be."""
        if self._ended:
            return
        self._ended = True
        self.engine.close(reason)
        self.wake()
        if self._alarm is not None:
            self._alarm.cancel()
        self._gateway.forget(self)
        self._ready.clear()
        if self.conversation is not None:
            self._ack()
            self.conversation.close(farewell=farewell, reason=reason)
