"""What both forms of the door say alike: who a client is, what it publishes, what it is told and how it settles."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from tidings import limits
from tidings.batch import check_payload_size
from tidings.broker import effects, inputs
from tidings.errors import InvalidOption, InvalidPayload, TidingsError
from tidings.gateways.messages import ConfirmEntry, ErrorEntry, confirm_entry, error_entry, payload_value
from tidings.gateways.socketio.connection import Acknowledged
from tidings.gateways.socketio.packets import PLACEHOLDER, payload_of
from tidings.model import BYTES, JSON, REPLY_TO, Failure
from tidings.node import Attachment, Conversation, Delivery, Draft, respond_soon
from tidings.node.drafts import batches


class Auth(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a client says of itself in `auth`; other fields are its own, and ignored.

    `pid` and `offset` come from the standard client, when it returns.
    """

    client_id: str | None = None
    take_over: bool = False
    events: list[str] | None = None
    headers: list[str] = []
    ack: Literal["auto", "manual"] = "auto"
    start: str | int = msgspec.field(default="latest", name="from")
    recovery: bool = True
    pid: str | None = None
    offset: str | None = None

    @property
    def token(self) -> str:
        """The token of the conversation that the client had before."""
        return (self.pid or "").partition(".")[0]


class Failed(msgspec.Struct, frozen=True):
    """A request was refused."""

    error: ErrorEntry


class Settled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may acknowledge with: a `reply` to a request; or to give a message back, again after `delay_ms`, or
    never with `reject`.
    """

    nack: bool = False
    reject: bool = False
    delay_ms: int | None = None
    error: str | None = None
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_AUTH: Final = msgspec.json.Decoder(Auth)
_SETTLED: Final = msgspec.json.Decoder(Settled)


def decode_auth(data: bytes | msgspec.Raw | None) -> Auth:
    """Returns what a client says of itself.

    Raises:
        InvalidOption: a field is not what it should be.
    """
    try:
        return Auth() if data is None else _AUTH.decode(data)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"auth is not understood: {error}") from None


# --- publishing ---


def draft(
    event: str,
    payload: bytes | msgspec.Raw,
    content_type: str | None = None,
    *,
    id: str | None = None,
    key: str | None = None,
    headers: dict[str, str] | None = None,
) -> Draft:
    """Returns a message to publish; its payload is JSON as it came, or the bytes of an attachment.

    Raises:
        InvalidPayload: it is to be text, and is not a string.
    """
    if not isinstance(payload, msgspec.Raw):
        return Draft(event, payload, content_type or BYTES, id, key, headers)
    data = bytes(payload)
    if content_type is not None and content_type.lower().startswith("text/"):
        try:
            data = msgspec.json.decode(data, type=str).encode()
        except msgspec.DecodeError:
            raise InvalidPayload(f"a payload of {content_type} is a string") from None
    return Draft(event, data, content_type or JSON, id, key, headers)


async def publish(
    conversation: Conversation,
    queue: str,
    message: Draft,
    tell: Callable[[ConfirmEntry | Failed], None],
    durability: str,
) -> None:
    """Publishes a message as soon as there is room; `tell` is called with the confirm, or the refusal, later."""

    def answered(future: "asyncio.Future[effects.Confirm]") -> None:
        if future.cancelled():
            return  # the server stops
        error = future.exception()
        if isinstance(error, TidingsError):
            tell(Failed(error_entry(error)))
        else:
            tell(confirm_entry(queue, future.result(), durability))

    try:
        [batch] = batches([message])
        future = await conversation.publish_batch(queue, batch)
    except TidingsError as error:
        tell(Failed(error_entry(error)))
    else:
        future.add_done_callback(answered)


# --- delivering ---


def shown_payload(payload: bytes, content_type: str) -> tuple[bytes | msgspec.Raw, list[bytes]]:
    """Returns a payload as JSON, and what is attached to it: bytes are."""
    value = payload_value(payload, content_type)
    if value is None:
        return PLACEHOLDER, [payload]
    return (msgspec.json.encode(value) if isinstance(value, str) else value), []


class Unacknowledged:
    """Deliveries that wait for the client to acknowledge them, by the number that it was given.

    A message that is delivered again has its number again: who acknowledges it twice settles it once.
    """

    __slots__ = ("_last", "_numbers", "_waiting")

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[int, tuple[Attachment, int, int, str | None]] = {}
        self._numbers: dict[Attachment, dict[tuple[int, int], int]] = {}  # by reading and sequence, the latest last

    def add(self, attachment: Attachment, delivery: Delivery) -> int:
        """Returns the number for a delivery."""
        numbers = self._numbers.setdefault(attachment, {})
        place = (delivery.epoch, delivery.sequence)
        number = numbers.pop(place, None)
        if number is None:
            number = self._last = self._last + 1
            address = delivery.headers.get(REPLY_TO) if delivery.headers else None
            self._waiting[number] = (attachment, *place, address)
        numbers[place] = number
        if len(numbers) > limits.IN_FLIGHT_MAX:
            # More than can be in flight: the oldest was given up, or went to somebody else.
            del self._waiting[numbers.pop(next(iter(numbers)))]
        return number

    def forget(self, attachment: Attachment) -> None:
        """Lets nothing wait any more that an attachment delivered: it has ended."""
        for number in self._numbers.pop(attachment, {}).values():
            del self._waiting[number]

    def settle(
        self,
        conversation: Conversation,
        acknowledged: Acknowledged,
        ack: Callable[[Attachment, tuple[int, int, int]], None],
    ) -> None:
        """Settles a delivery as its client says; one that it was not given is ignored."""
        attachment, reading, sequence, address = self._waiting.pop(acknowledged.id, (None, 0, 0, None))
        if attachment is None:
            return
        del self._numbers[attachment][reading, sequence]
        settled = _settled(acknowledged.arguments)
        range = (reading, sequence, sequence)
        failure = None if settled.error is None else Failure("Error", settled.error[: limits.FAILURE_TEXT_LENGTH_MAX])
        if not (settled.nack or settled.reject or failure):
            if address is not None and settled.reply is not msgspec.UNSET:
                failure = _respond(conversation, address, settled.reply, acknowledged.attachments)
            if failure is None:
                ack(attachment, range)
                return
        conversation.submit(
            inputs.Nack(
                conversation.connection,
                attachment.handle,
                [range],
                delay_ms=settled.delay_ms,
                reject=settled.reject,
                failure=failure,
            )
        )


def _respond(
    conversation: Conversation, address: str, value: msgspec.Raw, attachments: Sequence[bytes]
) -> Failure | None:
    """Sends a reply; returns why it cannot be one."""
    try:
        payload = payload_of(value, attachments)
        check_payload_size(len(payload))
    except TidingsError as error:
        return Failure(type(error).__name__, f"the reply: {error.text}"[: limits.FAILURE_TEXT_LENGTH_MAX])
    content_type = JSON if isinstance(payload, msgspec.Raw) else BYTES
    respond_soon(conversation, address, bytes(payload), content_type)
    return None


def _settled(arguments: Sequence[bytes | msgspec.Raw]) -> Settled:
    try:
        return _SETTLED.decode(arguments[0]) if arguments else Settled()
    except msgspec.DecodeError:
        return Settled()  # an answer that was meant for another server: it was handled
