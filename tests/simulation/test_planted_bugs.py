"""Each checker catches bugs planted for it, under the faults that docs/proof.md says: that page is run here."""

import asyncio
import importlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.simulation.checkers import CHECKERS
from tests.simulation.run import run
from tests.simulation.scenario import FAULTS
from tidings import limits
from tidings.batch import Batch
from tidings.broker import (
    broker,
    gaps,
    gone,
    publishing,
    receipts,
    records,
    schedules,
    seeking,
    shares,
    transactions,
)
from tidings.broker.broker import Broker
from tidings.broker.catalog import Catalog
from tidings.broker.clients import Clients
from tidings.broker.cursors import Cursor, State
from tidings.broker.deletions import Deletions
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Answered, Effect, Ended, Fetch
from tidings.broker.filters import Filter
from tidings.broker.gaps import Gaps
from tidings.broker.giving_up import GivingUp
from tidings.broker.inputs import Fetched, Input, StoreReady
from tidings.broker.ledger import Answer, Ledger
from tidings.broker.lookups import Lookups
from tidings.broker.members import Members
from tidings.broker.presence import Presence
from tidings.broker.publishing import Publishing
from tidings.broker.queues import Queue
from tidings.broker.quotas import Quota, Quotas
from tidings.broker.receipts import Receipts
from tidings.broker.recent_ids import RecentIds
from tidings.broker.replies import Replies
from tidings.broker.retries import Retries
from tidings.broker.schedules import Schedules
from tidings.broker.sessions import Pending, Producer, Session
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.broker.transactions import Transaction, Transactions
from tidings.client.publisher import Publisher
from tidings.client.subscriber import Subscriber as ClientSubscriber
from tidings.client.transaction import Transaction as ClientTransaction
from tidings.errors import QueueFull, StoreUnavailable, TakenOver
from tidings.gateways.native import NativePeer
from tidings.model import Receipt
from tidings.node.clock import SystemClock
from tidings.node.node import Node
from tidings.ranges import Ranges
from tidings.store.port import OutcomeUnknown
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
    async def hopeful(self: Node, under_way: Awaitable[None], number: bytes) -> None:
        try:
            await under_way
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
    patch.setattr(Deletions, "_cut", lambda self, queue, cursor: None)


@planted()
def tells_a_gap_once(patch: pytest.MonkeyPatch) -> None:
    tell = Gaps.tell

    def once(self: Gaps, subscription: Any, queue: Any, first: int, last: int, reason: str) -> None:
        known = subscription.gaps
        tell(self, subscription, queue, first, last, reason)
        subscription.gaps = known

    patch.setattr(Gaps, "tell", once)


@planted()
def tells_that_a_queue_is_deleted_before_it_is(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gaps, "once_durable", lambda state, act: act())


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


@planted()
def purges_without_a_word(patch: pytest.MonkeyPatch) -> None:
    cut = Deliveries.cut

    def silent(self: Deliveries, cursor: Cursor, to_sequence: int, reason: str) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Gaps, "tell", lambda *_: None)
            cut(self, cursor, to_sequence, reason)

    patch.setattr(Deliveries, "cut", silent)


@planted()
def takes_what_is_in_flight_for_cut(patch: pytest.MonkeyPatch) -> None:
    cut = Cursor.cut_waiting

    def too_much(self: Cursor, first: int, last: int) -> list[tuple[int, int]]:
        return cut(self, first, last) or ([(first, last)] if self.unsettled.within(first, last) else [])

    patch.setattr(Cursor, "cut_waiting", too_much)


@planted()
def lets_messages_expire_that_have_no_ttl(patch: pytest.MonkeyPatch) -> None:
    def early(row: Any, queue: Queue, chosen: Any, now_ms: int) -> Any:
        found = gone.gone_of(row, queue, chosen, now_ms)
        return found or ([(row.first_sequence, row.first_sequence, "expired")] if queue.deleted else [])

    patch.setattr("tidings.broker.deliveries.gone_of", early)


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


# --- of more work ---


@planted()
def gives_up_without_a_dead_letter(patch: pytest.MonkeyPatch) -> None:
    def lose(self: GivingUp, cursor: Cursor, sequence: int, *why: Any) -> None:
        cursor.settle(sequence, sequence)
        self._state.changed_cursor(cursor)
        self._deliveries.go_on(cursor)

    patch.setattr(GivingUp, "_bury", lose)


