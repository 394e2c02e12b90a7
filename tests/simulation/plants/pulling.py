"""Bugs of pulling."""

import asyncio

import pytest

from tests.simulation.plants.registry import planted
from tidings.broker.subscribers import Subscriber
from tidings.node import Attachment


@planted(invariants=False)
def sends_more_than_was_asked_for(patch: pytest.MonkeyPatch) -> None:
    room = Subscriber.room

    def whole(self: Subscriber) -> int:
        credit, self.credit = self.credit, None
        try:
            return room(self)
        finally:
            self.credit = credit

    patch.setattr(Subscriber, "room", whole)


@planted()
def waits_although_something_came(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attachment, "arrival", lambda self: asyncio.get_running_loop().create_future())
