"""A broker with a store in memory and clients that keep what they are told, for tests of the rules."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from itertools import groupby, repeat
from typing import Any, NamedTuple, TypeVar

import msgspec

from tidings import calls, limits
from tidings.batch import Batch, StoredBatch, decode_items, encode_item
from tidings.broker import PREFIXES, Broker, effects, inputs, queue_epochs, restore
from tidings.broker.invariants import Invariants
from tidings.errors import TidingsError
from tidings.model import ClientInfo, Flags, QueueInfo, Run, SubscriptionInfo
from tidings.node.samples import sample
from tidings.store.memory import MemoryStore
from tidings.transaction import Commit

T = TypeVar("T")
START_MS = 1_700_000_000_000


def batch_of(
    *events: str,
    payload: bytes | None = None,
    keys: Sequence[str | None] = (),
    headers: Sequence[dict[str, str] | None] = (),
) -> Batch:
    """Returns a batch with one message for each event; its payload is the event's name unless one is given."""
    runs, parts = [], []
    each, those = iter(keys or repeat(None)), iter(headers or repeat(None))
    flags = Flags.KEYS * bool(keys) | Flags.HEADERS * bool(headers)
    for event, group in groupby(events):
        items = [
            encode_item(event.encode() if payload is None else payload, None, next(each), next(those) or None)
            for _ in group
        ]
        runs.append(Run(event, len(items), sum(map(len, items)), flags=flags))
        parts += items
    return Batch(runs, b"".join(parts))


class Message(NamedTuple):
    """One message as a client got it."""

    queue: str
    sequence: int
    event: str
    payload: bytes
    attempt: int
    redelivered: bool


