"""The client for code without asyncio: the same verbs, each waiting until it is done.

Nothing is implemented twice: an asynchronous client lives on an event loop in a thread of its own, and every verb
here runs its namesake there. A client may be used from several threads.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from datetime import timedelta
from functools import wraps
from os import PathLike
from types import TracebackType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, Unpack, cast, overload

import msgspec

from tidings import client as asynchronous
from tidings import limits
from tidings.client.confirm import published_by, publisher_of
from tidings.client.dead_letters import DeadLetter
from tidings.client.decoding import Payload
from tidings.client.handlers import Held, is_final, report_failure, report_unheard
from tidings.client.message import Delivered, DeliveredBatch, extend, nack, reject, response
from tidings.client.message import MessageBatch as _AsynchronousBatch
from tidings.client.options import From, Headers, Seconds, SubscribeOptions, To, checked_handling_max
from tidings.client.subscriber import Delivery
from tidings.connect import DEFAULT_URL
from tidings.connect import connect as _connect
from tidings.errors import ConnectionLost, InvalidOption, Unavailable
from tidings.model import Receipt
from tidings.wire import Extend, Gap, Nack

_FINISH_TIMEOUT_S = 1.0
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Function = TypeVar("_Function", bound=Callable[["Message"], object])


def connect(
    url: str | PathLike[str] | Sequence[str] = DEFAULT_URL,
    *,
    client_id: str | None = None,
    take_over: bool = False,
    reconnect: bool | int | timedelta = True,
    timeout: float = 30.0,
) -> "Client":
    """Returns a client, to be used as `with tidings.sync.connect(...) as client`; arguments as `tidings.connect`."""
    return Client(
        _connect(url, client_id=client_id, take_over=take_over, reconnect=reconnect, timeout=timeout),
    )


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self.loop.run_forever, name="tidings client", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether the thread is one of this process; where that was forked, the thread stayed behind."""
        return self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Runs a coroutine there and waits for it; an interrupt of this thread cancels it."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise InvalidOption("a verb of tidings.sync would wait for itself here; call it from another thread")
        with self._closing:
            if self.closed:
                coroutine.close()
                raise ConnectionLost("the client is closed")
            if not self.is_here:
                coroutine.close()
                raise ConnectionLost("the client was opened before this process was forked; connect anew in this one")
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except CancelledError:
            raise ConnectionLost("the client is closed") from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Ends loop and thread, once what other threads wait for has ended."""
        with self._closing:
            if self.closed or not self.is_here:
                self.closed = True
                return
            self.closed = True
            finishing = asyncio.run_coroutine_threadsafe(self._finish(), self.loop)
        finishing.result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _finish(self) -> None:
        # All waiters of a closed client have their answers: its tasks end within a few turns of the loop.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_FINISH_TIMEOUT_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_FINISH_TIMEOUT_S)
        await self.loop.shutdown_asyncgens()


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
        self._loop: _Loop | None = None
        self._handlers: list[_Handler] = []

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
        self._loop = _Loop()
        try:
            self._run(self._client.open())
        except BaseException:
            self._loop.close()
            raise

    def close(self, timeout: float = limits.CLOSE_TIMEOUT_MS / 1000) -> None:
        """Sends what waits, says farewell and disconnects; `with` calls it. May be called twice."""
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
            self._handlers.append(_Handler(function, subscription, concurrency, handling_max_s))
            return function

        return register

    def run(self) -> None:
        """Runs the handlers that `on` registered, until the client is closed. See `tidings.Client.run`."""
        if not self._handlers:
            raise InvalidOption("there are no handlers to run; register some with @client.on(queue, event)")
        held = [handler.subscription._held(handler.handling_max_s) for handler in self._handlers]
        count = sum(handler.concurrency for handler in self._handlers)
        extending: list[Future[None]] = []
        with ThreadPoolExecutor(count, thread_name_prefix="tidings handler") as pool:
            try:
                for handler in self._handlers:
                    handler.subscription.attach()
                extending = [asyncio.run_coroutine_threadsafe(each.extend(), self._opened_loop().loop) for each in held]
                working = [
                    pool.submit(_work, handler.function, handler.subscription, each)
                    for handler, each in zip(self._handlers, held, strict=True)
                    for _ in range(handler.concurrency)
                ]
                done, _ = wait_for(working, return_when=FIRST_EXCEPTION)
            finally:
                for future in extending:
                    future.cancel()
                for handler in self._handlers:
                    handler.subscription.close()
            for worker in done:
                worker.result()

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

    request = _waiting(asynchronous.Client.request)
    receipts = _waiting(asynchronous.Client.receipts)

    schedule = _waiting(asynchronous.Client.schedule)
    cancel_schedule = _waiting(asynchronous.Client.cancel_schedule)
    schedules = _following(asynchronous.Client.schedules)

    def _confirmed(self, confirm: asynchronous.Confirm) -> Confirm:
        # A client of this module asks as the asynchronous one does, and waits for the answer.
        return published_by(cast(Any, self), Confirm(*msgspec.structs.astuple(confirm)))

    def _opened_loop(self) -> _Loop:
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


class Message(Delivered[Payload], gc=False, eq=False):
    """One message of a subscription; see `tidings.Message`."""

    _owner: Any = None
    _given_back: bool = False

    def ack(self, *, wait: bool = False, timeout: float | None = 30.0) -> None:
        """Settles the message. See `tidings.Message.ack`; without `wait` it only hands the ack over."""
        subscription: Subscription = self._owner
        subscription._settle([(self.queue, self._context.epoch, self.sequence, self.sequence)], wait, timeout)

    def nack(
        self,
        *,
        delay: Seconds | None = None,
        error: BaseException | str | None = None,
        wait: bool = False,
        timeout: float | None = 30.0,
    ) -> None:
        """Gives the message back as failed. See `tidings.Message.nack`; without `wait` it is only handed over."""
        frame = nack(self, delay, error)
        self._given_back = True
        self._give_back(frame, wait, timeout)

    def reject(
        self, error: BaseException | str | None = None, *, wait: bool = False, timeout: float | None = 30.0
    ) -> None:
        """Gives the message up. See `tidings.Message.reject`; without `wait` it is only handed over."""
        self._given_back = True
        self._give_back(reject(self, error), wait, timeout)

    def respond(
        self,
        payload: object,
        *,
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
        timeout: float | None = 30.0,
    ) -> bool:
        """Sends a reply to whoever waits in `Client.request`. See `tidings.Message.respond`."""
        owner: Subscription = self._owner
        call = response(self, payload, headers, content_type)
        return owner._loop.run(owner._subscription._client._respond(call, timeout))

    def extend(self, *, wait: bool = False, timeout: float | None = 30.0) -> None:
        """Asks for the whole ack timeout again. See `tidings.Message.extend`; without `wait` it is only handed over."""
        self._give_back(extend(self), wait, timeout)

    def _give_back(self, frame: Nack | Extend, wait: bool, timeout: float | None) -> None:
        self._owner._give_back(frame, self._context.delivery, wait, timeout)


class MessageBatch(DeliveredBatch[Payload]):
    """A batch of messages; iterate over it for `Message`s, or take `payloads`."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Message[Payload]]:
        for context, first, items in self._contexts():
            for sequence, item in enumerate(items, first):
                yield Message(item, sequence, context, msgspec.UNSET, self._subscription)

    def ack(self, *, wait: bool = False, timeout: float | None = 30.0) -> None:
        """Settles all messages of the batch. See `tidings.MessageBatch.ack`."""
        subscription: Subscription = self._subscription
        ranges = [(self.queue, epoch, first, last) for epoch, first, last in self._ack_ranges()]
        subscription._settle(ranges, wait, timeout)


