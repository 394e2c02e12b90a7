"""Each checker catches bugs planted for it, under the faults that docs/proof.md says: that page is run here."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.simulation.checkers import CHECKERS
from tests.simulation.run import run
from tests.simulation.scenario import FAULTS
from tidings.broker import broker, records
from tidings.broker.broker import Broker
from tidings.broker.catalog import Catalog
from tidings.broker.clients import Clients
from tidings.broker.cursors import Cursor
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Effect, Fetch
from tidings.broker.inputs import Fetched, Input, StoreReady
from tidings.broker.ledger import Ledger
from tidings.broker.lookups import Lookups
from tidings.broker.presence import Presence
from tidings.broker.publishing import Publishing
from tidings.broker.queues import Queue
from tidings.broker.retries import Retries
from tidings.broker.sessions import Producer, Session
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.client.publisher import Publisher
from tidings.client.subscriber import Subscriber as ClientSubscriber
from tidings.errors import StoreUnavailable, TakenOver
from tidings.gateways.native import NativePeer
from tidings.node.clock import SystemClock
from tidings.node.node import Node
from tidings.ranges import Ranges
from tidings.store.port import Commit, OutcomeUnknown
from tidings.testing.crashing_store import CrashingStore
from tidings.wire import Goodbye

restore = importlib.import_module("tidings.broker.restore")  # the package exports a function of that name

_SEEDS = range(1, 41)
PAGE = (Path(__file__).parents[2] / "docs" / "proof.md").read_text(encoding="utf-8")
ROWS: list[tuple[str, str, str]] = re.findall(r"^\| ([a-z ]+) \| ([a-z +-]+) \| `(\w+)` \|$", PAGE, re.MULTILINE)
"""Promise, group of faults, planted bug."""

Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: dict[str, tuple[Plant, bool]] = {}
"""Name of the bug -> how it is planted, and whether the broker's invariants, which may see it first, are checked."""


def planted(*, invariants: bool = True) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        PLANTS[plant.__name__] = plant, invariants
        return plant

    return register


@planted()
def confirms_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    handle = Broker.handle

    def early(self: Broker, input: Input, now_ms: int) -> list[Effect]:
        effects = handle(self, input, now_ms)
        if isinstance(input, StoreReady) and self.state.ledger.round and effects:
            self._publishing.stored(self.state.ledger.round)
        return effects

    patch.setattr(Broker, "handle", early)


@planted()
def takes_an_unknown_outcome_for_success(patch: pytest.MonkeyPatch) -> None:
    async def hopeful(self: Node, commit: Commit, number: bytes) -> None:
        try:
            await self.store.commit(commit)
        except OutcomeUnknown:
            return

    patch.setattr(Node, "_commit_surely", hopeful)


@planted()
def answers_a_refused_commit_with_confirms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Publishing, "refused", lambda self, round, reason, full: self.stored(round) or [])


@planted()
def forgets_producers_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(
        records._SPELLINGS, Producer, lambda item: records.ProducerRecord(item.last_seen_ms, item.answered, {})
    )


@planted()
def sends_again_under_a_new_number(patch: pytest.MonkeyPatch) -> None:
    def again(self: Publisher) -> Any:
        for batch in list(self._unanswered.values()):
            del self._unanswered[batch.number]
            batch.number = self._next_number
            self._next_number += 1
            self._unanswered[batch.number] = batch
        return ((self._frame(batch), batch.parts) for batch in self._unanswered.values())

    patch.setattr(Publisher, "frames_again", again)


@planted(invariants=False)
def moves_the_cursor_past_unacked_messages(patch: pytest.MonkeyPatch) -> None:
    settle = Cursor.settle
    patch.setattr(Cursor, "settle", lambda self, first, last: settle(self, 1, last))


@planted(invariants=False)
def forgets_to_deliver_again_after_a_disconnect(patch: pytest.MonkeyPatch) -> None:
    def take_back(self: Cursor) -> None:
        self.unsettled, self.due = Ranges(), Ranges()
        self.attempts.clear()

    patch.setattr(Cursor, "take_back", take_back)


@planted()
def skips_the_first_row_of_a_page(patch: pytest.MonkeyPatch) -> None:
    serve = Deliveries._serve_page

    def skip(self: Deliveries, subscriber: Subscriber, cursor: Cursor, after: int, rows: list[Any]) -> None:
        if len(rows) > 1 and not cursor.due:
            after = rows[0].last_sequence
            cursor.position = max(cursor.position, after)
            rows = rows[1:]
        serve(self, subscriber, cursor, after, rows)

    patch.setattr(Deliveries, "_serve_page", skip)


