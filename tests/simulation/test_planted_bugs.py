"""Each checker catches the bug that it is there for: planted here, found within a few seeds."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.simulation.run import run
from tidings.broker import records
from tidings.broker.broker import Broker
from tidings.broker.catalog import Catalog
from tidings.broker.clients import Clients
from tidings.broker.cursors import Cursor
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Effect
from tidings.broker.inputs import Input, StoreReady
from tidings.broker.ledger import Ledger
from tidings.broker.presence import Presence
from tidings.broker.publishing import Publishing
from tidings.broker.queues import Queue
from tidings.broker.sessions import Producer, Session
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.client.publisher import Publisher
from tidings.client.subscriber import Subscriber as ClientSubscriber
from tidings.errors import TakenOver
from tidings.node.node import Node
from tidings.ranges import Ranges
from tidings.store.port import Commit, OutcomeUnknown
from tidings.testing.crashing_store import CrashingStore

_SEEDS = range(1, 121)

Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: dict[str, tuple[Plant, set[str], bool]] = {}
"""Name of the bug -> how it is planted, the promises whose checkers may be the first to see it, and whether the
broker's invariants, which may see it before them, are checked."""


def caught_by(*promises: str, invariants: bool = True) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        PLANTS[plant.__name__] = plant, set(promises), invariants
        return plant

    return register


@caught_by("durable confirm")
def confirms_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    handle = Broker.handle

    def early(self: Broker, input: Input, now_ms: int) -> list[Effect]:
        effects = handle(self, input, now_ms)
        if isinstance(input, StoreReady) and self.state.ledger.round and effects:
            self._publishing.stored(self.state.ledger.round)
        return effects

    patch.setattr(Broker, "handle", early)


@caught_by("durable confirm", "no mistakes")
def takes_an_unknown_outcome_for_success(patch: pytest.MonkeyPatch) -> None:
    async def hopeful(self: Node, commit: Commit, number: bytes) -> None:
        try:
            await self.store.commit(commit)
        except OutcomeUnknown:
            return

    patch.setattr(Node, "_commit_surely", hopeful)


@caught_by("durable confirm", "at least once")
def answers_a_refused_commit_with_confirms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Publishing, "refused", lambda self, round, reason, full: self.stored(round))


@caught_by("stored once")
def forgets_producers_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(
        records._SPELLINGS, Producer, lambda item: records.ProducerRecord(item.last_seen_ms, item.answered, {})
    )


@caught_by("stored once")
def sends_again_under_a_new_number(patch: pytest.MonkeyPatch) -> None:
    def again(self: Publisher) -> Any:
        for batch in list(self._unanswered.values()):
            del self._unanswered[batch.number]
            batch.number = self._next_number
            self._next_number += 1
            self._unanswered[batch.number] = batch
        return ((self._frame(batch), batch.parts) for batch in self._unanswered.values())

    patch.setattr(Publisher, "frames_again", again)


@caught_by("at least once", "no mistakes")
def moves_the_cursor_past_unacked_messages(patch: pytest.MonkeyPatch) -> None:
    settle = Cursor.settle
    patch.setattr(Cursor, "settle", lambda self, first, last: settle(self, 1, last))


@caught_by("at least once", invariants=False)
def forgets_to_deliver_again_after_a_disconnect(patch: pytest.MonkeyPatch) -> None:
    def take_back(self: Cursor) -> None:
        self.unsettled, self.due = Ranges(), Ranges()
        self.attempts.clear()

    patch.setattr(Cursor, "take_back", take_back)


@caught_by("at least once")
def skips_the_first_row_of_a_page(patch: pytest.MonkeyPatch) -> None:
    serve = Deliveries._serve_page

    def skip(self: Deliveries, subscriber: Subscriber, cursor: Cursor, after: int, rows: list[Any]) -> None:
        if len(rows) > 1 and not cursor.due:
            after = rows[0].last_sequence
            cursor.position = max(cursor.position, after)
            rows = rows[1:]
        serve(self, subscriber, cursor, after, rows)

    patch.setattr(Deliveries, "_serve_page", skip)


@caught_by("at least once")
def loses_what_the_client_had_not_handed_over(patch: pytest.MonkeyPatch) -> None:
    take = ClientSubscriber.deliver

    def deliver(self: ClientSubscriber, frame: Any, body: bytes) -> None:
        take(self, frame, body)
        for delivery in self._arrived:
            for first, last in delivery.ranges():
                self.ack(delivery.epoch, first, last)

    patch.setattr(ClientSubscriber, "deliver", deliver)


@caught_by("at least once")
def tells_no_gap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalog, "_cut", lambda self, queue, subscription, first: None)


