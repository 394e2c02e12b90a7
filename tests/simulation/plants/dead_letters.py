"""Bugs of messages that are given up, and of their redrive."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.plants.registry import planted
from tidings.broker.cursors import Cursor
from tidings.broker.giving_up import GivingUp
from tidings.broker.ledger import Ledger
from tidings.broker.queues import Queue
from tidings.broker.retries import Retries
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription


@planted()
def gives_up_without_a_dead_letter(patch: pytest.MonkeyPatch) -> None:
    def lose(self: GivingUp, cursor: Cursor, sequence: int, *why: Any) -> None:
        cursor.settle(sequence, sequence)
        self._state.changed_cursor(cursor)
        self._deliveries.go_on(cursor)

    patch.setattr(GivingUp, "_bury", lose)


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
