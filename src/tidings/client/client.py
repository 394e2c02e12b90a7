"""The asynchronous client: the public verbs, each with its time limit."""

import asyncio
import logging
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec

from tidings import calls, limits
from tidings.client import payloads as encoding
from tidings.client.confirms import Confirms
from tidings.client.dead_letters import DeadLetter
from tidings.client.handlers import Handler, HandlerFunction, run_handlers
from tidings.client.options import (
    Seconds,
    Start,
    checked_handling_max,
    milliseconds,
    policy,
    subscription_options,
    within,
)
from tidings.client.publisher import Entry
from tidings.client.session import Answer, Pending
from tidings.client.subscriber import Options, Subscriber
from tidings.client.subscription import Subscription
from tidings.client.supervisor import Supervisor
from tidings.client.transport import Dialer
from tidings.client.waiters import UNHEARD
from tidings.errors import ConnectionLost, InvalidOption, TidingsError, TimedOut
from tidings.model import (
    ClientInfo,
    Confirm,
    DeadLetterGroup,
    QueueInfo,
    ScheduledInfo,
    SubscriptionInfo,
    check_label,
)
from tidings.wire import Extend, Listing, Nack

_logger: Final = logging.getLogger("tidings")
_Function = TypeVar("_Function", bound=HandlerFunction)
_Info = TypeVar("_Info", ClientInfo, QueueInfo, SubscriptionInfo)


