"""Records: how a broker's memory is spelled in the store.

    counters                                 next epoch and subscription number
    queue/EPOCH                              name, what was trimmed, last sequence, settings
    subscription/NUMBER                      name, owner, filter, options
    schedule/TIME/NUMBER                     a message to be published then; read when its time is near
    ids/EPOCH/SEQUENCE                       message ids that one round brought to a queue
    cursor/NUMBER/EPOCH                      position, what is unsettled up to it, failed attempts
    client/CLIENT_ID                         where it was seen last
    dead/NUMBER/DEAD                         a dead letter of a subscription: where from, why
    dead-content/NUMBER/DEAD                 its message and error; read only when somebody looks
    session/TOKEN                            who is connected; what is left of it after a crash is told
    producer/ID                              which unanswered batches are stored
    webhook/NAME                             to which URL what a subscription is delivered is posted, and its secret
    trash/EPOCH                              rows of a deleted queue are still to be removed

    format                                   version of all this; missing is 1

Values are MessagePack arrays with the fields of the structs below, in order. Another version may have written them:

- A field that is added goes to the end and has a default. Records without it are read; fields at the end, and whole
  records, that are not known here are passed over (and an unknown field is lost once its record is written again).
- A version that writes what must not be read like that raises `FORMAT` and writes the record `format`. An older one
  then refuses the store before it writes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from tidings import limits
from tidings.broker.cursors import FOLLOWS, HELD, Cursor
from tidings.broker.dead_letters import DeadContent, DeadLetter
from tidings.broker.queues import Queue
from tidings.broker.recent_ids import IdPage
from tidings.broker.scheduled import Scheduled
from tidings.broker.sessions import Client, Producer, Session
from tidings.broker.subscriptions import MissedGap, Subscription
from tidings.model import ClientQuotas, Failure, HeaderFilter, QueueSettings, Run, Webhook
from tidings.ranges import Ranges

if TYPE_CHECKING:
    from tidings.broker.ledger import Recorded

FORMAT: Final = 1
"""The version of the records that is written here, and the latest that is read."""

_NO_TIMES: Final = (None, HELD, FOLLOWS)

PREFIXES: Final = (
    "format",
    "counters",
    "queue/",
    "subscription/",
    "cursor/",
    "dead/",
    "ids/",
    "client/",
    "session/",
    "producer/",
    "trash/",
    "webhook/",
)
"""What `restore` wants to be given."""


class Counters(msgspec.Struct, array_like=True):
    """Numbers that are never used again."""

    next_epoch: int = 1
    next_subscription: int = 1
    key: str = "counters"
    next_schedule: int = 1


class WebhookItem:
    """A webhook, as it is written."""

    def __init__(self, webhook: Webhook) -> None:
        self.webhook = webhook
        self.key = f"webhook/{webhook.name}"


class Trash:
    """A deleted queue whose rows are still there."""

    def __init__(self, epoch: int) -> None:
        self.key = f"trash/{epoch}"


class QueueRecord(msgspec.Struct, array_like=True):
    """A queue."""

    name: str
    created_ms: int
    first_sequence: int
    last_sequence: int
    last_time_ms: int
    paused: bool = False
    settings: QueueSettings = msgspec.field(default_factory=QueueSettings)
    purged_to: int = 0
    deleted: list[tuple[int, int]] = []
    has_ttl: bool = False


class SubscriptionRecord(msgspec.Struct, array_like=True):
    """A durable subscription."""

    name: str
    client_id: str | None
    queue: str
    event: str
    created_ms: int
    in_flight_max: int
    concurrency: int
    ack_timeout_ms: int
    expires_after_ms: int | None
    last_seen_ms: int | None
    """None if it has a subscriber until the server ends, however it ends: the server's absence is not its own."""
    last_ack_ms: int | None
    gaps: list[MissedGap]
    attempts_max: int = limits.ATTEMPTS_MAX
    backoff_min_ms: int = limits.BACKOFF_MIN_MS
    backoff_max_ms: int = limits.BACKOFF_MAX_MS
    next_dead: int = 1
    paused: bool = False
    shared: bool = False
    single_active: bool = False
    headers: tuple[HeaderFilter, ...] = ()


class CursorRecord(msgspec.Struct, array_like=True):
    """Its place in one queue."""

    position: int
    unsettled: list[tuple[int, int]]
    attempts: dict[int, int]
    parked: dict[int, int] = {}
    """Which messages wait for a retry, and until when. Those on their way out, given up or acked, are not told."""
    moves: int = 0
    skipped: int = 0
    keys: dict[int, str] = {}
    """Of a shared subscription: the keys of those that wait for a retry, and that others of their keys follow."""
    cut: int = 0
    begin: int = 0


class DeadLetterRecord(msgspec.Struct, array_like=True):
    """A dead letter, without its message."""

    queue: str
    epoch: int
    sequence: int
    reason: str
    attempts: int
    died_ms: int
    type: str
    place: str
    text: str = ""
    moves: int = 0


class DeadContentRecord(msgspec.Struct, array_like=True):
    """The message of a dead letter: one run and its body, and what is told about its end."""

    run: Run
    body: bytes
    published_ms: int
    client_id: str | None
    failure: Failure | None
    edited: bool


