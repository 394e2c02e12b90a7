"""Restoring: a broker's memory read from the records and bounds of a store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from tidings.broker.broker import Broker
from tidings.broker.cursors import Cursor
from tidings.broker.dead_letters import DeadLetter
from tidings.broker.filters import Filter
from tidings.broker.keys import Keys
from tidings.broker.queues import Queue
from tidings.broker.recent_ids import IdPage
from tidings.broker.records import (
    FORMAT,
    ClientRecord,
    Counters,
    CursorRecord,
    DeadLetterRecord,
    IdsRecord,
    ProducerRecord,
    QueueRecord,
    SessionRecord,
    SubscriptionRecord,
    WebhookRecord,
)
from tidings.broker.sessions import Client, Producer
from tidings.broker.state import BrokerState
from tidings.broker.subscriptions import Subscription
from tidings.errors import StoreNewer
from tidings.model import Webhook
from tidings.ranges import Ranges
from tidings.transaction import Bounds

_Kinds: TypeAlias = defaultdict[str, list[tuple[str, bytes]]]
_QUEUE: Final = msgspec.msgpack.Decoder(QueueRecord)
_SUBSCRIPTION: Final = msgspec.msgpack.Decoder(SubscriptionRecord)
_CURSOR: Final = msgspec.msgpack.Decoder(CursorRecord)


def restore(
    records: Mapping[str, bytes],
    bounds: Mapping[int, Bounds],
    now_ms: int,
    *,
    first_epoch: int = 1,
) -> Broker:
    """Returns a broker that continues from what a store holds.

    Args:
        records: all records whose keys start with one of `PREFIXES`.
        bounds: what the store holds of each queue, by epoch.
        now_ms: the time.
        first_epoch: where a new store begins to number the lives of its queues, best where no other store did: a
            position from a store that is gone then fits no queue, instead of another one.

    Raises:
        StoreNewer: a newer version wrote records that are not to be read here.
        ValueError: a record is damaged.
    """
    _check_format(records)
    broker = Broker(now_ms)
    state = broker.state
    kinds = _by_kind(records)
    state.counters.next_epoch = first_epoch
    if "counters" in records:
        state.counters = msgspec.msgpack.decode(records["counters"], type=Counters)
    for key, value in kinds["queue"]:
        _restore_queue(state, _number(key), _QUEUE.decode(value), bounds.get(_number(key)))
    _restore_ids(state, kinds["ids"])
    filters: dict[tuple[object, ...], Filter] = {}
    for key, value in kinds["subscription"]:
        _restore_subscription(state, _number(key), _SUBSCRIPTION.decode(value), now_ms, filters)
    for key, value in sorted(kinds["dead"], key=lambda item: _numbers(item[0])):
        _restore_dead_letter(state, key, msgspec.msgpack.decode(value, type=DeadLetterRecord))
    _restore_cursors(state, records)
    for key, value in kinds["client"]:
        client = msgspec.msgpack.decode(value, type=ClientRecord)
        known = state.clients[key] = Client(key, client.address, client.protocol, client.last_seen_ms)
        known.quotas = client.quotas
    for key, value in kinds["producer"]:
        found = msgspec.msgpack.decode(value, type=ProducerRecord)
        producer = state.producers[key] = Producer(key, found.last_seen_ms)
        producer.answered, producer.stored, producer.duplicates = found.answered, found.stored, found.duplicates
        producer.transactions = found.transactions
    for key, value in kinds["webhook"]:
        state.webhooks[key] = _restore_webhook(key, msgspec.msgpack.decode(value, type=WebhookRecord))
    for key, _ in kinds["trash"]:
        state.trash[_number(key)] = 0
    lost = [(key, msgspec.msgpack.decode(value, type=SessionRecord)) for key, value in kinds["session"]]
    broker.begin([(token, item.client_id, item.address, item.protocol) for token, item in lost])
    return broker


def queue_epochs(records: Mapping[str, bytes]) -> list[int]:
    """Returns the epochs of the queues that the records name.

    Raises:
        StoreNewer: a newer version wrote records that are not to be read here.
        ValueError: a record's key is damaged.
    """
    _check_format(records)
    return [_number(key.removeprefix("queue/")) for key in records if key.startswith("queue/")]


def _check_format(records: Mapping[str, bytes]) -> None:
    version = msgspec.msgpack.decode(records["format"], type=int) if "format" in records else 1
    if version > FORMAT:
        raise StoreNewer(
            f"the records of the store have version {version}, this Tidings knows versions up to {FORMAT};"
            " use the newer Tidings that wrote it"
        )


def _by_kind(records: Mapping[str, bytes]) -> _Kinds:
    """Returns the records by what comes before the first slash of their keys, each with what comes after it."""
    found: _Kinds = defaultdict(list)
    for key, value in records.items():
        kind, slash, rest = key.partition("/")
        if slash:
            found[kind].append((rest, value))
    return found


def _number(key: str) -> int:
    """Returns the number that a key ends with, one that a store can look for."""
    # int() would also take "+1", "1_0" and digits of other scripts.
    if not (key.isascii() and key.isdigit()) or int(key) >= 2**63:
        raise ValueError(f"a key ends with {key!r}, which is no number of ours")
    return int(key)


def _numbers(key: str) -> tuple[int, int]:
    first, _, second = key.partition("/")
    return _number(first), _number(second)


def _restore_queue(state: BrokerState, epoch: int, record: QueueRecord, held: Bounds | None) -> None:
    queue = Queue(record.name, epoch, record.created_ms)
    queue.committed = record.last_sequence
    queue.first_sequence = record.last_sequence + 1
    queue.last_time_ms = record.last_time_ms
    queue.paused = record.paused
    queue.settings = record.settings
    queue.purged_to = record.purged_to
    queue.deleted = Ranges(record.deleted)
    queue.has_ttl = record.has_ttl
    if held:
        queue.committed = max(queue.committed, held.last_sequence)
        queue.first_sequence = held.first_sequence
        queue.size_bytes = held.size_bytes
        queue.last_time_ms = max(queue.last_time_ms, held.last_time_ms)
    queue.restored = queue.committed
    queue.deleted.remove(1, queue.first_kept - 1)
    state.counters.next_epoch = max(state.counters.next_epoch, epoch + 1)
    state.add_queue(queue)


def _restore_ids(state: BrokerState, records: Iterable[tuple[str, bytes]]) -> None:
    pages: list[tuple[Queue, IdPage]] = []
    for key, value in records:
        queue = state.epochs.get(_numbers(key)[0])
        if queue is None:
            state.ledger.deleted(f"ids/{key}", state.now_ms)  # it was deleted while they were on their way
            continue
        record = msgspec.msgpack.decode(value, type=IdsRecord)
        pages.append((queue, IdPage(f"ids/{key}", record.time_ms, record.ids)))
    for queue, page in sorted(pages, key=lambda item: item[1].time_ms):
        queue.recent_ids.add(page)


def _restore_subscription(
    state: BrokerState, number: int, record: SubscriptionRecord, now_ms: int, filters: dict[tuple[object, ...], Filter]
) -> None:
    what = record.queue, record.event, record.headers
    chosen = filters.get(what) or filters.setdefault(what, Filter(*what))  # many want the same
    item = Subscription(number, record.name, record.client_id, chosen, durable=True, created_ms=record.created_ms)
    item.is_stored = True
    item.in_flight_max = record.in_flight_max
    item.concurrency = record.concurrency
    item.ack_timeout_ms = record.ack_timeout_ms
    item.expires_after_ms = record.expires_after_ms
    item.last_seen_ms = now_ms if record.last_seen_ms is None else record.last_seen_ms
    item.last_ack_ms = record.last_ack_ms
    item.gaps = record.gaps
    item.attempts_max = record.attempts_max
    item.backoff_min_ms = record.backoff_min_ms
    item.backoff_max_ms = record.backoff_max_ms
    item.next_dead = record.next_dead
    item.paused = record.paused
    item.shared = record.shared
    item.single_active = record.single_active
    state.counters.next_subscription = max(state.counters.next_subscription, number + 1)
    state.add_subscription(item)


def _restore_webhook(name: str, record: WebhookRecord) -> Webhook:
    return Webhook(
        name=name,
        url=record.url,
        queue=record.queue,
        event=record.event,
        start=record.start,
        secret=record.secret,
        concurrency=record.concurrency,
        timeout_ms=record.timeout_ms,
        created=record.created,
        cloudevents=record.cloudevents,
        disabled=record.disabled,
    )


def _restore_dead_letter(state: BrokerState, key: str, record: DeadLetterRecord) -> None:
    subscription, number = _numbers(key)
    owner = state.numbers.get(subscription)
    if owner:
        owner.bury(
            DeadLetter(
                subscription,
                number,
                queue=record.queue,
                epoch=record.epoch,
                moves=record.moves,
                sequence=record.sequence,
                reason=record.reason,
                attempts=record.attempts,
                died_ms=record.died_ms,
                type=record.type,
                place=record.place,
                text=record.text,
            )
        )


def _restore_cursors(state: BrokerState, records: Mapping[str, bytes]) -> None:
    # Where the wall clock was set back meanwhile, retries come as much earlier: they would wait as much longer.
    set_back_ms = max(0, max((queue.last_time_ms for queue in state.queues.values()), default=0) - state.now_ms)
    side_queues: dict[int, list[str]] = {}
    for side_queue in state.queues.values():
        if side_queue.owner is not None:
            side_queues.setdefault(side_queue.owner, []).append(side_queue.name)
    for subscription in state.subscriptions.values():
        wanted = subscription.filter
        names = [wanted.queue] if wanted.literal else [name for name in state.queues if wanted.wants_queue(name)]
        for name in [*names, *side_queues.get(subscription.number, ())]:
            queue = state.queues.get(name)
            if queue is None:
                continue
            cursor = Cursor(subscription, queue, position=0)
            parked: dict[int, int] = {}
            keys: dict[int, str] = {}
            value = records.get(cursor.key)
            if value is not None:
                record = _CURSOR.decode(value)
                cursor.position = min(record.position, queue.committed)
                cursor.unsettled = Ranges(record.unsettled)
                cursor.unsettled.remove(queue.committed + 1, max(record.position, queue.committed + 1))
                cursor.attempts = record.attempts
                parked, keys = record.parked, record.keys
                cursor.set_moves(record.moves)
                cursor.skipped = record.skipped
                cursor.cut = record.cut
                cursor.begin = record.begin
            if not queue.is_presence and queue.first_sequence > 1:
                # Only what every durable cursor had settled was trimmed, though the record may be older than that.
                cursor.position = max(cursor.position, queue.first_sequence - 1)
                cursor.settle(1, queue.first_sequence - 1)
            cursor.recorded = cursor.settled_to
            cursor.take_back()
            for sequence, until_ms in parked.items():
                if sequence in cursor.unsettled:
                    cursor.park(sequence, until_ms - set_back_ms)
            if keys:
                cursor.keys = Keys()
                cursor.keys.begin({sequence: key for sequence, key in keys.items() if sequence in cursor.parked})
            subscription.cursors[queue.epoch] = cursor
            queue.add(cursor)
            state.rest(cursor)
