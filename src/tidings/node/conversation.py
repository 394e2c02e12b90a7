"""A client's conversation with a node from inside its process, for doors whose clients do not speak our protocol.

A door translates what its client says into the verbs of a conversation, and what those return into what its client
understands. Requests are answered, refusals are raised, deliveries wait to be taken. No rule of delivery is here.

Nobody can overfill it: `publish` waits while the node takes no more, and what is delivered and not taken is bounded
by `SEND_BUFFER_BYTES_MAX` and what one round brings on top.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar, assert_never, overload

import msgspec

from tidings import calls, limits
from tidings.batch import Batch
from tidings.broker import effects, inputs
from tidings.broker.effects import ToConnection
from tidings.broker.inputs import Input
from tidings.errors import ConnectionLost, InternalError, TidingsError
from tidings.node.attachment import Attachment
from tidings.node.drafts import Draft, batches
from tidings.node.node import Node

T = TypeVar("T")
_CLOSED: Final = "the conversation has ended; connect again"


class Conversation:
    """One client's connection to a node. Made with `open_conversation`.

    Args:
        node: whom it talks to.
        protocol: which door the client came through, as listings show it.
        address: where the client is, as listings show it.
        closed: called once when the node ends the conversation, with the reason.
    """

    __slots__ = (
        "_attachments",
        "_closed",
        "_confirms",
        "_full",
        "_handle",
        "_node",
        "_number",
        "_paused",
        "_questions",
        "_request",
        "_room",
        "_touched",
        "_turn",
        "_waiting_bytes",
        "_welcome",
        "address",
        "client_id",
        "connection",
        "decoded",
        "error",
        "protocol",
        "token",
    )

    def __init__(
        self, node: Node, *, protocol: str, address: str, closed: Callable[[TidingsError], None] | None = None
    ) -> None:
        self.protocol = protocol
        self.address = address
        self.client_id: str | None = None
        self.token = ""
        """With it the same client gets its session back, see `connect`."""
        self.error: TidingsError | None = None
        """Why it has ended; None while it is open."""
        self.decoded = node.decoded
        self._node = node
        self._closed = closed
        self._welcome: asyncio.Future[None] | None = None
        self._number = 0  # of the last batch
        self._confirms: dict[int, asyncio.Future[effects.Confirm]] = {}
        self._request = 0
        self._questions: dict[int, asyncio.Future[object]] = {}
        self._handle = 0
        self._attachments: dict[int, Attachment] = {}
        self._touched: dict[Attachment, None] = {}
        self._waiting_bytes = 0
        self._full = False
        self._turn = asyncio.Lock()
        self._paused = False
        self._room: asyncio.Future[None] | None = None
        self.connection = node.add_peer(self)

    # --- verbs ---

    async def connect(self, client_id: str | None, *, take_over: bool = False, token: str = "") -> None:
        """Introduces the client; the first verb of all.

        Raises:
            InvalidName: the client id breaks the rules.
            ClientIdInUse: another living client has it.
        """
        self.client_id = client_id
        self._welcome = asyncio.get_running_loop().create_future()
        self.submit(
            inputs.Connect(
                connection=self.connection,
                client_id=client_id,
                producer=self._node.fresh_token(),
                token=token[: limits.ID_LENGTH_MAX],
                fresh_token=self._node.fresh_token(),
                take_over=take_over,
                address=self.address,
                protocol=self.protocol,
            )
        )
        try:
            await self._welcome
        except asyncio.CancelledError:
            self.close()
            raise

    async def publish(self, queue: str, drafts: list[Draft]) -> list[effects.Confirm]:
        """Publishes messages, and returns a confirm for each batch that they became, in order.

        Batches are stored each by itself: if one is refused, those before it may be stored.

        Raises:
            InvalidName, InvalidOption, PayloadTooLarge: nothing was published.
            TidingsError: why the first of the refused batches was refused.
        """
        futures = [await self.publish_batch(queue, batch) for batch in batches(drafts)]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if isinstance(answer, effects.Confirm)]

    async def publish_batch(self, queue: str, batch: Batch) -> "asyncio.Future[effects.Confirm]":
        """Publishes a valid batch as soon as the node has room, in the order of the calls; returns who confirms it.

        A cancelled future takes nothing back.
        """
        async with self._turn:
            while self.error is None and (self._paused or len(self._confirms) >= limits.UNCONFIRMED_BATCHES_MAX):
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            if self.error:
                raise _copy(self.error)
            self._number += 1
            number = self._number
            future = asyncio.get_running_loop().create_future()
            self._confirms[number] = future
            answered = next(iter(self._confirms))
            self._node.publish(inputs.Publish(self.connection, number, answered, queue, batch))
            return future

    async def subscribe(self, wanted: inputs.Subscribe, wake: Callable[[], None] | None = None) -> Attachment:
        """Attaches to a subscription, making it if need be; `connection`, `request` and `handle` are filled in here.

        Raises:
            InvalidFilter, InvalidName, InvalidOption, SubscriptionConflict, SubscriptionInUse, LimitReached: why not.
        """
        self._handle += 1
        handle = self._handle
        attachment = self._attachments[handle] = Attachment(self, handle, wake)
        try:
            subscribed = await self.ask(
                lambda connection, request: msgspec.structs.replace(
                    wanted, connection=connection, request=request, handle=handle
                ),
                answered=effects.Subscribed,
            )
        except TidingsError:
            self._attachments.pop(handle, None)
            raise
        except asyncio.CancelledError:
            self.leave(attachment)
            raise
        attachment.attached(subscribed)
        return attachment

    async def detach(self, attachment: Attachment) -> None:
        """Detaches from a subscription; may be called more than once."""
        if self._attachments.get(attachment.handle) is attachment:
            self._forget(attachment)
            attachment.end(ConnectionLost("it was unsubscribed"))
            await self.ask(
                lambda connection, request: inputs.Unsubscribe(connection, request, attachment.handle), answered=None
            )

    def leave(self, attachment: Attachment) -> None:
        """As `detach`, without waiting until it is done."""
        if self._attachments.get(attachment.handle) is attachment:
            self._forget(attachment)
            attachment.end(ConnectionLost("it was unsubscribed"))
            self.submit(inputs.Unsubscribe(self.connection, 0, attachment.handle))

    async def call(self, call: calls.Call) -> object:
        """Asks for something else, see `tidings.calls`; what it changed is durable on return.

        Raises:
            TidingsError: why it was refused.
        """
        answered = await self.ask(
            lambda connection, request: inputs.Call(connection, request, call), answered=effects.Answered
        )
        return answered.value

    async def list(self, what: str, after: str = "", name: str | None = None) -> effects.Listing:
        """Returns a page of the listing of "clients", "queues" or "subscriptions", from after a key on.

        With the name of a queue or a subscription it is what the listing says of that one.
        """
        return await self.ask(
            lambda connection, request: inputs.List(connection, request, what, after, name), answered=effects.Listing
        )

    async def delete(self, what: str, name: str, if_match: str | None = None) -> None:
        """Deletes a "queue" or a "subscription", with `if_match` if that is its tag; that is durable on return.

        Raises:
            NotFound, SystemQueue, SubscriptionInUse, Changed: why not.
        """
        await self.ask(
            lambda connection, request: inputs.Delete(connection, request, what, name, if_match), answered=None
        )

    def close(self, *, farewell: bool = True, reason: str = "closed") -> None:
        """Ends it; may be called more than once.

        Args:
            farewell: what is in flight goes back without counting an attempt; False for a client that was lost.
            reason: why, as presence tells it.
        """
        self._node.remove_peer(self.connection, farewell=farewell, reason=reason)
        self._end(ConnectionLost(_CLOSED))

    # --- below the verbs ---

    def submit(self, input: Input) -> None:
        """Gives the node an input, unless the conversation has ended."""
        if self.error is None:
            self._node.submit(input)

    @overload
    async def ask(self, make: Callable[[int, int], Input], *, answered: type[T]) -> T: ...
    @overload
    async def ask(self, make: Callable[[int, int], Input], *, answered: None) -> None: ...
    async def ask(self, make: Callable[[int, int], Input], *, answered: type[T] | None) -> T | None:
        """Submits the input that `make` returns for (connection, request), and waits for its answer.

        Cancelled, it takes nothing back.

        Raises:
            TidingsError: the refusal.
        """
        if self.error:
            raise _copy(self.error)
        self._request += 1
        request = self._request
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._questions[request] = future
        self._node.submit(make(self.connection, request))
        try:
            answer = await future
        finally:
            self._questions.pop(request, None)
        if answered is None:
            return None
        assert isinstance(answer, answered), f"asked for {answered.__name__}, answered with {type(answer).__name__}"
        return answer

    def taken(self, size_bytes: int) -> None:
        """Takes note that so much of what was delivered is not waiting any more."""
        self._waiting_bytes -= size_bytes
        if self._full and self._waiting_bytes <= limits.SEND_BUFFER_BYTES_MAX // 2:
            self._full = False
            self.submit(inputs.SendBuffer(self.connection, full=False))

    # --- Peer ---

    def obey(self, effect: ToConnection) -> None:
        """Notes an answer or a delivery; whoever waits for it goes on after the round."""
        match effect:
            case effects.Deliver() | effects.Gap():
                attachment = self._attachments.get(effect.handle)
                if attachment:
                    self._waiting_bytes += attachment.arrived(effect)
                    self._touched[attachment] = None
            case effects.Ended():
                attachment = self._attachments.get(effect.handle)
                if attachment:
                    attachment.is_over = True
                    attachment.end(ConnectionLost("the replay is at its end"))
            case effects.Confirm():
                _answer(self._confirms.pop(effect.number, None), effect)
                self._make_room()
            case effects.Refuse():
                future = self._confirms.pop(effect.request, None) if effect.kind == "publish" else None
                _refuse(future or self._questions.get(effect.request), _shown(effect.error))
                self._make_room()
            case effects.Welcome():
                self.token = effect.token
                _answer(self._welcome, None)
            case effects.Close():
                self._node.remove_peer(self.connection, farewell=False, reason=effect.error.text)
                self._end(_shown(effect.error))
            case effects.Transacted():
                raise AssertionError("a conversation has no verb for transactions")
            case effects.Subscribed() | effects.Done() | effects.Answered() | effects.Listing():
                _answer(self._questions.get(effect.request), effect)
            case _:
                assert_never(effect)

    def flush(self) -> None:
        """Wakes whoever takes deliveries, and says when too few are taken."""
        touched, self._touched = self._touched, {}
        for attachment in touched:
            attachment.wake()
        if not self._full and self._waiting_bytes > limits.SEND_BUFFER_BYTES_MAX:
            self._full = True
            self.submit(inputs.SendBuffer(self.connection, full=True))

    def pause_reading(self) -> None:
        """Lets publishers wait: the store is behind."""
        self._paused = True

    def resume_reading(self) -> None:
        """Lets publishers go on."""
        self._paused = False
        self._make_room()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        _answer(room, None)

    def _forget(self, attachment: Attachment) -> None:
        self._attachments.pop(attachment.handle, None)
        self._touched.pop(attachment, None)
        self.taken(attachment.forget())

    def _end(self, error: TidingsError) -> None:
        if self.error:
            return
        self.error = error
        for future in (self._welcome, *self._confirms.values(), *self._questions.values()):
            _refuse(future, error)
        self._confirms.clear()
        self._make_room()
        for attachment in self._attachments.values():
            attachment.end(error)
        if self._closed:
            self._closed(error)


async def open_conversation(
    node: Node,
    *,
    client_id: str | None,
    protocol: str,
    address: str,
    take_over: bool = False,
    token: str = "",
    closed: Callable[[TidingsError], None] | None = None,
) -> Conversation:
    """Returns a conversation whose client is let in.

    Raises:
        InvalidName: the client id breaks the rules.
        ClientIdInUse: another living client has it.
    """
    conversation = Conversation(node, protocol=protocol, address=address, closed=closed)
    await conversation.connect(client_id, take_over=take_over, token=token)
    return conversation


def _answer(future: "asyncio.Future[T] | None", value: T) -> None:
    if future and not future.done():
        future.set_result(value)


def _refuse(future: "asyncio.Future[Any] | None", error: TidingsError) -> None:
    if future and not future.done():
        future.set_exception(_copy(error))
        future.exception()  # it counts as looked at: a refusal that nobody waits for any more is no bug


def _copy(error: TidingsError) -> TidingsError:
    # Each who raises it gets one of its own: a traceback is written into it.
    return type(error)(*error.args)


def _shown(error: TidingsError) -> TidingsError:
    return InternalError("the server made a mistake; its log says which") if isinstance(error, InternalError) else error
