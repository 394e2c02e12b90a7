"""The promise of pulls; a part of `checkers.py`.

pulls
    Who pulls is sent no more messages than it has asked for, and nothing before it asks. One that waits for the first
    one does not wait until its time is over when that was sent before.
"""

from collections import defaultdict
from collections.abc import Callable
from math import isclose
from typing import Final

from tests.simulation.evidence import Evidence
from tests.simulation.history import Asked, Pulled, Sent
from tidings.model import Reading

_MOMENT_S: Final = 0.001  # what is sent while the time ends may come then


def pulls(evidence: Evidence) -> list[str]:
    broken = []
    credit: dict[tuple[int, int, int], int] = {}
    sent_at: dict[tuple[str, Reading, int], float] = defaultdict(float)
    for at, fact in evidence.history.facts:
        if isinstance(fact, Asked):
            credit[fact.life, fact.connection, fact.handle] = fact.count
        elif isinstance(fact, Sent):
            sequences = [sequence for first, last in fact.ranges for sequence in range(first, last + 1)]
            sent_at.update(((fact.subscription, fact.reading, sequence), at) for sequence in sequences)
            who = fact.life, fact.connection, fact.handle
            if who in credit:
                credit[who] -= len(sequences)
                if credit[who] < 0:
                    broken.append(f"at {at:.4f} {-credit[who]} more were sent than were asked for: {fact}")
        elif isinstance(fact, Pulled):
            since = max(fact.asked_s, sent_at[fact.subscription, fact.reading, fact.sequence])
            if isclose(at, fact.asked_s + fact.wait_s) and since < at - _MOMENT_S:
                broken.append(f"at {at:.4f} its time was over; what was sent at {since:.4f} came only then: {fact}")
    return broken


PULL_CHECKERS: Final[dict[str, Callable[[Evidence], list[str]]]] = {"pulls": pulls}