class Client:
    """A connection to Tidings that keeps itself up. Made by `tidings.connect`; use it as a context manager.

    All verbs may be called from any number of tasks of one event loop. They wait through outages, each up to its
    own time limit.

    Args:
        dialers: ways to the server, tried in turn.
        client_id: a stable name, 1 to 255 bytes; subscriptions of a client with a name are durable by default.
        take_over: take the name from another living process.
        reconnect: True for ever, False never, a number of attempts in a row, or for how long.
        timeout: seconds that the first connection may take.
        randomness: where the producer's id and the jitter of pauses come from.
    """

    def __init__(
        self,
        dialers: Sequence[Dialer],
        *,
        client_id: str | None = None,
        take_over: bool = False,
        reconnect: bool | int | timedelta = True,
        timeout: float = 30.0,
        randomness: random.Random | None = None,
    ) -> None:
        if not dialers:
            raise InvalidOption("there is no address to connect to")
        if client_id is not None:
            check_label(client_id, "client id")
        self._supervisor = Supervisor(
            dialers,
            client_id=client_id,
            take_over=take_over,
            reconnect=reconnect,
            randomness=randomness or random.SystemRandom(),
        )
        self._session = self._supervisor.session
        self._timeout = timeout
        self._handlers: list[Handler] = []

    def __repr__(self) -> str:
        state = "connected" if self.connected else "closed" if self._session.error else "not connected"
        return f"<Client {self._session.client_id or '(anonymous)'}, {state}>"

    @property
    def connected(self) -> bool:
        """Whether the server is reached at this moment."""
        return self._session.open

    @property
    def client_id(self) -> str | None:
        """The client's stable name."""
        return self._session.client_id

    # --- Opening and closing ---

    async def open(self) -> None:
        """Connects to the first address that answers. `async with` calls it.

        Raises:
            Unavailable: nobody answered within the client's `timeout`, or at once with `reconnect=False`.
            ClientIdInUse: another living process has this client id; see `take_over`.
            ProtocolViolation: what answered does not speak this protocol.

        When cancelled, the client is closed.
        """
        supervisor = self._supervisor
        if supervisor.started:
            raise InvalidOption("a client is opened once; make another with tidings.connect")
        try:
            async with asyncio.timeout(self._timeout):
                await supervisor.start()
        except TimeoutError:
            error = supervisor.unreachable(f" within {self._timeout:g} s")
            await supervisor.stop(error)
            raise error from None
        except BaseException:
            await supervisor.stop(ConnectionLost("the client was not opened"))
            raise

    async def close(self, timeout: float = limits.CLOSE_TIMEOUT_MS / 1000) -> None:
        """Sends what waits, says farewell and disconnects. `async with` calls it. May be called twice.

        Publishes that somebody waits for are finished and acks are sent, for at most `timeout` seconds; then
        they fail with ConnectionLost, saying whether the message may have been stored. Iterations end.
        """
        if not self._supervisor.started:
            self._session.fail(ConnectionLost("the client is closed"))
            return
        try:
            async with asyncio.timeout(timeout):
                await self._supervisor.finish()
        except TimeoutError:
            _logger.warning("closing the client took longer than %g s; what was not sent yet is given up", timeout)
        finally:
            self._session.closing = True
            await self._supervisor.stop(ConnectionLost("the client is closed"))

    async def __aenter__(self) -> "Client":
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- Publishing ---

    async def publish(
        self,
        queue: str,
        event: str,
        payload: object,
        *,
        headers: dict[str, str] | None = None,
        id: str | None = None,
        key: str | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> Confirm:
        """Publishes a message; returns once it is durable on the server.

        Messages published within one turn of the event loop travel together, in the order of the calls. Through
        an outage it waits, and sends again without the message being stored twice.

        Args:
            queue: the queue's name; it exists from its first use.
            event: the event's name.
            payload: bytes as they are, everything else as JSON (dataclasses and msgspec Structs included; NaN and
                infinities, which JSON has not, become null); encoded at most 1 MiB.
            headers: at most 64 names and values, 8 KiB together.
            id: 1 to 255 characters, the publisher's identifier. A message whose id the queue has seen in the last
                10 minutes is not stored again; its confirm says of which message it is a duplicate.
            key: 1 to 255 characters, what the message is about.
            content_type: what the payload is, if neither JSON nor plain bytes; bytes may be declared as JSON.
            timeout: time limit in seconds; None, the default, waits as long as it takes.

        Returns:
            Confirm: place, durability level reached, and how many subscriptions' names match.

        Raises:
            InvalidInput: a name, option or payload cannot be; nothing was sent.
            TimedOut: the time limit passed; says whether the message was never sent or may still be stored.
            Refused: the server does not take it (SystemQueue, LimitReached ...); not stored.
            Unavailable: DiskFull, StoreUnavailable: not stored; ConnectionLost: the client ended.

        When cancelled, the message is not sent if it was not on its way yet; else it may be stored.
        """
        encoding.check_address(queue, event)
        encoding.check_content_type(content_type)
        data, content_type = encoding.encode_payload(payload, content_type)
        body, flags = encoding.encode_message(data, id, key, headers)
        entries: list[Entry] = []
        if timeout is None:
            return await self._publish(queue, event, content_type, flags, body, entries)
        try:
            async with asyncio.timeout(timeout):
                return await self._publish(queue, event, content_type, flags, body, entries)
        except TimeoutError:
            raise self._publish_timed_out(timeout, entries) from None

    async def publish_many(
        self,
        queue: str,
        event: str,
        payloads: Iterable[object] | AsyncIterable[object],
        *,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> list[Confirm]:
        """Publishes messages of one event, in order; returns once all are durable on the server.

        Payloads are taken from the iterable as there is room to send them, so it may be without end to memory.

        Args:
            queue: as for `publish`.
            event: as for `publish`.
            payloads: an iterable or asynchronous iterable of what `publish` takes.
            content_type: as for `publish`.
            timeout: time limit in seconds for all of them; None, the default, waits as long as it takes.

        Returns:
            One Confirm for each batch that was stored, in order; its `sequence` is that of its first message,
            `count` says how many there are.

        Raises:
            As `publish`. A note says how many messages were confirmed before; later ones may be stored, too.

        When cancelled, what was not on its way yet is not sent.
        """
        encoding.check_address(queue, event)
        encoding.check_content_type(content_type)
        confirms = Confirms(self._supervisor.loop.create_future())
        try:
            async with asyncio.timeout(timeout) as time_limit:
                if isinstance(payloads, AsyncIterable):
                    async for payload in payloads:
                        await self._publish_some(queue, event, [payload], content_type, confirms)
                else:
                    remaining = iter(payloads)
                    while chunk := list(islice(remaining, limits.PUBLISH_CHUNK_COUNT)):
                        await self._publish_some(queue, event, chunk, content_type, confirms)
                return await confirms.all()
        except TimeoutError:
            if timeout is None or not time_limit.expired():
                raise  # it came from the payloads
            error = self._publish_timed_out(timeout, confirms.entries)
            error.add_note(confirms.note())
            raise error from None
        except TidingsError as error:
            error.add_note(confirms.note())
            raise
        finally:
            confirms.end()
            for entry in confirms.entries:
                self._session.withdraw(entry)

    # --- Subscribing ---

    def subscribe(
        self,
        queue: str,
        event: str | None = None,
        *,
        name: str | None = None,
        start: Start = "latest",
        in_flight_max: int | None = None,
        concurrency: int = 1,
        ack_timeout: Seconds | None = None,
        expires_after: Seconds | None = None,
        type: Any = None,
        attempts_max: int | None = None,
        backoff_min: Seconds | None = None,
        backoff_max: Seconds | None = None,
        timeout: float | None = limits.REQUEST_TIMEOUT_MS / 1000,
    ) -> Subscription:
        """Returns a subscription: an asynchronous iterator of messages, and a context manager.

        With a client id (or a `name`) it is durable: it continues where its acks left it, after any absence. What is
        not given here stays as it is on the server: see `configure_subscription`.

        Args:
            queue: a queue's name or a pattern (`*` one token, a last `#` any number); "queue/event" is both.
            event: an event's name or a pattern; None for all.
            name: the subscription's name on the server; the default is "CLIENT_ID:QUEUE/EVENT".
            start: where a new one begins: "latest", "earliest", a sequence (at most the next one of the queue), or a
                datetime with time zone.
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
            timeout: seconds that attaching may take; None is without limit.

        Raises:
            InvalidOption, InvalidName: an option or the name is not allowed.
        """
        options = subscription_options(
            queue,
            event,
            name=name,
            start=start,
            in_flight_max=in_flight_max,
            concurrency=concurrency,
            ack_timeout=ack_timeout,
            expires_after=expires_after,
            attempts_max=attempts_max,
            backoff_min=backoff_min,
            backoff_max=backoff_max,
        )
        return Subscription(self, options, type, timeout)

    def on(
        self,
        queue: str,
        event: str | None = None,
        *,
        name: str | None = None,
        start: Start = "latest",
        in_flight_max: int | None = None,
        concurrency: int = 1,
        ack_timeout: Seconds | None = None,
        expires_after: Seconds | None = None,
        type: Any = None,
        attempts_max: int | None = None,
        backoff_min: Seconds | None = None,
        backoff_max: Seconds | None = None,
        handling_max: Seconds = limits.HANDLING_MAX_MS / 1000,
    ) -> Callable[[_Function], _Function]:
        """Returns a decorator: the function handles the messages of a subscription while `run` runs.

        A message is acked when the handler returns. When it raises, that is logged (logger "tidings"), and the message
        is delivered again after the backoff, or becomes a dead letter after the last attempt, with the exception's
        traceback. With `raise tidings.Reject("why")` it becomes one at once; so does a message whose payload is not
        of the `type` asked for, since no other attempt would change that. A handler may also call `message.nack` or
        `message.reject` and return.

        While a handler runs, its message's ack timeout is extended from outside it, each third of that timeout, for
        up to `handling_max` (seconds or timedelta, at most 12 h, by default 1 h) in all. After that it runs out and
        the attempt counts as failed; the handler is not stopped.

        A plain function is called in the event loop: it must not block, and while it does nothing is extended; use
        `async def` or `asyncio.to_thread`. Up to `concurrency` calls of an asynchronous handler run at once. Other
        arguments are as for `subscribe`.

        Raises:
            InvalidOption, InvalidName: an option or the name is not allowed.
        """
        handling_max_s = checked_handling_max(handling_max)
        subscription = self.subscribe(
            queue,
            event,
            name=name,
            start=start,
            in_flight_max=in_flight_max,
            concurrency=concurrency,
            ack_timeout=ack_timeout,
            expires_after=expires_after,
            type=type,
            attempts_max=attempts_max,
            backoff_min=backoff_min,
            backoff_max=backoff_max,
        )

        def register(function: _Function) -> _Function:
            self._handlers.append(Handler(function, subscription, concurrency, handling_max_s))
            return function

        return register

    async def run(self) -> None:
        """Runs the handlers that `on` registered until the client is closed or this is cancelled.

        Raises:
            TidingsError: a subscription was refused or ended; all handlers are stopped.

        When cancelled, handlers are cancelled and their messages are delivered again.
        """
        await run_handlers(self._handlers)

    # --- Looking and tidying ---

    async def clients(self, *, timeout: float | None = 30.0) -> list[ClientInfo]:
        """Returns all clients that are connected, and the known ones that are away."""
        return await self._list("clients", ClientInfo, timeout)

    async def queues(self, *, timeout: float | None = 30.0) -> list[QueueInfo]:
        """Returns all queues."""
        return await self._list("queues", QueueInfo, timeout)

    async def subscriptions(self, *, timeout: float | None = 30.0) -> list[SubscriptionInfo]:
        """Returns all subscriptions, each once for every queue it follows."""
        return await self._list("subscriptions", SubscriptionInfo, timeout)

    async def delete_queue(self, name: str, *, timeout: float | None = 30.0) -> None:
        """Deletes a queue and all its messages; durable on return.

        Raises:
            NotFound: there is none.
            SystemQueue: it is the server's own.
            TimedOut: the time limit passed; it may be deleted.
        """
        await self._ask(lambda waiter: self._session.delete("queue", name, waiter), timeout, f"deleting {name!r}")

    async def delete_subscription(self, name: str, *, timeout: float | None = 30.0) -> None:
        """Deletes a subscription, its cursor and what waits for it; durable on return.

        Args:
            name: its name, or a client id that has only one.
            timeout: time limit in seconds.

        Raises:
            NotFound: there is none.
            SubscriptionInUse: it has a subscriber; stop that first.
            TimedOut: the time limit passed; it may be deleted.
        """
        await self._ask(
            lambda waiter: self._session.delete("subscription", name, waiter), timeout, f"deleting {name!r}"
        )

    async def backup(self, path: str, *, timeout: float | None = None) -> None:
        """Writes a consistent copy of the store to a new file on the server's machine.

        Raises:
            InvalidOption: the file exists, cannot be written, or the store cannot be copied.
            ConnectionLost: the connection ended before the answer; the file may have been written.
        """
        await self._ask(lambda waiter: self._session.backup(path, waiter), timeout, f"the backup to {path!r}")

    async def configure_subscription(
        self,
        name: str,
        *,
        in_flight_max: int | None = None,
        ack_timeout: Seconds | None = None,
        attempts_max: int | None = None,
        backoff_min: Seconds | None = None,
        backoff_max: Seconds | None = None,
        expires_after: Seconds | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        """Changes the settings of a subscription, connected or away; durable on return. None leaves one as it is.

        They hold from now on. A connected subscriber hears of them when it attaches the next time: until then it
        extends its handlers' time by the ack timeout from before.

        Args:
            name: its name, or a client id that has only one.
            in_flight_max: as for `subscribe`.
            ack_timeout: as for `subscribe`.
            attempts_max: as for `subscribe`.
            backoff_min: as for `subscribe`; given alone it moves a `backoff_max` that is less.
            backoff_max: as for `subscribe`; given alone it moves a `backoff_min` that is more.
            expires_after: as for `subscribe`; 0 removes it.
            timeout: time limit in seconds.

        Raises:
            NotFound: there is none.
            InvalidOption: a setting is out of its range.
            TimedOut: the time limit passed; it may be changed.
        """
        settings: dict[str, Any] = policy(
            ack_timeout=ack_timeout, attempts_max=attempts_max, backoff_min=backoff_min, backoff_max=backoff_max
        )
        if in_flight_max is not None:
            settings["in_flight_max"] = within(in_flight_max, limits.IN_FLIGHT_MAX, "in_flight_max")
        if expires_after is not None:
            settings["expires_after_ms"] = milliseconds(expires_after, "expires_after") or None
        await self._call(calls.ConfigureSubscription(name=name, **settings), timeout)

    # --- Dead letters ---

    async def dead_letter_groups(self, subscription: str, *, timeout: float | None = 30.0) -> list[DeadLetterGroup]:
        """Returns how the dead letters of a subscription failed: one entry for each error in one place.

        Args:
            subscription: its name, or a client id that has only one.
            timeout: time limit in seconds.

        Returns:
            At most 500 groups, the largest first.

        Raises:
            NotFound: there is no such subscription.
        """
        groups: list[DeadLetterGroup] = await self._call(calls.DeadLetterGroups(subscription=subscription), timeout)
        return groups

    async def dead_letters(
        self,
        subscription: str,
        *,
        fingerprint: str | None = None,
        after: int = 0,
        limit: int | None = None,
        timeout: float | None = 30.0,
    ) -> AsyncIterator[DeadLetter]:
        """Iterates over the dead letters of a subscription, the oldest first. Looking changes nothing.

        Args:
            subscription: its name, or a client id that has only one.
            fingerprint: only those that failed in this way; see `dead_letter_groups`.
            after: only those with a number above this one.
            limit: at most so many, from 1; None is all.
            timeout: time limit in seconds for each page of them.

        Raises:
            NotFound: there is no such subscription.
            InvalidOption: the limit is out of its range.
        """
        left = within(limit, limits.DEAD_LETTERS_MAX, "limit")
        while left is None or left > 0:
            page = await self._dead_letters_after(subscription, after, fingerprint, left, timeout)
            if not page:
                return
            for letter in page:
                yield letter
            after = page[-1].number
            left = None if left is None else left - len(page)

    async def edit_dead_letter(
        self,
        subscription: str,
        number: int,
        *,
        payload: object = msgspec.UNSET,
        content_type: str | None = None,
        event: str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        """Changes a dead letter before it is redriven; durable on return. What is left out stays as it is.

        Args:
            subscription: its name, or a client id that has only one.
            number: which of its dead letters.
            payload: a new payload, as for `publish`; it brings its content type with it.
            content_type: what the new payload is, as for `publish`.
            event: another event's name.
            headers: all headers anew; {} removes them.
            timeout: time limit in seconds.

        Raises:
            NotFound: there is no such subscription or dead letter.
            InvalidInput: the message could not be published like that.
            TimedOut: the time limit passed; it may be changed.
        """
        changes: dict[str, Any] = {}
        if payload is not msgspec.UNSET:
            encoding.check_content_type(content_type)
            changes["payload"], changes["content_type"] = encoding.encode_payload(payload, content_type)
        elif content_type is not None:
            raise InvalidOption("content_type says what a new payload is; pass the payload, too")
        if event is not None:
            changes["event"] = event
        if headers is not None:
            encoding.encode_message(b"", None, None, headers)  # raises what publishing would raise
            changes["headers"] = headers
        await self._call(calls.EditDeadLetter(subscription=subscription, number=number, **changes), timeout)

    async def delete_dead_letters(
        self,
        subscription: str,
        *,
        number: int | None = None,
        fingerprint: str | None = None,
        timeout: float | None = 30.0,
    ) -> int:
        """Deletes dead letters for good: one, those that failed in one way, or (neither given) all of a subscription.

        Args:
            subscription: its name, or a client id that has only one.
            number: which one.
            fingerprint: which way; see `dead_letter_groups`.
            timeout: time limit in seconds.

        Returns:
            How many; durable on return. If the connection was lost and the server asked again, it counts what was left.

        Raises:
            NotFound: there is no such subscription, or no such dead letter.
            TimedOut: the time limit passed; they may be deleted.
        """
        _check_one_choice(number, fingerprint)
        call = calls.DeleteDeadLetters(subscription=subscription, number=number, fingerprint=fingerprint)
        return int(await self._call(call, timeout))

    async def redrive(
        self,
        subscription: str,
        *,
        number: int | None = None,
        fingerprint: str | None = None,
        rate: float | None = None,
        timeout: float | None = 30.0,
    ) -> int:
        """Sends dead letters to their subscription again, and to no other: one, those of one way to fail, or all.

        They begin with attempt 1, and `Message.redriven` tells them.

        Args:
            subscription: its name, or a client id that has only one.
            number: which one.
            fingerprint: which way; see `dead_letter_groups`.
            rate: messages a second, up to 100,000; None is as fast as it goes.
            timeout: time limit in seconds for the answer, not for the redriving.

        Returns:
            How many will be. If the connection was lost and the server asked again, it counts what was left. They are
            moved one after another from now on; what is not moved when the server stops stays a dead letter.

        Raises:
            NotFound: there is no such subscription, or no such dead letter.
            InvalidOption: the rate is out of its range.
            TimedOut: the time limit passed; they may be redriven.
        """
        _check_one_choice(number, fingerprint)
        call = calls.Redrive(subscription=subscription, number=number, fingerprint=fingerprint, rate=rate or 0.0)
        return int(await self._call(call, timeout))

    # --- Scheduling ---

    async def schedule(
        self,
        queue: str,
        event: str,
        payload: object,
        *,
        at: datetime | None = None,
        delay: Seconds | None = None,
        every: Seconds | None = None,
        headers: dict[str, str] | None = None,
        id: str | None = None,
        key: str | None = None,
        content_type: str | None = None,
        timeout: float | None = 30.0,
    ) -> ScheduledInfo:
        """Has a message published later, once or again and again; on disk on return.

        Args:
            queue: the queue's name.
            event: the event's name.
            payload: as `publish`.
            headers: as `publish`.
            id: as `publish`; it counts when the time comes.
            key: as `publish`.
            content_type: as `publish`.
            at: when; naive times are local. One that is past means at once.
            delay: seconds or a timedelta from now on, instead of `at`. Without either it is published at once.
            every: seconds or a timedelta, at least 1 s, after which it is published again, in this rhythm. Times that
                pass while the server is down are made up for once.
            timeout: time limit in seconds.

        Returns:
            ScheduledInfo: its `handle` cancels it.

        Raises:
            InvalidInput: a name, option or payload cannot be.
            SystemQueue, DiskFull, StoreUnavailable: the server does not take it.
            ConnectionLost: the connection was lost before the answer; it may be scheduled. Not asked again, since it
                would be published twice; with an `id` that does no harm.
            TimedOut: the time limit passed; it may be scheduled.
        """
        encoding.check_address(queue, event)
        encoding.check_content_type(content_type)
        data, content_type = encoding.encode_payload(payload, content_type)
        encoding.encode_message(data, id, key, headers)  # for its checks
        call = calls.Schedule(
            queue=queue,
            event=event,
            payload=data,
            content_type=content_type,
            id=id,
            key=key,
            headers=headers,
            at_ms=None if at is None else round(at.timestamp() * 1000),
            delay_ms=milliseconds(delay, "delay"),
            every_ms=milliseconds(every, "every"),
        )
        info: ScheduledInfo = await self._call(call, timeout)
        return info

    async def cancel_schedule(self, handle: str, *, timeout: float | None = 30.0) -> None:
        """Takes a scheduled message back, or ends a recurring one; durable on return.

        Raises:
            InvalidOption: the handle is malformed.
            NotFound: it was published or cancelled before.
            TimedOut: the time limit passed; it may be cancelled.
        """
        await self._call(calls.CancelSchedule(handle=handle), timeout)

    async def schedules(self, *, timeout: float | None = 30.0) -> AsyncIterator[ScheduledInfo]:
        """Iterates over what is scheduled, the next ones first.

        Raises:
            TimedOut: a page was not answered within the time limit.
        """
        after = ""
        while True:
            page: list[ScheduledInfo] = await self._call(calls.ListSchedules(after=after), timeout)
            for info in page:
                yield info
            if not page:
                return
            after = page[-1].handle

    # --- For subscriptions ---

    async def _attach(self, options: Options, timeout: float | None) -> Subscriber:
        waiter: asyncio.Future[Answer] = self._supervisor.loop.create_future()
        subscriber = self._session.subscribe(options, waiter)
        try:
            async with asyncio.timeout(timeout):
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
        loop = self._supervisor.loop
        if not loop.is_closed() and self._session.error is None:
            loop.call_soon_threadsafe(self._detach_unheard, subscriber)

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

    # --- Publishing, inside ---

    async def _publish(
        self, queue: str, event: str, content_type: str, flags: int, body: bytes, entries: list[Entry]
    ) -> Confirm:
        session = self._session
        if session.room.full:
            await self._supervisor.wait_for_room()
        waiter: asyncio.Future[Confirm] = self._supervisor.loop.create_future()
        entry = session.publish(queue, event, content_type, flags, 1, body, waiter)
        entries.append(entry)
        try:
            return await waiter
        except asyncio.CancelledError:
            session.withdraw(entry)
            raise

    async def _publish_some(
        self, queue: str, event: str, chunk: list[object], content_type: str | None, confirms: Confirms
    ) -> None:
        if confirms.future.done():
            await confirms.future  # it has failed: no more is taken
        session = self._session
        for kind, count, body in encoding.encode_many(chunk, content_type):
            if session.room.full:
                await self._supervisor.wait_for_room()
            elif confirms.bytes_this_turn + len(body) > limits.BATCH_SIZE_BYTES_MAX:
                confirms.bytes_this_turn = 0
                await asyncio.sleep(0)
            confirms.add(session.publish(queue, event, kind, 0, count, body, confirms), count, len(body))

    def _publish_timed_out(self, timeout: float, entries: list[Entry]) -> TimedOut:
        entries = [entry for entry in entries if entry.numbered]
        outcome = "it was under way and may still be stored" if entries else "it was never sent"
        return TimedOut(f"no confirm within {timeout:g} s; {outcome}{self._supervisor.why_not_connected()}")

    # --- Requests, inside ---

    async def _list(self, what: str, kind: type[_Info], timeout: float | None) -> list[_Info]:
        infos: list[_Info] = []
        after: str | None = ""
        while after is not None:
            page = await self._ask(partial(self._session.list, what, after), timeout, f"listing {what}")
            assert isinstance(page, Listing)
            infos += msgspec.msgpack.decode(page.entries, type=list[kind])  # type: ignore[valid-type]
            after = page.after or None
        return infos

    async def _ask(
        self, ask: Callable[["asyncio.Future[Answer]"], Pending | None], timeout: float | None, what: str
    ) -> Answer | None:
        waiter: asyncio.Future[Answer] = self._supervisor.loop.create_future()
        pending = ask(waiter)
        if pending is None:
            return None
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError:
            raise self._timed_out(what, timeout) from None
        finally:
            self._session.give_up(pending)

    async def _call(self, call: calls.Call, timeout: float | None, kind: Any = None) -> Any:
        body = await self._ask(lambda waiter: self._session.call(call, waiter), timeout, _name(call))
        assert isinstance(body, bytes)
        return msgspec.msgpack.decode(body, type=kind or calls.ANSWERS[type(call)])

    async def _dead_letters_after(
        self, subscription: str, after: int, fingerprint: str | None, limit: int | None, timeout: float | None
    ) -> list[DeadLetter]:
        count = min(limit or limits.DEAD_LETTERS_PAGE_COUNT, limits.DEAD_LETTERS_PAGE_COUNT)
        call = calls.ListDeadLetters(subscription=subscription, after=after, fingerprint=fingerprint, count_max=count)
        page: list[DeadLetter] = await self._call(call, timeout, list[DeadLetter])
        return page

    def _timed_out(self, what: str, timeout: float | None) -> TimedOut:
        return TimedOut(f"{what} was not answered within {timeout:g} s{self._supervisor.why_not_connected()}")


def _check_one_choice(number: int | None, fingerprint: str | None) -> None:
    if number is not None and fingerprint is not None:
        raise InvalidOption("number and fingerprint choose dead letters in two ways; pass one of them, or none for all")


def _name(call: calls.Call) -> str:
    return str(call.__struct_config__.tag).replace("_", " ")
