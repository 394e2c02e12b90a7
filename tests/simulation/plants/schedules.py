"""Bugs of messages that are published later."""

from typing import Any

import pytest

from tests.simulation.plants.registry import planted
from tidings.broker import (
    schedules,
)
from tidings.broker.ledger import Answer, Ledger
from tidings.broker.schedules import Schedules


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
        self._recurring.clear()

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
