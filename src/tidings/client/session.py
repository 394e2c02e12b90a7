"""The client's side of the native protocol, pure: one session over as many connections as it takes.

A connection begins with `connected` and ends with `disconnected`; what was asked for in between and not answered
is asked again on the next one. Order on a new connection:

    Hello, (Welcome), unanswered batches, unanswered requests and subscriptions, then what came meanwhile

Times are milliseconds of any steady clock. Answers go to waiters, see `tidings.client.waiters`.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from tidings import calls, limits
from tidings.client.confirm import Confirm
from tidings.client.outgoing import Entry, OutgoingTransaction
from tidings.client.pending import Answer, Pending, Request, done_before, lost, too_late
from tidings.client.publisher import Publisher
from tidings.client.room import Room
from tidings.client.subscriber import Options, State, Subscriber
from tidings.client.waiters import UNHEARD, Waiter, answer, refuse
from tidings.errors import (
    ConnectionLost,
    InvalidInput,
    NotFound,
    ProtocolViolation,
    TidingsError,
    from_code,
    reconnects,
)
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
from tidings.wire.codec import check
from tidings.wire.frames import KIND_OF, VERSION

_PUBLISHING: Final = (KIND_OF[Publish], KIND_OF[Transact])


class Report(NamedTuple):
    """Something the application did not ask for and should be told: a gap, an ack or nack that was refused."""

    code: str
    text: str


class Session:
    """What a client asked for, and how far the server is with it.

    Args:
        client_id: the client's stable name, or None.
        producer: identifies this client process; batch numbers belong to it.
        take_over: take the client id from another living process, on the first connection.
        agent: who speaks, for the server's log.
        wake: called when there may be something to flush.
    """

    def __init__(
        self, *, client_id: str | None, producer: str, take_over: bool, agent: str, wake: Callable[[], None]
    ) -> None:
        self.client_id = client_id
        self.error: TidingsError | None = None
        """Why the session has ended for good."""
        self.closing = False
        self.paused = False
        """Set by the shell while the transport takes no more: nothing new is published then."""
        self.durability = ""
        self.node = ""
        self._producer = producer
        self._take_over = take_over
        self._agent = agent
        self._wake = wake
        self._token = ""
        self._connection: Connection | None = None
        self._open = False
        self._lost: TidingsError | None = None
        self._publisher = Publisher()
        self.room = Room(lambda: self._publisher.buffered_bytes < limits.PUBLISH_BUFFER_BYTES_MAX)
        """Whoever publishes takes it first."""
        self._pending: dict[int, Pending] = {}
        self._unsent: dict[int, Pending] = {}
        self._next_request = 1
        self._subscribers: dict[int, Subscriber] = {}
        self._next_handle = 1
        self._with_acks: dict[int, Subscriber] = {}
        self._reports: list[Report] = []

    # --- The connection ---

    @property
    def open(self) -> bool:
        """Whether a connection is open: the server said Welcome."""
        return self._open

    @property
    def connection_ended(self) -> bool:
        """Whether the present connection is over, so that the shell should write what is left and cut it."""
        return self._connection is not None and self._connection.state.value == "closed"

    @property
    def lost(self) -> TidingsError | None:
        """Why the last connection ended."""
        return self._lost

    def connected(self, now_ms: int) -> None:
        """Begins a connection."""
        self._connection = Connection(Role.CLIENT, now_ms)
        self._connection.send(Hello(VERSION, self.client_id, self._producer, self._token, self._take_over, self._agent))
        self._wake()

    def receive_data(self, data: bytes, now_ms: int) -> None:
        """Takes bytes of the server."""
        connection = self._connection
        if connection is None:
            return
        connection.receive_data(data, now_ms)
        try:
            for frame, body in connection.frames_received():
                if type(frame) is Deliver:
                    subscriber = self._subscribers.get(frame.handle)
                    if subscriber is not None and subscriber.state is State.ATTACHED:
                        subscriber.deliver(frame, body)
                elif type(frame) is Result:
                    self._answered(frame.request, body)
                else:
                    self._frame_received(frame)
        except ProtocolViolation as error:
            connection.close(error)
        if isinstance(connection.error, ProtocolViolation):
            self.fail(connection.error)
        elif connection.error is not None:
            self._lost = connection.error

    def disconnected(self, error: TidingsError | None = None) -> None:
        """Ends the connection; what is unanswered waits for the next one."""
        if self._connection is None:
            return
        self._lost = self._lost or error or self._connection.error
        self._connection = None
        self._open = False
        self._with_acks.clear()
        for subscriber in self._subscribers.values():
            subscriber.connection_lost()
        for pending in list(self._pending.values()):
            if pending.ends_with_connection(self._subscribers.get(pending.handle)):
                del self._pending[pending.number]
        self._unsent = {number: pending for number, pending in self._pending.items() if not pending.sent}

    def flush(self) -> None:
        """Puts on the wire what may go: batches, requests, acks."""
        connection = self._connection
        if connection is None or not self._open:
            return
        if not self.paused:
            for batch, parts in self._publisher.frames():
                connection.send(batch, parts)
        if self._unsent:
            for pending in list(self._unsent.values()):
                self._send(connection, pending)
        if self._with_acks:
            for handle, subscriber in list(self._with_acks.items()):
                if subscriber.state is State.ATTACHED:
                    del self._with_acks[handle]
                    for frame in subscriber.frames_to_send():
                        connection.send(frame)

    def data_to_send(self, now_ms: int) -> list[bytes]:
        """Returns the bytes to write, in order, and forgets them."""
        return self._connection.data_to_send(now_ms) if self._connection is not None else []

    def next_deadline_ms(self) -> int | None:
        """Returns when `tick` wants to be called at the latest; None without a connection."""
        return self._connection.next_deadline_ms() if self._connection is not None else None

    def tick(self, now_ms: int) -> None:
        """Sends a heartbeat or gives up on a silent server, if it is time."""
        if self._connection is not None:
            self._connection.tick(now_ms)
            if self._connection.error is not None:
                self._lost = self._connection.error
            self._wake()

    def close(self) -> None:
        """Says farewell; what is still unanswered must have been waited for."""
        self.closing = True
        if self._connection is not None:
            self.flush()
            self._connection.close()

    def fail(self, error: TidingsError) -> None:
        """Ends the session for good: everybody who waits gets the error."""
        if self.error is not None:
            return
        self.error = error
        self._publisher.fail(error)
        for pending in self._pending.values():
            refuse(pending.waiter, type(error)(error.text))
        self._pending.clear()
        self._unsent.clear()
        for subscriber in list(self._subscribers.values()):
            subscriber.close(None if self.closing else error)
        self._subscribers.clear()
        self._with_acks.clear()
        self.room.refuse(error)

    def reports(self) -> list[Report]:
        """Returns what is to be reported since the last call."""
        reports, self._reports = self._reports, []
        return reports

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer to a publish and all acks that can be sent are sent."""
        acks_wait = self._open and any(subscriber.has_acks for subscriber in self._subscribers.values())
        return not (self._publisher.awaited or acks_wait)

    # --- Publishing ---

    def publish(
        self,
        queue: str,
        event: str,
        content_type: str,
        flags: int,
        count: int,
        body: bytes,
        waiter: Waiter[Confirm],
    ) -> Entry:
        """Publishes encoded messages with the next flush; the waiter gets a Confirm for each batch they go in."""
        self._check()
        entry = self._publisher.add(queue, event, content_type, flags, count, body, waiter)
        self._wake()
        return entry

    def transact(self, transaction: OutgoingTransaction, waiter: Waiter[list[Confirm]]) -> Entry:
        """Sends a transaction with the next flush; the waiter gets the confirms of its messages."""
        self._check()
        entry = self._publisher.add_transaction(transaction, waiter)
        self._wake()
        return entry

    def withdraw(self, entry: Entry) -> bool:
        """Takes back messages that were never on the wire; returns False if they were, and may be stored."""
        withdrawn = self._publisher.withdraw(entry)
        self.room.grant()
        self._wake()  # the session may be idle now, which somebody who closes it waits for
        return withdrawn

    # --- Requests ---

    def list(self, what: str, after: str, waiter: Waiter[Answer]) -> Pending:
        """Asks for a page of a listing."""
        return self._ask(List(self._next_request, what, after), waiter)

    def delete(self, what: str, name: str, waiter: Waiter[Answer]) -> Pending:
        """Deletes a queue or a subscription. After an outage, its being gone already counts as done."""
        return self._ask(Delete(self._next_request, what, name), waiter)

    def backup(self, path: str, waiter: Waiter[Answer]) -> Pending:
        """Asks for a copy of the store. Not asked twice: the first one may have been written."""
        return self._ask(Backup(self._next_request, path), waiter)

    def call(self, call: calls.Call, waiter: Waiter[Answer]) -> Pending:
        """Asks for something else. After an outage it is asked again, except to schedule: that might happen twice.

        To configure and to edit twice is to do it once. To redrive or delete twice takes in what died in between,
        and what is gone when it is asked again counts as done.
        """
        return self._ask(Call(self._next_request), waiter, call=call)

    def give_up(self, pending: Pending) -> None:
        """Forgets a request whose answer nobody wants any more."""
        self._pending.pop(pending.number, None)
        self._unsent.pop(pending.number, None)

    # --- Subscriptions ---

    def subscribe(self, options: Options, waiter: Waiter[Answer]) -> Subscriber:
        """Opens a subscription; the waiter is answered once it is attached for the first time."""
        self._check()
        subscriber = Subscriber(self._next_handle, options, self._acks_wait)
        self._next_handle += 1
        self._subscribers[subscriber.handle] = subscriber
        self._ask(subscriber.subscribe_frame(self._next_request), waiter, subscriber.handle)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber, waiter: Waiter[Answer]) -> Pending | None:
        """Detaches; acks go first. None if there is nothing to wait for."""
        if self._subscribers.pop(subscriber.handle, None) is None:
            return None
        attached = subscriber.state is State.ATTACHED
        connection = self._connection if self._open else None
        if attached and connection is not None:
            for frame in subscriber.frames_to_send():
                connection.send(frame)
        sent = attached
        for pending in [pending for pending in self._pending.values() if pending.handle == subscriber.handle]:
            if isinstance(pending.frame, Subscribe):
                sent = sent or pending.sent
                self.give_up(pending)
                refuse(pending.waiter, ConnectionLost("the subscription was closed before it was attached"))
            elif not pending.sent:
                self.give_up(pending)
                refuse(pending.waiter, too_late(subscriber))
        self._with_acks.pop(subscriber.handle, None)
        subscriber.close()
        if connection is None or not sent:
            return None  # the end of a connection detaches, too
        return self._ask(Unsubscribe(self._next_request, subscriber.handle), waiter)

    def ack_durably(
        self, subscriber: Subscriber, ranges: Iterable[tuple[int, int, int]], waiter: Waiter[Answer]
    ) -> Pending:
        """Acks ranges; the waiter is answered when that is durable.

        Raises:
            DeliveryTakenAway: the subscription is closed.
        """
        self._check()
        if subscriber.closed:
            raise too_late(subscriber)
        frame = Ack(subscriber.handle, [*ranges], self._next_request)
        return self._ask(frame, waiter, subscriber.handle)

    def give_back_durably(
        self, subscriber: Subscriber, frame: Nack | Extend, attachment: int, waiter: Waiter[Answer]
    ) -> Pending | None:
        """Nacks or extends; the waiter is answered when that is durable. None if it was acked: nothing is left to do.

        Raises:
            DeliveryTakenAway: the subscription is closed.
            ConnectionLost: it was delivered over a connection that has ended.
        """
        self._check()
        if subscriber.closed:
            raise too_late(subscriber)
        if subscriber.was_acked(frame):
            return None
        if not subscriber.is_held(frame, attachment):
            raise lost(frame, subscriber)
        return self._ask(msgspec.structs.replace(frame, request=self._next_request), waiter, subscriber.handle)

    # --- Helpers ---

    def _check(self) -> None:
        if self.error is not None:
            raise type(self.error)(self.error.text)

    def _ask(self, frame: Request, waiter: Waiter[Answer], handle: int = 0, call: calls.Call | None = None) -> Pending:
        self._check()
        pending = Pending(self._next_request, frame, waiter, handle, call)
        self._next_request += 1
        self._pending[pending.number] = self._unsent[pending.number] = pending
        self._wake()
        return pending

    def _send(self, connection: Connection, pending: Pending) -> None:
        frame = pending.frame
        subscriber = self._subscribers.get(pending.handle)
        if isinstance(frame, Ack):
            if subscriber is None or subscriber.state is not State.ATTACHED:
                return  # it waits until the subscription is attached again
            subscriber.remember_acked(frame.ranges)
        elif isinstance(frame, Subscribe) and subscriber is not None:
            frame = subscriber.subscribe_frame(pending.number)
        pending.sent = True
        del self._unsent[pending.number]
        try:
            check(frame)  # a malformed one would cost the connection, and this session
            body = msgspec.msgpack.encode(pending.call) if pending.call else b""
            if len(body) > limits.BATCH_BODY_SIZE_BYTES_MAX:
                raise InvalidInput(f"{len(body)} bytes exceed the limit of {limits.BATCH_BODY_SIZE_BYTES_MAX} bytes")
            connection.send(frame, (body,) if body else ())
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError, InvalidInput) as error:
            # Nothing of it is on the wire: it alone is refused, as the server would do it.
            text = f"this cannot be sent: {error}"
            self._refused(Refusal(KIND_OF[type(frame)], pending.number, InvalidInput.code, text))

    def _acks_wait(self, subscriber: Subscriber) -> None:
        self._with_acks[subscriber.handle] = subscriber
        self._wake()

    def _frame_received(self, frame: Frame) -> None:
        match frame:
            case Confirmed():
                self._publisher.confirmed(frame)
                self._progress()
            case Transacted():
                self._transacted(frame)
            case Done() | Listing():
                self._answered(frame.request, frame)
            case Subscribed():
                self._subscribed(frame)
            case Refusal():
                self._refused(frame)
            case Gap():
                self._gap(frame)
            case Ended():
                subscriber = self._subscribers.get(frame.handle)
                if subscriber is not None:
                    subscriber.ended()
            case Welcome():
                self._welcomed(frame)
            case Goodbye():
                self._goodbye(frame)
            case _:
                raise ProtocolViolation(f"a server does not send {type(frame).__name__}")

    def _answered(self, request: int, result: Answer) -> None:
        pending = self._pending.pop(request, None)
        if pending is not None:
            answer(pending.waiter, result)

    def _transacted(self, frame: Transacted) -> None:
        transaction = self._publisher.transacted(frame)
        for handle, *place in transaction.acks() if transaction is not None else ():
            subscriber = self._subscribers.get(handle)
            if subscriber is not None:
                subscriber.remember_acked([(place[0], place[1], place[2])])
        self._progress()

    def _progress(self) -> None:
        self.room.grant()
        if self._publisher.waiting:
            self._wake()

    def _welcomed(self, frame: Welcome) -> None:
        self._open = True
        self._lost = None
        self._token = frame.token
        self._take_over = False  # once it is ours, another who takes it over shall keep it
        self.node = frame.node
        self.durability = frame.durability
        connection = self._connection
        assert connection is not None
        for again, parts in self._publisher.frames_again():
            connection.send(again, parts)
        asked = {pending.handle for pending in self._pending.values() if isinstance(pending.frame, Subscribe)}
        for subscriber in self._subscribers.values():
            if subscriber.handle not in asked:
                self._ask(subscriber.subscribe_frame(self._next_request), UNHEARD, subscriber.handle)
        self._wake()

    def _goodbye(self, frame: Goodbye) -> None:
        if self.closing:
            return
        if frame.code and not reconnects(frame.code):
            self.fail(from_code(frame.code, frame.text))
        else:
            self._lost = ConnectionLost(frame.text or "the server said farewell")

    def _subscribed(self, frame: Subscribed) -> None:
        pending = self._pending.pop(frame.request, None)
        subscriber = self._subscribers.get(pending.handle) if pending is not None else None
        if pending is None or subscriber is None:
            return
        subscriber.subscribed(frame)
        if subscriber.has_acks:
            self._with_acks[subscriber.handle] = subscriber
        self._wake()
        answer(pending.waiter, frame)

    def _refused(self, frame: Refusal) -> None:
        error = from_code(frame.code, frame.text)
        if frame.kind in _PUBLISHING:
            # A draining server stored nothing of it and closes next: the batch is sent again elsewhere.
            if frame.code != "draining":
                self._publisher.refused(frame.request, error)
                self._progress()
            return
        if frame.request == 0:
            self._reports.append(Report(frame.code, frame.text))
            return
        pending = self._pending.get(frame.request)
        if pending is None or (frame.code == "draining" and not isinstance(pending.frame, Backup)):
            return
        del self._pending[pending.number]
        if isinstance(error, NotFound) and pending.sent_before:
            done = done_before(pending)
            if done is not None:
                answer(pending.waiter, done)
                return
        refuse(pending.waiter, error)
        if isinstance(pending.frame, Subscribe):
            subscriber = self._subscribers.pop(pending.handle, None)
            if subscriber is not None:
                self._with_acks.pop(subscriber.handle, None)
                subscriber.close(error)

    def _gap(self, frame: Gap) -> None:
        subscriber = self._subscribers.get(frame.handle)
        if subscriber is not None:
            subscriber.gap(frame)
            self._reports.append(
                Report(
                    "gap",
                    f"subscription {subscriber.name!r}: messages {frame.first_sequence} to {frame.last_sequence} of"
                    f" queue {frame.queue!r} will not come: {frame.reason}",
                )
            )
