"""A subscription as the application sees it: an asynchronous iterator of messages."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from itertools import repeat
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic

import msgspec

from tidings import limits
from tidings.client.decoding import Decoding, Payload
from tidings.client.deliveries import Delivery, ReadyRun
from tidings.client.message import Delivered, Message, MessageBatch, RunContext
from tidings.client.requests import check_timeout
from tidings.client.subscriber import Options, Subscriber
from tidings.errors import InvalidOption, NeverDelivered
from tidings.model import epoch_of
from tidings.wire import Extend, Gap, Nack

if TYPE_CHECKING:
    from tidings.client.subscribing import Subscribing

_logger: Final = logging.getLogger("tidings")


class Subscription(Generic[Payload]):
    """What `Client.subscribe` returns: iterate over it, or use it as a context manager and then iterate.

    As a context manager it is attached on entering and detached on leaving. Without, it is attached by the first
    iteration and detached by `close`, by the client's end, or when nothing refers to it or its messages any more.
    Detaching ends an ephemeral subscription; a durable one stays on the server and gathers messages.

    Several tasks may iterate at once; each message goes to one of them. An iterator that was cancelled while it waited,
    by a time limit for example, has ended, as asynchronous generators do; another one goes on where it stopped.
    """

    _subscriber: Subscriber | None = None

    def __init__(self, client: "Subscribing", options: Options, type: Any, timeout: float | None) -> None:
        self._client = client
        self._options = options
        self._timeout = check_timeout(timeout)
        self._decoding = Decoding(type)
        self._epochs: dict[str, int] = {}
        self._attaching = asyncio.Lock()
        self._late_count = 0

    def __repr__(self) -> str:
        state = self._subscriber.state.value if self._subscriber else "not attached"
        return f"<Subscription {self.name!r} of {self._options.queue}/{self._options.event}, {state}>"

    @property
    def name(self) -> str:
        """Its name on the server; "" before it is attached the first time and has no name of its own."""
        return self._subscriber.name if self._subscriber else self._options.name or ""

    @property
    def durable(self) -> bool:
        """Whether it stays on the server while its subscriber is away. Known once it is attached."""
        return self._subscriber is not None and self._subscriber.durable

    @property
    def created(self) -> bool:
        """Whether attaching created it. Known once it is attached."""
        return self._subscriber is not None and self._subscriber.created

    @property
    def gaps(self) -> list[Gap]:
        """What was cut from its backlog and never comes: the latest gaps that were seen, in order."""
        gaps = self._subscriber.gaps if self._subscriber else []
        return [msgspec.structs.replace(gap, epoch=epoch_of(gap.epoch)) for gap in gaps]

    async def attach(self) -> None:
        """Attaches to the server, creating the subscription if it is new. Does nothing if it is attached.

        One that was closed is attached again by this only; iterating over it ends at once.

        When this returns, every message published from now on reaches the subscription; a durable one is on disk.

        Raises:
            InvalidFilter: queue or event is not a valid pattern.
            SubscriptionConflict: one of this name has another filter or owner.
            SubscriptionInUse: one of this name has a subscriber already.
            TimedOut: the subscription's time limit passed.

        When cancelled, it is not attached; a durable subscription may have been created.
        """
        async with self._attaching:
            if self._subscriber is None or self._subscriber.closed:
                self._subscriber = await self._client._attach(self._options, self._timeout)
                self._subscriber_ack = self._subscriber.ack  # type: ignore[method-assign]  # saves a call per ack

    async def close(self) -> None:
        """Detaches: acks that wait are sent, iterations end. May be called twice.

        Messages that were handed over and not acked are delivered again to the next subscriber of a durable one.
        """
        subscriber = self._subscriber
        if subscriber is not None:
            await self._client._detach(subscriber, self._timeout)

    async def __aenter__(self) -> "Subscription[Payload]":
        await self.attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Message[Payload]]:
        return self._iterate()

    def batches(self) -> AsyncIterator[MessageBatch[Payload]]:
        """Iterates over messages in the batches they were stored in, which is several times faster.

        A batch counts as handed over as a whole; `await batch.ack()` settles it. Messages of a batch that another
        iteration has begun to hand over one by one stay with such iterations.
        """
        return self._iterate_batches()

    async def ack(
        self,
        first: int,
        last: int,
        *,
        queue: str | None = None,
        wait: bool = False,
        timeout: float | None = 30.0,
    ) -> None:
        """Settles all messages of a range of sequences, both ends included.

        What was redriven stands in a queue of its own and is not meant; ack its messages one by one.

        Args:
            first: first sequence, from 1.
            last: last sequence; it must have been delivered.
            queue: the queue's name; needed if the subscription's filter is a pattern.
            wait: return only when that is durable on the server.
            timeout: time limit in seconds for `wait`.

        Raises:
            NeverDelivered: nothing of this queue was delivered yet; with `wait` also, nothing of the range was.
            DeliveryTakenAway, TimedOut: as `Message.ack`, with `wait`.
        """
        queue = self._options.queue if queue is None else queue
        epoch = self._epochs.get(queue)
        if epoch is None:
            raise NeverDelivered(f"no message of queue {queue!r} was delivered to subscription {self.name!r} yet")
        if not (type(first) is type(last) is int and 1 <= first <= last < 1 << 63):
            raise InvalidOption(f"{first!r} to {last!r} is not a range of sequences: whole numbers that count from 1")
        await self._ack(queue, epoch, first, last, wait, timeout)

    async def ack_to(self, message: Delivered, *, wait: bool = False, timeout: float | None = 30.0) -> None:
        """Settles a message and all before it in its queue that were handed over (cumulative ack).

        What was given back with `nack` or waits for a retry is not among it. Arguments as `Message.ack`.

        Raises:
            InvalidOption: the message is none of this subscription.
            DeliveryTakenAway, TimedOut: as `Message.ack`, with `wait`.
        """
        await self._ack_to(message, self, wait, timeout)

    # --- For messages, handlers and clients ---

    async def _ack_to(self, message: Delivered, subscription: object, wait: bool, timeout: float | None) -> None:
        """Acks up to a message that the subscription handed over, which is this one or one of `tidings.sync`."""
        if getattr(message, "_owner", getattr(message, "_subscription", None)) is not subscription:
            raise InvalidOption(f"{message!r} was not handed over by subscription {self.name!r}; ack it by itself")
        subscriber = self._subscriber
        ranges = subscriber.handed_up_to(message._context.epoch, message.sequence) if subscriber else []
        ranges = ranges or [(message._context.epoch, message.sequence, message.sequence)]
        if wait:
            await self._ack_durably(ranges, timeout)
            return
        for epoch, first, last in ranges:
            await self._ack(message.queue, epoch, first, last, wait, timeout)

    def _fate(self, delivery: Delivery) -> str:
        """What becomes of what was delivered if it fails now."""
        subscriber = self._subscriber
        comes_again = subscriber is None or subscriber.comes_again(delivery.attachment)
        return "delivered again later" if subscriber is None or comes_again else subscriber.fate

    @property
    def _ack_timeout_s(self) -> float:
        return (self._subscriber.ack_timeout_ms if self._subscriber else limits.ACK_TIMEOUT_MS) / 1000

    @property
    def _attempts_max(self) -> int:
        return self._subscriber.attempts_max if self._subscriber else 0

    def _subscriber_ack(self, epoch: int, first: int, last: int) -> bool:
        return False  # replaced by the subscriber's own method once it is attached

    async def _ack_durably(self, ranges: list[tuple[int, int, int]], timeout: float | None) -> None:
        if self._subscriber is not None:
            await self._client._ack_durably(self._subscriber, ranges, timeout)

    async def _give_back(self, frame: Nack | Extend, delivery: Delivery, wait: bool, timeout: float | None) -> None:
        subscriber = self._subscriber
        if subscriber is None:
            return
        frame = msgspec.structs.replace(frame, handle=subscriber.handle)
        if wait:
            await self._client._give_back_durably(subscriber, frame, delivery.attachment, timeout)
        elif not subscriber.give_back(frame, delivery.attachment):
            self._report_given_back_late(frame, delivery)

    def _report_given_back_late(self, frame: Nack | Extend, delivery: Delivery) -> None:
        [(_, first, last)] = frame.ranges
        self._report_late(delivery.queue, first, last, type(frame).__name__.lower())

    def _report_late(self, queue: str, first: int, last: int, what: str = "ack") -> None:
        subscriber = self._subscriber
        assert subscriber is not None, "what was never attached has delivered nothing"
        self._late_count += 1
        _logger.log(
            logging.WARNING if self._late_count == 1 else logging.DEBUG,
            "%s of messages %d to %d of queue %r came after subscription %r %s; they are %s",
            what,
            first,
            last,
            queue,
            self.name,
            "was closed" if subscriber.closed else "had lost its connection",
            subscriber.fate,
        )

    async def _ack(self, queue: str, epoch: int, first: int, last: int, wait: bool, timeout: float | None) -> None:
        if wait:
            await self._ack_durably([(epoch, first, last)], timeout)
        elif not self._subscriber_ack(epoch, first, last):
            self._report_late(queue, first, last)

    async def _attached(self) -> Subscriber:
        if self._subscriber is None:
            await self.attach()
        assert self._subscriber is not None
        return self._subscriber

    async def _iterate(self) -> AsyncIterator[Message[Payload]]:
        subscriber = await self._attached()
        ready, replays = subscriber.ready, bool(self._options.end)
        handed_over = 0
        while True:
            while ready:
                run = ready[0]
                # What is mapped here is mapped in C, which halves the cost of a message. The messages are made
                # here and not kept in `run`, which must not refer to this subscription: see `__del__`.
                ours = repeat(run.context), repeat(msgspec.UNSET), repeat(self)  # those never end
                messages: Iterator[Message[Payload]] = map(Message, run.items, run.sequences, *ours)
                if replays:
                    for message in messages:
                        yield message
                        if not message._given_back:
                            await message.ack()
                else:
                    for message in messages:
                        yield message
                if ready and ready[0] is run:  # another iteration may have been faster
                    ready.popleft()
            delivery = await self._take(subscriber)
            if delivery is None:
                if _ended(subscriber):
                    return
                continue
            runs = [
                ReadyRun(first, items, RunContext(delivery, run, self._decoding))
                for run, first, items in delivery.decode()
            ]
            subscriber.hand_over(runs)
            handed_over += sum(run.remaining for run in runs)
            if handed_over > limits.MESSAGES_PER_TURN_MAX:
                handed_over = 0
                await asyncio.sleep(0)

    async def _iterate_batches(self) -> AsyncIterator[MessageBatch[Payload]]:
        subscriber = await self._attached()
        handed_over = 0
        while True:
            delivery = await self._take(subscriber)
            if delivery is None:
                if _ended(subscriber):
                    return
                continue
            batch = MessageBatch(delivery, self._decoding, self)
            yield batch
            if self._options.end:
                await batch.ack()
            handed_over += len(batch)
            if handed_over > limits.MESSAGES_PER_TURN_MAX:
                handed_over = 0
                await asyncio.sleep(0)

    async def _take(self, subscriber: Subscriber) -> Delivery | None:
        """Returns the next part that has messages; None after it had to wait, or at the end."""
        delivery = subscriber.take()
        if delivery is not None:
            if not delivery.redriven:  # else its sequences are not those of the queue it names
                self._epochs[delivery.queue] = delivery.epoch
            return delivery if delivery.ranges() else None
        if not subscriber.closed:
            waiter = asyncio.get_running_loop().create_future()
            subscriber.wait(waiter)
            try:
                await waiter
            finally:
                if waiter.cancelled():
                    subscriber.forget_waiter(waiter)
        return None

    def __del__(self) -> None:
        if self._subscriber is not None and not self._subscriber.closed:
            self._client._abandon(self._subscriber)


def _ended(subscriber: Subscriber) -> bool:
    """Returns whether a subscription was closed or is over; raises why, if the application did not close it."""
    if subscriber.error is not None:
        raise type(subscriber.error)(subscriber.error.text)
    return subscriber.closed or subscriber.is_over
