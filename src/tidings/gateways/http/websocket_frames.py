"""The frames of the WebSocket door: one JSON object each, which says in `type` what it is.

    from a client     publish  request  respond  subscribe  ack  nack  extend  unsubscribe  ping
    from the server   confirmed  reply  responded  subscribed  message  gap  done  pong  error

A client may number what it asks for: `request` is an integer or a string, and comes back with the answer, which may be
out of turn. Without it ack, nack, extend and unsubscribe are answered only if they are refused, all others always.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from tidings import limits
from tidings.errors import InvalidOption
from tidings.gateways.messages import GapEntry, ReplyEntry, all_positions, ranges_of
from tidings.model import Reading

RequestNumber: TypeAlias = int | Annotated[str, msgspec.Meta(max_length=limits.ID_LENGTH_MAX)] | UnsetType


class _Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    request: RequestNumber = UNSET


# --- from a client ---


class _Content(_Frame, frozen=True, kw_only=True):
    payload: msgspec.Raw | UnsetType = UNSET
    payload_base64: str | None = None
    content_type: str | None = None
    headers: dict[str, str] | None = None


class _Published(_Content, frozen=True, kw_only=True):
    queue: str
    event: str
    id: str | None = None
    key: str | None = None


class Publish(_Published, frozen=True, kw_only=True, tag="publish"):
    """Publishes a message. `payload` is any JSON, or with a `content_type` text/* a string. Answer: `Confirmed`."""


class Request(_Published, frozen=True, kw_only=True, tag="request"):
    """Publishes a message and waits for what somebody responds to it. Answer: `Reply`."""

    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=limits.REPLY_WAIT_MS_MAX)] = limits.REQUEST_TIMEOUT_MS


class Respond(_Content, frozen=True, kw_only=True, tag="respond"):
    """Sends a reply; `to` is the header `$reply-to` of the message that asks for it. Answer: `Responded`."""

    to: str


class _Positioned(_Frame, frozen=True, kw_only=True):
    position: str | None = None
    positions: list[str] = []

    @property
    def all_positions(self) -> list[str]:
        """All that are named."""
        return all_positions(self.position, self.positions)


class Subscribe(_Positioned, frozen=True, kw_only=True, tag="subscribe"):
    """Attaches to a subscription: with a `name`, or a client id, to a durable one. Answer: `Subscribed`.

    Without a queue it is the one of this name as it is. `ack` says what acks a message: a frame (the default of a
    durable one), or that it was written (of others). `position`, or `positions` of several queues, are the last ones
    that the client got before: where one that acks on write goes on.
    """

    queue: str | None = None
    event: str | None = None
    headers: list[str] = []
    name: str | None = None
    shared: bool = False
    start: str | int = msgspec.field(name="from", default="latest")
    ack: Literal["frame", "write"] | None = None
    in_flight_max: Annotated[int, msgspec.Meta(ge=1)] | None = None
    ack_timeout_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None
    attempts_max: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Settling(_Positioned, frozen=True, kw_only=True):
    subscription: str

    @property
    def ranges(self) -> list[tuple[Reading, int, int]]:
        """What is settled.

        Raises:
            InvalidOption: nothing, or what is no position.
        """
        return ranges_of(self.all_positions)


class Ack(_Settling, frozen=True, kw_only=True, tag="ack"):
    """Settles messages: they are gone for the subscription. Answer: `Done`, once that is durable."""


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a message could not be handled."""

    type: str = ""
    text: str = ""


class Nack(_Settling, frozen=True, kw_only=True, tag="nack"):
    """Gives messages back as failed: again after `delay_ms`, or the backoff; never with `reject`. Answer: `Done`."""

    delay_ms: int | None = None
    reject: bool = False
    failure: Failed | None = None


class Extend(_Settling, frozen=True, kw_only=True, tag="extend"):
    """Gives messages that are still being handled their whole ack timeout again. Answer: `Done`."""


class Unsubscribe(_Frame, frozen=True, kw_only=True, tag="unsubscribe"):
    """Detaches; a durable subscription stays. Answer: `Done`."""

    subscription: str


class Ping(_Frame, frozen=True, kw_only=True, tag="ping"):
    """Asks whether the server is there. Answer: `Pong`."""


ClientFrame: TypeAlias = Publish | Request | Respond | Subscribe | Ack | Nack | Extend | Unsubscribe | Ping
_DECODER: Final["msgspec.json.Decoder[ClientFrame]"] = msgspec.json.Decoder(ClientFrame)


class _Numbered(msgspec.Struct, frozen=True):
    request: RequestNumber = UNSET


_NUMBERED: Final = msgspec.json.Decoder(_Numbered)


def decode(text: str) -> ClientFrame:
    """Returns the frame that a client sent.

    Raises:
        InvalidOption: it is none.
    """
    try:
        return _DECODER.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"the frame is not understood: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidOption(f"a frame is one JSON object, and this is not: {error}") from None


def number_of(text: str) -> RequestNumber:
    """Returns the number of a request that is not understood, if it has one."""
    try:
        return _NUMBERED.decode(text).request
    except (msgspec.DecodeError, RecursionError):
        return UNSET  # then the client learns only what was wrong


# --- from the server ---


class _Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    request: RequestNumber = UNSET


class Confirmed(_Answer, frozen=True, kw_only=True, tag="confirmed"):
    """The message is stored as safely as `durability` says ("disk" is fsynced), at this place of its queue.

    `subscriptions` counts those whose filters match, connected or away. `duplicate_of` is the sequence of a message
    that the queue had stored before under the same id; then this one was not stored again.
    """

    queue: str
    sequence: int
    epoch: int
    durability: str
    subscriptions: int
    duplicate_of: int | None = None


class Reply(_Answer, frozen=True, kw_only=True, tag="reply"):
    """What somebody responded to a request."""

    reply: ReplyEntry


class Responded(_Answer, frozen=True, kw_only=True, tag="responded"):
    """The reply was sent; `awaited` says whether somebody still waited for it."""

    awaited: bool


class Subscribed(_Answer, frozen=True, kw_only=True, tag="subscribed"):
    """It is attached, and `subscription` is what later frames name it by.

    `position` is where one that is not durable, or acks on write, begins: what a client hands back that got no message.
    """

    subscription: str
    durable: bool
    created: bool
    position: str | None = None


class Message(_Answer, frozen=True, kw_only=True, tag="message"):
    """A delivery; its message is a `MessageEntry`, spelled."""

    subscription: str
    message: msgspec.Raw


class Gap(_Answer, frozen=True, kw_only=True, tag="gap"):
    """Messages that will not come, told in their place; acked as a message is."""

    subscription: str
    gap: GapEntry


class Done(_Answer, frozen=True, kw_only=True, tag="done"):
    """A request is done; what it changed is durable."""


class Pong(_Answer, frozen=True, kw_only=True, tag="pong"):
    """The server is there."""


class Error(_Answer, frozen=True, kw_only=True, tag="error"):
    """A request was refused, or the connection ends; `retryable` says whether the same may succeed later."""

    code: str
    text: str
    retryable: bool


ServerFrame: TypeAlias = Confirmed | Reply | Responded | Subscribed | Message | Gap | Done | Pong | Error
encode: Final = msgspec.json.Encoder().encode


def message_head(subscription: str) -> bytes:
    """Returns how a frame `message` begins, up to the message; after that it ends with a brace."""
    return encode(Message(subscription=subscription, message=msgspec.Raw(b"null")))[: -len(b"null}")]
