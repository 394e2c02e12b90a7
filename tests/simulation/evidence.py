"""The evidence: all that checkers look at, and what it says of each subscription."""

from collections import defaultdict
from datetime import datetime
from typing import NamedTuple

from tests.simulation.history import Attached, Attaching, Deleted, Handed, History, Made, Told
from tests.simulation.scenario import SubscriberPlan
from tidings.batch import decode_items
from tidings.broker.filters import Filter
from tidings.model import ClientInfo, SubscriptionInfo
from tidings.ranges import Ranges
from tidings.transaction import Append


class Stored(NamedTuple):
    """A message as it is on the disk."""

    event: str
    payload: str


class Evidence:
    """All that checkers look at."""

    def __init__(self, history: History, appended: list[Append], queue_of: dict[int, str]) -> None:
        self.history = history
        self.queue_of = queue_of
        """The queue's name, by epoch."""
        self.appended = appended
        self.damaged: dict[int, Ranges] = {}
        self.clients: list[ClientInfo] = []
        self.subscriptions: list[SubscriptionInfo] = []
        self.connected: set[str] = set()
        """Client ids that are connected at the end."""
        self.name_of: dict[str, str] = {}
        """The name of each durable subscription; several have one name, after each other."""
        self.alive: set[str] = set()
        """Durable subscriptions that the server has at the end."""
        self.plans: dict[str, SubscriberPlan] = {}
        """What was asked for, by the subscription's name."""
        self._stored: dict[int, dict[int, Stored]] = {}

    def plan(self, subscription: str) -> SubscriberPlan:
        """Returns what was asked for."""
        return self.plans[self.name_of.get(subscription, subscription)]

    def last_before(self, epoch: int, time_ms: int) -> int:
        """Returns the last sequence that was taken before a time; 0 if there is none."""
        return max(
            (row.last_sequence for other, row in self.appended if other == epoch and row.time_ms < time_ms), default=0
        )

    @property
    def stored(self) -> dict[int, dict[int, Stored]]:
        """Epoch -> sequence -> message."""
        if not self._stored:
            for epoch, row in self.appended:
                messages, sequence, offset = self._stored.setdefault(epoch, {}), row.first_sequence, 0
                for run in row.batch.runs:
                    assert run.event is not None, "rows are stored whole"
                    piece = row.batch.body[offset : offset + run.size]
                    offset += run.size
                    for item in decode_items(run.count, run.flags, piece):
                        messages.setdefault(sequence, Stored(run.event, bytes(item[0]).decode()))
                        sequence += 1
        return self._stored


class Place(NamedTuple):
    """Where a subscription began in a queue's life: after a sequence between these two."""

    least: int
    most: int


class Reader:
    """What is known of one subscription: a durable one, or an ephemeral one of one process."""

    def __init__(self, evidence: Evidence, first: Attaching) -> None:
        self.filter = Filter(first.queue, first.event)
        self.asked = first
        self.attached: Attached | None = None
        self.told_made = False
        """Whether `attached` is what a process was told, and not only what the server did."""
        self.deleted_before: set[int] = set()
        """Lives of queues that had ended when it was attached first."""
        self.handed: dict[int, dict[int, str]] = defaultdict(dict)
        self.gaps: dict[int, Ranges] = defaultdict(Ranges)
        self.told: list[Told] = []
        self._evidence = evidence

    def place(self, epoch: int) -> Place:
        """Returns where it began."""
        asked, attached = self.asked, self.attached
        if attached is None or epoch not in attached.ends:
            return Place(0, 0)  # younger than the subscription
        begins = attached.begins.get(epoch, attached.ends[epoch] + 1)
        least, most = asked.ends.get(epoch, 0), attached.ends[epoch]
        if isinstance(asked.start, datetime):
            before = self._evidence.last_before(epoch, int(asked.start.timestamp() * 1000))
            return Place(min(before, least), max(min(before, most), begins - 1))
        if isinstance(asked.start, int):
            return Place(asked.start - 1, asked.start - 1)
        if asked.start == "earliest":
            return Place(0, begins - 1)
        return Place(least, most)

    def first_kept(self, epoch: int) -> int:
        """Returns what was left of a queue's life when it began, for one that asked for more than that."""
        if self.attached is None or self.asked.start == "latest":
            return 0
        return self.attached.begins.get(epoch, self.attached.ends.get(epoch, 0) + 1)


def readers(evidence: Evidence) -> dict[tuple[str, str], Reader]:
    """Returns the subscriptions of a history, by name; ephemeral ones by name and process."""
    found: dict[tuple[str, str], Reader] = {}
    deleted = set[int]()
    asking: dict[str, Attaching] = {}  # the latest of each name

    def key(fact: Attached | Handed | Told) -> tuple[str, str]:
        return fact.subscription, "" if fact.subscription in evidence.name_of else fact.process

    for _, fact in evidence.history.facts:
        match fact:
            case Attaching():
                # What was asked for first is what counts until it is made: it may be made at any time from then on.
                asking.setdefault(fact.subscription, fact)
                if fact.subscription.startswith("~"):
                    found.setdefault((fact.subscription, fact.process), Reader(evidence, fact))
            case Made():
                made = found[fact.subscription, ""] = Reader(evidence, asking[fact.name])
                made.attached = Attached("", fact.subscription, True, True, fact.ends, {})
                made.deleted_before = set(deleted)
            case Attached():
                known = found[key(fact)]
                if not known.told_made:
                    known.attached, known.deleted_before, known.told_made = fact, set(deleted), True
            case Deleted():
                deleted.add(fact.epoch)
            case Handed():
                found[key(fact)].handed[fact.epoch][fact.sequence] = fact.payload
            case Told():
                found[key(fact)].gaps[fact.epoch].add(fact.first, fact.last)
                found[key(fact)].told.append(fact)
    return found