@planted()
def loses_what_the_client_had_not_handed_over(patch: pytest.MonkeyPatch) -> None:
    take = ClientSubscriber.deliver

    def deliver(self: ClientSubscriber, frame: Any, body: bytes) -> None:
        take(self, frame, body)
        for delivery in self._arrived:
            for first, last in delivery.ranges():
                self.ack(delivery.epoch, first, last)

    patch.setattr(ClientSubscriber, "deliver", deliver)


@planted()
def tells_no_gap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalog, "_cut", lambda self, queue, cursor: None)


@planted()
def tells_a_gap_once(patch: pytest.MonkeyPatch) -> None:
    tell_gap = Deliveries.tell_gap

    def once(self: Deliveries, subscription: Any, queue: Any, first: int, last: int, reason: str) -> None:
        gaps = subscription.gaps
        tell_gap(self, subscription, queue, first, last, reason)
        subscription.gaps = gaps

    patch.setattr(Deliveries, "tell_gap", once)


@planted()
def tells_gaps_that_are_none(patch: pytest.MonkeyPatch) -> None:
    serve = Deliveries._serve_page

    def gap(self: Deliveries, subscriber: Any, cursor: Cursor, after: int, rows: list[Any]) -> None:
        if rows and rows[0].first_sequence == after + 1:
            first, last = rows[0].first_sequence, rows[0].last_sequence
            self._skip(cursor, self._parcel(subscriber, cursor), first, last, "trimmed")
        serve(self, subscriber, cursor, after, rows)

    patch.setattr(Deliveries, "_serve_page", gap)


@planted()
def delivers_at_the_tail_before_it_has_caught_up(patch: pytest.MonkeyPatch) -> None:
    deliver = ClientSubscriber.deliver

    def swap(self: ClientSubscriber, frame: Any, body: bytes) -> None:
        deliver(self, frame, body)
        if len(self._arrived) > 1:
            self._arrived[-1], self._arrived[-2] = self._arrived[-2], self._arrived[-1]

    patch.setattr(ClientSubscriber, "deliver", swap)


@planted()
def answers_an_ack_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        broker,
        "done_when_durable",
        lambda state, connection, kind, request: state.effects.append(_done(connection, request)),
    )


@planted()
def loses_acks(patch: pytest.MonkeyPatch) -> None:
    ack = Deliveries.ack
    patch.setattr(
        Deliveries,
        "ack",
        lambda self, subscriber, ranges: ack(self, subscriber, [span for span in ranges if span[1] % 7]),
    )


@planted()
def forgets_to_mark_redeliveries(patch: pytest.MonkeyPatch) -> None:
    take = Cursor.take
    patch.setattr(Cursor, "take", lambda self, row, room: take(self, row, room)._replace(redelivered=False))


@planted(invariants=False)
def ignores_the_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Subscriber, "room", lambda self: 1_000_000)


@planted()
def says_nothing_of_who_was_lost_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Presence, "lost", lambda self, *session: None)


@planted()
def reads_the_end_of_a_queue_from_its_record_alone(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: CrashingStore, queues: Any) -> dict[int, Any]:
        return {}

    patch.setattr(CrashingStore, "bounds", nothing)


@planted()
def begins_a_queue_at_the_second_sequence(patch: pytest.MonkeyPatch) -> None:
    add_queue = BrokerState.add_queue

    def begin(self: BrokerState, queue: Queue) -> None:
        if queue.committed == 0:
            queue.committed, queue.first_sequence = 1, 2
        add_queue(self, queue)

    patch.setattr(BrokerState, "add_queue", begin)


@planted()
def counts_time_before_a_crash_as_absence(patch: pytest.MonkeyPatch) -> None:
    spell = records._SPELLINGS[Subscription]

    def absent(item: Subscription) -> Any:
        record = spell(item)
        record.last_seen_ms = item.last_seen_ms
        return record

    def at_once(self: Catalog) -> None:
        for subscription in self._state.subscriptions.values():
            self._watch_expiry(subscription)

    patch.setitem(records._SPELLINGS, Subscription, absent)
    patch.setattr(Catalog, "watch_expiries", at_once)


@planted()
def leaves_the_record_of_a_deleted_subscription(patch: pytest.MonkeyPatch) -> None:
    deleted = Ledger.deleted

    def forgetful(self: Ledger, key: str, now_ms: int) -> None:
        if key.startswith("subscription/"):
            self._changes.pop(key, None)
        else:
            deleted(self, key, now_ms)

    patch.setattr(Ledger, "deleted", forgetful)


