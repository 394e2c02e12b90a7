"""The promise of replies; a part of `checkers.py`.

replies
    Who makes a request gets a reply that somebody sent to it before, who was handed it, and never one to another
    request; or it is told why there is none (any other error is a mistake).
"""

from collections.abc import Callable
from typing import Final

from tests.simulation.evidence import Evidence
from tests.simulation.history import Handed, Replied, Responding


def replies(evidence: Evidence) -> list[str]:
    broken = []
    handed, sent = set[tuple[str, str]](), set[tuple[str, str]]()
    for fact in evidence.history.of(Handed | Responding | Replied):
        match fact:
            case Handed():
                handed.add((fact.process, fact.payload))
            case Responding(process, payload, reply):
                if (process, payload) in handed:
                    sent.add((payload, reply))
            case Replied(_, payload, reply):
                if (payload, reply) not in sent:
                    broken.append(f"{fact}, which nobody had sent to it")
    return broken


REPLY_CHECKERS: Final[dict[str, Callable[[Evidence], list[str]]]] = {"replies": replies}
