"""Bugs of shared subscriptions and of keys."""

from typing import Any

import pytest

from tests.simulation.plants.registry import planted
from tidings import limits
from tidings.broker import (
    records,
    shares,
)
from tidings.broker.cursors import Cursor, State
from tidings.broker.deliveries import Deliveries
from tidings.broker.members import Members
from tidings.broker.subscriptions import Subscription


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
