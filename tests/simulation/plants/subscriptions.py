"""Bugs of subscriptions, clients and presence, of where they begin and what they choose."""

import importlib
from typing import Any

import msgspec
import pytest

from tests.simulation.plants.registry import planted
from tidings.batch import Batch
from tidings.broker import catalog, records
from tidings.broker.catalog import Catalog
from tidings.broker.clients import Clients
from tidings.broker.cursors import Cursor
from tidings.broker.filters import Filter
from tidings.broker.ledger import Ledger
from tidings.broker.lookups import Lookups
from tidings.broker.presence import Presence
from tidings.broker.queues import Queue
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.subscriptions import Subscription
from tidings.errors import TakenOver
from tidings.gateways.native import NativePeer
from tidings.node.clock import SystemClock
from tidings.ranges import Ranges
from tidings.wire import Goodbye

restore = importlib.import_module("tidings.broker.restore")  # the package exports a function of that name


@planted()
def says_nothing_of_who_was_lost_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Presence, "lost", lambda self, *session: None)


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
def begins_as_asked_in_what_appeared_meanwhile(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(catalog, "_appeared_later", lambda *_: False)
