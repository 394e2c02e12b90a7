"""The promise of quotas; a part of `checkers.py`.

quotas
    What a client wants published into a queue is refused, and not stored, while as many messages as may wait do wait
    for a durable subscription: were never sent to it, since the client asked and until it is answered, from when an
    administrator was told of the bound until somebody asks for its end. Into a queue that takes so many messages a
    second no more are published in any time since then than that, and what one second allows, and one batch more; each
    start of the server forgets what was owed. (That what is refused is never on the disk is *durable confirm*, that a
    client gets no more in flight than it may is *window*, and that all goes on once a bound has ended has to come to
    rest.)
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.simulation.evidence import Evidence, Reader, readers
from tests.simulation.history import (
    Attached,
    Bounded,
    Confirmed,
    Deleted,
    Forgotten,
    LifeBegan,
    Made,
    Moving,
    Published,
    Sent,
    Unbinding,
)
from tidings.model import epoch_of


def quotas(evidence: Evidence) -> list[str]:
    bounded = {fact.what for fact in evidence.history.of(Bounded)}
    return [*_full_queues(evidence), *_rates(evidence)] if bounded else []


class _Waiting:
    """What waits for one subscription in the queues that are bounded at some time: it was never sent to it."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.is_told = False
        """Whether a process was told of it: else it may have been refused."""
        self.sequences: dict[int, set[int]] = defaultdict(set)
        self.sent: dict[int, set[int]] = defaultdict(set)
        """By epoch; a publisher may be told later than a subscriber."""
        self.full_since: dict[int, float] = {}
        """Since when, by epoch, as much waits as may."""

    def look(self, epoch: int, most: int | None, at: float) -> None:
        """Takes note of whether as much waits as may."""
        if self.is_told and most is not None and len(self.sequences[epoch]) >= most:
            self.full_since.setdefault(epoch, at)
        else:
            self.full_since.pop(epoch, None)


def _full_queues(evidence: Evidence) -> list[str]:
    broken = []
    epochs = {fact.what for fact in evidence.history.of(Bounded) if fact.setting == "waiting_messages"}
    moved = {fact.subscription for fact in evidence.history.of(Moving)}
    known = {name: reader for (name, process), reader in readers(evidence).items() if not process}
    waiting: dict[str, _Waiting] = {}
    most: dict[int, int] = {}
    published: dict[str, float] = {}
    for at, fact in evidence.history.facts:
        match fact:
            case Made() if fact.subscription not in moved and fact.subscription in known:
                waiting[fact.subscription] = _Waiting(known[fact.subscription])
            case Attached() if fact.subscription in waiting:
                waiting[fact.subscription].is_told = True
            case Forgotten():
                waiting.pop(fact.subscription, None)
            case Bounded(int(epoch), "waiting_messages", count):
                most[epoch] = count
                for each in waiting.values():
                    each.look(epoch, count, at)
            case Unbinding(int(epoch), "waiting_messages") | Deleted(_, epoch):
                most.pop(epoch, None)
                for each in waiting.values():
                    each.look(epoch, None, at)
            case Sent() if fact.durable and fact.subscription in waiting and epoch_of(fact.reading) in epochs:
                one, epoch = waiting[fact.subscription], epoch_of(fact.reading)
                for first, last in fact.ranges:
                    one.sent[epoch].update(range(first, last + 1))
                one.sequences[epoch] -= one.sent[epoch]
                one.look(epoch, most.get(epoch), at)
            case Published():
                published.update(dict.fromkeys(fact.payloads, at))
            case Confirmed() if fact.epoch in epochs:
                asked = min(published[payload] for payload in fact.payloads)
                for name, one in waiting.items():
                    if one.full_since.get(fact.epoch, asked) < asked:
                        count = len(one.sequences[fact.epoch])
                        broken.append(f"at {at:.4f} {fact} although {count} wait for {name!r}, {most[fact.epoch]} may")
                    _add(evidence, one, fact)
                    one.look(fact.epoch, most.get(fact.epoch), at)
            case _:
                pass
    return broken


def _add(evidence: Evidence, one: _Waiting, fact: Confirmed) -> None:
    """Lets messages wait for a subscription, those that it wants and was never told a gap of."""
    if not one.reader.filter.wants_queue(fact.queue):
        return
    stored, gaps = evidence.stored[fact.epoch], one.reader.gaps[fact.epoch]
    first = max(fact.sequence, one.reader.place(fact.epoch).most + 1)
    for sequence in range(first, fact.sequence + len(fact.payloads)):
        if one.reader.wants(stored[sequence]) and sequence not in gaps and sequence not in one.sent[fact.epoch]:
            one.sequences[fact.epoch].add(sequence)


class _Bound(NamedTuple):
    """A rate that holds since a time."""

    most: int
    since: float
    lives: int


def _rates(evidence: Evidence) -> list[str]:
    broken = []
    asked_at: dict[str, float] = {}
    at_once: Counter[tuple[str, str, float]] = Counter()
    for at, fact in evidence.history.facts:
        if isinstance(fact, Published):
            asked_at.update(dict.fromkeys(fact.payloads, at))
            at_once[fact.process, fact.queue, at] += len(fact.payloads)
    batch = max(at_once.values(), default=0)
    bounds: dict[int, _Bound] = {}
    taken: Counter[int] = Counter()
    lives = 0
    for at, fact in evidence.history.facts:
        match fact:
            case LifeBegan():
                lives += 1
            case Bounded(int(epoch), "publish_rate", most):
                bounds[epoch], taken[epoch] = _Bound(most, at, lives), 0
            case Unbinding(int(epoch), "publish_rate") | Deleted(_, epoch):
                bounds.pop(epoch, None)
            case Confirmed() if fact.epoch in bounds:
                bound = bounds[fact.epoch]
                taken[fact.epoch] += sum(asked_at[payload] > bound.since for payload in fact.payloads)
                starts = 1 + lives - bound.lives
                # The clock may run a tenth fast.
                free = bound.most * (1.1 * (at - bound.since) + starts) + batch * starts
                if taken[fact.epoch] > free:
                    broken.append(f"at {at:.4f} {fact}: {taken[fact.epoch]} messages since {bound}, batches of {batch}")
            case _:
                pass
    return broken


QUOTA_CHECKERS: Final[dict[str, Callable[[Evidence], list[str]]]] = {"quotas": quotas}
