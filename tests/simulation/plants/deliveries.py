"""Bugs of deliveries, acks and what comes again."""

from typing import Any

import pytest

from tests.simulation.plants.registry import planted
from tidings.broker import (
    broker,
)
from tidings.broker.cursors import Cursor
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Fetch
from tidings.broker.inputs import Fetched
from tidings.broker.retries import Retries
from tidings.broker.subscribers import Subscriber
from tidings.client.subscriber import Subscriber as ClientSubscriber
from tidings.errors import StoreUnavailable
from tidings.node.node import Node
from tidings.ranges import Ranges


def _done(connection: int, request: int) -> Any:
    from tidings.broker.effects import Done

    return Done(connection, request)


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
        lambda self, subscriber, ranges, **of: ack(self, subscriber, [span for span in ranges if span[1] % 7], **of),
    )


@planted()
def forgets_to_mark_redeliveries(patch: pytest.MonkeyPatch) -> None:
    take = Cursor.take
    patch.setattr(Cursor, "take", lambda self, row, room: take(self, row, room)._replace(redelivered=False))


@planted(invariants=False)
def ignores_the_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Subscriber, "room", lambda self: 1_000_000)


@planted()
def waits_for_ever_for_an_ack(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Retries, "overdue", lambda self, *of: None)


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
