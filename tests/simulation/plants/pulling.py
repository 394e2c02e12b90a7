"""Bugs of pulling."""

import pytest

from tests.simulation.plants.registry import planted
from tidings.broker.subscribers import Subscriber


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
