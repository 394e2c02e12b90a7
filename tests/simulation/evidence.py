"""The evidence: all that checkers look at, and what it says of each subscription."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from tests.simulation.history import (
    AckTaken,
    Attached,
    Attaching,
    Deleted,
    Forgetting,
    Handed,
    History,
    LifeBegan,
    Made,
    Telling,
    Told,
)
from tests.simulation.journal import Journal, is_settled
from tests.simulation.scenario import Scenario, SubscriberPlan
from tidings.batch import decode_items
from tidings.broker.filters import Filter
from tidings.model import ClientInfo, Reading, SubscriptionInfo, epoch_of, moves_of, reading_of
from tidings.ranges import Ranges
from tidings.transaction import Append, Commit


class Stored(NamedTuple):
    """A message as it is on the disk."""

    event: str
    payload: str
    id: str | None
    key: str | None
    commit: int
    """Which of the transactions stored it."""
    time_ms: int
    headers: dict[str, str] | None = None


class Evidence:
    """All that checkers look at."""

    scenario: Scenario

    def __init__(self, history: History, commits: list[Commit], queue_of: dict[int, str]) -> None:
        self.history = history
        self.queue_of = queue_of
        """The queue's name, by epoch."""
        self.commits = commits
        self.begun_ms: list[int] = []
        """When, by the server's clock, each of them was begun."""
        self.end_ms = 0
        """The server's time when all was quiet."""
        self.commits_at_rest = 0
        """How many there were when all was quiet, before everybody left."""
        self.numbers: dict[str, int] = {}
        """The number of each durable subscription."""
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

    def plan(self, subscription: str) -> SubscriberPlan:
        """Returns what was asked for."""
        return self.plans[self.name_of.get(subscription, subscription)]

    def last_before(self, epoch: int, time_ms: int) -> int:
        """Returns the last sequence that was taken before a time; 0 if there is none."""
        return max(
            (row.last_sequence for other, row in self.appended if other == epoch and row.time_ms < time_ms), default=0
        )

    @cached_property
    def appended(self) -> list[Append]:
        """All rows that were ever on the disk."""
        return [append for commit in self.commits for append in commit.appends]

    @cached_property
    def journal(self) -> Journal:
        """What its transactions did to the records on the disk."""
        return Journal(self.commits)

    @cached_property
    def stored(self) -> dict[int, dict[int, Stored]]:
        """Epoch -> sequence -> message."""
        found: dict[int, dict[int, Stored]] = {}
        for index, commit in enumerate(self.commits):
            for epoch, row in commit.appends:
                messages, sequence, offset = found.setdefault(epoch, {}), row.first_sequence, 0
                for run in row.batch.runs:
                    assert run.event is not None, "rows are stored whole"
                    piece = row.batch.body[offset : offset + run.size]
                    offset += run.size
                    for payload, id, key, headers in decode_items(run.count, run.flags, piece):
                        message = Stored(run.event, bytes(payload).decode(), id, key, index, row.time_ms, headers)
                        messages.setdefault(sequence, message)
                        sequence += 1
        return found

    @cached_property
    def places(self) -> dict[str, list[tuple[int, int]]]:
        """Payload -> (epoch, sequence) where it is, but for what the server itself published."""
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for epoch, messages in self.stored.items():
            if not self.is_own(epoch):
                for sequence, message in messages.items():
                    found[message.payload].append((epoch, sequence))
        return found

    @cached_property
    def redriven(self) -> dict[int, dict[str, set[int]]]:
        """Number of a subscription -> payload -> by which transactions it was stored again for it alone."""
        found: dict[int, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for epoch, messages in self.stored.items():
            name = self.queue_of.get(epoch, "")
            for message in messages.values() if name.startswith("$redriven/") else ():
                found[int(name.split("/")[1])][message.payload].add(message.commit)
        return found

    def is_own(self, epoch: int) -> bool:
        """Whether a queue is the server's own."""
        return self.queue_of.get(epoch, "").startswith("$")

    def moved_to(self, subscription: str, epoch: int) -> list[int]:
        """Returns all the places to which a subscription was moved in a queue."""
        unwritten = self._moved_before_deletion.get((subscription, epoch))
        written = self.journal.moved_to(self.numbers.get(subscription, 0), epoch, len(self.commits))
        return [*written, unwritten[1]] if unwritten else written

    def reading(self, subscription: str, epoch: int) -> Reading:
        """Returns in which reading of a queue a subscription is at last."""
        moved = self._moved_before_deletion.get((subscription, epoch))
        return moved[0] if moved else reading_of(epoch, self.journal.moves(self.numbers.get(subscription, 0), epoch))

    def begins(self, subscription: str, reading: Reading) -> int:
        """Returns to where a subscription was moved, at the beginning of a reading."""
        moved = self._moved_before_deletion.get((subscription, epoch_of(reading)))
        if moved and moved[0] == reading:
            return moved[1]
        return self.journal.begins(self.numbers[subscription], reading)

    @cached_property
    def _moved_before_deletion(self) -> dict[tuple[str, int], tuple[Reading, int]]:
        """(subscription, epoch) -> reading and place of a move that was never on the disk: its queue was deleted."""
        last = {fact.epoch: fact for fact in self.history.of(Deleted) if fact.epoch in self.journal.deleted}
        return {(name, epoch): (reading, at) for epoch, fact in last.items() for name, reading, at in fact.moved}


class Place(NamedTuple):
    """Where a subscription began in a queue's life: after a sequence between these two."""

    least: int
    most: int


class Reader:
    """What is known of one subscription: a durable one, or an ephemeral one of one process."""

    def __init__(self, evidence: Evidence, first: Attaching) -> None:
        self.filter = Filter(first.queue, first.event, first.headers)
        self.asked = first
        self.attached: Attached | None = None
        self.told_made = False
        """Whether `attached` is what a process was told, and not only what the server did."""
        self.kept_when_made: dict[int, int] = {}
        """Of a durable one: the first sequence of each queue's life that was not trimmed, nor about to be."""
        self.deleted_before: set[int] = set()
        """Lives of queues that had ended when it was attached first."""
        self.forgetting = set[Forgetting]()
        """What was asked for, before it was attached first, by which messages are perhaps gone."""
        self.handed: dict[Reading, dict[int, str]] = defaultdict(dict)
        self.told: list[Told] = []
        self.standing: list[Telling] = []
        """What a durable one was told, or is to be told, without what a crash undid."""
        self._undone: list[Telling] = []
        self._acked: list[Telling] = []  # what a crash undid of it, and its process then acked again
        self._evidence = evidence

    @cached_property
    def gaps(self) -> dict[Reading, Ranges]:
        """What it was told that will not come."""
        standing, found = defaultdict[Reading, Ranges](Ranges), defaultdict[Reading, Ranges](Ranges)
        for telling in (*self.standing, *self._acked):
            standing[telling.reading].add(telling.first, telling.last)
        for told in self.told:
            ephemeral = told.subscription not in self._evidence.name_of
            spans = [(told.first, told.last)] if ephemeral else standing[told.reading].within(told.first, told.last)
            for span in spans:
                found[told.reading].add(*span)
        return found

    def was_cut(self, epoch: int, sequence: int) -> bool:
        """Whether it was told, in any reading, that a message will not come."""
        return any(epoch_of(reading) == epoch and sequence in gaps for reading, gaps in self.gaps.items())

    def life_ended(self, commits: int) -> None:
        """Forgets gaps that were none: a life of the server ended, and its transactions do not know of them."""
        standing, self.standing = self.standing, []
        for telling in standing:
            (self.standing if self._was_stored(telling, commits) else self._undone).append(telling)

    def acked(self, ranges: Iterable[tuple[Reading, int, int]]) -> None:
        """Counts gaps that a process was told of before a crash and acks again after it: that settles them.

        The server does not know of having told them, and may tell something else over them before it hears of the ack.
        """
        for telling in list(self._undone):
            if any(
                reading == telling.reading and first <= telling.first and telling.last <= last
                for reading, first, last in ranges
            ):
                self._undone.remove(telling)
                self._acked.append(telling)

    def _was_stored(self, telling: Telling, commits: int) -> bool:
        journal, epoch = self._evidence.journal, epoch_of(telling.reading)
        if journal.deleted.get(epoch, commits) < commits:
            return True
        record = journal.cursor(self._evidence.numbers.get(telling.subscription, 0), epoch, commits - 1)
        if record is not None and record.moves != moves_of(telling.reading):
            return record.moves > moves_of(telling.reading)  # else that move was forgotten with its gaps
        return all(is_settled(record, sequence) for sequence in range(telling.first, telling.last + 1))

    def gone_before(self, epoch: int) -> Ranges:
        """Returns what was perhaps deleted or purged of a queue's life before it was attached first."""
        journal, queue = self._evidence.journal, self._evidence.queue_of[epoch]
        found = Ranges()
        if Forgetting(queue, "deleted") in self.forgetting:
            found = Ranges(journal.deleted_messages[epoch])
        if Forgetting(queue, "purged") in self.forgetting and journal.purged_to[epoch]:
            found.add(1, journal.purged_to[epoch])
        return found

    def wants(self, message: Stored) -> bool:
        """Whether it wants a message of its queues."""
        return self.filter.wants_event(message.event) and self.filter.wants_headers(message.headers or {})

    def place(self, reading: Reading) -> Place:
        """Returns where it began, or to where it was moved."""
        asked, attached, epoch = self.asked, self.attached, epoch_of(reading)
        if moves_of(reading) and attached is not None:
            begins = self._evidence.begins(attached.subscription, reading)
            return Place(begins, begins)
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
        begins = self.attached.begins.get(epoch, self.attached.ends.get(epoch, 0) + 1)
        return max(begins, self.kept_when_made.get(epoch, 0))


_Gap = tuple[Reading, int, int, str]


def _gap(fact: Telling | Told) -> _Gap:
    return fact.reading, fact.first, fact.last, fact.reason


def readers(evidence: Evidence) -> dict[tuple[str, str], Reader]:
    """Returns the subscriptions of a history, by name; ephemeral ones by name and process."""
    found: dict[tuple[str, str], Reader] = {}
    deleted, forgetting = set[int](), set[Forgetting]()
    asking: dict[str, Attaching] = {}  # the latest of each name
    told_to: dict[tuple[str, _Gap], str] = {}  # the latest of one name that was told of a gap

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
                made.kept_when_made = fact.begins
                made.attached = Attached("", fact.subscription, True, True, fact.ends, {})
                made.deleted_before, made.forgetting = set(deleted), set(forgetting)
            case Attached():
                known = found[key(fact)]
                if not known.told_made:
                    known.attached, known.told_made = fact, True
                    known.deleted_before, known.forgetting = set(deleted), set(forgetting)
            case Deleted():
                deleted.add(fact.epoch)
            case Forgetting():
                forgetting.add(fact)
            case LifeBegan():
                for reader in found.values():
                    reader.life_ended(fact.commits)
            case Handed():
                found[key(fact)].handed[fact.reading][fact.sequence] = fact.payload
            case AckTaken() if (fact.subscription, "") in found:
                found[fact.subscription, ""].acked(fact.ranges)
            case Telling():
                found[fact.subscription, ""].standing.append(fact)
                told_to[evidence.name_of[fact.subscription], _gap(fact)] = fact.subscription
            case Told():
                # A process may say so when its subscription is gone and another one has its name.
                name = evidence.name_of.get(fact.subscription, "")
                told = fact._replace(subscription=told_to.get((name, _gap(fact)), fact.subscription))
                found[key(told)].told.append(told)
    return found
