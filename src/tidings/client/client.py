"""The asynchronous client: the public verbs, each with its time limit."""

import asyncio
import logging
import random
from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from types import TracebackType
from typing import Any, Final, cast, overload

import msgspec

from tidings import limits
from tidings.calls import AwaitReply
from tidings.client import payloads as encoding
from tidings.client.administration import Administration
from tidings.client.confirm import Confirm, published_by
from tidings.client.confirms import Confirms
from tidings.client.dead_letters import DeadLetters
from tidings.client.decoding import Decoding, Payload
from tidings.client.history import History
from tidings.client.options import Seconds, milliseconds, ttl_of
from tidings.client.outgoing import Entry, flags_with_ttl
from tidings.client.pending import Answer
from tidings.client.receipts import Receipts
from tidings.client.replies import Reply
from tidings.client.requests import check_timeout, time_limit
from tidings.client.schedules import Schedules
from tidings.client.subscribing import Subscribing
from tidings.client.supervisor import Supervisor
from tidings.client.transaction import Transaction
from tidings.client.transport import Dialer
from tidings.client.waiters import UNHEARD
from tidings.client.webhooks import Webhooks
from tidings.errors import ConnectionLost, InvalidOption, TidingsError, TimedOut, Unanswered
from tidings.model import REPLY_TO, ReplyInfo, check_label

_logger: Final = logging.getLogger("tidings")


