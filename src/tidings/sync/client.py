"""The client without `await`: verbs that wait for their namesakes of the asynchronous one."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, cast, overload

import msgspec

from tidings import client as asynchronous
from tidings import limits
from tidings.client.confirm import published_by, publisher_of
from tidings.client.decoding import Payload
from tidings.client.handlers import checked
from tidings.client.options import From, Headers, Seconds, SubscribeOptions, To, checked_handling_max
from tidings.client.requests import check_timeout
from tidings.errors import InvalidOption
from tidings.model import Receipt
from tidings.sync.handlers import Handler, run_handlers
from tidings.sync.loop import Loop
from tidings.sync.subscription import Message, MessageBatch, Subscription

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Function = TypeVar("_Function", bound=Callable[[Message], object])


def _waiting(
    verb: Callable[Concatenate[asynchronous.Client, _Arguments], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate["Client", _Arguments], _Result]:
    """Returns a verb of the asynchronous client as one that waits until it is done."""

    @wraps(verb)
    def waiting(client: "Client", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return client._run(verb(client._client, *args, **kwargs))

    return waiting


def _following(
    verb: Callable[Concatenate[asynchronous.Client, _Arguments], AsyncIterator[_Result]],
) -> Callable[Concatenate["Client", _Arguments], Iterator[_Result]]:
    """Returns a verb of the asynchronous client that iterates as one that iterates without `async`."""

    @wraps(verb)
    def following(client: "Client", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Iterator[_Result]:
        results = verb(client._client, *args, **kwargs)

        async def next_one() -> tuple[_Result, ...]:
            async for result in results:
                return (result,)
            return ()

        while found := client._run(next_one()):
            yield found[0]

    return following


def _confirming(
    verb: Callable[Concatenate[asynchronous.Client, _Arguments], Coroutine[Any, Any, asynchronous.Confirm]],
) -> Callable[Concatenate["Client", _Arguments], "Confirm"]:
    """Returns a verb of the asynchronous client that publishes as one that waits until it is done."""

    @wraps(verb)
    def confirming(client: "Client", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Confirm:
        return client._confirmed(client._run(verb(client._client, *args, **kwargs)))

    return confirming


class Confirm(asynchronous.Confirm, frozen=True, gc=True, dict=True):
    """The server's durable answer to a publish; see `tidings.Confirm`."""

    def delivered_to(self, subscription: str, *, timeout: float | None = 30.0) -> Receipt:  # type: ignore[override]
        """Waits until a subscription has acked the message. See `tidings.Confirm.delivered_to`."""
        client: Any = publisher_of(self)  # of this module, since it made the confirm
        receipt: Receipt = client._run(client._client._await_receipt(self, subscription, timeout))
        return receipt


