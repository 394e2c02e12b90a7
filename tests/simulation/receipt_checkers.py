"""The promise of receipts; a part of `checkers.py`.

receipts
    Who is told that a subscription has acked a message, or given it up, finds that on the disk: its cursor has settled
    it, or there is its dead letter. It was acked by somebody, or died; unless it is said that this is not known. What
    was once told to be acked, dead or in a gap is never told to wait or to be in flight to anybody who asks after that,
    whatever crashes, unless the subscription was moved. Of what it does not want anything may be told that is not said
    to be known.
"""

from collections.abc import Callable
from typing import Final

from tests.simulation.evidence import Evidence, readers
from tests.simulation.history import Died, Moving, ReceiptTold
from tests.simulation.work_checkers import acked_of
from tidings.model import epoch_of
from tidings.ranges import Ranges

_SETTLED: Final = ("acked", "dead", "gap")


def receipts(evidence: Evidence) -> list[str]:
    told = [(at, fact) for at, fact in evidence.history.facts if isinstance(fact, ReceiptTold)]
    if not told:
        return []
    broken = []
    acked: dict[tuple[str, int], Ranges] = {}
    for (name, reading), ranges in acked_of(evidence)[0].items():
        for span in ranges:
            acked.setdefault((name, epoch_of(reading)), Ranges()).add(*span)
    dead = {(fact.subscription, epoch_of(fact.reading), fact.sequence) for fact in evidence.history.of(Died)}
    moved = {fact.subscription for fact in evidence.history.of(Moving)}
    settled: dict[tuple[str, int, int], tuple[float, ReceiptTold]] = {}
    known = readers(evidence)
    for at, fact in told:
        sequences = range(fact.first, fact.last + 1)
        wants, stored = known[fact.subscription, ""].wants, evidence.stored[fact.epoch]
        if not fact.exact and not any(wants(stored[sequence]) for sequence in sequences):
            continue
        if not fact.stored:
            broken.append(f"{fact}, and the disk did not say so")
        for sequence in sequences:
            place = fact.subscription, fact.epoch, sequence
            if fact.state == "acked" and fact.exact and sequence not in acked.get(place[:2], Ranges()):
                broken.append(f"{fact}, and nobody had acked {sequence}")
            if fact.state == "dead" and place not in dead:
                broken.append(f"{fact}, and {sequence} had not died")
            if fact.state in _SETTLED:
                settled.setdefault(place, (at, fact))
            elif place in settled and fact.subscription not in moved:
                told_at, before = settled[place]
                if told_at <= fact.asked_s:  # else the answers may have overtaken each other
                    broken.append(f"{fact} after {before}")
    return broken


RECEIPT_CHECKERS: Final[dict[str, Callable[[Evidence], list[str]]]] = {"receipts": receipts}