class Client(Administration, DeadLetters, History, Receipts, Schedules, Subscribing, Webhooks):
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
        if not isinstance(take_over, bool):
            raise InvalidOption(f"take_over={take_over!r}: write True or False")
        least = timedelta(0) if isinstance(reconnect, timedelta) else 0
        if not isinstance(reconnect, int | timedelta) or reconnect < least:  # type: ignore[operator]  # of one kind
            raise InvalidOption(
                f"reconnect={reconnect!r}: write True for ever, False for never, a number of attempts, or a timedelta"
            )
        self._randomness = randomness or random.SystemRandom()
        supervisor = Supervisor(
            dialers,
            client_id=client_id,
            take_over=take_over,
            reconnect=reconnect,
            randomness=self._randomness,
        )
        super().__init__(supervisor)
        self._timeout = check_timeout(timeout)
        self._replies_to: str | None = None
        self._requests = 0

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
        if supervisor.started or self._session.error is not None:
            raise InvalidOption("a client is opened once; make another with tidings.connect")
        try:
            async with time_limit(self._timeout):
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
        check_timeout(timeout)
        if not self._supervisor.started:
            self._session.fail(ConnectionLost("the client is closed"))
            return
        self._supervisor.check_loop()
        try:
            async with time_limit(timeout):
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
        delay: Seconds | None = None,
        at: datetime | None = None,
        every: Seconds | None = None,
        ttl: Seconds | None = None,
        timeout: float | None = None,
    ) -> Confirm:
        """Publishes a message, now or later; returns once it is durable on the server.

        Messages published within one turn of the event loop travel together, in the order of the calls. Through
        an outage it waits, and sends again without the message being stored twice.

        With `delay`, `at` or `every` the server keeps it until its time, and the confirm has a `handle` that cancels
        it. Errors and outages are those of `schedule` then.

        Args:
            queue: the queue's name; it exists from its first use.
            event: the event's name.
            payload: bytes as they are, everything else as JSON (dataclasses and msgspec Structs included; NaN and
                infinities, which JSON has not, become null); encoded at most 1 MiB.
            headers: at most 64 names and values, 8 KiB together.
            id: 1 to 255 characters, the publisher's identifier. A message whose id the queue has seen in the last
                10 minutes is not stored again; its confirm says of which message it is a duplicate.
            key: 1 to 255 characters, what the message is about. Who shares a subscription gets messages of one key one
                after another, in order.
            content_type: what the payload is, if neither JSON nor plain bytes; bytes may be declared as JSON.
            delay: seconds or a timedelta from now until it is published.
            at: when it is published, instead of `delay`; a naive time is local, one that is past means at once.
            every: seconds or a timedelta, at least 1 s, after which it is published again, and so on.
            ttl: seconds or a timedelta, from 1 ms to ten years, after which it is not delivered any more; None, the
                default, is never. Where the queue has a shorter one, that counts.
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
        if delay is not None or at is not None or every is not None:
            later = await self.schedule(
                queue,
                event,
                payload,
                at=at,
                delay=delay,
                every=every,
                headers=headers,
                id=id,
                key=key,
                content_type=content_type,
                ttl=ttl,
                timeout=timeout,
            )
            return Confirm(queue, 0, 0, 1, self._session.durability, 0, handle=later.handle)
        encoding.check_address(queue, event)
        encoding.check_content_type(content_type)
        data, content_type = encoding.encode_payload(payload, content_type)
        body, flags = encoding.encode_message(data, id, key, headers)
        if ttl is not None:
            flags = flags_with_ttl(flags, ttl_of(ttl))
        entries: list[Entry] = []
        if timeout is None:
            return await self._publish(queue, event, content_type, flags, body, entries)
        try:
            async with time_limit(timeout):
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
        ttl: Seconds | None = None,
        timeout: float | None = None,
    ) -> list[Confirm]:
        """Publishes messages of one event, in order; returns once all are durable on the server.

        Payloads are taken from the iterable as there is room to send them, so it may be without end to memory.

        Args:
            queue: as for `publish`.
            event: as for `publish`.
            payloads: an iterable or asynchronous iterable of what `publish` takes.
            content_type: as for `publish`.
            ttl: as for `publish`.
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
        encoding.check_payloads(payloads)
        flags = flags_with_ttl(0, ttl_of(ttl))
        confirms = Confirms(self._supervisor.loop.create_future())
        try:
            async with time_limit(timeout) as limit:
                if isinstance(payloads, AsyncIterable):
                    async for payload in payloads:
                        await self._publish_some(queue, event, [payload], content_type, flags, confirms)
                else:
                    remaining = iter(payloads)
                    while chunk := list(islice(remaining, limits.PUBLISH_CHUNK_COUNT)):
                        await self._publish_some(queue, event, chunk, content_type, flags, confirms)
                return [published_by(self, confirm) for confirm in await confirms.all()]
        except TimeoutError:
            if timeout is None or not limit.expired():
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

    @overload
    async def request(
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
    ) -> Reply[Payload]: ...

    @overload
    async def request(
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
    ) -> Reply: ...

    async def request(
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
    ) -> Reply:
        """Publishes a message and waits for the reply to it: `Message.respond`, or what a handler of `on` returns.

        The request is a message like any other: durable, delivered to every subscription that wants it, and again
        until it is acked. The reply is not stored: it goes through the server's memory to this client. The first one
        counts; one that comes too late goes nowhere.

        Args:
            queue: as for `publish`.
            event: as for `publish`.
            payload: as for `publish`.
            headers: as for `publish`; "$reply-to" is added to them.
            key: as for `publish`.
            content_type: as for `publish`.
            type: what the reply's payload is decoded and validated as: anything msgspec understands.
            timeout: time limit in seconds for all of it, up to 1 h.

        Returns:
            Reply: its `payload` is decoded when it is read.

        Raises:
            Unanswered: no subscription wants the message, so that nobody will answer it. It is stored all the same.
            TimedOut: no reply within the time limit. The message may be handled, or still wait to be.
            InvalidInput, Refused, Unavailable: as `publish`.

        When cancelled, the message may be stored, and handled.
        """
        wait_ms = milliseconds(check_timeout(timeout), "timeout") or 0
        if not 1 <= wait_ms <= limits.REPLY_WAIT_MS_MAX:
            raise InvalidOption(f"timeout of {timeout!r} s is outside 0.001 to {limits.REPLY_WAIT_MS_MAX // 1000} s")
        decoding = Decoding(type)
        address = self._reply_address()
        if not isinstance(headers, dict | None):
            raise InvalidOption(f"headers={headers!r}: write a dict of names and values")
        headers = {**(headers or {}), REPLY_TO: address}
        waiter: asyncio.Future[Answer] = self._supervisor.loop.create_future()
        pending = self._session.call(AwaitReply(address=address, wait_ms=wait_ms), waiter)
        confirm: Confirm | None = None
        info: ReplyInfo | None = None
        try:
            async with time_limit(timeout):
                await asyncio.sleep(0)  # so that the server waits for the reply before it has the request
                confirm = await self.publish(queue, event, payload, headers=headers, key=key, content_type=content_type)
                if not confirm.subscriptions and not waiter.done():
                    raise Unanswered(
                        f"no subscription wants {queue}/{event}, so nobody will answer message {confirm.sequence}"
                    )
                info = msgspec.msgpack.decode(cast(bytes, await waiter), type=ReplyInfo | None)
        except TimeoutError:
            pass  # told below, as when the server says that the time is over
        finally:
            if waiter.cancel() or waiter.cancelled():
                self._stop_waiting(address)
            else:
                waiter.exception()  # if it has failed, that or something before it was raised
            self._session.give_up(pending)
        if info is None:
            sent = f"message {confirm.sequence} of queue {queue!r}" if confirm else f"the request to {queue}/{event}"
            raise TimedOut(f"no reply to {sent} within {timeout:g} s{self._supervisor.why_not_connected()}")
        return Reply(info, decoding)

    def transaction(self, *, timeout: float | None = None) -> Transaction:
        """Returns a transaction: messages, to any queues, and acks that are stored together, or not at all.

        Use it as `async with client.transaction() as transaction`. What is called in the block is sent at its end, and
        nothing of it if the block raises. It holds up to 16,384 messages of 1 MiB together and 4,096 acks.

        Args:
            timeout: time limit in seconds for storing it; None, the default, waits as long as it takes.
        """
        return Transaction(self, self._supervisor, timeout)

    # --- For requests ---

    def _reply_address(self) -> str:
        """Returns where the next reply is waited for: nobody else can guess it."""
        if self._replies_to is None:
            self._replies_to = f"{self._randomness.getrandbits(96):024x}"
        self._requests += 1
        return f"{self._replies_to}.{self._requests}"

    def _stop_waiting(self, address: str) -> None:
        """Tells the server that nobody waits for a reply any more, so that who responds late hears of it."""
        if self._session.error is None:
            self._session.call(AwaitReply(address=address, wait_ms=0), UNHEARD)

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
            return published_by(self, await waiter)
        except asyncio.CancelledError:
            session.withdraw(entry)
            raise

    async def _publish_some(
        self, queue: str, event: str, chunk: list[object], content_type: str | None, flags: int, confirms: Confirms
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
            confirms.add(session.publish(queue, event, kind, flags, count, body, confirms), count, len(body))

    def _publish_timed_out(self, timeout: float, entries: list[Entry]) -> TimedOut:
        entries = [entry for entry in entries if entry.numbered]
        outcome = "it was under way and may still be stored" if entries else "it was never sent"
        return TimedOut(f"no confirm within {timeout:g} s; {outcome}{self._supervisor.why_not_connected()}")