class Client:
    """A connection, and what came over it since it was last looked at."""

    def __init__(self, harness: Harness, connection: int, producer: str) -> None:
        self.harness = harness
        self.connection = connection
        self.producer = producer
        self.token = ""
        self.closed: TidingsError | None = None
        self.confirms: dict[int, effects.Confirm] = {}
        self.transacted: dict[int, effects.Transacted] = {}
        self.refusals: list[effects.Refuse] = []
        self.subscribed: dict[int, effects.Subscribed] = {}
        self.done: list[int] = []
        self.answers: dict[int, Any] = {}
        self.gaps: list[effects.Gap] = []
        self.ended: list[int] = []
        self.listings: dict[int, effects.Listing] = {}
        self.messages: dict[int, list[Message]] = {}
        self.deliveries: list[effects.Deliver] = []
        self._number = 0
        self._request = 0
        self._handle = 0

    def told(self, effect: effects.ToConnection) -> None:
        """Takes an effect."""
        assert self.closed is None, f"{effect} after the connection was closed"
        match effect:
            case effects.Welcome():
                self.token = effect.token
            case effects.Confirm():
                self.confirms[effect.number] = effect
            case effects.Transacted():
                self.transacted[effect.number] = effect
            case effects.Refuse():
                self.refusals.append(effect)
            case effects.Ended():
                self.ended.append(effect.handle)
            case effects.Subscribed():
                self.subscribed[effect.request] = effect
            case effects.Done():
                self.done.append(effect.request)
            case effects.Answered():
                self.answers[effect.request] = effect.value
            case effects.Gap():
                self.gaps.append(effect)
            case effects.Listing():
                self.listings[effect.request] = effect
            case effects.Deliver():
                self.deliveries.append(effect)
                self.messages.setdefault(effect.handle, []).extend(_messages(effect))
            case effects.Close():
                self.closed = effect.error
                del self.harness.clients[self.connection]

    # --- what a client does ---

    def publish(
        self,
        queue: str,
        *events: str,
        number: int = 0,
        answered: int = 0,
        payload: bytes | None = None,
        keys: Sequence[str | None] = (),
        headers: Sequence[dict[str, str] | None] = (),
    ) -> int:
        """Publishes one batch with a message for each event (or key, or headers); returns its number."""
        if not number:
            self._number += 1
            number = self._number
        events = events or ("created",) * max(1, len(keys), len(headers))
        batch = batch_of(*events, payload=payload, keys=keys, headers=headers)
        self.harness.do(inputs.Publish(self.connection, number, answered, queue, batch))
        return number

    def transact(
        self,
        *queues: str,
        acks: Sequence[tuple[int, str, int, int]] = (),
        number: int = 0,
        answered: int = 0,
        payload: bytes | None = None,
    ) -> int:
        """Publishes a message into each queue and acks (handle, queue, first, last) in one transaction."""
        if not number:
            self._number += 1
            number = self._number
        batches = [(queue, batch_of("created", payload=payload)) for queue in queues]
        whole = Batch([run for _, batch in batches for run in batch.runs], b"".join(b.body for _, b in batches))
        places = [(handle, self.harness.epoch(queue), first, last) for handle, queue, first, last in acks]
        self.harness.do(inputs.Transact(self.connection, number, answered, batches, places, whole))
        return number

    def subscribe(self, queue: str, event: str = "#", **options: Any) -> int:
        """Asks to be attached; returns the handle, which is also the number of the request."""
        self._handle += 1
        # What fails is due again at once, unless a test is about the time between.
        options = {"backoff_max_ms": 1} | options
        request = inputs.Subscribe(
            connection=self.connection, request=self._handle, handle=self._handle, queue=queue, event=event, **options
        )
        self.harness.do(request)
        return self._handle

    def ack(self, handle: int, first: int, last: int | None = None, *, queue: str = "orders", request: int = 0) -> None:
        """Settles a range of a queue."""
        epoch = self.harness.epoch(queue)
        self.harness.do(inputs.Ack(self.connection, handle, [(epoch, first, last or first)], request))

    def nack(self, handle: int, first: int, last: int | None = None, *, queue: str = "orders", **options: Any) -> None:
        """Gives back a range of a queue as failed."""
        ranges = [(self.harness.epoch(queue), first, last or first)]
        self.harness.do(inputs.Nack(self.connection, handle, ranges, **options))

    def extend(self, handle: int, first: int, last: int | None = None, *, queue: str = "orders") -> None:
        """Asks for more time for a range of a queue."""
        self.harness.do(inputs.Extend(self.connection, handle, [(self.harness.epoch(queue), first, last or first)]))

    def call(self, call: calls.Call) -> Any:
        """Asks for something else; returns the answer, once there is one."""
        self._request += 1
        self.harness.do(inputs.Call(self.connection, self._request + 1000, call))
        return self.answers.pop(self._request + 1000, None)

    def unsubscribe(self, handle: int) -> int:
        """Detaches; returns the number of the request."""
        self._request += 1
        self.harness.do(inputs.Unsubscribe(self.connection, self._request + 1000, handle))
        return self._request + 1000

    def delete(self, what: str, name: str) -> int:
        """Deletes; returns the number of the request."""
        self._request += 1
        self.harness.do(inputs.Delete(self.connection, self._request + 1000, what, name))
        return self._request + 1000

    def listing(self, what: str) -> Sequence[Any]:
        """Returns a whole listing."""
        entries: list[Any] = []
        after, request = "", 1_000_000
        while True:
            request += 1
            self.harness.do(inputs.List(self.connection, request, what, after))
            page = self.listings.pop(request)
            entries += page.entries
            after = page.after
            if not after:
                return entries

    def disconnect(self, *, farewell: bool = False) -> None:
        """Ends the connection."""
        del self.harness.clients[self.connection]
        self.harness.do(inputs.Disconnect(self.connection, farewell, "gone"))

    # --- what a test asks ---

    def take(self, handle: int = 1) -> list[Message]:
        """Returns what was delivered with a handle since this was last called."""
        return self.messages.pop(handle, [])

    def error(self) -> TidingsError:
        """Returns the error of the only refusal since this was last called."""
        (refusal,) = self.refusals
        self.refusals.clear()
        return refusal.error

    def clients(self) -> dict[str | None, ClientInfo]:
        """Returns the listing of clients, by client id."""
        return {info.client_id: info for info in self.listing("clients")}

    def queues(self) -> dict[str, QueueInfo]:
        """Returns the listing of queues, by name."""
        return {info.name: info for info in self.listing("queues")}

    def subscriptions(self) -> dict[str, SubscriptionInfo]:
        """Returns the listing of subscriptions that read at most one queue each, by name."""
        return {info.name: info for info in self.listing("subscriptions")}


