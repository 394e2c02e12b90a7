"""A transaction as the application sees it: messages and acks that are stored together, or not at all."""

import asyncio
from types import TracebackType
from typing import Any

from tidings.client import payloads as encoding
from tidings.client.confirm import Asking, Confirm, published_by
from tidings.client.message import Delivered, DeliveredBatch, Message, MessageBatch
from tidings.client.options import Seconds, ttl_of
from tidings.client.outgoing import Entry, OutgoingTransaction, flags_with_ttl
from tidings.client.pending import too_late
from tidings.client.requests import check_timeout, time_limit
from tidings.client.subscription import Subscription
from tidings.client.supervisor import Supervisor
from tidings.errors import InvalidOption, TimedOut


class Transaction:
    """What `Client.transaction` returns; use it as a context manager.

    Nothing is sent before the end of its block. Then everything in it is stored in one transaction of the server's
    store, or nothing is: when the block raises, when the server refuses any part of it, when a message that it acks
    was taken away meanwhile, or when server or client die before.
    """

    def __init__(self, client: Asking, supervisor: Supervisor, timeout: float | None) -> None:
        self._client = client
        self._supervisor = supervisor
        self._timeout = check_timeout(timeout)
        self._outgoing = OutgoingTransaction()
        self._acked: list[Any] = []  # Message, of whichever client
        self._ended = False
        self.confirms: list[Confirm] = []
        """The confirms of its messages, in the order of the calls, once it is stored."""

    def publish(
        self,
        queue: str,
        event: str,
        payload: object,
        *,
        headers: dict[str, str] | None = None,
        id: str | None = None,
        key: str | None = None,
        content_type: str | None = None,
        ttl: Seconds | None = None,
    ) -> None:
        """Adds a message. Arguments as `Client.publish`.

        Raises:
            InvalidInput: a name, option or payload cannot be; nothing was added.
            LimitReached: there is no room for it in one transaction; nothing was added.
        """
        self._check()
        encoding.check_address(queue, event)
        encoding.check_content_type(content_type)
        data, content_type = encoding.encode_payload(payload, content_type)
        body, flags = encoding.encode_message(data, id, key, headers)
        self._outgoing.add(queue, event, content_type, flags_with_ttl(flags, ttl_of(ttl)), body)

    async def ack(self, message: Message | MessageBatch) -> None:
        """Adds the ack of a message, or of all messages of a batch. They are settled with the rest, or not at all.

        A handler of `Client.on` that acks its message like this returns as any other.

        Raises:
            DeliveryTakenAway: its subscription was closed meanwhile; nothing was added.
            InvalidOption: it is no such message, or was delivered to another client; nothing was added.
            LimitReached: there is no room for it in one transaction; nothing was added.
        """
        if not isinstance(message, Message | MessageBatch):
            raise InvalidOption(f"{message!r} is no message of a subscription of this client, nor a batch of them")
        self._ack(message, message._subscription)

    async def commit(self) -> list[Confirm]:
        """Stores everything; the end of the block calls it. Returns the confirms of its messages, durable by now.

        Raises:
            DeliveryTakenAway: a message that it acks is not in flight to this client any more: its time was over, or
                its connection was lost. It is delivered again; nothing was stored.
            TimedOut: the time limit passed; says whether the transaction was never sent or may still be stored.
            Refused, InvalidInput: the server does not take some part of it; nothing was stored.
            Unavailable: DiskFull, StoreUnavailable: nothing was stored, and what it acks is delivered again;
                ConnectionLost: the client ended.

        When cancelled, it is not sent if it was not on its way yet; else it may be stored.
        """
        self._check()
        self._ended = True
        if not self._outgoing:
            return []
        entries: list[Entry] = []
        try:
            async with time_limit(self._timeout):
                self.confirms = [published_by(self._client, confirm) for confirm in await self._commit(entries)]
        except TimeoutError:
            under_way = any(entry.numbered for entry in entries)
            outcome = "it was under way and may still be stored" if under_way else "it was never sent"
            why = self._supervisor.why_not_connected()
            raise TimedOut(f"no confirm of the transaction within {self._timeout:g} s; {outcome}{why}") from None
        for message in self._acked:
            message._given_back = True  # the handler it was given to has said itself what becomes of it
        return self.confirms

    async def __aenter__(self) -> "Transaction":
        self._check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and not self._ended:
            await self.commit()
        self._ended = True

    # --- Inside ---

    def _ack(self, message: Delivered | DeliveredBatch, subscription: Subscription) -> None:
        self._check()
        if subscription._client._session is not self._supervisor.session:
            raise InvalidOption(
                f"a message of subscription {subscription.name!r} was delivered to another client; begin the"
                " transaction with that one"
            )
        subscriber = subscription._subscriber
        assert subscriber is not None, "what was never attached has delivered nothing"
        if subscriber.closed:
            raise too_late(subscriber)
        if isinstance(message, DeliveredBatch):
            self._outgoing.ack(subscriber.handle, message._ack_ranges())
            return
        self._outgoing.ack(subscriber.handle, [(message._context.epoch, message.sequence, message.sequence)])
        self._acked.append(message)

    def _check(self) -> None:
        if self._ended:
            raise InvalidOption("the transaction has ended; begin another with client.transaction()")

    async def _commit(self, entries: list[Entry]) -> list[Confirm]:
        session = self._supervisor.session
        if session.room.full:
            await self._supervisor.wait_for_room()
        waiter: asyncio.Future[list[Confirm]] = self._supervisor.loop.create_future()
        entry = session.transact(self._outgoing, waiter)
        entries.append(entry)
        try:
            return await waiter
        except asyncio.CancelledError:
            session.withdraw(entry)
            raise