@planted(invariants=False)
def counts_acks_from_before_a_move(patch: pytest.MonkeyPatch) -> None:
    move = Cursor.move

    def keep(self: Cursor, target: int) -> int:
        unsettled, position = Ranges(self.unsettled), self.position
        skipped = move(self, target)
        if target < position:
            waiting = unsettled.within(target + 1, position)
            self.position, self.unsettled, self.due = position, Ranges(waiting), Ranges(waiting)
        return skipped

    patch.setattr(Cursor, "move", keep)


@planted()
def tells_a_gap_over_what_was_settled(patch: pytest.MonkeyPatch) -> None:
    def cut(self: Deletions, queue: Queue, cursor: Cursor) -> None:
        if cursor.settled_to < queue.committed:
            first, last = cursor.settled_to + 1, queue.committed
            self._deliveries.gaps.tell(cursor.subscription, queue, first, last, "queue deleted")

    patch.setattr(Deletions, "_cut", cut)


@planted()
def writes_a_dead_letter_before_its_cursor(patch: pytest.MonkeyPatch) -> None:
    together = Ledger.changed_together

    def apart(self: Ledger, items: Any, now_ms: int) -> None:
        together(self, [item for item in items if not isinstance(item, Cursor)], now_ms)

    patch.setattr(Ledger, "changed_together", apart)


@planted()
def answers_a_reject_before_its_dead_letter_is_written(patch: pytest.MonkeyPatch) -> None:
    nack = Retries.nack

    def hasty(self: Retries, subscriber: Subscriber, input: Any, done: Callable[[Any], None]) -> None:
        nack(self, subscriber, input, lambda error: None)
        done(None)

    patch.setattr(Retries, "nack", hasty)


@planted()
def forgets_what_it_redrives(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        GivingUp,
        "_send_back",
        lambda self, subscription, letter, content: self._state.remove_dead_letter(subscription, letter),
    )


@planted()
def redrives_to_whoever_is_there(patch: pytest.MonkeyPatch) -> None:
    def open_side_queue(self: BrokerState, subscription: Subscription, shown_as: str) -> Queue:
        queue = open_one(self, subscription, shown_as)
        for other in self.subscriptions.values():
            if queue.epoch not in other.cursors:
                self.add_cursor(other, queue, position=0)
        return queue

    open_one = BrokerState.open_side_queue
    patch.setattr(BrokerState, "open_side_queue", open_side_queue)


@planted()
def forgets_message_ids_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(restore, "_restore_ids", lambda state, records: None)


@planted()
def names_another_message_as_the_first_one(patch: pytest.MonkeyPatch) -> None:
    sift = RecentIds.sift

    def astray(self: RecentIds, batch: Any, sequence: int, now_ms: int) -> Any:
        kept, duplicates = sift(self, batch, sequence, now_ms)
        return kept, [(place, before + 1) for place, before in duplicates]

    patch.setattr(RecentIds, "sift", astray)


@planted()
def publishes_before_its_time(patch: pytest.MonkeyPatch) -> None:
    time_of = schedules.time_of
    patch.setattr(schedules, "time_of", lambda key: time_of(key) - 500)


@planted()
def publishes_for_every_time_that_passed(patch: pytest.MonkeyPatch) -> None:
    publish = Schedules._publish

    def each(self: Schedules, item: Any) -> None:
        now_ms, self._state.now_ms = self._state.now_ms, schedules.time_of(item.key)
        publish(self, item)
        self._state.now_ms = now_ms

    patch.setattr(Schedules, "_publish", each)


@planted()
def removes_what_was_scheduled_after_it_is_published(patch: pytest.MonkeyPatch) -> None:
    publish = Schedules._publish

    def later(self: Schedules, item: Any) -> None:
        ledger = self._state.ledger

        def remove(*_: Any) -> None:
            ledger.deleted(item.key, self._state.now_ms)

        with patch.context() as for_now:
            for_now.setattr(ledger, "deleted", lambda key, now_ms: None)
            publish(self, item)
        ledger.when_durable(Answer(remove, remove))

    patch.setattr(Schedules, "_publish", later)


@planted()
def says_that_what_is_being_published_is_cancelled(patch: pytest.MonkeyPatch) -> None:
    publish = Schedules._publish

    def unnoticed(self: Schedules, item: Any) -> None:
        publish(self, item)
        self._published.clear()

    patch.setattr(Schedules, "_publish", unnoticed)
    patch.setattr(Ledger, "is_deleted", lambda self, key: False)