class Harness:
    """Feeds a broker as a node does, one input at a time, on a time that only tests move.

    With `store_is_held` a transaction stays under way until `commit` or `refuse`; with `reads_are_held` reads
    stay unanswered until `answer_reads`.
    """

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.store = MemoryStore()
        self.clients: dict[int, Client] = {}
        self.store_is_held = False
        self.reads_are_held = False
        self.under_way: Commit | None = None
        self.reads: list[effects.Read] = []
        self.commits: list[Commit] = []
        self.webhook_changes = 0
        self._connections = 0
        self.broker = Broker(self.now_ms)
        self.invariants = Invariants(self.broker)
        self.broker.begin([])
        self.settle()

    # --- clients ---

    def connect(
        self, client_id: str | None = None, *, producer: str = "", token: str = "", take_over: bool = False
    ) -> Client:
        """Opens a connection."""
        self._connections += 1
        number = self._connections
        client = self.clients[number] = Client(self, number, producer or f"producer-{number}")
        self.do(
            inputs.Connect(
                connection=number,
                client_id=client_id,
                producer=client.producer,
                token=token,
                fresh_token=f"token-{number}",
                take_over=take_over,
                address=f"10.0.0.{number}:5000",
                protocol="test",
            )
        )
        return client

    def epoch(self, queue: str) -> int:
        """Returns the epoch of a queue."""
        return self.broker.state.queues[queue].epoch

    # --- the node's work ---

    def do(self, input: inputs.Input) -> list[effects.Effect]:
        """Handles an input and all that follows from it without time passing; returns its own effects."""
        own = self._handle(input)
        self.settle()
        return own

    def settle(self) -> None:
        """Commits and reads until nothing more happens."""
        working, steps = True, 0
        while working:
            working = False
            steps += 1
            assert steps < 10_000, f"there is always something to read or to commit: {self.reads}"
            if self.under_way is None:
                self._handle(inputs.StoreReady())
            if self.under_way is not None and not self.store_is_held:
                self._finish_commit()
                working = True
            if self.reads and not self.reads_are_held:
                self._answer_read()
                working = True

    def commit(self) -> None:
        """Lets the transaction under way succeed, and the next one stay under way."""
        self._finish_commit()
        self.settle()

    def refuse(self, reason: str = "broken", *, full: bool = False) -> None:
        """Lets the transaction under way fail."""
        assert self.under_way is not None
        self.under_way = None
        self._handle(inputs.CommitRefused(reason, full))
        self.settle()

    def answer_reads(self) -> None:
        """Answers the reads that were ordered until now."""
        for _ in range(len(self.reads)):
            self._answer_read()
        self.settle()

    def advance(self, passed_ms: int) -> None:
        """Lets time pass, from deadline to deadline."""
        end_ms = self.now_ms + passed_ms
        steps = 0
        while (due_ms := self.broker.next_deadline_ms()) is not None and due_ms <= end_ms:
            if self.under_way is not None and due_ms <= self.now_ms:
                break
            self.now_ms = max(self.now_ms, due_ms)
            self._handle(inputs.Tick())
            self.settle()
            steps += 1
            assert steps < 100_000, f"a deadline is always due: {due_ms} at {self.now_ms}"
        self.now_ms = end_ms
        self._handle(inputs.Tick())
        self.settle()

    def flush(self) -> None:
        """Lets so much time pass that all changed records are written."""
        self.advance(limits.CURSOR_DELAY_MS)

    def restart(self) -> None:
        """Crashes, and continues from what the store holds. All connections are gone, none was told."""
        self.clients.clear()
        self.under_way = None
        self.reads.clear()
        self.broker = restore(self.records(), self.bounds(), self.now_ms)
        self.invariants = Invariants(self.broker)
        self.settle()

    def records(self) -> dict[str, bytes]:
        """Returns what the store holds beside messages."""
        return {key: value for prefix in PREFIXES for key, value in _now(self.store.list(prefix))}

    def bounds(self) -> Any:
        """Returns the bounds of the queues that the store holds."""
        return _now(self.store.bounds(queue_epochs(self.records())))

    def stored(self, queue: str) -> list[tuple[str, bytes]]:
        """Returns event and payload of each message of a queue as the store holds it, in order."""
        rows = _now(self.store.read(self.epoch(queue), 0, 2**40))
        found: list[tuple[str, bytes]] = []
        for row in rows:
            assert isinstance(row, StoredBatch), "nothing is damaged in memory"
            offset = 0
            for run in row.batch.runs:
                items = decode_items(run.count, run.flags, row.batch.body[offset : offset + run.size])
                found += [(str(run.event), item[0]) for item in items]
                offset += run.size
        return found

    def presence(self) -> list[tuple[str, dict[str, Any]]]:
        """Returns event and content of all messages of `$presence`."""
        self.flush()
        return [(event, msgspec.json.decode(payload)) for event, payload in self.stored("$presence")]

    def _handle(self, input: inputs.Input) -> list[effects.Effect]:
        found = self.broker.handle(input, self.now_ms)
        self.invariants.check()
        for effect in found:
            if isinstance(effect, effects.StartCommit):
                assert self.under_way is None, "one transaction at a time"
                self.under_way = effect.commit
                self.commits.append(effect.commit)
            elif isinstance(effect, effects.Read):
                self.reads.append(effect)
            elif isinstance(effect, effects.WebhooksChanged):
                self.webhook_changes += 1
            elif effect.connection in self.clients:
                self.clients[effect.connection].told(effect)
        return found

    def _finish_commit(self) -> None:
        assert self.under_way is not None, "there is a transaction under way"
        commit, self.under_way = self.under_way, None
        _now(self.store.commit(commit))
        self._handle(inputs.Committed())

    def _answer_read(self) -> None:
        effect, store = self.reads.pop(0), self.store
        match effect:
            case effects.Fetch():
                rows = _now(store.read(effect.epoch, effect.after, effect.limit_bytes))
                self._handle(inputs.Fetched(effect.subscription, effect.epoch, rows))
            case effects.Survey():
                oldest = _now(store.survey(effect.epoch, 0, limits.TRIM_ROWS_MAX))
                unsettled = _now(store.survey(effect.epoch, effect.settled_to, 1))
                bounds = _now(store.bounds([effect.epoch])).get(effect.epoch)
                size_bytes = bounds.size_bytes if bounds else 0
                if unsettled:
                    size_bytes = unsettled[0].offset_bytes - oldest[0].offset_bytes
                self._handle(inputs.Surveyed(effect.epoch, oldest, size_bytes))
            case effects.ReadRows():
                rows = _now(store.read(effect.epoch, effect.after, effect.limit_bytes))
                self._handle(inputs.RowsRead(effect.ticket, rows))
            case effects.ListRecords():
                listed = _now(store.list(effect.prefix, effect.after, effect.limit_bytes))
                self._handle(inputs.RecordsListed(effect.ticket, listed))
            case effects.ReadRecords():
                self._handle(inputs.RecordsRead(effect.ticket, [_now(store.get(key)) for key in effect.keys]))
            case effects.Locate():
                sequence = _now(store.locate(effect.epoch, effect.time_ms))
                self._handle(inputs.Located(effect.ticket, sequence))
            case effects.Sample():
                sampled = _now(sample(store, effect.epoch, effect.to_sequence))
                self._handle(inputs.Sampled(effect.ticket, sampled))


