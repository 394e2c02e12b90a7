"""The nouns of Tidings as data: names, runs, stored batches, confirms, and what listings show."""

import base64
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

from tidings import limits
from tidings.errors import InvalidFilter, InvalidName
from tidings.limits import NAME_SIZE_BYTES_MAX

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"

PRESENCE_QUEUE: Final = "$presence"
"""The system queue that tells who comes and goes."""


_EPOCH_BITS: Final = 32
_MOVES_MAX: Final = 2**20  # so that a reading is an integer which every JSON reader keeps exact
Reading: TypeAlias = int
"""One reading of a queue by a subscription: the queue's epoch, and above it how often the subscription was moved there.

Deliveries and acks name it, so that an ack tells whether it is about a delivery from before a move. Before the first
move it is the epoch itself."""


def reading_of(epoch: int, moves: int) -> Reading:
    """Returns the reading of a subscription that was moved so often in the queue of an epoch."""
    return epoch | moves % _MOVES_MAX << _EPOCH_BITS


ELSEWHERE: Final = 0
"""In a position, instead of a reading: all queues that it does not name. No queue has this epoch."""


def epoch_of(reading: Reading) -> int:
    """Returns the epoch of the queue that is read."""
    return reading & (1 << _EPOCH_BITS) - 1


def moves_of(reading: Reading) -> int:
    """Returns how often a subscription was moved in the queue before a reading."""
    return reading >> _EPOCH_BITS


def check_name(name: str, what: str) -> str:
    """Returns a valid queue or event name as it is.

    A name is UTF-8 of 1 to 255 bytes without control characters, white space, `*`, `#` or `/`;
    dots separate tokens, none of them empty.

    Raises:
        InvalidName: says which rule `name` breaks; `what` ("queue", "event") says whose name it is.
    """
    if not name.isascii() or not name.replace(".", "x").replace("_", "x").replace("-", "x").isalnum():
        _check_characters(name, f"{what} name")
    _check_size(name, f"{what} name")
    if name[0] == "." or name[-1] == "." or ".." in name:
        raise InvalidName(f"{what} name {name!r} has an empty token: dots separate tokens, write 'a.b'")
    return name


def check_label(name: str, what: str) -> str:
    """Returns a valid "client id" or "subscription name": as a queue name, but `/`, `*` and `#` are allowed."""
    if not isinstance(name, str):
        raise InvalidName(f"a {what} is a str, not {type(name).__name__}")
    _check_size(name, what)
    if any(character.isspace() or not character.isprintable() for character in name):
        raise InvalidName(f"{what} {name!r} contains white space or control characters; leave them out")
    return name


def _check_size(name: str, what: str) -> None:
    if not name:
        raise InvalidName(f"{what} is empty; it needs 1 to {NAME_SIZE_BYTES_MAX} bytes")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidName(f"{what} {name!r} is not valid UTF-8") from None
    if size > NAME_SIZE_BYTES_MAX:
        raise InvalidName(f"{what} of {size} bytes exceeds the limit of {NAME_SIZE_BYTES_MAX} bytes")


def _check_characters(name: str, what: str) -> None:
    for character in name:
        if character.isspace() or character in "*#/" or not character.isprintable():
            raise InvalidName(
                f"{what} {name!r} contains {character!r}; control characters, white space, '*', '#' and '/'"
                " are not allowed in names"
            )


class Flags:
    """What the messages of a run carry beside their payload.

    Numbers, and no IntFlag: each `&` with one of those makes an object, and every batch is asked several times.
    """

    IDS: Final = 1
    KEYS: Final = 2
    HEADERS: Final = 4