@planted()
def drops_what_is_due_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    publish = Schedules._publish

    def drop(self: Schedules, item: Any) -> None:
        if self._state.now_ms - schedules.time_of(item.key) > 1_000:
            self._state.ledger.deleted(item.key, self._state.now_ms)
        else:
            publish(self, item)

    patch.setattr(Schedules, "_publish", drop)


@planted(invariants=False)
def gives_to_others_what_a_member_has(patch: pytest.MonkeyPatch) -> None:
    pump = Deliveries.pump

    def generous(self: Deliveries, subscription: Subscription) -> None:
        if isinstance(subscription.subscriber, Members) and len(subscription.subscriber) > 1:
            for cursor in subscription.cursors.values():
                for member in subscription.subscriber:
                    if cursor.state is State.BEHIND and not cursor.due:
                        cursor.take_back(list(member.held(cursor)))
        pump(self, subscription)

    patch.setattr(Deliveries, "pump", generous)


@planted()
def lets_all_members_be_active(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Members, "active", property(lambda self: [member for member in self if member.takes]))


@planted(invariants=False)
def keeps_what_a_lost_member_had(patch: pytest.MonkeyPatch) -> None:
    take_back = Cursor.take_back
    patch.setattr(Cursor, "take_back", lambda self, held=None: take_back(self) if held is None else None)


@planted()
def does_not_look_at_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shares, "has_keys", lambda row: False)


@planted(invariants=False)
def frees_a_key_when_its_head_fails(patch: pytest.MonkeyPatch) -> None:
    park = Cursor.park

    def free(self: Cursor, sequence: int, until_ms: int | None) -> None:
        park(self, sequence, until_ms)
        for freed in self.keys.settled(sequence, sequence) if self.keys else ():
            del self.parked[freed]
            self.due.add(freed, freed)

    patch.setattr(Cursor, "park", free)


@planted()
def forgets_the_keys_of_retries_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    spell = records._SPELLINGS[Cursor]

    def without(item: Cursor) -> Any:
        record = spell(item)
        record.keys = {}  # type: ignore[attr-defined]
        return record

    patch.setitem(records._SPELLINGS, Cursor, without)


@planted()
def stops_at_the_first_message_that_waits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "PARKED_MAX", 1)


@planted()
def writes_acks_of_a_transaction_later(patch: pytest.MonkeyPatch) -> None:
    placed = Transaction.placed
    patch.setattr(
        Transaction,
        "placed",
        lambda self, pending: [item for item in placed(self, pending) if not isinstance(item, Cursor)],
    )


@planted()
def stores_a_transaction_whose_deliveries_were_taken_away(patch: pytest.MonkeyPatch) -> None:
    def some(self: Transactions, subscriber: Subscriber, place: tuple[int, int, int]) -> Any:
        return transactions.in_flight(subscriber, [place])[0]

    patch.setattr(Transactions, "_in_flight", some)


@planted()
def stores_each_message_of_a_transaction_by_itself(patch: pytest.MonkeyPatch) -> None:
    def apart(self: ClientTransaction, entries: Any) -> Any:
        async def commit() -> list[Any]:
            session, confirms = self._supervisor.session, []
            for queue, batch in list(self._outgoing._batches.items()):
                [entry] = batch.entries[:1]
                waiter: asyncio.Future[Any] = self._supervisor.loop.create_future()
                session.publish(queue, entry.event, entry.content_type, entry.flags, 1, entry.parts[0], waiter)
                confirms.append(await waiter)
            return confirms

        return commit()

    patch.setattr(ClientTransaction, "_commit", apart)


@planted()
def delivers_before_a_move_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cursor, "is_held", property(lambda self: self.subscription.paused or self.queue.paused))


@planted()
def moves_one_too_far(patch: pytest.MonkeyPatch) -> None:
    target = seeking._target
    patch.setattr(seeking, "_target", lambda cursor, *how: min(cursor.queue.committed, target(cursor, *how) + 1))


@planted(invariants=False)
def counts_attempts_from_before_a_move(patch: pytest.MonkeyPatch) -> None:
    move = Cursor.move

    def remember(self: Cursor, target: int) -> int:
        attempts = self.attempts
        skipped = move(self, target)
        self.attempts = attempts
        return skipped

    patch.setattr(Cursor, "move", remember)


@planted()
def delivers_although_it_is_paused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cursor, "is_held", property(lambda self: self.moving > 0))


