"""Calls: what can be asked of a server beside publishing and subscribing, and what it answers.

Each call is a struct; its tag is its name on every wire. What a call leaves out (UNSET) stays as it is. Fields may
be added; a server refuses a field that it does not know, since it could not do what was asked.
"""

from hashlib import blake2b
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from tidings import limits
from tidings.errors import Changed, InvalidOption
from tidings.model import (
    JSON,
    DeadLetterGroup,
    DeadLetterInfo,
    MessageInfo,
    MovedInfo,
    PutWebhookInfo,
    Receipt,
    ReplyInfo,
    ScheduledInfo,
    WebhookInfo,
)

_NO_SETTINGS: Final = frozenset(("name", "subscription", "number", "if_match"))


class _Call(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="call", omit_defaults=True
):
    pass


class ConfigureSubscription(_Call, frozen=True, kw_only=True, tag="configure_subscription"):
    """Changes a subscription, connected or away. Answer: None."""

    name: str
    in_flight_max: int | UnsetType = UNSET
    ack_timeout_ms: int | UnsetType = UNSET
    attempts_max: int | UnsetType = UNSET
    backoff_min_ms: int | UnsetType = UNSET
    backoff_max_ms: int | UnsetType = UNSET
    expires_after_ms: int | UnsetType | None = UNSET
    single_active: bool | UnsetType = UNSET
    if_match: str | None = None


class ConfigureQueue(_Call, frozen=True, kw_only=True, tag="configure_queue"):
    """Changes the settings of a queue, see `QueueSettings`; it exists from then on. None is no limit. Answer: None."""

    name: str
    history_age_ms: int | UnsetType | None = UNSET
    history_bytes: int | UnsetType | None = UNSET
    history_messages: int | UnsetType | None = UNSET
    ttl_ms: int | UnsetType | None = UNSET
    waiting_messages: int | UnsetType | None = UNSET
    waiting_bytes: int | UnsetType | None = UNSET
    waiting_age_ms: int | UnsetType | None = UNSET
    when_full: Literal["refuse-new", "drop-oldest"] | UnsetType = UNSET
    publish_rate: int | UnsetType | None = UNSET
    publish_rate_bytes: int | UnsetType | None = UNSET
    in_flight_max: int | UnsetType | None = UNSET
    subscriptions_max: int | UnsetType | None = UNSET
    if_match: str | None = None


class ConfigureClient(_Call, frozen=True, kw_only=True, tag="configure_client"):
    """Changes the quotas of a client, see `ClientQuotas`; it is known from then on. None is no limit. Answer: None."""

    client_id: str
    publish_rate: int | UnsetType | None = UNSET
    publish_rate_bytes: int | UnsetType | None = UNSET
    in_flight_max: int | UnsetType | None = UNSET
    subscriptions_max: int | UnsetType | None = UNSET


class DeadLetterGroups(_Call, frozen=True, kw_only=True, tag="dead_letter_groups"):
    """Asks how a subscription's dead letters failed. Answer: `DeadLetterGroup`s, the largest first."""

    subscription: str


class ListDeadLetters(_Call, frozen=True, kw_only=True, tag="list_dead_letters"):
    """Asks for dead letters with all they hold. Answer: `DeadLetterInfo`s with a number above `after`, in order."""

    subscription: str
    after: int = 0
    fingerprint: str | None = None
    count_max: int = 100


class EditDeadLetter(_Call, frozen=True, kw_only=True, tag="edit_dead_letter"):
    """Changes a dead letter before it is redriven. Answer: None."""

    subscription: str
    number: int
    event: str | UnsetType = UNSET
    payload: bytes | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    if_match: str | None = None


class DeleteDeadLetters(_Call, frozen=True, kw_only=True, tag="delete_dead_letters"):
    """Deletes one dead letter, those of a fingerprint, or (neither given) all. Answer: how many."""

    subscription: str
    number: int | None = None
    fingerprint: str | None = None
    if_match: str | None = None
    """Of the one with the `number`: its tag, as that of `EditDeadLetter`."""


class Redrive(_Call, frozen=True, kw_only=True, tag="redrive"):
    """Sends dead letters to their subscription again: one, those of a fingerprint, or (neither given) all.

    `rate` is in messages a second, 0 for as fast as it goes. Answer: how many will be. What is not moved yet when
    the server stops stays a dead letter.
    """

    subscription: str
    number: int | None = None
    fingerprint: str | None = None
    rate: float = 0.0


