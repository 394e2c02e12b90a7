"""The promise of replays; a part of `checkers.py`.

replays
    Who replays a range of a queue is handed, before the replay ends, exactly the messages of the range, as they were
    published, but for what it was told is gone; those that are handed for the first time in their order, and those
    that it gave back again, unless its connection was lost. A range that has no end ends with what is stored when it
    begins. (That no other subscription is touched by it is what all the other promises say of that one.)
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from tests.simulation.evidence import Evidence
from tests.simulation.history import Deleted, Replayed
from tidings.ranges import Ranges


def replays(evidence: Evidence) -> list[str]:
    broken = []
    deleted = {fact.epoch for fact in evidence.history.of(Deleted)}
    for fact in evidence.history.of(Replayed):
        if fact.epoch in deleted:
            continue  # perhaps while it was asked, and then it is of the queue's next life
        stored, gaps = evidence.stored[fact.epoch], Ranges(fact.gaps)
        least, most = (fact.before, fact.after) if fact.last is None else (min(fact.last, fact.before), fact.last)
        handed = [sequence for sequence, _ in fact.handed]
        fresh = list(dict.fromkeys(handed))
        missing = [at for at in range(fact.first, least + 1) if at not in fresh and at not in gaps]
        if missing:
            broken.append(f"{missing} were not replayed, nor told as a gap: {fact}")
        if any(not fact.first <= sequence <= most for sequence in fresh):
            broken.append(f"more was replayed than {fact.first} to {most}: {fact}")
        if any(before > after for before, after in pairwise(fresh)):
            broken.append(f"{fresh} are out of order: {fact}")
        if any(stored[sequence].payload != payload for sequence, payload in fact.handed if sequence in stored):
            broken.append(f"something else was published than {fact}")
        lost = [at for at in fact.again if handed.count(at) <= fact.again.count(at) and at not in gaps]
        if lost:
            broken.append(f"{lost} were given back and did not come again: {fact}")
    return broken


REPLAY_CHECKERS: Final[dict[str, Callable[[Evidence], list[str]]]] = {"replays": replays}
