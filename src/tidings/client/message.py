"""What the application is handed: a message, or a batch of them, decoded as late as possible."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic

import msgspec

from tidings import calls, limits
from tidings.client import payloads as encoding
from tidings.client.decoding import Decoding, Payload, decode_json, why
from tidings.client.deliveries import Delivery
from tidings.client.failures import describe, sentence
from tidings.client.options import Seconds, milliseconds
from tidings.errors import InvalidOption, InvalidPayload
from tidings.model import BYTES, REPLY_TO, Failure, Run, epoch_of
from tidings.wire import Extend, Nack

if TYPE_CHECKING:
    from tidings.client.subscription import Subscription


class RunContext:
    """What the messages of one run share."""

    __slots__ = ("decoding", "delivery", "epoch", "run")

    def __init__(self, delivery: Delivery, run: Run, decoding: Decoding) -> None:
        self.delivery = delivery
        self.epoch = delivery.epoch  # as the server gave it, which is how it wants it back
        self.run = run
        self.decoding = decoding


# Structs, because they are made in one C call each and there are hundreds of thousands of them a second. They are
# not tracked by the garbage collector: nothing they refer to refers back to them.
class Delivered(msgspec.Struct, Generic[Payload], gc=False, eq=False):
    """A message as it was delivered; what all kinds of messages have in common."""

    _item: tuple[bytes, str | None, str | None, dict[str, str] | None]
    sequence: int
    """Its place in the queue, from 1."""
    _context: RunContext
    _decoded: Any = msgspec.UNSET

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._context.delivery.queue

    @property
    def event(self) -> str:
        """The event's name."""
        return self._context.run.event or ""

    @property
    def epoch(self) -> int:
        """The identity of the queue's life; a queue that is deleted and used again has another one."""
        return epoch_of(self._context.epoch)

    @property
    def data(self) -> bytes:
        """The payload as it was published, not decoded."""
        return self._item[0]

    @property
    def payload(self) -> Payload:
        """The payload: JSON decoded (and validated, with `type=`), other content types as bytes.

        It is decoded when it is first read.

        Raises:
            InvalidPayload: it is not valid JSON, or not of the type that was asked for; the text names queue,
                epoch, sequence, event and the place of the error. Raised each time; the message can be acked.
        """
        decoded: Payload = self._decoded
        if decoded is msgspec.UNSET:
            context = self._context
            try:
                decoded = self._decoded = context.decoding.decode(self._item[0], context.run.content_type)
            except Exception as error:  # a type may run the application's code, which may raise anything
                raise self._invalid(error) from None
        return decoded

    @property
    def error(self) -> InvalidPayload | None:
        """Why `payload` cannot be read; None if it can. Never kept, so that it costs nothing to hold a message."""
        try:
            self.payload  # noqa: B018 # reading it is the question
        except InvalidPayload as error:
            return error.with_traceback(None)
        return None

    @property
    def content_type(self) -> str:
        """What the payload is: application/json, application/octet-stream, or what the publisher said."""
        return self._context.run.content_type

    @property
    def id(self) -> str | None:
        """The publisher's identifier of the message."""
        return self._item[1]

    @property
    def key(self) -> str | None:
        """What the message is about, for order among messages of one key."""
        return self._item[2]

    @property
    def headers(self) -> dict[str, str]:
        """The headers; empty if there are none."""
        return self._item[3] or {}

    @property
    def is_request(self) -> bool:
        """Whether somebody waits, or waited, for a reply: see `Client.request`."""
        return REPLY_TO in self.headers

    @property
    def time_ms(self) -> int:
        """When the server took the message, in UTC milliseconds since 1970."""
        return self._context.delivery.part.time_ms

    @property
    def time(self) -> datetime:
        """When the server took the message, in UTC."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)

    @property
    def attempt(self) -> int:
        """Which delivery of this message this is, from 1."""
        return self._context.delivery.attempts.get(self.sequence, 1)

    @property
    def redriven(self) -> bool:
        """Whether this message was a dead letter and was redriven.

        Its sequence and epoch are those of a queue that holds what was redriven to this subscription.
        """
        return self._context.delivery.redriven

    @property
    def redelivered(self) -> bool:
        """Whether this message may have been delivered before."""
        return self._context.delivery.redelivered or self.attempt > 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.queue}/{self.event} {self.sequence}, {len(self.data)} bytes>"

    def _invalid(self, error: Exception) -> InvalidPayload:
        return InvalidPayload(
            f"payload of message {self.sequence} of queue {self.queue!r} (epoch {self.epoch}, event {self.event!r},"
            f" {self.content_type}) does not decode: {why(error)}"
        )


class Message(Delivered[Payload], gc=False, eq=False):
    """One message of a subscription.

    Once it is acked it has left the subscription; a message that is not acked within the ack timeout is delivered
    again, and after the last attempt becomes a dead letter of the subscription.
    """

    _subscription: Any = None
    _given_back: bool = False

    async def ack(self, *, wait: bool = False, timeout: float | None = 30.0) -> None:
        """Settles the message: it is not delivered to this subscription again.

        Acks are sent together at the end of the loop's turn, joined into ranges; one that is lost with a
        connection is sent again on the next. An ack that comes too late is reported to the logger "tidings", and
        the message is delivered again.

        Args:
            wait: return only when the ack is durable on the server.
            timeout: time limit in seconds for `wait`; None is none.

        Raises (only with `wait`):
            DeliveryTakenAway: the delivery ended before the ack; the message is delivered again.
            TimedOut: the time limit passed; the ack may still be taken.

        When cancelled, the ack may or may not be taken.
        """
        subscription: Subscription = self._subscription
        if not wait:
            sequence = self.sequence
            if not subscription._subscriber_ack(self._context.epoch, sequence, sequence):
                subscription._report_late(self.queue, sequence, sequence)
        else:
            await subscription._ack_durably(_place(self), timeout)

    async def nack(
        self,
        *,
        delay: Seconds | None = None,
        error: BaseException | str | None = None,
        wait: bool = False,
        timeout: float | None = 30.0,
    ) -> None:
        """Gives the message back as failed: it is delivered again later, others meanwhile.

        After the subscription's last attempt it becomes a dead letter instead. A nack is sent at the end of the
        loop's turn. One that is lost with a connection is not sent again, since what was in flight over that is
        delivered again anyway; only a subscription that is not durable goes on behind it, which is logged. Of a
        message that was acked before nothing is said.

        Args:
            delay: seconds or timedelta until then, 0 to 7 days; None is the subscription's backoff, which grows with
                each attempt.
            error: why, an exception or a sentence; the dead letter tells it, with the exception's traceback.
            wait: return only when the nack is durable on the server.
            timeout: time limit in seconds for `wait`; None is none.

        Raises:
            InvalidOption: the delay is out of its range.
            DeliveryTakenAway: with `wait`, the delivery ended before: its time was over.
            ConnectionLost: with `wait`, the connection ended before the answer; the message is delivered again.
            TimedOut: with `wait`, the time limit passed.

        When cancelled, the nack may or may not be taken.
        """
        frame = nack(self, delay, error)
        self._given_back = True
        await self._subscription._give_back(frame, self._context.delivery, wait, timeout)

    async def reject(
        self, error: BaseException | str | None = None, *, wait: bool = False, timeout: float | None = 30.0
    ) -> None:
        """Gives the message up: it becomes a dead letter of the subscription at once, whatever its attempt.

        Args:
            error: why, an exception or a sentence.
            wait: return only when that is durable on the server.
            timeout: time limit in seconds for `wait`; None is none.

        Raises:
            DeliveryTakenAway, ConnectionLost, TimedOut: as `nack`, with `wait`.

        When cancelled, the message may or may not be rejected.
        """
        self._given_back = True
        await self._subscription._give_back(reject(self, error), self._context.delivery, wait, timeout)

    async def respond(
        self,
        payload: object,
        *,
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
        timeout: float | None = 30.0,
    ) -> bool:
        """Sends a reply to whoever waits in `Client.request`. The message is still to be acked.

        The reply is not stored. The first one to a request counts.

        Args:
            payload: as for `Client.publish`.
            headers: as for `Client.publish`.
            content_type: as for `Client.publish`.
            timeout: time limit in seconds.

        Returns:
            Whether somebody still waited for it.

        Raises:
            InvalidOption: the message is no request; see `is_request`.
            InvalidPayload, PayloadTooLarge: the payload cannot be sent.
            TimedOut: the server did not answer within the time limit; the reply may have been sent.
        """
        call = response(self, payload, headers, content_type)
        return bool(await self._subscription._client._respond(call, timeout))

    async def extend(self, *, wait: bool = False, timeout: float | None = 30.0) -> None:
        """Asks for the whole ack timeout again, up to 12 h in all. For handlers of `Client.on` that is done for them.

        Args:
            wait: return only when the server has extended it.
            timeout: time limit in seconds for `wait`; None is none.

        Raises:
            DeliveryTakenAway, ConnectionLost, TimedOut: as `nack`, with `wait`.

        When cancelled, the time may or may not be extended.
        """
        await self._subscription._give_back(extend(self), self._context.delivery, wait, timeout)


def nack(message: Delivered, delay: Seconds | None, error: BaseException | str | None) -> Nack:
    """Returns what says that a message failed; its subscriber fills in handle and request.

    Raises:
        InvalidOption: the delay is out of its range.
    """
    delay_ms = milliseconds(delay, "delay")
    if delay_ms is not None and delay_ms > limits.RETRY_DELAY_MS_MAX:
        raise InvalidOption(f"delay of {delay_ms} ms is outside 0 to {limits.RETRY_DELAY_MS_MAX} ms")
    return Nack(0, _place(message), delay_ms=delay_ms, failure=_failure(error))


def reject(message: Delivered, error: BaseException | str | None) -> Nack:
    """Returns what says that a message is given up."""
    return Nack(0, _place(message), reject=True, failure=_failure(error))


def extend(message: Delivered) -> Extend:
    """Returns what says that a message takes longer."""
    return Extend(0, _place(message))


def response(
    message: Delivered, payload: object, headers: dict[str, str] | None, content_type: str | None
) -> calls.Respond:
    """Returns what answers a message.

    Raises:
        InvalidOption: nobody waits for an answer to it; or a header is not what it may be.
        InvalidPayload, PayloadTooLarge: the payload cannot be sent.
    """
    address = message.headers.get(REPLY_TO)
    if address is None:
        raise InvalidOption(
            f"message {message.sequence} of queue {message.queue!r} is no request; only what was sent with"
            " client.request can be responded to, see message.is_request"
        )
    encoding.check_content_type(content_type)
    data, content_type = encoding.encode_payload(payload, content_type)
    encoding.encode_message(b"", None, None, headers)  # for its checks
    return calls.Respond(address=address, payload=data, content_type=content_type, headers=headers)


def _place(message: Delivered) -> list[tuple[int, int, int]]:
    return [(message._context.epoch, message.sequence, message.sequence)]


def _failure(error: BaseException | str | None) -> Failure | None:
    if isinstance(error, BaseException):
        return describe(error)
    if isinstance(error, str | None):
        return None if error is None else sentence(error)
    raise InvalidOption(f"error={error!r} is neither an exception nor a sentence; an exception is raised, or made")


class DeliveredBatch(Generic[Payload]):
    """Messages of one queue that were stored together, in sequence order; decoded when they are looked at."""

    __slots__ = ("_decoding", "_delivery", "_ranges", "_runs", "_subscription")

    def __init__(self, delivery: Delivery, decoding: Decoding, subscription: Any) -> None:
        self._delivery = delivery
        self._decoding = decoding
        self._subscription = subscription
        self._ranges = delivery.ranges()
        self._runs: list[tuple[Run, int, list[Any]]] | None = None

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self._ranges)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.queue} {self.first_sequence}..{self.last_sequence}, {len(self)} messages>"

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._delivery.queue

    @property
    def epoch(self) -> int:
        """The identity of the queue's life."""
        return epoch_of(self._delivery.epoch)

    @property
    def first_sequence(self) -> int:
        """The first message's place in the queue. Messages of other events may be missing after it."""
        return self._ranges[0][0]

    @property
    def last_sequence(self) -> int:
        """The last message's place in the queue."""
        return self._ranges[-1][1]

    @property
    def payloads(self) -> list[Payload]:
        """The payloads, decoded, in order.

        Raises:
            InvalidPayload: one does not decode; iterate over the batch to get at the others.
        """
        payloads: list[Any] = []
        decode = self._decoding.decode
        for run, first, items in self._decoded():
            if run.content_type == BYTES and self._decoding.json is decode_json:
                payloads += [item[0] for item in items]
                continue
            for index, item in enumerate(items):
                try:
                    payloads.append(decode(item[0], run.content_type))
                except Exception as error:
                    context = RunContext(self._delivery, run, self._decoding)
                    raise Delivered(item, first + index, context)._invalid(error) from None
        return payloads

    def _decoded(self) -> list[tuple[Run, int, list[Any]]]:
        if self._runs is None:
            self._runs = self._delivery.decode()
        return self._runs

    def _contexts(self) -> Iterator[tuple[RunContext, int, list[Any]]]:
        for run, first, items in self._decoded():
            yield RunContext(self._delivery, run, self._decoding), first, items

    def _ack_ranges(self) -> list[tuple[int, int, int]]:
        return [(self._delivery.epoch, first, last) for first, last in self._ranges]


class MessageBatch(DeliveredBatch[Payload]):
    """A batch of messages; iterate over it for `Message`s, or take `payloads`."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Message[Payload]]:
        subscription = self._subscription
        for context, first, items in self._contexts():
            for sequence, item in enumerate(items, first):
                yield Message(item, sequence, context, msgspec.UNSET, subscription)

    async def ack(self, *, wait: bool = False, timeout: float | None = 30.0) -> None:
        """Settles all messages of the batch, as `Message.ack` does one."""
        subscription: Subscription = self._subscription
        if wait:
            await subscription._ack_durably(self._ack_ranges(), timeout)
            return
        for epoch, first, last in self._ack_ranges():
            if not subscription._subscriber_ack(epoch, first, last):
                subscription._report_late(self.queue, first, last)