class Subscription(Generic[Payload]):
    """What `Client.subscribe` returns: iterate over it, or use it as a context manager and then iterate.

    Messages are fetched from the client's thread batch by batch: after a reconnect, those of a durable subscription
    that were fetched and not acked may be seen twice. Several threads may iterate at once.
    """

    def __init__(self, loop: _Loop, subscription: asynchronous.Subscription) -> None:
        self._loop = loop
        self._subscription = subscription
        self._batches: AsyncIterator[_AsynchronousBatch] | None = None
        self._fetching = threading.Lock()
        self._ready: deque[Message[Payload]] = deque()
        self._acks: deque[tuple[str, int, int, int]] = deque()
        self._acks_scheduled = False

    def __repr__(self) -> str:
        return repr(self._subscription)

    @property
    def name(self) -> str:
        """Its name on the server."""
        return self._subscription.name

    @property
    def durable(self) -> bool:
        """Whether it stays on the server while its subscriber is away. Known once it is attached."""
        return self._subscription.durable

    @property
    def created(self) -> bool:
        """Whether attaching created it. Known once it is attached."""
        return self._subscription.created

    @property
    def gaps(self) -> list[Gap]:
        """What was cut from its backlog and never comes."""
        return self._subscription.gaps

    def attach(self) -> None:
        """Attaches to the server. See `tidings.Subscription.attach`."""
        self._loop.run(self._subscription.attach())

    def close(self) -> None:
        """Detaches; acks that wait are sent. May be called twice, and after the client was closed."""
        try:
            self._loop.run(self._close())
        except ConnectionLost:
            if not self._loop.closed:
                raise
        finally:
            self._ready.clear()  # their acks would come too late

    def __enter__(self) -> "Subscription[Payload]":
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message[Payload]]:
        while not self._loop.closed:
            try:
                message = self._ready.popleft()
            except IndexError:
                if not self._fetch():
                    return
            else:
                yield message
                if self._subscription._options.end and not message._given_back:
                    message.ack()

    def batches(self) -> Iterator[MessageBatch[Payload]]:
        """Iterates over messages in the batches they were stored in, which is several times faster."""
        while (batch := self._next_batch()) is not None:
            yield batch
            if self._subscription._options.end:
                batch.ack()

    def ack(
        self,
        first: int,
        last: int,
        *,
        queue: str | None = None,
        wait: bool = False,
        timeout: float | None = 30.0,
    ) -> None:
        """Settles all messages of a range of sequences. See `tidings.Subscription.ack`."""
        self._loop.run(self._subscription.ack(first, last, queue=queue, wait=wait, timeout=timeout))

    def ack_to(self, message: Delivered, *, wait: bool = False, timeout: float | None = 30.0) -> None:
        """Settles a message and all before it in its queue. See `tidings.Subscription.ack_to`."""
        self._loop.run(self._subscription.ack_to(message, wait=wait, timeout=timeout))

    # --- Inside ---

    def _fetch(self) -> bool:
        with self._fetching:
            if self._ready:
                return True  # another thread fetched in the meantime
            batch = self._next_batch()
            if batch is None:
                return False
            self._ready.extend(batch)
            return True

    def _next_batch(self) -> MessageBatch | None:
        try:
            batch = self._loop.run(self._next())
        except ConnectionLost:
            if not self._loop.closed:
                raise
            return None
        return None if batch is None else MessageBatch(batch._delivery, batch._decoding, self)

    async def _next(self) -> _AsynchronousBatch | None:
        # A new iterator each time: one that was interrupted is finished, the subscription behind it is not.
        async for batch in self._subscription.batches():
            return batch
        return None

    def _settle(self, ranges: list[tuple[str, int, int, int]], wait: bool, timeout: float | None) -> None:
        if wait:
            spans = [(epoch, first, last) for _, epoch, first, last in ranges]
            self._loop.run(self._subscription._ack_durably(spans, timeout))
            return
        # Waking the loop costs much more than an ack: it is woken once for all that gather until it comes.
        self._acks.extend(ranges)
        if not self._acks_scheduled:
            self._acks_scheduled = True
            try:
                self._loop.loop.call_soon_threadsafe(self._send_acks)
            except RuntimeError:  # the client is closed
                self._acks_scheduled = False
                while self._acks:
                    queue, _, first, last = self._acks.popleft()
                    self._subscription._report_late(queue, first, last)

    def _give_back(self, frame: Nack | Extend, delivery: Delivery, wait: bool, timeout: float | None) -> None:
        giving_back = self._subscription._give_back(frame, delivery, wait, timeout)
        try:
            self._loop.run(giving_back)
        except ConnectionLost:
            if wait or not self._loop.closed:
                raise
            self._subscription._report_given_back_late(frame, delivery)

    def _held(self, handling_max_s: float) -> Held:
        return Held(self._subscription, handling_max_s, self._loop.loop.time)

    def _send_acks(self) -> None:
        self._acks_scheduled = False
        while self._acks:
            queue, epoch, first, last = self._acks.popleft()
            if not self._subscription._subscriber_ack(epoch, first, last):
                self._subscription._report_late(queue, first, last)

    async def _close(self) -> None:
        self._send_acks()
        await self._subscription.close()


class _Handler(NamedTuple):
    """A function, where its messages come from, how many threads call it, and how long each call may take."""

    function: Callable[[Message], object]
    subscription: Subscription
    concurrency: int
    handling_max_s: float


def _work(function: Callable[[Message], object], subscription: Subscription, held: Held) -> None:
    for message in subscription:
        failure: BaseException | None = message.error
        if failure is None:
            held.begin(message)
            try:
                result = function(message)
                if result is not None and message.is_request:
                    _respond(message, result)
            except Exception as error:  # whatever a handler raises concerns its message alone
                failure = error
            finally:
                held.end(message)
        if failure is not None:
            report_failure(message, failure, subscription._subscription, settled=message._given_back)
        if message._given_back:
            continue  # the handler has said itself what becomes of it
        if failure is None:
            message.ack()
        elif is_final(message, failure):
            message.reject(failure)
        else:
            message.nack(error=failure)


def _respond(message: Message, result: object) -> None:
    try:
        if not message.respond(result):
            report_unheard(message)
    except Unavailable as error:
        report_unheard(message, error)


__all__ = ["Client", "DeadLetter", "Message", "MessageBatch", "Subscription", "Transaction", "connect"]
