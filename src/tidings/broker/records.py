"""Records: how a broker's memory is spelled in the store.

    counters                                 next epoch and subscription number
    queue/EPOCH                              name, what was trimmed, last sequence
    subscription/NUMBER                      name, owner, filter, options
    cursor/NUMBER/EPOCH                      position, what is unsettled up to it, failed attempts
    client/CLIENT_ID                         where it was seen last
    session/TOKEN                            who is connected; what is left of it after a crash is told
    producer/ID                              which unanswered batches are stored
    trash/EPOCH                              rows of a deleted queue are still to be removed

Values are MessagePack arrays with the fields of the structs below, in order; fields may be added at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidings.broker.cursors import Cursor
from tidings.broker.queues import Queue
from tidings.broker.sessions import Client, Producer, Session
from tidings.broker.subscriptions import MissedGap, Subscription

if TYPE_CHECKING:
    from tidings.broker.ledger import Recorded

PREFIXES: Final = ("counters", "queue/", "subscription/", "cursor/", "client/", "session/", "producer/", "trash/")
"""What `restore` wants to be given."""


class Counters(msgspec.Struct, array_like=True):
    """Numbers that are never used again."""

    next_epoch: int = 1
    next_subscription: int = 1
    key: str = "counters"


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


class CursorRecord(msgspec.Struct, array_like=True):
    """Its place in one queue."""

    position: int
    unsettled: list[tuple[int, int]]
    attempts: dict[int, int]


class ClientRecord(msgspec.Struct, array_like=True):
    """A known client id."""

    address: str
    protocol: str
    last_seen_ms: int


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


def _queue(queue: Queue) -> QueueRecord:
    return QueueRecord(queue.name, queue.created_ms, queue.first_sequence, queue.committed, queue.last_time_ms)


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
    )


def _cursor(cursor: Cursor) -> CursorRecord:
    cursor.recorded = cursor.settled_to
    position = max(cursor.position, cursor.recorded)
    return CursorRecord(position, list(cursor.unsettled), cursor.attempts)


_SPELLINGS: Final[dict[type, Callable[[Any], object]]] = {
    Counters: lambda item: item,
    Trash: lambda _: None,
    Queue: _queue,
    Subscription: _subscription,
    Cursor: _cursor,
    Client: lambda item: ClientRecord(item.address, item.protocol, item.last_seen_ms),
    Session: lambda item: SessionRecord(item.client_id, item.address, item.protocol, item.connected_ms),
    Producer: lambda item: ProducerRecord(item.last_seen_ms, item.answered, item.stored),
}


def encode(item: Recorded) -> bytes:
    """Returns the record of something as it is now."""
    return msgspec.msgpack.encode(_SPELLINGS[type(item)](item))