@planted()
def tells_of_a_subscription_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalog, "_answer", lambda self, subscriber: self._attached(subscriber))


@planted()
def begins_with_the_oldest_message_instead_of_at_a_time(patch: pytest.MonkeyPatch) -> None:
    located = Lookups.located
    patch.setattr(Lookups, "located", lambda self, ticket, sequence: located(self, ticket, 1))


@planted()
def lets_everybody_take_over(patch: pytest.MonkeyPatch) -> None:
    def close(self: Clients, holder: Session, input: Any) -> None:
        self._close(holder, TakenOver("another client took over"), reason="taken over")

    patch.setattr(Clients, "_take_over", close)


@planted()
def takes_every_goodbye_for_a_farewell(patch: pytest.MonkeyPatch) -> None:
    frame_received = NativePeer._frame_received

    def farewell(self: NativePeer, frame: Any, body: bytes) -> None:
        frame_received(self, frame, body)
        self._farewell = self._farewell or isinstance(frame, Goodbye)

    patch.setattr(NativePeer, "_frame_received", farewell)


@planted(invariants=False)
def shows_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SystemClock, "now_ms", lambda self: int(self._tell_wall_s() * 1000))


@planted()
def waits_for_ever_for_an_ack(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Retries, "overdue", lambda self, *of: None)


@planted()
def tells_nothing_of_damaged_rows(patch: pytest.MonkeyPatch) -> None:
    skip = Deliveries._skip

    def silent(self: Deliveries, cursor: Any, parcel: Any, first: int, last: int, reason: str) -> None:
        if reason == "damaged":
            cursor.position = max(cursor.position, last)
        else:
            skip(self, cursor, parcel, first, last, reason)

    patch.setattr(Deliveries, "_skip", silent)


@planted(invariants=False)
def forgets_cursors_with_fields_it_does_not_know(patch: pytest.MonkeyPatch) -> None:
    read = restore._restore_cursors

    def strict(state: BrokerState, found: Any) -> None:
        known = {
            key: value
            for key, value in found.items()
            if not key.startswith("cursor/") or len(msgspec.msgpack.decode(value, strict=False)) == 4
        }
        read(state, known)

    patch.setattr(restore, "_restore_cursors", strict)


@planted()
def begins_on_records_of_a_newer_format(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(restore, "_check_format", lambda found: None)


@planted()
def gives_up_reading_after_an_error(patch: pytest.MonkeyPatch) -> None:
    answer_read = Node._answer_read

    async def hopeless(self: Node, effect: Any) -> Any:
        try:
            return await answer_read(self, effect)
        except StoreUnavailable:
            if isinstance(effect, Fetch):
                return Fetched(effect.subscription, effect.epoch, [])
            raise

    patch.setattr(Node, "_answer_read", hopeless)


def _done(connection: int, request: int) -> Any:
    from tidings.broker.effects import Done

    return Done(connection, request)


@pytest.mark.parametrize(("promise", "group", "name"), ROWS, ids=[" / ".join(row) for row in ROWS])
def test_a_planted_bug_is_caught(promise: str, group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, invariants = PLANTS[name]
    plant(monkeypatch)
    others: dict[int, list[str]] = {}
    for seed in _SEEDS:
        outcome = run(seed, group, invariants=invariants)
        if promise in outcome.broken and all(
            any(outcome.faults.get(kind) for kind in FAULTS[part]) for part in group.split(" + ")
        ):
            return
        if outcome.broken:
            others[seed] = sorted(outcome.broken)
    pytest.fail(f"{name} was not caught by {promise!r} within {len(_SEEDS)} seeds; by others: {others}")


def test_the_table_has_every_checker_every_group_of_faults_and_every_planted_bug() -> None:
    promises, groups, names = ({row[index] for row in ROWS} for index in range(3))
    assert promises - {"no mistakes", "comes to rest"} == set(CHECKERS)
    assert {part for group in groups for part in group.split(" + ")} == set(FAULTS)
    assert names == set(PLANTS)


def test_the_page_names_every_kind_of_fault() -> None:
    rows = re.findall(r"^\| ([a-z -]+) \| ([^|`]+) \|$", PAGE, re.MULTILINE)
    assert [row for row in rows if row[0] != "group"] == [(group, "; ".join(kinds)) for group, kinds in FAULTS.items()]
