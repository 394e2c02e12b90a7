"""What is seen of a server from inside: what it sends, who comes and goes, and what the disk has."""

import asyncio
from collections import defaultdict
from typing import Final, TypeVar

import msgspec

from tests.simulation.history import (
    AckTaken,
    Asked,
    Deleted,
    Died,
    Fact,
    Failed,
    Forgotten,
    History,
    Left,
    LifeBegan,
    Made,
    NackTaken,
    Sent,
    Telling,
    TimeFell,
)
from tidings.batch import StoredBatch
from tidings.broker.broker import Broker
from tidings.broker.effects import Deliver, Effect, Gap, StartCommit, Subscribed
from tidings.broker.inputs import Ack, Ask, Delete, DiskSpace, Input, Nack, Publish, StoreReady, Subscribe, Transact
from tidings.broker.invariants import Invariants
from tidings.broker.records import CursorRecord, DeadLetterRecord
from tidings.broker.scheduled import time_of
from tidings.broker.subscriptions import Subscription
from tidings.model import Reading, epoch_of, moves_of, reading_of
from tidings.testing.crashing_store import Disk

R = TypeVar("R")

SOON_MS: Final = 60_000
"""What comes later than this was scheduled before the clock was set back: nobody schedules so far ahead."""


class Watcher:
    """Looks at the broker of each life of the server, after each input.

    Args:
        history: where facts are written down.
        disk: what survives.
        invariants: whether the broker's invariants are checked, too.
    """

    def __init__(self, history: History, disk: Disk, *, invariants: bool) -> None:
        self.queue_of: dict[int, str] = {}
        """The queue's name, by epoch."""
        self.name_of: dict[str, str] = {}
        """The name of each durable subscription; several have one name, after each other."""
        self.reader_of: dict[str, str] = {}
        """Which of the subscriptions that had one name a process is attached to, or was at last."""
        self.expired = 0
        self.sent_again = 0
        """Batches that arrived although they were known."""
        self._history = history
        self._disk = disk
        self._invariants = invariants
        self._broker: Broker | None = None
        self._life = 0
        self._joined: dict[tuple[int, int], int] = {}
        """In which turn, in this life of the server, each subscriber was attached."""
        self._disk_length = 0
        self._ends: dict[int, int] = {}
        self._readers: dict[tuple[str, int], str] = {}
        self._reader_with: dict[int, str] = {}
        """The durable subscription that has, or had, a number: the last one, if a crash undid others before."""
        self._told: set[str] = set()
        """Durable subscriptions that somebody was told of."""
        self._seen_ms: dict[str, int] = {}
        """When, by the server's clock, each had a subscriber at last (at the end: when it was up again)."""
        self._begun_ms: list[int] = []
        self._last_begun_ms = 0
        self._died: dict[tuple[str, Reading, int], int] = {}
        """The number of the dead letter of each message that was given up in this life of the server."""
        self._failed: dict[tuple[str, Reading], set[int]] = defaultdict(set)
        """What failed at least once, by the name of the subscription."""
        self._at_end: dict[int, str] = {}
        """Durable subscriptions of the server's last life when it ended, by number, and those with a subscriber."""
        self._there_at_end: set[str] = set()

    def fact(self, fact: Fact) -> None:
        """Writes down a fact."""
        self._history.facts.append((asyncio.get_running_loop().time(), fact))

    # --- the server ---

    def watch(self, broker: Broker, life: int, began_ms: int, now_ms: int) -> None:
        """Checks the invariants after each input, and writes down what is sent, and who comes and goes."""
        invariants, handle = Invariants(broker), broker.handle
        self._broker, self._life, self._joined, self._died = broker, life, {}, {}
        self.fact(LifeBegan(life, began_ms, len(self._disk.commits)))
        members = set[tuple[int, int]]()
        next_dead = {item.number: item.next_dead for item in broker.state.subscriptions.values()}
        known, latest_ms = dict[int, str](), now_ms
        living = self.living()
        # The wall clock may have been set back meanwhile; whoever is not there now has not been since then.
        self._seen_ms = {reader: min(seen_ms, began_ms) for reader, seen_ms in self._seen_ms.items()}
        self._seen_ms.update(dict.fromkeys(self._there_at_end, began_ms))
        for number, reader in self._at_end.items():
            if number not in living and reader in self._told:
                # It expired while the server was down, or in its first moment.
                away_s = (now_ms - self._seen_ms[reader]) / 1000
                self.fact(Forgotten(reader, False, away_s))

        def handle_of(effect: Subscribed) -> int:
            subscribers = broker.state.sessions[effect.connection].subscribers
            return next(handle for handle, item in subscribers.items() if item.request == effect.request)

        def watched(input: Input, now_ms: int) -> list[Effect]:
            nonlocal known, living, latest_ms, members
            if now_ms < latest_ms:
                self.fact(TimeFell(life, latest_ms, now_ms))
            latest_ms = now_ms
            if isinstance(input, Publish | Transact):
                self._count_again(broker, input)
            if isinstance(input, Ack | Nack | Transact):
                self._settling(broker, input)
            if isinstance(input, Ask) or (isinstance(input, Subscribe) and input.pulls):
                count = input.count if isinstance(input, Ask) else 0
                self.fact(Asked(input.connection, input.handle, life, count))
            moved = self._moved(broker, input.name) if isinstance(input, Delete) and input.what == "queue" else ()
            names = {
                (session.connection, handle): subscriber.subscription
                for session in broker.state.sessions.values()
                for handle, subscriber in session.subscribers.items()
            }
            effects = handle(input, now_ms)
            if not effects and isinstance(input, StoreReady | DiskSpace):
                return effects  # a third of all inputs, and nothing has changed
            if isinstance(input, Subscribe):
                self._resuming(broker, input)
            living = self._compare(living, now_ms, asked=isinstance(input, Delete))
            for effect in effects:
                if isinstance(effect, StartCommit):
                    self.begun_ms()  # that of the last one, if it was carried out
                    self._last_begun_ms = now_ms
                if isinstance(effect, Subscribed):
                    process = broker.state.sessions[effect.connection].address.rpartition(":")[0]
                    self.reader_of[process] = self.reader(effect.name)
                    self._joined[effect.connection, handle_of(effect)] = len(self._joined)
                    if effect.durable:
                        self._told.add(self.reader(effect.name))
                if isinstance(effect, Deliver | Gap):
                    session = broker.state.sessions.get(effect.connection)
                    subscription = (
                        session.subscribers[effect.handle].subscription
                        if session and effect.handle in session.subscribers
                        else names[effect.connection, effect.handle]
                    )
                    if isinstance(effect, Deliver):
                        self._sent(effect, subscription)
                    elif subscription.durable:
                        self._telling(effect, subscription)
            for item in broker.state.subscriptions.values():
                for number in range(next_dead.setdefault(item.number, item.next_dead), item.next_dead):
                    if number in item.dead:
                        died = Died(self._name(item), item.dead[number].reading, item.dead[number].sequence)
                        self.fact(died)
                        self._died[died] = number
                next_dead[item.number] = item.next_dead
                self._count_failures(item)
            now_members = self._members(broker)
            for member in members - now_members:
                self.fact(Left(*member, life))
            members = now_members
            if len(known) != len(broker.state.epochs) or any(epoch not in known for epoch in broker.state.epochs):
                now = {epoch: queue.name for epoch, queue in broker.state.epochs.items()}
                self.queue_of.update(now)
                for epoch, name in known.items():
                    if epoch not in now:
                        self.fact(Deleted(name, epoch, moved))
                known = now
            if self._invariants:
                invariants.check_changed()
            return effects

        known = {epoch: queue.name for epoch, queue in broker.state.epochs.items()}
        self.queue_of.update(known)
        broker.handle = watched  # type: ignore[method-assign]

    def _count_again(self, broker: Broker, input: Publish | Transact) -> None:
        session = broker.state.sessions.get(input.connection)
        if session and (input.number in session.producer.stored or input.number in session.producer.pending):
            self.sent_again += 1

    def _count_failures(self, subscription: Subscription) -> None:
        for cursor in subscription.cursors.values():
            if cursor.attempts:
                known = self._failed[self._name(subscription), cursor.reading]
                for sequence in sorted(cursor.attempts.keys() - known):
                    known.add(sequence)
                    self.fact(Failed(self._name(subscription), cursor.reading, sequence))

    def _settling(self, broker: Broker, input: Ack | Nack | Transact) -> None:
        session = broker.state.sessions.get(input.connection)

        def name(handle: int) -> str:
            subscriber = session.subscribers.get(handle) if session else None
            return self._name(subscriber.subscription) if subscriber else ""

        if isinstance(input, Transact):
            for handle, reading, first, last in input.acks:
                ranges = ((reading, first, last),)
                self.fact(AckTaken(input.connection, handle, self._life, name(handle), ranges, True))
            return
        place = input.connection, input.handle, self._life, name(input.handle), tuple(input.ranges)
        self.fact(AckTaken(*place, False) if isinstance(input, Ack) else NackTaken(*place, input.reject))

    def _resuming(self, broker: Broker, input: Subscribe) -> None:
        """Takes note of acks that a process tells again after a reconnect."""
        session = broker.state.sessions.get(input.connection)
        subscriber = session.subscribers.get(input.handle) if session else None
        ranges = tuple((resume.epoch, *span) for resume in input.resume for span in resume.acked)
        if subscriber and ranges:
            place = input.connection, input.handle, self._life, self._name(subscriber.subscription)
            self.fact(AckTaken(*place, ranges, False))

    def _moved(self, broker: Broker, queue: str) -> tuple[tuple[str, int, int], ...]:
        """Returns which durable subscriptions were moved in a queue and get nothing before that is on the disk."""
        known = broker.state.queues.get(queue)
        return tuple(
            (self._name(cursor.subscription), cursor.reading, cursor.settled_to)
            for cursor in (known.cursors if known else ())
            if cursor.moving and cursor.subscription.durable
        )

    def _sent(self, effect: Deliver, subscription: Subscription) -> None:
        attached = [
            joined
            for each in subscription.attached()
            if (joined := self._joined.get((each.session.connection, each.handle))) is not None
        ]
        moves, recorded = moves_of(effect.epoch), True
        if moves and subscription.durable:
            record = self._record(f"cursor/{subscription.number}/{epoch_of(effect.epoch)}", CursorRecord)
            recorded = record is not None and record.moves >= moves
        self.fact(
            Sent(
                effect.connection,
                effect.handle,
                self._name(subscription),
                subscription.durable,
                self._life,
                effect.queue,
                effect.epoch,
                tuple(span for row in effect.rows for span in _present(row)),
                effect.redelivered,
                tuple(sequence for sequence, attempt in effect.attempts if attempt > 1),
                self._joined[effect.connection, effect.handle] <= min(attached, default=0),
                recorded,
            )
        )

    def _telling(self, effect: Gap, subscription: Subscription) -> None:
        span = effect.epoch, effect.first_sequence, effect.last_sequence
        queue_stored = f"queue/{epoch_of(effect.epoch)}" in self._disk.content._records
        self.fact(Telling(self._life, self._name(subscription), *span, effect.reason, queue_stored))

    @staticmethod
    def _members(broker: Broker) -> set[tuple[int, int]]:
        return {
            (each.session.connection, each.handle)
            for item in broker.state.subscriptions.values()
            if item.shared
            for each in item.attached()
        }

    def _name(self, subscription: Subscription) -> str:
        name, number = subscription.name, subscription.number
        return f"{name} number {number}" if subscription.durable else name

    def _record(self, key: str, kind: type[R]) -> R | None:
        record = self._disk.content._records.get(key)
        return None if record is None else msgspec.msgpack.decode(record, type=kind)

    def server_ends(self) -> None:
        """Takes note of who is there."""
        living = self.living()
        self._at_end = {number: reader for number, (reader, _) in living.items()}
        self._there_at_end = {reader for reader, attached in living.values() if attached}

    def living(self) -> dict[int, tuple[str, bool]]:
        """Returns the durable subscriptions that the server has, and whether they have a subscriber, by number."""
        assert self._broker is not None
        return {
            item.number: (
                self._readers.setdefault((item.name, item.number), f"{item.name} number {item.number}"),
                item.subscriber is not None,
            )
            for item in self._broker.state.subscriptions.values()
            if item.durable
        }

    def _compare(self, before: dict[int, tuple[str, bool]], now_ms: int, *, asked: bool) -> dict[int, tuple[str, bool]]:
        """Writes down which durable subscriptions were made or forgotten by an input."""
        living = self.living()
        if living == before and not any(attached for _, attached in living.values()):
            return living
        for number, (reader, attached) in before.items():
            if attached:
                self._seen_ms[reader] = now_ms
            if number not in living and reader in self._told:
                self._at_end.pop(number, None)  # told here, if a draining server still forgot it
                self.fact(Forgotten(reader, asked, (now_ms - self._seen_ms[reader]) / 1000))
                self.expired += not asked
        for number, (reader, _) in living.items():
            if number not in before:
                self._seen_ms[reader] = now_ms
                name = reader.removesuffix(f" number {number}")
                self.name_of[reader] = name
                self._reader_with[number] = reader
                self.fact(Made(reader, name, dict(self.stored_ends()), self._begins()))
        return living

    def _begins(self) -> dict[int, int]:
        assert self._broker is not None
        first_kept = self._broker._retention.first_kept
        return {epoch: first_kept(queue) for epoch, queue in self._broker.state.epochs.items()}

    # --- for others ---

    def attached(self) -> set[str]:
        """Returns the names of the durable subscriptions that have a subscriber."""
        return {self.name_of.get(reader, reader) for reader, attached in self.living().values() if attached}

    def reader(self, name: str) -> str:
        """Returns what the subscription that has a name now is called in the history."""
        assert self._broker is not None
        known = self._broker.state.subscriptions.get(name)
        return self._readers.get((name, known.number), name) if known else name

    def stored_ends(self) -> dict[int, int]:
        """Returns the last sequence on the disk, by epoch."""
        for epoch, row in self._disk.appended[self._disk_length :]:
            self._ends[epoch] = row.last_sequence
        self._disk_length = len(self._disk.appended)
        return self._ends

    def begun_ms(self) -> list[int]:
        """Returns when, by the server's clock, each transaction of the disk was begun."""
        self._begun_ms += [self._last_begun_ms] * (len(self._disk.commits) - len(self._begun_ms))
        return self._begun_ms

    def reported_ends(self) -> dict[int, int]:
        """Returns the last sequence that the server knows to be stored, by epoch."""
        assert self._broker is not None
        return {epoch: queue.committed for epoch, queue in self._broker.state.epochs.items()}

    def subscription_names(self) -> list[str]:
        """Returns the names of the durable subscriptions that the server has."""
        return [self.name_of[reader] for reader, _ in self.living().values() if reader in self.name_of]

    def living_queues(self) -> dict[int, str]:
        """Returns the names of the queues that the server has, by epoch."""
        assert self._broker is not None
        return {epoch: queue.name for epoch, queue in self._broker.state.epochs.items()}

    def queues_of(self, subscription: str) -> list[str]:
        """Returns the names of the queues that a subscription reads, without those of its own."""
        assert self._broker is not None
        known = self._broker.state.subscriptions.get(subscription)
        queues = [cursor.queue for cursor in known.cursors.values()] if known else []
        return [queue.name for queue in queues if not queue.is_system]

    def numbers(self) -> dict[str, int]:
        """Returns the numbers of all durable subscriptions that there ever were on the disk."""
        return {reader: number for number, reader in self._reader_with.items()}

    def is_settled(self, subscription: str, reader: str, reading: int, sequence: int) -> bool:
        """Whether the disk has a cursor by which a message is settled."""
        assert self._broker is not None
        state, epoch = self._broker.state, epoch_of(reading)
        known = state.subscriptions.get(subscription)
        if known is None or not known.durable or epoch not in state.epochs or self.reader(subscription) != reader:
            return True  # an ephemeral one is nowhere on the disk, nor is the cursor of what was deleted
        record = self._record(f"cursor/{known.number}/{epoch}", CursorRecord)
        if record is None:
            return False
        if record.moves != moves_of(reading):
            return record.moves > moves_of(reading)  # it was moved since then
        return sequence <= record.position and not any(first <= sequence <= last for first, last in record.unsettled)

    def now_ms(self) -> int:
        """Returns the server's time, when it last had something to do."""
        assert self._broker is not None
        return self._broker.state.now_ms

    def scheduled(self) -> list[str]:
        """Returns what the disk has that is to be published soon."""
        due = [key for key in self._disk.content._keys if key.startswith("schedule/")]
        return [key for key in due if time_of(key) < self.now_ms() + SOON_MS]

    def waits(self, subscription: str, key: str | None) -> list[tuple[int, int]]:
        """Returns (epoch, sequence) of what a subscription has not settled of other keys than this one."""
        assert self._broker is not None
        known = self._broker.state.subscriptions.get(subscription)
        return [
            (epoch, sequence)
            for epoch, row in self._disk.appended
            if known is not None and (cursor := known.cursors.get(epoch)) is not None
            for sequence, (run, other) in enumerate(_events_and_keys(row), row.first_sequence)
            if other != key
            and cursor.filter.wants_event(run)
            and ((sequence > cursor.position and sequence > cursor.settled_to) or sequence in cursor.unsettled)
        ]

    def is_scheduled(self, payload: str) -> bool:
        """Whether the disk has a message that is to be published, or was."""
        records = self._disk.content._records
        scheduled = (record for key, record in records.items() if key.startswith("schedule/"))
        stored = (row.batch.body for _, row in self._disk.appended)
        return any(payload.encode() in body for body in (*scheduled, *stored))

    def is_dead(self, reader: str, reading: int, sequence: int) -> bool:
        """Whether the disk has, or had, a dead letter of a subscription, or it was redriven or deleted before that."""
        assert self._broker is not None
        known = self._broker.state.subscriptions.get(self.name_of[reader])
        if known is None or self._name(known) != reader or epoch_of(reading) not in self._broker.state.epochs:
            return True  # it was deleted since then, or the queue was
        cursor = known.cursors.get(epoch_of(reading))
        if cursor is None or cursor.reading != reading:
            return True  # it was moved since then
        number = self._died.get((reader, reading, sequence))
        if number is not None and number not in known.dead:
            return True
        prefix = f"dead/{known.number}/"
        for commit in reversed(self._disk.commits):
            for key, value in commit.puts:
                if key.startswith(prefix):
                    letter = msgspec.msgpack.decode(value, type=DeadLetterRecord)
                    if (reading_of(letter.epoch, letter.moves), letter.sequence) == (reading, sequence):
                        return True
        return False


def _present(row: StoredBatch) -> list[tuple[int, int]]:
    return [(row.first_sequence + low, row.first_sequence + high) for low, high in row.batch.present()]


def _events_and_keys(row: StoredBatch) -> list[tuple[str, str | None]]:
    events = [run.event or "" for run in row.batch.runs for _ in range(run.count)]
    return list(zip(events, row.batch.keys(), strict=True))