class Run(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Neighbouring messages of a batch that share event, content type and flags.

    `count` messages take `size` bytes of the body. A run whose event is None was cut out: its messages keep
    their sequences, but their bytes (`size` 0) are not here. `ttl_ms` after they were stored they are not delivered
    any more, unless it is 0.
    """

    event: str | None
    count: int
    size: int
    content_type: str = JSON
    flags: int = 0
    ttl_ms: int = 0


class HeaderFilter(msgspec.Struct, array_like=True, frozen=True):
    """What a subscription wants of one header: that its value is one of `values`, or begins with one of `prefixes`.

    The prefix "" says that the header is there, whatever its value.
    """

    name: str
    values: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def wants(self, headers: dict[str, str] | None) -> bool:
        """Whether a message with these headers is wanted, as far as this header goes."""
        value = headers.get(self.name) if headers else None
        return value is not None and (value in self.values or value.startswith(self.prefixes))

    def __str__(self) -> str:
        if "" in self.prefixes:
            return f"[{self.name}]"
        wanted = [f"{self.name}={value}" for value in self.values]
        return f"[{'|'.join([*wanted, *[f'{self.name}^={prefix}' for prefix in self.prefixes]])}]"


def parse_header_filters(texts: Iterable[str]) -> list[HeaderFilter]:
    """Returns what texts say of headers: `NAME=VALUE`, `NAME^=PREFIX`, or `NAME` for one that is there.

    Those of one name are alternatives.

    Raises:
        InvalidFilter: one is none of these.
    """
    found: dict[str, HeaderFilter] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        is_prefix = name.endswith("^") or not equals
        if equals:
            name = name.removesuffix("^")
        if not name:
            raise InvalidFilter(f"header filter {text!r}: write NAME=VALUE, NAME^=PREFIX, or NAME alone")
        known = found.get(name, HeaderFilter(name))
        values, prefixes = known.values, known.prefixes
        if is_prefix:
            prefixes = (*prefixes, value)
        else:
            values = (*values, value)
        found[name] = HeaderFilter(name, values, prefixes)
    return list(found.values())


class Confirm(msgspec.Struct, frozen=True, gc=False):
    """The server's durable answer to a publish.

    `sequence` is the message's (for several messages the first one's) place in the queue's life `epoch`;
    `durability` is the level reached: "memory", "disk" (fsynced) or "quorum"; `subscriptions` is the number
    of subscriptions whose names match, connected or away. `duplicate_of` is the sequence of the message that the
    queue had stored before under the same id, and None for one that was stored: see `ID_WINDOW_MS`. `handle` cancels
    a message that is published later; it has no place yet, and `sequence`, `epoch` and `subscriptions` are 0.
    """

    queue: str
    sequence: int
    epoch: int
    count: int
    durability: str
    subscriptions: int
    duplicate_of: int | None = None
    handle: str | None = None


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Why a handler failed: the exception's type and message, its traceback, and the innermost frame of one's own.

    `place` looks like "bill() in orders.py": with the type it tells which failures are the same, so it has no
    line number.
    """

    type: str
    text: str = ""
    place: str = ""
    traceback: str = ""


class DeadLetterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up, for one subscription. Times are UTC milliseconds since 1970.

    `number` names it within its subscription. `reason` is "attempts", "rejected", "ack timeout" or
    "connection lost"; `failure` is the last error, if its client told one; `client_id` who had it last.
    """

    number: int
    queue: str
    epoch: int
    sequence: int
    event: str
    payload: bytes
    content_type: str
    id: str | None
    key: str | None
    headers: dict[str, str]
    published: int
    died: int
    reason: str
    attempts: int
    client_id: str | None
    fingerprint: str
    failure: Failure | None
    edited: bool


class DeadLetterGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters of one subscription that failed in the same way. Times are UTC milliseconds since 1970.

    `text` tells how, from the latest one: "KeyError: 'vat' in bill() in orders.py", or "ack timeout".
    """

    fingerprint: str
    count: int
    text: str
    first_died: int
    last_died: int
    last_number: int


class ScheduledInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is to be published. `at` is UTC milliseconds since 1970; `handle` cancels it."""

    handle: str
    queue: str
    event: str
    at: int
    every_ms: int | None


REPLY_TO: Final = "$reply-to"
"""The header of a request: the address that its reply is sent to."""


class ReplyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What answers a request, and which client gave it."""

    payload: bytes
    content_type: str
    headers: dict[str, str]
    client_id: str | None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """How far one subscription is with one message. Times are UTC milliseconds since 1970.

    `state` is one of

    - "waiting": it was not sent yet, or is to be sent again
    - "in flight": sent to the client `client_id` at `address`; `at` tells since when that handles it, and is None
      while the message waits in its buffer
    - "retrying": it failed, and is sent again at `at`
    - "acked"
    - "dead": it was given up at `at`, for `reason`, and is dead letter `dead_letter`
    - "gap": it was cut from what the subscription gets, for `reason`
    """

    subscription: str
    state: str
    attempts: int | None = None
    """How often it was tried, this time included; None once it is acked: that is not kept."""
    client_id: str | None = None
    address: str = ""
    at: int | None = None
    reason: str = ""
    dead_letter: int | None = None
    exact: bool = True
    """False where "acked" can also mean that it was no message for this subscription, or was moved past, or that its
    dead letter was redriven or deleted: of what is settled only ranges are kept."""