@caught_by("at least once")
def tells_a_gap_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deliveries, "remember_gap", lambda self, subscription, gap: None)


@caught_by("honest gaps", "at least once")
def tells_gaps_that_are_none(patch: pytest.MonkeyPatch) -> None:
    serve = Deliveries._serve_page

    def gap(self: Deliveries, subscriber: Subscriber, cursor: Cursor, after: int, rows: list[Any]) -> None:
        if rows and rows[0].first_sequence == after + 1:
            self._tell_gap(subscriber, cursor, _page(), rows[0].first_sequence, rows[0].last_sequence, "trimmed")
        serve(self, subscriber, cursor, after, rows)

    patch.setattr(Deliveries, "_serve_page", gap)


@caught_by("order", "no mistakes")
def delivers_at_the_tail_before_it_has_caught_up(patch: pytest.MonkeyPatch) -> None:
    deliver = ClientSubscriber.deliver

    def swap(self: ClientSubscriber, frame: Any, body: bytes) -> None:
        deliver(self, frame, body)
        if len(self._arrived) > 1:
            self._arrived[-1], self._arrived[-2] = self._arrived[-2], self._arrived[-1]

    patch.setattr(ClientSubscriber, "deliver", swap)


@caught_by("ack means gone")
def answers_an_ack_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Catalog,
        "done_when_durable",
        lambda self, connection, kind, request: self._state.effects.append(_done(connection, request)),
    )


@caught_by("ack means gone", "comes to rest", "presence")
def loses_acks(patch: pytest.MonkeyPatch) -> None:
    ack = Deliveries.ack
    patch.setattr(
        Deliveries,
        "ack",
        lambda self, subscriber, ranges: ack(self, subscriber, [span for span in ranges if span[1] % 7]),
    )


@caught_by("redelivery is marked")
def forgets_to_mark_redeliveries(patch: pytest.MonkeyPatch) -> None:
    take = Cursor.take
    patch.setattr(Cursor, "take", lambda self, row, room: take(self, row, room)._replace(redelivered=False))


@caught_by("window", invariants=False)
def ignores_the_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Subscriber, "room", lambda self: 1_000_000)


@caught_by("presence")
def says_nothing_of_who_was_lost_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Presence, "lost", lambda self, *session: None)


@caught_by("dense sequences", "no mistakes")
def reads_the_end_of_a_queue_from_its_record_alone(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: CrashingStore, queues: Any) -> dict[int, Any]:
        return {}

    patch.setattr(CrashingStore, "bounds", nothing)


@caught_by("dense sequences")
def begins_a_queue_at_the_second_sequence(patch: pytest.MonkeyPatch) -> None:
    add_queue = BrokerState.add_queue

    def begin(self: BrokerState, queue: Queue) -> None:
        if queue.committed == 0:
            queue.committed, queue.first_sequence = 1, 2
        add_queue(self, queue)

    patch.setattr(BrokerState, "add_queue", begin)


@caught_by("subscriptions stay")
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


@caught_by("subscriptions stay")
def leaves_the_record_of_a_deleted_subscription(patch: pytest.MonkeyPatch) -> None:
    deleted = Ledger.deleted

    def forgetful(self: Ledger, key: str, now_ms: int) -> None:
        if key.startswith("subscription/"):
            self._changes.pop(key, None)
        else:
            deleted(self, key, now_ms)

    patch.setattr(Ledger, "deleted", forgetful)


@caught_by("subscriptions stay", "at least once")
def tells_of_a_subscription_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalog, "_answer", lambda self, subscriber: self._attached(subscriber))


@caught_by("at least once")
def begins_with_the_oldest_message_instead_of_at_a_time(patch: pytest.MonkeyPatch) -> None:
    located = Catalog.located
    patch.setattr(Catalog, "located", lambda self, input: located(self, msgspec.structs.replace(input, sequence=1)))


@caught_by("one process for a client id")
def lets_everybody_take_over(patch: pytest.MonkeyPatch) -> None:
    def close(self: Clients, holder: Session, input: Any) -> None:
        self._close(holder, TakenOver("another client took over"), reason="taken over")

    patch.setattr(Clients, "_take_over", close)


def _page() -> Any:
    from tidings.broker.deliveries import _Page

    return _Page()


def _done(connection: int, request: int) -> Any:
    from tidings.broker.effects import Done

    return Done(connection, request)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, promises, invariants = PLANTS[name]
    plant(monkeypatch)
    others: dict[int, list[str]] = {}
    for seed in _SEEDS:
        broken = run(seed, invariants=invariants).broken
        if promises & set(broken):
            return
        if broken:
            others[seed] = sorted(broken)
    pytest.fail(f"{name} was not caught by {promises} within {len(_SEEDS)} seeds; by others: {others}")
