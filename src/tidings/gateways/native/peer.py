"""One native connection, server side: frames to inputs, effects to frames."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, assert_never, cast

import msgspec

from tidings import limits
from tidings.batch import Batch
from tidings.broker import effects, inputs
from tidings.broker.effects import ToConnection
from tidings.calls import decode_call
from tidings.errors import InternalError, LimitReached, ProtocolViolation, TidingsError
from tidings.node import Node
from tidings.wire import (
    Ack,
    Backup,
    Call,
    Confirmed,
    Connection,
    Delete,
    Deliver,
    Done,
    Ended,
    Extend,
    Frame,
    Gap,
    Goodbye,
    Hello,
    List,
    Listing,
    Nack,
    Part,
    Publish,
    Refusal,
    Result,
    Role,
    Subscribe,
    Subscribed,
    Transact,
    Transacted,
    Unsubscribe,
    Welcome,
)
from tidings.wire.connection import State
from tidings.wire.frames import KIND_OF, VERSION

if TYPE_CHECKING:
    from collections.abc import Coroutine

# All but "ask", which is for doors whose clients pull.
_KINDS: Final[dict[inputs.Request, int]] = {
    "publish": KIND_OF[Publish],
    "transact": KIND_OF[Transact],
    "subscribe": KIND_OF[Subscribe],
    "unsubscribe": KIND_OF[Unsubscribe],
    "ack": KIND_OF[Ack],
    "nack": KIND_OF[Nack],
    "extend": KIND_OF[Extend],
    "call": KIND_OF[Call],
    "list": KIND_OF[List],
    "delete": KIND_OF[Delete],
    "backup": KIND_OF[Backup],
}
_log: Final = logging.getLogger("tidings.gateways.native")
_AGENT: Final = "tidings-server"


class NativePeer(asyncio.Protocol):
    """The server's side of a connection.

    Args:
        node: whom the inputs go to.
        open_peers: the gateway's connections, which this one joins while it is open.
    """

    __slots__ = (
        "_address",
        "_farewell",
        "_listing",
        "_listings",
        "_node",
        "_open_peers",
        "_paused_by_client",
        "_paused_by_node",
        "_reading_paused",
        "_tasks",
        "_transport",
        "_wire",
        "connection",
    )

    def __init__(self, node: Node, open_peers: "dict[NativePeer, None]") -> None:
        self.connection = 0
        self._node = node
        self._open_peers = open_peers
        self._wire = Connection(Role.SERVER, _steady_ms())
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._farewell = False
        self._paused_by_node = False
        self._paused_by_client = False
        self._reading_paused = False
        # A list and a dict: empty ones take a tenth of what an empty deque and an empty set take.
        self._listings: list[List] = []
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._listing = False

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes on the connection."""
        # uvloop's transports have the methods, but not the base class.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=limits.SEND_BUFFER_BYTES_MAX)
        name = transport.get_extra_info("peername")
        self._address = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name or "in-process")
        self.connection = self._node.add_peer(self)
        self._open_peers[self] = None

    def data_received(self, data: bytes) -> None:
        """Turns frames into inputs."""
        wire = self._wire
        wire.receive_data(data, _steady_ms())
        for frame, body in wire.frames_received():
            self._frame_received(frame, body)
        if wire.state is State.CLOSED:
            self._close()

    def eof_received(self) -> None:
        """Takes note that the client sends nothing more; the transport closes itself."""
        self._wire.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of the connection."""
        self._open_peers.pop(self, None)
        for task in self._tasks:
            task.cancel()
        reason = str(exc or self._wire.error or "closed")
        self._node.remove_peer(self.connection, farewell=self._farewell, reason="closed" if self._farewell else reason)

    def pause_writing(self) -> None:
        """The client does not read: nothing is delivered to it, and nothing is taken from it."""
        self._node.submit(inputs.SendBuffer(self.connection, full=True))
        self._paused_by_client = True
        self._set_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._node.submit(inputs.SendBuffer(self.connection, full=False))
        self._paused_by_client = False
        self._set_reading()
        self._list_next()

    # --- Peer ---

    def obey(self, effect: ToConnection) -> None:
        """Spells an effect as a frame."""
        wire = self._wire
        match effect:
            case effects.Deliver():
                parts = [Part(row.first_sequence, row.time_ms, list(row.batch.runs)) for row in effect.rows]
                deliver = Deliver(
                    effect.handle,
                    effect.queue,
                    effect.epoch,
                    parts,
                    effect.redelivered,
                    effect.attempts,
                    effect.redriven,
                )
                wire.send(deliver, [row.batch.body for row in effect.rows])
            case effects.Confirm():
                wire.send(self._confirmed(effect))
            case effects.Transacted():
                wire.send(Transacted(effect.number, [self._confirmed(confirm) for confirm in effect.confirms]))
            case effects.Done():
                wire.send(Done(effect.request))
            case effects.Answered():
                wire.send(Result(effect.request), [msgspec.msgpack.encode(effect.value)])
            case effects.Refuse():
                self._refuse(_KINDS[effect.kind], effect.request, effect.error)
                if effect.kind == "list":
                    self._listed()
            case effects.Welcome():
                store = self._node.store
                wire.send(Welcome(VERSION, effect.token, self._node.id, wire.heartbeat_ms, store.durability, _AGENT))
            case effects.Subscribed():
                wire.send(
                    Subscribed(
                        effect.request,
                        effect.name,
                        effect.durable,
                        effect.created,
                        effect.places,
                        effect.ack_timeout_ms,
                        effect.attempts_max,
                        effect.end,
                    )
                )
            case effects.Gap():
                wire.send(
                    Gap(
                        effect.handle,
                        effect.queue,
                        effect.epoch,
                        effect.first_sequence,
                        effect.last_sequence,
                        effect.reason,
                    )
                )
            case effects.Ended():
                wire.send(Ended(effect.handle))
            case effects.Listing():
                entries = msgspec.Raw(msgspec.msgpack.encode(effect.entries))
                wire.send(Listing(effect.request, entries, effect.after))
                self._listed()
            case effects.Close():
                wire.close(effect.error)
            case _:
                assert_never(effect)

    def _confirmed(self, effect: effects.Confirm) -> Confirmed:
        return Confirmed(
            effect.number,
            effect.epoch,
            effect.first_sequence,
            self._node.store.durability,
            effect.subscriptions,
            effect.duplicates,
        )

    def flush(self) -> None:
        """Writes what was spelled."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        data = self._wire.data_to_send(_steady_ms())
        if data:
            transport.writelines(data)
        if self._wire.state is State.CLOSED:
            transport.close()

    def pause_reading(self) -> None:
        """Stops taking bytes from the client: the store is behind."""
        self._paused_by_node = True
        self._set_reading()

    def resume_reading(self) -> None:
        """Takes bytes again, if the client takes ours."""
        self._paused_by_node = False
        self._wire.presume_alive(_steady_ms())
        self._set_reading()

    def _set_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        paused = self._paused_by_node or self._paused_by_client
        if paused != self._reading_paused:
            self._reading_paused = paused
            if paused:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def tick(self) -> None:
        """Sends a heartbeat when it is time, and gives up a client that is silent for too long."""
        now_ms = _steady_ms()
        if self._paused_by_node:
            # Its heartbeats wait in the socket; whether it lives shows once it is read again.
            self._wire.presume_alive(now_ms)
        if now_ms >= self._wire.next_deadline_ms():
            self._wire.tick(now_ms)
            self.flush()
            if self._wire.state is State.CLOSED and self._transport:
                # A dead peer takes no farewell: what is buffered for it goes with the connection.
                self._transport.abort()

    # --- frames ---

    def _frame_received(self, frame: Frame, body: bytes) -> None:
        connection, node = self.connection, self._node
        match frame:
            case Publish():
                batch = Batch(frame.runs, body)
                try:
                    batch.validate()
                except TidingsError as error:
                    self._refuse(KIND_OF[Publish], frame.number, error)
                    self.flush()
                    return
                node.publish(inputs.Publish(connection, frame.number, frame.answered, frame.queue, batch))
            case Transact():
                self._transact(frame, body)
            case Ack():
                node.submit(inputs.Ack(connection, frame.handle, frame.ranges, frame.request))
            case Nack():
                node.submit(
                    inputs.Nack(
                        connection,
                        frame.handle,
                        frame.ranges,
                        frame.request,
                        frame.delay_ms,
                        frame.reject,
                        frame.failure,
                    )
                )
            case Extend():
                node.submit(inputs.Extend(connection, frame.handle, frame.ranges, frame.request))
            case Call():
                self._call(frame, body)
            case Hello():
                self._hello(frame)
            case Subscribe():
                node.submit(_subscribe(connection, frame))
            case Unsubscribe():
                node.submit(inputs.Unsubscribe(connection, frame.request, frame.handle))
            case List():
                self._list(frame)
            case Delete():
                node.submit(inputs.Delete(connection, frame.request, frame.what, frame.name))
            case Backup():
                self._start(self._backup(frame))
            case Goodbye():
                # One with a code is no farewell: the client gives this connection up and comes back.
                self._farewell = not frame.code
            case _:
                raise AssertionError(f"the wire let a {type(frame).__name__} of a client through")

    def _hello(self, frame: Hello) -> None:
        if frame.version != VERSION:
            self._wire.close(
                ProtocolViolation(
                    f"protocol version {frame.version} is not spoken here, {VERSION} is; update the older side"
                )
            )
            return
        if not 1 <= len(frame.producer) <= limits.ID_LENGTH_MAX:
            self._wire.close(ProtocolViolation(f"the producer id has 1 to {limits.ID_LENGTH_MAX} characters"))
            return
        self._node.submit(
            inputs.Connect(
                connection=self.connection,
                client_id=frame.client_id,
                producer=frame.producer,
                token=frame.token[: limits.ID_LENGTH_MAX],
                fresh_token=self._node.fresh_token(),
                take_over=frame.take_over,
                address=self._address,
                protocol="tidings",
            )
        )

    # A question of twenty bytes has an answer of a hundred thousand: they are taken one in a round, so that many
    # of them hold up nobody else, and none while the client does not read.

    def _list(self, frame: List) -> None:
        if len(self._listings) >= limits.LISTINGS_WAITING_MAX:
            error = LimitReached(f"{limits.LISTINGS_WAITING_MAX} listings wait on this connection; ask one by one")
            self._refuse(KIND_OF[List], frame.request, error)
            self.flush()
            return
        self._listings.append(frame)
        self._list_next()

    def _listed(self) -> None:
        self._listing = False
        self._list_next()

    def _list_next(self) -> None:
        if self._listings and not self._listing and not self._paused_by_client:
            self._listing = True
            frame = self._listings.pop(0)
            self._node.submit(inputs.List(self.connection, frame.request, frame.what, frame.after))

    def _transact(self, frame: Transact, body: bytes) -> None:
        batches: list[tuple[str, Batch]] = []
        offset = 0
        for queue, runs in frame.batches:
            size = sum(max(0, run.size) for run in runs)
            batches.append((queue, Batch(runs, body[offset : offset + size])))
            offset += size
        try:
            for _, batch in batches:
                batch.validate()
            if offset != len(body):
                raise ProtocolViolation(f"the runs describe {offset} bytes, the body has {len(body)} bytes")
        except TidingsError as error:
            self._refuse(KIND_OF[Transact], frame.number, error)
            self.flush()
            return
        whole = Batch([run for _, runs in frame.batches for run in runs], body)
        self._node.publish(inputs.Transact(self.connection, frame.number, frame.answered, batches, frame.acks, whole))

    def _call(self, frame: Call, body: bytes) -> None:
        try:
            call = decode_call(body)
        except TidingsError as error:
            self._refuse(KIND_OF[Call], frame.request, error)
            self.flush()
            return
        self._node.submit(inputs.Call(self.connection, frame.request, call))

    async def _backup(self, frame: Backup) -> None:
        try:
            await self._node.backup(frame.path)
            self._wire.send(Done(frame.request))
        except TidingsError as error:
            self._refuse(KIND_OF[Backup], frame.request, error)
        except Exception as error:
            # A bug of ours; whoever asked must not wait for ever because of it.
            _log.exception("a backup to %r failed", frame.path)
            self._refuse(KIND_OF[Backup], frame.request, InternalError(str(error)))
        self.flush()

    def _start(self, work: "Coroutine[None, None, None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None  # owned by this peer, cancelled when its connection is lost
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    def _refuse(self, kind: int, request: int, error: TidingsError) -> None:
        if isinstance(error, InternalError):
            error = InternalError("the server made a mistake; its log says which")
        self._wire.send(Refusal(kind, request, error.code, error.text))

    def _close(self) -> None:
        self.flush()
        if self._transport:
            self._transport.close()


def _subscribe(connection: int, frame: Subscribe) -> inputs.Subscribe:
    return inputs.Subscribe(
        connection=connection,
        request=frame.request,
        handle=frame.handle,
        queue=frame.queue,
        event=frame.event,
        name=frame.name,
        start=frame.start,
        start_value=frame.start_value,
        in_flight_max=frame.in_flight_max,
        concurrency=frame.concurrency,
        ack_timeout_ms=frame.ack_timeout_ms,
        expires_after_ms=frame.expires_after_ms,
        attempts_max=frame.attempts_max,
        backoff_min_ms=frame.backoff_min_ms,
        backoff_max_ms=frame.backoff_max_ms,
        resume=[inputs.Resume(place.epoch, place.received, place.acked, place.begin_to) for place in frame.resume],
        shared=frame.shared,
        single_active=frame.single_active,
        headers=frame.headers,
        end=frame.end,
        end_value=frame.end_value,
        rate=frame.rate,
    )


def _steady_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)