class Schedule(_Call, frozen=True, kw_only=True, tag="schedule"):
    """Has a message published at a time, or after a delay, and with `every_ms` again and again.

    Answer: a `ScheduledInfo`; the message is durable then. A time that is past means at once. Recurring ones that
    the server missed while it was down are published once, and then go on in their rhythm.
    """

    queue: str
    event: str
    payload: bytes
    content_type: str = JSON
    id: str | None = None
    key: str | None = None
    headers: dict[str, str] | None = None
    at_ms: int | None = None
    delay_ms: int | None = None
    every_ms: int | None = None
    ttl_ms: int | None = None
    """Counts from when it is published."""


class CancelSchedule(_Call, frozen=True, kw_only=True, tag="cancel_schedule"):
    """Takes back a scheduled message, or ends a recurring one. Answer: None."""

    handle: str


class ListSchedules(_Call, frozen=True, kw_only=True, tag="list_schedules"):
    """Asks for scheduled messages, the next ones first. Answer: `ScheduledInfo`s after a handle."""

    after: str = ""


class Pause(_Call, frozen=True, kw_only=True, tag="pause"):
    """Lets a subscription get nothing new, or a queue deliver nothing new, and with `paused` false go on.

    One of the two is named. Answer: None.
    """

    subscription: str | None = None
    queue: str | None = None
    paused: bool = True


class Seek(_Call, frozen=True, kw_only=True, tag="seek"):
    """Moves a subscription, in one of its queues or (None) in all of them, so that it gets all from there on.

    `to` is "earliest", "latest", "sequence" or "time" (with `value`, the first sequence that it is to get, or UTC
    ms). Answer: a `MovedInfo` for each queue.
    """

    subscription: str
    to: str
    value: int = 0
    queue: str | None = None


class Purge(_Call, frozen=True, kw_only=True, tag="purge"):
    """Empties a queue. Who has a message of it in flight may still settle it. Answer: how many it held."""

    queue: str


class DeleteMessage(_Call, frozen=True, kw_only=True, tag="delete_message"):
    """Takes one message out of a queue. Who has it in flight may still settle it. Answer: None."""

    queue: str
    sequence: int


class Peek(_Call, frozen=True, kw_only=True, tag="peek"):
    """Asks for messages as a queue holds them, without a subscription.

    `start` is "earliest", "sequence" or "time" (with `value`, the first sequence, or UTC ms), or "latest" for the last
    ones. Answer: at most `count_max` `MessageInfo`s, in order; fewer where they are large.
    """

    queue: str
    start: str = "earliest"
    value: int = 0
    count_max: int = 10


class ListReceipts(_Call, frozen=True, kw_only=True, tag="list_receipts"):
    """Asks how far each subscription is with a message that is meant for it.

    `epoch` 0 is the queue as it is now. Answer: `Receipt`s of subscriptions whose names come after `after`, in order.
    """

    queue: str
    sequence: int
    epoch: int = 0
    after: str = ""


class AwaitReceipt(_Call, frozen=True, kw_only=True, tag="await_receipt"):
    """Waits until a subscription has settled `count` messages, or the time is over.

    Answer: a `Receipt`, of the first of them that is not settled, or else was given up. What is settled is durable.
    """

    queue: str
    sequence: int
    subscription: str
    epoch: int = 0
    count: int = 1
    wait_ms: int = 0


class AwaitReply(_Call, frozen=True, kw_only=True, tag="await_reply"):
    """Waits for what is sent to an address of the client's choice, which nobody else can guess.

    Asked again, it goes on with what came meanwhile; with `wait_ms` 0 the waiting ends. Answer: a `ReplyInfo`, or None
    when the time is over.
    """

    address: str
    wait_ms: int


class Respond(_Call, frozen=True, kw_only=True, tag="respond"):
    """Sends a reply to an address. It is not stored. Answer: whether somebody waits there; the first reply counts."""

    address: str
    payload: bytes
    content_type: str = JSON
    headers: dict[str, str] | None = None


