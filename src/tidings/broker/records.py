"""Records: how a broker's memory is spelled in the store, and how it is read again.

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

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidings.broker.cursors import Cursor
from tidings.broker.filters import Filter
from tidings.broker.queues import Queue
from tidings.broker.sessions import Client, Producer, Session
from tidings.broker.subscriptions import MissedGap, Subscription
from tidings.ranges import Ranges
from tidings.transaction import Bounds

if TYPE_CHECKING:
    from tidings.broker.broker import Broker
    from tidings.broker.ledger import Recorded
    from tidings.broker.state import BrokerState

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


class _Queue(msgspec.Struct, array_like=True):
    name: str
    created_ms: int
    first_sequence: int
    last_sequence: int
    last_time_ms: int


class _Subscription(msgspec.Struct, array_like=True):
    name: str
    client_id: str | None
    queue: str
    event: str
    created_ms: int
    in_flight_max: int
    concurrency: int
    ack_timeout_ms: int
    expires_after_ms: int | None
    last_seen_ms: int
    last_ack_ms: int | None
    gaps: list[MissedGap]


class _Cursor(msgspec.Struct, array_like=True):
    position: int
    unsettled: list[tuple[int, int]]
    attempts: dict[int, int]


class _Client(msgspec.Struct, array_like=True):
    address: str
    protocol: str
    last_seen_ms: int


class _Session(msgspec.Struct, array_like=True):
    client_id: str | None
    address: str
    protocol: str
    connected_ms: int


class _Producer(msgspec.Struct, array_like=True):
    last_seen_ms: int
    answered: int
    stored: dict[int, tuple[int, int]]


def _queue(queue: Queue) -> _Queue:
    return _Queue(queue.name, queue.created_ms, queue.first_sequence, queue.committed, queue.last_time_ms)


def _subscription(item: Subscription) -> _Subscription:
    return _Subscription(
        item.name,
        item.client_id,
        item.filter.queue,
        item.filter.event,
        item.created_ms,
        item.in_flight_max,
        item.concurrency,
        item.ack_timeout_ms,
        item.expires_after_ms,
        item.last_seen_ms,
        item.last_ack_ms,
        item.gaps,
    )


def _cursor(cursor: Cursor) -> _Cursor:
    cursor.recorded = cursor.settled_to
    position = max(cursor.position, cursor.recorded)
    return _Cursor(position, list(cursor.unsettled), cursor.attempts)


_SPELLINGS: Final[dict[type, Callable[[Any], object]]] = {
    Counters: lambda item: item,
    Trash: lambda _: None,
    Queue: _queue,
    Subscription: _subscription,
    Cursor: _cursor,
    Client: lambda item: _Client(item.address, item.protocol, item.last_seen_ms),
    Session: lambda item: _Session(item.client_id, item.address, item.protocol, item.connected_ms),
    Producer: lambda item: _Producer(item.last_seen_ms, item.answered, item.stored),
}


def encode(item: Recorded) -> bytes:
    """Returns the record of something as it is now."""
    return msgspec.msgpack.encode(_SPELLINGS[type(item)](item))


def restore(
    records: Mapping[str, bytes],
    bounds: Callable[[list[int]], Mapping[int, Bounds]] | Mapping[int, Bounds],
    now_ms: int,
) -> Broker:
    """Returns a broker that continues from what a store holds.

    Args:
        records: all records whose keys start with one of `PREFIXES`.
        bounds: what the store holds of each queue, by epoch.
        now_ms: the time.

    Raises:
        ValueError: a record is damaged.
    """
    from tidings.broker.broker import Broker  # the broker is made of parts that know their records

    broker = Broker(now_ms)
    state = broker.state
    held = bounds if isinstance(bounds, Mapping) else bounds(queue_epochs(records))
    if "counters" in records:
        state.counters = msgspec.msgpack.decode(records["counters"], type=Counters)
    for key, value in _each(records, "queue/"):
        _restore_queue(state, int(key), msgspec.msgpack.decode(value, type=_Queue), held.get(int(key)))
    for key, value in _each(records, "subscription/"):
        _restore_subscription(state, int(key), msgspec.msgpack.decode(value, type=_Subscription))
    _restore_cursors(state, records)
    for key, value in _each(records, "client/"):
        client = msgspec.msgpack.decode(value, type=_Client)
        state.clients[key] = Client(key, client.address, client.protocol, client.last_seen_ms)
    for key, value in _each(records, "producer/"):
        found = msgspec.msgpack.decode(value, type=_Producer)
        producer = state.producers[key] = Producer(key, found.last_seen_ms)
        producer.answered, producer.stored = found.answered, found.stored
    for key, _ in _each(records, "trash/"):
        state.trash[int(key)] = 0
    lost = [(key, msgspec.msgpack.decode(value, type=_Session)) for key, value in _each(records, "session/")]
    broker.begin([(token, item.client_id, item.address, item.protocol) for token, item in lost])
    return broker


def queue_epochs(records: Mapping[str, bytes]) -> list[int]:
    """Returns the epochs of the queues that the records name."""
    return [int(key) for key, _ in _each(records, "queue/")]


def _each(records: Mapping[str, bytes], prefix: str) -> list[tuple[str, bytes]]:
    return [(key[len(prefix) :], value) for key, value in records.items() if key.startswith(prefix)]


def _restore_queue(state: BrokerState, epoch: int, record: _Queue, held: Bounds | None) -> None:
    queue = Queue(record.name, epoch, record.created_ms)
    queue.committed = record.last_sequence
    queue.first_sequence = record.last_sequence + 1
    queue.last_time_ms = record.last_time_ms
    if held:
        queue.committed = max(queue.committed, held.last_sequence)
        queue.first_sequence = held.first_sequence
        queue.size_bytes = held.size_bytes
        queue.last_time_ms = max(queue.last_time_ms, held.last_time_ms)
    state.counters.next_epoch = max(state.counters.next_epoch, epoch + 1)
    state.add_queue(queue)


def _restore_subscription(state: BrokerState, number: int, record: _Subscription) -> None:
    chosen = Filter(record.queue, record.event)
    item = Subscription(number, record.name, record.client_id, chosen, durable=True, created_ms=record.created_ms)
    item.in_flight_max = record.in_flight_max
    item.concurrency = record.concurrency
    item.ack_timeout_ms = record.ack_timeout_ms
    item.expires_after_ms = record.expires_after_ms
    item.last_seen_ms = record.last_seen_ms
    item.last_ack_ms = record.last_ack_ms
    item.gaps = record.gaps
    state.counters.next_subscription = max(state.counters.next_subscription, number + 1)
    state.add_subscription(item)


def _restore_cursors(state: BrokerState, records: Mapping[str, bytes]) -> None:
    for subscription in state.subscriptions.values():
        wanted = subscription.filter
        names = [wanted.queue] if wanted.literal else [name for name in state.queues if wanted.wants_queue(name)]
        for name in names:
            queue = state.queues.get(name)
            if queue is None:
                continue
            cursor = Cursor(subscription, queue, position=0)
            value = records.get(cursor.key)
            if value is not None:
                record = msgspec.msgpack.decode(value, type=_Cursor)
                cursor.position = min(record.position, queue.committed)
                cursor.unsettled = Ranges(record.unsettled)
                cursor.unsettled.remove(queue.committed + 1, max(record.position, queue.committed + 1))
                cursor.attempts = record.attempts
            if not queue.is_system and queue.first_sequence > 1:
                # Only what every durable cursor had settled was trimmed, though the record may be older than that.
                cursor.position = max(cursor.position, queue.first_sequence - 1)
                cursor.settle(1, queue.first_sequence - 1)
            cursor.recorded = cursor.settled_to
            cursor.take_back()
            subscription.cursors[queue.epoch] = cursor
            queue.add(cursor)
            state.rest(cursor)