class Client:
    """The client of `tidings.sync.connect`; see `tidings.Client` for every verb's meaning and errors."""

    def __init__(self, client: asynchronous.Client) -> None:
        self._client = client
        self._loop: Loop | None = None
        self._handlers: list[Handler] = []

    def __repr__(self) -> str:
        return repr(self._client)

    @property
    def connected(self) -> bool:
        """Whether the server is reached at this moment."""
        return self._client.connected

    @property
    def client_id(self) -> str | None:
        """The client's stable name."""
        return self._client.client_id

    def open(self) -> None:
        """Connects; `with` calls it."""
        if self._loop is not None:
            raise InvalidOption("a client is opened once; make another with tidings.sync.connect")
        self._loop = Loop()
        try:
            self._run(self._client.open())
        except BaseException:
            self._loop.close()
            raise

    def close(self, timeout: float = limits.CLOSE_TIMEOUT_MS / 1000) -> None:
        """Sends what waits, says farewell and disconnects; `with` calls it. May be called twice."""
        check_timeout(timeout)
        if self._loop is not None and not self._loop.closed:
            try:
                if self._loop.is_here:
                    self._run(self._client.close(timeout))
            finally:
                self._loop.close()

    def __enter__(self) -> "Client":
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    publish = _confirming(asynchronous.Client.publish)

    def publish_many(
        self,
        queue: str,
        event: str,
        payloads: Iterable[object],
        *,
        content_type: str | None = None,
        ttl: Seconds | None = None,
        timeout: float | None = None,
    ) -> list[Confirm]:
        """Publishes messages of one event, in order. See `tidings.Client.publish_many`.

        The iterable is read in the client's thread, where it must not call verbs of this client; while it blocks,
        nothing else of this client moves.
        """
        publishing = self._client.publish_many(
            queue, event, payloads, content_type=content_type, ttl=ttl, timeout=timeout
        )
        return [self._confirmed(confirm) for confirm in self._run(publishing)]

    @overload
    def subscribe(
        self,
        queue: str,
        event: str | None = None,
        *,
        type: type[Payload],
        timeout: float | None = ...,
        **options: Unpack[SubscribeOptions],
    ) -> "Subscription[Payload]": ...

    @overload
    def subscribe(
        self,
        queue: str,
        event: str | None = None,
        *,
        type: Any = None,
        timeout: float | None = ...,
        **options: Unpack[SubscribeOptions],
    ) -> "Subscription": ...

    def subscribe(
        self,
        queue: str,
        event: str | None = None,
        *,
        type: Any = None,
        timeout: float | None = limits.REQUEST_TIMEOUT_MS / 1000,
        **options: Unpack[SubscribeOptions],
    ) -> "Subscription":
        """Returns a subscription: an iterator of messages, and a context manager. See `tidings.Client.subscribe`."""

        async def subscribe() -> asynchronous.Subscription:
            return self._client.subscribe(queue, event, type=type, timeout=timeout, **options)

        return Subscription(self._opened_loop(), self._run(subscribe()))

    @overload
    def replay(
        self,
        queue: str,
        event: str | None = None,
        *,
        from_: From = ...,
        to: To = ...,
        rate: float | None = None,
        headers: Headers | None = None,
        type: type[Payload],
        timeout: float | None = ...,
    ) -> "Subscription[Payload]": ...

    @overload
    def replay(
        self,
        queue: str,
        event: str | None = None,
        *,
        from_: From = ...,
        to: To = ...,
        rate: float | None = None,
        headers: Headers | None = None,
        type: Any = None,
        timeout: float | None = ...,
    ) -> "Subscription": ...

    def replay(
        self,
        queue: str,
        event: str | None = None,
        *,
        from_: From = "earliest",
        to: To = "latest",
        rate: float | None = None,
        headers: Headers | None = None,
        type: Any = None,
        timeout: float | None = limits.REQUEST_TIMEOUT_MS / 1000,
    ) -> "Subscription":
        """Returns an iterator of messages that a queue still holds, which ends. See `tidings.Client.replay`."""

        async def replay() -> asynchronous.Subscription:
            return self._client.replay(
                queue, event, from_=from_, to=to, rate=rate, headers=headers, type=type, timeout=timeout
            )

        return Subscription(self._opened_loop(), self._run(replay()))

    def on(
        self,
        queue: str,
        event: str | None = None,
        *,
        type: Any = None,
        handling_max: Seconds = limits.HANDLING_MAX_MS / 1000,
        **options: Unpack[SubscribeOptions],
    ) -> Callable[[_Function], _Function]:
        """Returns a decorator: the function handles messages while `run` runs, in up to `concurrency` threads.

        See `tidings.Client.on`; here a handler may block. The client must be open.
        """
        handling_max_s = checked_handling_max(handling_max)
        subscription = self.subscribe(queue, event, type=type, **options)
        concurrency = options.get("concurrency") or 1

        def register(function: _Function) -> _Function:
            checked(function, asynchronous=False)
            self._handlers.append(Handler(function, subscription, concurrency, handling_max_s))
            return function

        return register

    def run(self) -> None:
        """Runs the handlers that `on` registered before, until the client is closed. See `tidings.Client.run`.

        When it is interrupted, by Ctrl-C for example, handlers end what they have begun, and that is acked.
        """
        run_handlers(self._handlers, self._opened_loop())

    @overload
    def request(
        self,
        queue: str,
        event: str,
        payload: object,
        *,
        headers: dict[str, str] | None = None,
        key: str | None = None,
        content_type: str | None = None,
        type: type[Payload],
        timeout: float = ...,
    ) -> asynchronous.Reply[Payload]: ...

    @overload
    def request(
        self,
        queue: str,
        event: str,
        payload: object,
        *,
        headers: dict[str, str] | None = None,
        key: str | None = None,
        content_type: str | None = None,
        type: Any = None,
        timeout: float = ...,
    ) -> asynchronous.Reply: ...

    def request(
        self,
        queue: str,
        event: str,
        payload: object,
        *,
        headers: dict[str, str] | None = None,
        key: str | None = None,
        content_type: str | None = None,
        type: Any = None,
        timeout: float = limits.REQUEST_TIMEOUT_MS / 1000,
    ) -> asynchronous.Reply:
        """Publishes a message and waits for the reply to it. See `tidings.Client.request`."""
        requesting = self._client.request(
            queue, event, payload, headers=headers, key=key, content_type=content_type, type=type, timeout=timeout
        )
        return self._run(requesting)

    def transaction(self, *, timeout: float | None = None) -> "Transaction":
        """Returns a transaction: messages and acks that are stored together. See `tidings.Client.transaction`."""
        return Transaction(self, self._client.transaction(timeout=timeout))

    clients = _waiting(asynchronous.Client.clients)
    queues = _waiting(asynchronous.Client.queues)
    subscriptions = _waiting(asynchronous.Client.subscriptions)
    delete_queue = _waiting(asynchronous.Client.delete_queue)
    delete_subscription = _waiting(asynchronous.Client.delete_subscription)
    backup = _waiting(asynchronous.Client.backup)
    configure_client = _waiting(asynchronous.Client.configure_client)
    configure_queue = _waiting(asynchronous.Client.configure_queue)
    configure_subscription = _waiting(asynchronous.Client.configure_subscription)
    seek = _waiting(asynchronous.Client.seek)
    pause = _waiting(asynchronous.Client.pause)
    put_webhook = _waiting(asynchronous.Client.put_webhook)
    webhooks = _waiting(asynchronous.Client.webhooks)
    delete_webhook = _waiting(asynchronous.Client.delete_webhook)
    resume = _waiting(asynchronous.Client.resume)

    peek = _waiting(asynchronous.Client.peek)
    purge = _waiting(asynchronous.Client.purge)
    delete_message = _waiting(asynchronous.Client.delete_message)

    dead_letter_groups = _waiting(asynchronous.Client.dead_letter_groups)
    dead_letters = _following(asynchronous.Client.dead_letters)
    edit_dead_letter = _waiting(asynchronous.Client.edit_dead_letter)
    delete_dead_letters = _waiting(asynchronous.Client.delete_dead_letters)
    redrive = _waiting(asynchronous.Client.redrive)

    receipts = _waiting(asynchronous.Client.receipts)

    schedule = _waiting(asynchronous.Client.schedule)
    cancel_schedule = _waiting(asynchronous.Client.cancel_schedule)
    schedules = _following(asynchronous.Client.schedules)

    def _confirmed(self, confirm: asynchronous.Confirm) -> Confirm:
        # A client of this module asks as the asynchronous one does, and waits for the answer.
        return published_by(cast(Any, self), Confirm(*msgspec.structs.astuple(confirm)))

    def _opened_loop(self) -> Loop:
        if self._loop is None:
            raise InvalidOption("the client is not open; use `with tidings.sync.connect(...) as client`")
        return self._loop

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        if self._loop is None:
            coroutine.close()
        return self._opened_loop().run(coroutine)


class Transaction:
    """What `Client.transaction` returns; use it as a context manager. See `tidings.Transaction`."""

    def __init__(self, client: Client, transaction: asynchronous.Transaction) -> None:
        self._client = client
        self._transaction = transaction
        self.publish = transaction.publish

    @property
    def confirms(self) -> list[Confirm]:
        """The confirms of its messages, in the order of the calls, once it is stored."""
        return [self._client._confirmed(confirm) for confirm in self._transaction.confirms]

    def ack(self, message: "Message | MessageBatch") -> None:
        """Adds the ack of a message, or of all messages of a batch. See `tidings.Transaction.ack`."""
        if not isinstance(message, Message | MessageBatch):
            raise InvalidOption(f"{message!r} is no message of a subscription of this client, nor a batch of them")
        owner = message._subscription if isinstance(message, MessageBatch) else message._owner
        self._transaction._ack(message, owner._subscription)

    def commit(self) -> list[Confirm]:
        """Stores everything; the end of the block calls it. See `tidings.Transaction.commit`."""
        self._client._run(self._transaction.commit())
        return self.confirms

    def __enter__(self) -> "Transaction":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and not self._transaction._ended:
            self.commit()
        self._transaction._ended = True