@planted()
def forgets_in_a_crash_that_it_was_paused(patch: pytest.MonkeyPatch) -> None:
    spell = records._SPELLINGS[Subscription]

    def going_on(item: Subscription) -> Any:
        record = spell(item)
        record.paused = False  # type: ignore[attr-defined]
        return record

    patch.setitem(records._SPELLINGS, Subscription, going_on)


def _done(connection: int, request: int) -> Any:
    from tidings.broker.effects import Done

    return Done(connection, request)


@planted()
def forgets_what_a_subscription_is_to_begin_with(patch: pytest.MonkeyPatch) -> None:
    begin_with = Cursor.begin_with
    patch.setattr(Cursor, "begin_with", lambda self, wanted, position: begin_with(self, Ranges(), position))


@planted()
def begins_with_more_than_the_last_messages(patch: pytest.MonkeyPatch) -> None:
    begin_with = Cursor.begin_with

    def generous(self: Cursor, wanted: Ranges, position: int) -> None:
        begin_with(self, Ranges([(wanted.first, position)]) if wanted else wanted, position)

    patch.setattr(Cursor, "begin_with", generous)


@planted()
def sends_what_headers_do_not_choose(patch: pytest.MonkeyPatch) -> None:
    def careless(self: Filter, batch: Batch) -> Batch | None:
        return batch if self.all_events else batch.select(self.wants_event)

    patch.setattr(Filter, "select", careless)


@planted(invariants=False)
def passes_by_what_an_absentee_chose_by_headers(patch: pytest.MonkeyPatch) -> None:
    wanted_by_idle = Queue.wanted_by_idle

    def hasty(self: Queue, rows: Any) -> list[Cursor]:
        return [cursor for cursor in wanted_by_idle(self, rows) if not cursor.filter.headers]

    patch.setattr(Queue, "wanted_by_idle", hasty)


@planted()
def replays_one_too_many(patch: pytest.MonkeyPatch) -> None:
    bound = Catalog._bound

    def generous(self: Catalog, subscription: Subscription, input: Any) -> None:
        bound(self, subscription, input)
        for cursor in subscription.cursors.values():
            cursor.end += 1

    patch.setattr(Catalog, "_bound", generous)


@planted()
def ends_a_replay_before_all_is_settled(patch: pytest.MonkeyPatch) -> None:
    replay_on = Deliveries._replay_on

    def hasty(self: Deliveries, subscription: Subscription) -> None:
        replay_on(self, subscription)
        for subscriber in subscription.attached():
            over = all(cursor.position >= cursor.end for cursor in subscription.cursors.values())
            if over and not subscriber.starting and not subscription.end_told:
                subscription.end_told = True
                self._state.effects.append(Ended(subscriber.session.connection, subscriber.handle))

    patch.setattr(Deliveries, "_replay_on", hasty)


@planted()
def takes_what_is_unsettled_for_acked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        receipts, "_unsettled", lambda cursor, sequence: Receipt(subscription=cursor.subscription.name, state="acked")
    )


@planted()
def tells_of_receipts_before_they_are_durable(patch: pytest.MonkeyPatch) -> None:
    def hasty(self: Receipts, session: Session, request: int, told: Any, cursors: Any) -> None:
        self._state.effects.append(Answered(session.connection, request, told))

    patch.setattr(Receipts, "_answer", hasty)


@planted()
def gives_a_reply_to_whoever_waits(patch: pytest.MonkeyPatch) -> None:
    respond = Replies.respond

    def hasty(self: Replies, session: Session, request: int, call: Any) -> None:
        respond(self, session, request, msgspec.structs.replace(call, address=next(iter(self._waiting), call.address)))

    patch.setattr(Replies, "respond", hasty)


@planted()
def takes_what_a_full_queue_refuses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(publishing, "check_room", lambda state, queue: None)


@planted()
def stores_what_a_full_queue_refuses(patch: pytest.MonkeyPatch) -> None:
    publish = Publishing.publish

    def careless(self: Publishing, session: Session, input: Any) -> None:
        try:
            publish(self, session, input)
        except QueueFull:
            self.take(Pending(session.connection, session.producer, input.number, input.queue, input.batch))
            raise

    patch.setattr(Publishing, "publish", careless)


@planted()
def forgets_what_was_published(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quota, "take", lambda self, batch, now_ms: None)


@planted()
def gives_a_client_more_than_it_may_have(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quotas, "connected", lambda self, session: None)


@planted()
def lets_more_of_a_queue_be_in_flight(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queue, "room", lambda self, most: most)


@planted()
def forgets_who_was_crowded_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deliveries, "go_on_crowded_out", lambda self: None)


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