class PutWebhook(_Call, frozen=True, kw_only=True, tag="put_webhook"):
    """Has what the subscription `name` is delivered posted to a URL, or changes how. Answer: a `PutWebhookInfo`.

    The subscription is made if there is none, and begins at `start` (as of the call's moment, if that is "latest").
    `secret` signs: "whsec_" and 24 to 64 bytes in Base64; None keeps the one that there is, and makes `fresh_secret`
    that of a new one. At most `concurrency` requests are under way, each of which may take `timeout_ms`. One that was
    disabled is at work again.
    """

    name: str
    url: str
    queue: str
    event: str = "#"
    start: Literal["latest", "earliest"] = "latest"
    secret: str | None = None
    fresh_secret: str | None = None
    concurrency: int = limits.WEBHOOK_CONCURRENCY
    timeout_ms: int = limits.WEBHOOK_TIMEOUT_MS
    cloudevents: Literal["structured", "binary"] | None = None


class DisableWebhook(_Call, frozen=True, kw_only=True, tag="disable_webhook"):
    """Lets a webhook post nothing any more, until it is put again; only if it still posts to `url`. Answer: None."""

    name: str
    url: str
    reason: str


class DeleteWebhook(_Call, frozen=True, kw_only=True, tag="delete_webhook"):
    """Ends a webhook; its subscription stays, and keeps what is not delivered. Answer: None."""

    name: str


class ListWebhooks(_Call, frozen=True, kw_only=True, tag="list_webhooks"):
    """Asks for webhooks with names after `after`, in order. Answer: `WebhookInfo`s, up to 100."""

    after: str = ""


Call: TypeAlias = (
    ConfigureSubscription
    | ConfigureQueue
    | ConfigureClient
    | DeadLetterGroups
    | ListDeadLetters
    | EditDeadLetter
    | DeleteDeadLetters
    | Redrive
    | Schedule
    | CancelSchedule
    | ListSchedules
    | Pause
    | Seek
    | Purge
    | DeleteMessage
    | Peek
    | ListReceipts
    | AwaitReceipt
    | PutWebhook
    | DisableWebhook
    | DeleteWebhook
    | ListWebhooks
    | AwaitReply
    | Respond
)

ANSWERS: Final[dict[type[Call], object]] = {
    ConfigureSubscription: None,
    ConfigureQueue: None,
    ConfigureClient: None,
    DeadLetterGroups: list[DeadLetterGroup],
    ListDeadLetters: list[DeadLetterInfo],
    EditDeadLetter: None,
    DeleteDeadLetters: int,
    Redrive: int,
    Schedule: ScheduledInfo,
    CancelSchedule: None,
    ListSchedules: list[ScheduledInfo],
    Pause: None,
    Seek: list[MovedInfo],
    PutWebhook: PutWebhookInfo,
    DisableWebhook: None,
    DeleteWebhook: None,
    ListWebhooks: list[WebhookInfo],
    Purge: int,
    DeleteMessage: None,
    Peek: list[MessageInfo],
    ListReceipts: list[Receipt],
    AwaitReceipt: Receipt,
    AwaitReply: ReplyInfo | None,
    Respond: bool,
}
"""The type of each call's answer."""


def tag_of(call: type[Call], item: object) -> str:
    """Returns the tag of what a call changes: it is the same as long as that is. `item` has the fields of the call.

    A call whose `if_match` is another one is refused with `Changed`: somebody else was there in between.
    """
    values = [getattr(item, name) for name in call.__struct_fields__ if name not in _NO_SETTINGS]
    return blake2b(msgspec.msgpack.encode(values), digest_size=8).hexdigest()


def check_tag(call: type[Call], if_match: str | None, item: object | None) -> None:
    """Refuses a change of what is not as its client has seen it, or is not there (None); `call` may change it.

    Raises:
        Changed: it is not.
    """
    if if_match is None:
        return
    now = tag_of(call, item) if item is not None else None
    if if_match != now:
        raise Changed(f"it was changed in between: its tag is {now!r}, not {if_match!r}; look at it again")


_DECODER: Final["msgspec.msgpack.Decoder[Call]"] = msgspec.msgpack.Decoder(Call)


def decode_call(body: bytes) -> Call:
    """Returns the call that a client spelled as MessagePack.

    Raises:
        InvalidOption: it is none that is known here, or a field of it is wrong.
    """
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidOption(f"the call is not known here or malformed ({error}); the server may be older") from None
