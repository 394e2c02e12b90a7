"""Subscribing: iterators of messages, and functions that are called with them; the verbs of a client for both."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, Unpack, overload

from tidings import limits
from tidings.calls import Respond
from tidings.client.decoding import Payload
from tidings.client.handlers import Handler, HandlerFunction, checked, run_handlers
from tidings.client.options import (
    From,
    Headers,
    Seconds,
    SubscribeOptions,
    To,
    checked_handling_max,
    replay_options,
    subscription_options,
)
from tidings.client.pending import Answer
from tidings.client.requests import Requests, time_limit
from tidings.client.subscriber import Options, Subscriber
from tidings.client.subscription import Subscription
from tidings.client.supervisor import Supervisor
from tidings.client.waiters import UNHEARD
from tidings.wire import Extend, Nack

_Function = TypeVar("_Function", bound=HandlerFunction)


class Subscribing(Requests):
    """The verbs of a client for subscriptions."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._handlers: list[Handler] = []

    @overload
    def subscribe(
        self,
        queue: str,
        event: str | None = None,
        *,
        type: type[Payload],
        timeout: float | None = ...,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription[Payload]: ...

    @overload
    def subscribe(
        self,
        queue: str,
        event: str | None = None,
        *,
        type: Any = None,
        timeout: float | None = ...,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription: ...

    def subscribe(
        self,
        queue: str,
        event: str | None = None,
        *,
        type: Any = None,
        timeout: float | None = limits.REQUEST_TIMEOUT_MS / 1000,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription:
        """Returns a subscription: an asynchronous iterator of messages, and a context manager.

        With a client id (or a `name`) it is durable: it continues where its acks left it, after any absence. What is
        not given here stays as it is on the server: see `configure_subscription`.

        Args:
            queue: a queue's name or a pattern (`*` one token, a last `#` any number); "queue/event" is both.
            event: an event's name or a pattern; None for all.
            name: the subscription's name on the server; the default is "CLIENT_ID:QUEUE/EVENT".
            start: where a new one begins: "latest", "earliest", "last" (with the last message of each event, then what
                follows), a sequence (at most the next one of the queue), or a datetime with time zone.
            in_flight_max: most messages delivered and not acked, 1 to 1,048,576; the server's default is 65,536.
            concurrency: how many messages are handled at once, 1 to 4,096; so many run against the ack timeout.
            ack_timeout: seconds or timedelta, 0.1 s to 24 h, until an unacked message is delivered again; the
                server's default is 30 s.
            expires_after: seconds or timedelta of absence after which a durable one is deleted; None leaves it as
                it is (never, by default), 0 removes it.
            type: what payloads are decoded and validated as: anything msgspec understands.
            attempts_max: after how many failed attempts a message becomes a dead letter, from 1; 10 by default.
            backoff_min: seconds or timedelta before the second attempt, up to 7 days; 1 s by default. It doubles from
                attempt to attempt; between its half and all of it is waited.
            backoff_max: seconds or timedelta that are waited at most; 5 min by default.
            shared: the name of a subscription that several clients share, instead of `name`: each message goes to
                one of them. The server's default of `in_flight_max` is 1,024 of each then.
            single_active: of those who share, one gets all messages until it leaves; then the next one does.
            headers: which messages by their headers, all of it: for each name a value, a `tidings.Prefix`, a list of
                those of which one is to match, or True for any value. As queue and event, it belongs to the
                subscription: one of the same name with another filter is refused.
            timeout: seconds that attaching may take; None is without limit.

        Raises:
            InvalidOption, InvalidName: an option or the name is not allowed.
        """
        return Subscription(self, subscription_options(queue, event, options), type, timeout)

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
    ) -> Subscription[Payload]: ...

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
    ) -> Subscription: ...

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
    ) -> Subscription:
        """Returns an asynchronous iterator of messages that a queue still holds, which ends after the last one.

        They go through a subscription of their own, which ends with it: no other one is touched. A message counts as
        done when the next one is asked for; what is given back with `nack` comes again before the end, unless the
        connection it came over is lost, and what is given up is among `gaps`, as is what cannot be read any more.

        Args:
            queue: the queue's name.
            event: an event's name or a pattern; None for all.
            from_: "earliest", the first sequence, or a datetime with time zone.
            to: "latest" (what is stored when it begins), the last sequence, or a datetime with time zone: what was
                stored before it.
            rate: messages a second, 0.001 to 100,000; None is as fast as it goes. It is kept on the server.
            headers: which messages by their headers, as for `subscribe`.
            type: what payloads are decoded and validated as: anything msgspec understands.
            timeout: seconds that attaching may take; None is without limit.

        Raises:
            InvalidOption: an option is not allowed.
            NotFound: there is no such queue; raised when it is attached.
        """
        options = replay_options(queue, event, from_=from_, to=to, rate=rate, headers=headers)
        return Subscription(self, options, type, timeout)

    def on(
        self,
        queue: str,
        event: str | None = None,
        *,
        type: Any = None,
        handling_max: Seconds = limits.HANDLING_MAX_MS / 1000,
        **options: Unpack[SubscribeOptions],
    ) -> Callable[[_Function], _Function]:
        """Returns a decorator: the function handles the messages of a subscription while `run` runs.

        A message is acked when the handler returns. When it raises, that is logged (logger "tidings"), and the message
        is delivered again after the backoff, or becomes a dead letter after the last attempt, with the exception's
        traceback. With `raise tidings.Reject("why")` it becomes one at once; so does a message whose payload is not
        of the `type` asked for, since no other attempt would change that. A handler may also call `message.nack` or
        `message.reject` and return. What it returns, if not None, is the reply to a message of `Client.request`.

        While a handler runs, its message's ack timeout is extended from outside it, each third of that timeout, for
        up to `handling_max` (seconds or timedelta, at most 12 h, by default 1 h) in all. After that it runs out and
        the attempt counts as failed; the handler is not stopped.

        A plain function is called in the event loop: it must not block, and while it does nothing is extended; use
        `async def` or `asyncio.to_thread`. Up to `concurrency` calls of an asynchronous handler run at once. Other
        arguments are as for `subscribe`.

        Raises:
            InvalidOption, InvalidName: an option, the name or the function is not allowed.
        """
        handling_max_s = checked_handling_max(handling_max)
        subscription = self.subscribe(queue, event, type=type, **options)
        concurrency = options.get("concurrency") or 1

        def register(function: _Function) -> _Function:
            checked(function, asynchronous=True)
            self._handlers.append(Handler(function, subscription, concurrency, handling_max_s))
            return function

        return register

    async def run(self) -> None:
        """Runs the handlers that `on` registered before, until the client is closed or this is cancelled.

        Raises:
            TidingsError: a subscription was refused or ended; all handlers are stopped.

        When cancelled, handlers are cancelled and their messages are delivered again.
        """
        await run_handlers(self._handlers)

    # --- For subscriptions and messages ---

    async def _attach(self, options: Options, timeout: float | None) -> Subscriber:
        waiter: asyncio.Future[Answer] = self._supervisor.loop.create_future()
        subscriber = self._session.subscribe(options, waiter)
        try:
            async with time_limit(timeout):
                await waiter
        except BaseException as error:
            self._session.unsubscribe(subscriber, UNHEARD)
            if isinstance(error, TimeoutError):
                raise self._timed_out(f"subscribing to {options.queue}/{options.event}", timeout) from None
            raise
        return subscriber

    async def _detach(self, subscriber: Subscriber, timeout: float | None) -> None:
        await self._ask(lambda waiter: self._session.unsubscribe(subscriber, waiter), timeout, "closing a subscription")

    def _abandon(self, subscriber: Subscriber) -> None:
        # The garbage collector may call this from any thread and at any time.
        if self._session.error is None:
            self._supervisor.call_soon_threadsafe(self._detach_unheard, subscriber)

    def _detach_unheard(self, subscriber: Subscriber) -> None:
        if self._session.error is None:
            self._session.unsubscribe(subscriber, UNHEARD)

    async def _ack_durably(
        self, subscriber: Subscriber, ranges: list[tuple[int, int, int]], timeout: float | None
    ) -> None:
        await self._ask(lambda waiter: self._session.ack_durably(subscriber, ranges, waiter), timeout, "an ack")

    async def _give_back_durably(
        self, subscriber: Subscriber, frame: Nack | Extend, attachment: int, timeout: float | None
    ) -> None:
        await self._ask(
            lambda waiter: self._session.give_back_durably(subscriber, frame, attachment, waiter),
            timeout,
            f"a {type(frame).__name__.lower()}",
        )

    async def _respond(self, call: Respond, timeout: float | None) -> bool:
        return bool(await self._call(call, timeout))