class ClientRecord(msgspec.Struct, array_like=True):
    """A known client id."""

    address: str
    protocol: str
    last_seen_ms: int
    quotas: ClientQuotas = msgspec.field(default_factory=ClientQuotas)


class SessionRecord(msgspec.Struct, array_like=True):
    """A connected client."""

    client_id: str | None
    address: str
    protocol: str
    connected_ms: int


class ProducerRecord(msgspec.Struct, array_like=True):
    """A publishing client process."""

    last_seen_ms: int
    answered: int
    stored: dict[int, tuple[int, int]]
    duplicates: dict[int, list[tuple[int, int]]] = {}
    transactions: dict[int, list[tuple[int, int, list[tuple[int, int]]]]] = {}


class IdsRecord(msgspec.Struct, array_like=True):
    """Message ids with their sequences, and when they were stored."""

    time_ms: int
    ids: dict[str, int]


class WebhookRecord(msgspec.Struct, array_like=True):
    """A webhook."""

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


class ScheduleRecord(msgspec.Struct, array_like=True):
    """A message that is to be published: one run and its body."""

    queue: str
    run: Run
    body: bytes
    every_ms: int | None


def _queue(queue: Queue) -> QueueRecord:
    return QueueRecord(
        queue.name,
        queue.created_ms,
        queue.first_sequence,
        queue.committed,
        queue.last_time_ms,
        queue.paused,
        queue.settings,
        queue.purged_to,
        list(queue.deleted),
        queue.has_ttl,
    )


def _subscription(item: Subscription) -> SubscriptionRecord:
    return SubscriptionRecord(
        item.name,
        item.client_id,
        item.filter.queue,
        item.filter.event,
        item.created_ms,
        item.in_flight_max,
        item.concurrency,
        item.ack_timeout_ms,
        item.expires_after_ms,
        None if item.subscriber or item.left_in_drain else item.last_seen_ms,
        item.last_ack_ms,
        item.gaps,
        item.attempts_max,
        item.backoff_min_ms,
        item.backoff_max_ms,
        item.next_dead,
        item.paused,
        item.shared,
        item.single_active,
        item.filter.headers,
    )


def _cursor(cursor: Cursor) -> CursorRecord:
    cursor.recorded = cursor.settled_to
    position = max(cursor.position, cursor.recorded)
    parked = {sequence: time_ms for sequence, time_ms in cursor.parked.items() if time_ms not in _NO_TIMES}
    keys = cursor.keys.of(parked) if cursor.keys else {}
    unsettled, attempts = cursor.unsettled, cursor.attempts
    if cursor.settling is not None:
        unsettled = Ranges(unsettled)
        for first, last in cursor.settling:
            unsettled.remove(first, last)
        attempts = {sequence: failed for sequence, failed in attempts.items() if sequence in unsettled}
    return CursorRecord(
        position,
        list(unsettled),
        attempts,
        parked,
        cursor.moves,
        cursor.skipped,
        keys,
        cursor.cut,
        cursor.begin,
    )


def _dead_letter(letter: DeadLetter) -> DeadLetterRecord:
    return DeadLetterRecord(
        letter.queue,
        letter.epoch,
        letter.sequence,
        letter.reason,
        letter.attempts,
        letter.died_ms,
        letter.type,
        letter.place,
        letter.text,
        letter.moves,
    )


def _dead_content(item: DeadContent) -> DeadContentRecord:
    return DeadContentRecord(item.run, item.body, item.published_ms, item.client_id, item.failure, item.edited)


def _webhook(item: WebhookItem) -> WebhookRecord:
    told = item.webhook
    return WebhookRecord(
        told.url,
        told.queue,
        told.event,
        told.start,
        told.secret,
        told.concurrency,
        told.timeout_ms,
        told.created,
        told.cloudevents,
        told.disabled,
    )


_SPELLINGS: Final[dict[type, Callable[[Any], object]]] = {
    Counters: lambda item: item,
    Trash: lambda _: None,
    Queue: _queue,
    Subscription: _subscription,
    Cursor: _cursor,
    IdPage: lambda item: IdsRecord(item.time_ms, item.ids),
    Scheduled: lambda item: ScheduleRecord(item.queue, item.run, item.body, item.every_ms),
    DeadLetter: _dead_letter,
    DeadContent: _dead_content,
    WebhookItem: _webhook,
    Client: lambda item: ClientRecord(item.address, item.protocol, item.last_seen_ms, item.quotas),
    Session: lambda item: SessionRecord(item.client_id, item.address, item.protocol, item.connected_ms),
    Producer: lambda item: ProducerRecord(
        item.last_seen_ms, item.answered, item.stored, item.duplicates, item.transactions
    ),
}


def encode(item: Recorded) -> bytes:
    """Returns the record of something as it is now."""
    return msgspec.msgpack.encode(_SPELLINGS[type(item)](item))


def decode_dead_content(key: str, value: bytes) -> DeadContent:
    """Returns the content of a dead letter from its record."""
    record = msgspec.msgpack.decode(value, type=DeadContentRecord)
    content = DeadContent(key, record.run, record.body, record.published_ms, record.client_id, record.failure)
    content.edited = record.edited
    return content


def decode_scheduled(key: str, value: bytes) -> Scheduled:
    """Returns a scheduled message from its record."""
    record = msgspec.msgpack.decode(value, type=ScheduleRecord)
    return Scheduled(key, record.queue, record.run, record.body, record.every_ms)
