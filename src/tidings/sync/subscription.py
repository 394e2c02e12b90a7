"""A subscription, its messages and its batches, without `await`."""

import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec

from tidings import client as asynchronous
from tidings.client.decoding import Payload
from tidings.client.deliveries import Delivery
from tidings.client.handlers import Held
from tidings.client.message import Delivered, DeliveredBatch, extend, nack, reject, response
from tidings.client.options import Seconds
from tidings.errors import ConnectionLost
from tidings.sync.loop import Loop
from tidings.wire import Extend, Gap, Nack

_Result = TypeVar("_Result")


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

    def __init__(self, loop: Loop, subscription: asynchronous.Subscription) -> None:
        self._loop = loop
        self._subscription = subscription
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
        self._loop.run(self._subscription._ack_to(message, self, wait, timeout))

    # --- Inside ---

    def _fetch(self) -> bool:
        with self._fetching:  # another thread may have fetched in the meantime
            return bool(self._ready) or bool(self._wait(self._make_ready()))

    def _next_batch(self) -> MessageBatch | None:
        return self._wait(self._next())

    def _wait(self, fetching: Coroutine[Any, Any, _Result]) -> _Result | None:
        try:
            return self._loop.run(fetching)
        except ConnectionLost:
            if not self._loop.closed:
                raise
            return None

    async def _make_ready(self) -> bool:
        # In the client's thread, since what is given to one that is interrupted at that moment would be lost.
        batch = await self._next()
        if batch is not None:
            self._ready.extend(batch)
        return batch is not None

    async def _next(self) -> MessageBatch | None:
        # A new iterator each time: one that was interrupted is finished, the subscription behind it is not.
        async for batch in self._subscription.batches():
            return MessageBatch(batch._delivery, batch._decoding, self)
        return None

    def _settle(self, ranges: list[tuple[str, int, int, int]], wait: bool, timeout: float | None) -> None:
        if wait:
            spans = [(epoch, first, last) for _, epoch, first, last in ranges]
            self._loop.run(self._subscription._ack_durably(spans, timeout))
            return
        # Waking the loop costs much more than an ack: it is woken once for all that gather until it comes.
        self._acks.extend(ranges)
        if not self._acks_scheduled:
            if not self._loop.closed:
                self._loop.check_process()
            self._acks_scheduled = True
            try:
                self._loop.loop.call_soon_threadsafe(self._send_acks)
            except RuntimeError:  # the client is closed
                self._acks_scheduled = False
                while self._acks:
                    queue, _, first, last = self._acks.popleft()
                    self._subscription._report_late(queue, first, last)
            except BaseException:  # an interrupt: the next ack asks again
                self._acks_scheduled = False
                raise

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
