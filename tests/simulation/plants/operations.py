"""Bugs of what is done on purpose: moving, pausing, replays, receipts, replies, quotas."""

from typing import Any

import msgspec
import pytest

from tests.simulation.plants.registry import planted
from tidings.broker import (
    publishing,
    receipts,
    records,
    seeking,
)
from tidings.broker.catalog import Catalog
from tidings.broker.cursors import Cursor
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Answered, Ended
from tidings.broker.publishing import Publishing
from tidings.broker.queues import Queue
from tidings.broker.quotas import Quota, Quotas
from tidings.broker.receipts import Receipts
from tidings.broker.replies import Replies
from tidings.broker.sessions import Pending, Session
from tidings.broker.subscriptions import Subscription
from tidings.errors import QueueFull
from tidings.model import Receipt
from tidings.ranges import Ranges


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
