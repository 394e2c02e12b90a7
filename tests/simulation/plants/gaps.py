"""Bugs of gaps, and of what is forgotten on purpose."""

from typing import Any

import pytest

from tests.simulation.plants.registry import planted
from tidings.broker import (
    gaps,
    gone,
)
from tidings.broker.cursors import Cursor
from tidings.broker.deletions import Deletions
from tidings.broker.deliveries import Deliveries
from tidings.broker.gaps import Gaps
from tidings.broker.queues import Queue


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


@planted()
def tells_a_gap_over_what_was_settled(patch: pytest.MonkeyPatch) -> None:
    def cut(self: Deletions, queue: Queue, cursor: Cursor) -> None:
        if cursor.settled_to < queue.committed:
            first, last = cursor.settled_to + 1, queue.committed
            self._deliveries.gaps.tell(cursor.subscription, queue, first, last, "queue deleted")

    patch.setattr(Deletions, "_cut", cut)