def assert_delivered(client: Client, queue: str, sequences: Iterable[int], handle: int = 1) -> list[Message]:
    """Checks what was delivered to a client since it was last looked at, and returns it."""
    messages = client.take(handle)
    assert [(message.queue, message.sequence) for message in messages] == [(queue, number) for number in sequences]
    return messages


def assert_refused(client: Client, error: type[TidingsError], *words: str) -> None:
    """Checks that the only refusal a client got since it was last looked at says these words."""
    found = client.error()
    assert type(found) is error
    for word in words:
        assert word in str(found)


def _messages(deliver: effects.Deliver) -> list[Message]:
    attempts = dict(deliver.attempts)
    found = []
    for row in deliver.rows:
        sequence, offset = row.first_sequence, 0
        for run in row.batch.runs:
            if run.event is not None:
                items = decode_items(run.count, run.flags, row.batch.body[offset : offset + run.size])
                for place, (payload, *_) in enumerate(items, sequence):
                    attempt = attempts.pop(place, 1)
                    found.append(Message(deliver.queue, place, run.event, payload, attempt, deliver.redelivered))
            sequence += run.count
            offset += run.size
        assert offset == len(row.batch.body), "a delivery's runs describe all of its bytes"
    assert not attempts, "attempts are told of delivered messages only"
    return found


def _now(work: Coroutine[Any, Any, T]) -> T:
    # The store in memory never waits, so its coroutines end at once.
    try:
        work.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("the store in memory waits")
