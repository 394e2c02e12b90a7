"""What is seen of a server from inside: what it sends, who comes and goes, and what the disk has."""

import asyncio

import msgspec

from tests.simulation.history import AckTaken, Deleted, Fact, Forgotten, History, Made, Sent, TimeFell
from tidings.batch import StoredBatch
from tidings.broker.broker import Broker
from tidings.broker.effects import Deliver, Effect, Subscribed
from tidings.broker.inputs import Ack, Delete, Input, Publish
from tidings.broker.invariants import Invariants
from tidings.testing.crashing_store import Disk


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
        self._disk_length = 0
        self._ends: dict[int, int] = {}
        self._readers: dict[tuple[str, int], str] = {}
        self._told: set[str] = set()
        """Durable subscriptions that somebody was told of."""
        self._seen_ms: dict[str, int] = {}
        """When, by the server's clock, each had a subscriber at last (at the end: when it was up again)."""
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
        self._broker = broker
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

        def watched(input: Input, now_ms: int) -> list[Effect]:
            nonlocal known, living, latest_ms
            if now_ms < latest_ms:
                self.fact(TimeFell(life, latest_ms, now_ms))
            latest_ms = now_ms
            if isinstance(input, Publish):
                self._count_again(broker, input)
            if isinstance(input, Ack):
                self.fact(AckTaken(input.connection, input.handle, life, tuple(input.ranges)))
            names = {
                (session.connection, handle): subscriber.subscription
                for session in broker.state.sessions.values()
                for handle, subscriber in session.subscribers.items()
            }
            effects = handle(input, now_ms)
            living = self._compare(living, now_ms, asked=isinstance(input, Delete))
            for effect in effects:
                if isinstance(effect, Subscribed):
                    process = broker.state.sessions[effect.connection].address.rpartition(":")[0]
                    self.reader_of[process] = self.reader(effect.name)
                    if effect.durable:
                        self._told.add(self.reader(effect.name))
                if isinstance(effect, Deliver):
                    session = broker.state.sessions.get(effect.connection)
                    subscription = (
                        session.subscribers[effect.handle].subscription
                        if session and effect.handle in session.subscribers
                        else names[effect.connection, effect.handle]
                    )
                    ranges = tuple(span for row in effect.rows for span in _present(row))
                    self.fact(
                        Sent(
                            effect.connection,
                            effect.handle,
                            self._readers.get((subscription.name, subscription.number), subscription.name),
                            subscription.durable,
                            life,
                            effect.queue,
                            effect.epoch,
                            ranges,
                            effect.redelivered,
                        )
                    )
            if len(known) != len(broker.state.epochs) or any(epoch not in known for epoch in broker.state.epochs):
                now = {epoch: queue.name for epoch, queue in broker.state.epochs.items()}
                self.queue_of.update(now)
                for epoch, name in known.items():
                    if epoch not in now:
                        self.fact(Deleted(name, epoch))
                known = now
            if self._invariants:
                invariants.check()
            return effects

        known = {epoch: queue.name for epoch, queue in broker.state.epochs.items()}
        self.queue_of.update(known)
        broker.handle = watched  # type: ignore[method-assign]

    def _count_again(self, broker: Broker, input: Publish) -> None:
        session = broker.state.sessions.get(input.connection)
        if session and (input.number in session.producer.stored or input.number in session.producer.pending):
            self.sent_again += 1

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
                self.fact(Made(reader, name, dict(self.stored_ends())))
        return living

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

    def reported_ends(self) -> dict[int, int]:
        """Returns the last sequence that the server knows to be stored, by epoch."""
        assert self._broker is not None
        return {epoch: queue.committed for epoch, queue in self._broker.state.epochs.items()}

    async def is_settled(self, subscription: str, reader: str, epoch: int, sequence: int) -> bool:
        """Whether the disk has a cursor by which a message is settled."""
        assert self._broker is not None
        state = self._broker.state
        known = state.subscriptions.get(subscription)
        if known is None or not known.durable or epoch not in state.epochs or self.reader(subscription) != reader:
            return True  # an ephemeral one is nowhere on the disk, nor is the cursor of what was deleted
        record = await self._disk.content.get(f"cursor/{known.number}/{epoch}")
        position, unsettled = msgspec.msgpack.decode(record)[:2] if record else (0, [])
        return sequence <= position and not any(first <= sequence <= last for first, last in unsettled)


def _present(row: StoredBatch) -> list[tuple[int, int]]:
    return [(row.first_sequence + low, row.first_sequence + high) for low, high in row.batch.present()]