class ClientQuotas(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How much one client may ask of the server, changeable at any time; None is no limit."""

    publish_rate: int | None = None
    """Messages a second that it may publish, on average."""
    publish_rate_bytes: int | None = None
    """Bytes a second that it may publish, on average."""
    in_flight_max: int | None = None
    """Messages in flight to all its subscriptions together."""
    subscriptions_max: int | None = None
    """How many subscriptions it may have; those that are there stay."""


class ClientInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A client, connected or away. Times are UTC milliseconds since 1970.

    `queues` and `subscriptions` name the first 1,000, in order.
    """

    client_id: str | None
    address: str
    protocol: str
    connected: bool
    connected_since: int | None
    last_seen: int
    queues: list[str]
    subscriptions: list[str]
    waiting: int
    quotas: ClientQuotas = msgspec.field(default_factory=ClientQuotas)
    """How much it may ask of the server, see `configure_client`."""


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is asked of one queue, changeable at any time; None is no limit.

    What every durable subscription has settled is history. It stays until it is older than `history_age_ms`, or more
    than `history_bytes` or `history_messages`, whichever comes first. `ttl_ms` after it was stored a message is not
    delivered any more; where it has a ttl of its own the shorter one counts. Once `waiting_messages` or `waiting_bytes`
    wait for a durable subscription, neither settled nor in flight, or one has waited for `waiting_age_ms` since it was
    stored, `when_full` says what is done: new ones are refused, or the oldest of them are cut, and told as a gap.
    """

    history_age_ms: int | None = msgspec.field(default_factory=lambda: limits.HISTORY_AGE_MS)
    history_bytes: int | None = msgspec.field(default_factory=lambda: limits.HISTORY_BYTES)
    history_messages: int | None = None
    ttl_ms: int | None = None
    waiting_messages: int | None = None
    waiting_bytes: int | None = None
    waiting_age_ms: int | None = None
    when_full: Literal["refuse-new", "drop-oldest"] = "refuse-new"
    publish_rate: int | None = None
    """Messages a second that are taken, on average."""
    publish_rate_bytes: int | None = None
    """Bytes a second that are taken, on average."""
    in_flight_max: int | None = None
    """How many of its messages may be in flight, to all its subscriptions together."""
    subscriptions_max: int | None = None
    """How many subscriptions may read it; those that are there stay."""


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A queue: what it holds, and which subscription holds it back from being trimmed."""

    name: str
    epoch: int
    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int
    subscriptions: int
    held_by: str | None
    created: int
    paused: bool = False
    """Whether somebody paused it: it takes messages, and delivers none."""
    settings: QueueSettings = msgspec.field(default_factory=QueueSettings)
    """What was asked of it, see `configure_queue`."""


class MessageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A message as its queue holds it. `published` is UTC milliseconds since 1970."""

    queue: str
    epoch: int
    sequence: int
    event: str
    payload: bytes
    content_type: str
    id: str | None
    key: str | None
    headers: dict[str, str]
    published: int


class SubscriberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who is attached to a subscription, and how many messages of one of its queues are in flight to it."""

    client_id: str | None
    address: str
    in_flight: int


class SubscriptionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One subscription in one queue.

    `lag` counts all messages after the cursor; with an event filter it is an upper bound (`lag_exact` False).
    A subscription whose filter matches no queue yet has `queue` as it was asked for and cursor 0.
    `paused` says why deliveries wait although messages are there: "" when they do not.
    """

    name: str
    client_id: str | None
    durable: bool
    filter: str
    queue: str
    event: str
    cursor: int
    lag: int
    lag_exact: bool
    in_flight: int
    connected: bool
    last_ack: int | None
    last_seen: int | None
    expires_after_ms: int | None
    paused: str
    retrying: int = 0
    """Messages that failed and wait for their next attempt."""
    dead: int = 0
    """Dead letters of the subscription, from all its queues."""
    ack_timeout_ms: int = 0
    in_flight_max: int = 0
    attempts_max: int = 0
    backoff_min_ms: int = 0
    backoff_max_ms: int = 0
    shared: bool = False
    """Whether several subscribers may be attached, each message going to one of them."""
    single_active: bool = False
    """Whether of those all messages go to the one that has been attached the longest."""
    subscribers: list[SubscriberInfo] = []
    """Who is attached, the longest first: at most 1,000."""
    skipped: int = 0
    """Messages that it did not get because somebody moved it past them; an upper bound with a filter."""
    headers: list[HeaderFilter] = []
    """What it wants of headers, all of it; `filter` says that too."""
    cut: int = 0
    """Messages that it did not get and was told of as gaps; an upper bound with a filter."""
    replays_to: int | None = None
    """Of a replay: the last sequence that it gets."""


class MovedInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscription was moved in one queue: all up to `cursor` counts as settled now, up to `before` it did then.

    `skipped` are the messages that it was moved past and had not settled; an upper bound with a filter.
    """

    queue: str
    before: int
    cursor: int
    skipped: int


WEBHOOK_SECRET_PREFIX: Final = "whsec_"
"""How the secrets of webhooks begin (Standard Webhooks 1.0)."""
WEBHOOK_KEY_BYTES: Final = 32
"""How long the key of a secret is that is made here; the standard has 24 to 64."""


def spell_webhook_secret(key: bytes) -> str:
    """Returns the secret that holds a key, random bytes."""
    return WEBHOOK_SECRET_PREFIX + base64.b64encode(key).decode()


class WebhookInfo(msgspec.Struct, frozen=True, kw_only=True):
    """To which URL is posted what the subscription `name` is delivered. Times are UTC milliseconds since 1970."""

    name: str
    url: str
    queue: str
    event: str
    concurrency: int
    timeout_ms: int
    created: int
    cloudevents: Literal["structured", "binary"] | None = None
    """As which form of CloudEvents messages are posted, None for none."""
    disabled: str = ""
    """Why nothing is posted any more, "" while it is."""


class PutWebhookInfo(WebhookInfo, frozen=True, kw_only=True):
    """A webhook that was made, or changed."""

    is_new: bool


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook with its secret, which no listing shows."""

    name: str
    url: str
    queue: str
    event: str
    start: str
    secret: str
    concurrency: int
    timeout_ms: int
    created: int
    cloudevents: Literal["structured", "binary"] | None = None
    disabled: str = ""

    def info(self) -> WebhookInfo:
        """Returns what listings show."""
        return WebhookInfo(**{name: getattr(self, name) for name in WebhookInfo.__struct_fields__})
