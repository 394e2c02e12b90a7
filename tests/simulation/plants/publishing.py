"""Bugs on the way from a publish to its confirm."""

import asyncio
import importlib
from collections.abc import Awaitable
from typing import Any

import pytest

from tests.simulation.plants.registry import planted
from tidings.broker import (
    records,
    transactions,
)
from tidings.broker.broker import Broker
from tidings.broker.cursors import Cursor
from tidings.broker.effects import Effect
from tidings.broker.inputs import Input, StoreReady
from tidings.broker.publishing import Publishing
from tidings.broker.queues import Queue
from tidings.broker.recent_ids import RecentIds
from tidings.broker.sessions import Producer
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.transactions import Transaction, Transactions
from tidings.client.publisher import Publisher
from tidings.client.transaction import Transaction as ClientTransaction
from tidings.node.node import Node
from tidings.store.port import OutcomeUnknown
from tidings.testing.crashing_store import CrashingStore

restore = importlib.import_module("tidings.broker.restore")  # the package exports a function of that name


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
