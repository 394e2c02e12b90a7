"""The evidence: what publishers, subscribers and the queue say at the end, and the promises they are held against."""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from tests.integration.processes import Delivery, first_deliveries

_SHOWN = 5


class Evidence(NamedTuple):
    """What was written down outside the server's files, and what the queue holds.

    `stored` is the queue, by sequence; `confirmed` what each publishing process was told is stored, payloads by
    sequence; `handed` what each durable subscription was handed, over all processes of its client.
    """

    stored: dict[int, str]
    confirmed: list[dict[int, str]]
    handed: dict[str, list[Delivery]]

    @property
    def deliveries_count(self) -> int:
        """How many deliveries there were."""
        return sum(map(len, self.handed.values()))

    @property
    def duplicates_count(self) -> int:
        """How many deliveries were not the first of their message."""
        return self.deliveries_count - len(self.stored) * len(self.handed)


def compare(evidence: Evidence) -> None:
    """Raises AssertionError if a promise was broken, with which messages."""
    stored = evidence.stored
    for confirmed in evidence.confirmed:
        lost = [sequence for sequence, payload in confirmed.items() if stored.get(sequence) != payload]
        assert not lost, f"confirmed and not stored: {_some(lost)}"
    claimed = sum(map(len, evidence.confirmed))
    assert claimed == len({sequence for confirmed in evidence.confirmed for sequence in confirmed}), (
        "one sequence was confirmed for two messages"
    )
    assert claimed, "nothing was confirmed"
    assert len(set(stored.values())) == len(stored), "a message that was sent again was stored twice"
    for name, deliveries in evidence.handed.items():
        first = {delivery.sequence: delivery.payload for delivery in first_deliveries(deliveries)}
        missing = [sequence for sequence in stored if sequence not in first]
        assert not missing, f"{name} was never handed {_some(missing)}"
        foreign = [sequence for sequence, payload in first.items() if stored.get(sequence) != payload]
        assert not foreign, f"{name} was handed what is not stored: {_some(foreign)}"
        order = list(first)
        early = [after for before, after in pairwise(order) if after < before]
        assert not early, f"{name} was handed later ones before {_some(early)}"


def _some(sequences: Iterable[int]) -> str:
    found = list(sequences)
    return f"{found[:_SHOWN]} ({len(found)} in all)"
