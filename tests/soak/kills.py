"""Kills and stops: server, publishers and subscribers die and freeze under load, and what they wrote down is compared.

A round kills each of the three once with `kill -9`, in any order, while one of them, perhaps the same, stands still
between SIGSTOP and SIGCONT. Publishers write down what was confirmed, subscribers what they were handed, in files
that the server does not know. After some rounds publishing ends, everything is compared, and another queue begins.
"""

import asyncio
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.processes import (
    Process,
    Publisher,
    Server,
    Subscriber,
    caught_up,
    eventually,
    stored_messages,
)
from tests.soak.evidence import Evidence, compare

ROUNDS_PER_QUEUE = 10
_KINDS = ("server", "publisher", "subscriber")
_PUBLISHERS = ("many", "single")
_SUBSCRIBERS = {"by-message": "messages", "by-batch": "batches"}
_STOP_S = (0.02, 0.5)
_STEP_BYTES = 2_000  # of what a process writes down: some hundred messages
_CATCH_UP_S = 300.0


@dataclass
class Report:
    """What a run did and saw."""

    rounds: int = 0
    messages: int = 0
    deliveries: int = 0
    duplicates: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.rounds} rounds in {self.seconds:.0f} s: {self.messages:,} messages,"
            f" {self.deliveries:,} deliveries, {self.duplicates:,} of them duplicates; {faults}"
        )


async def run(
    directory: Path,
    *,
    rounds: int,
    seed: int,
    program: Sequence[str | Path] = ("-m", "tidings"),
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Runs rounds of kills and compares after every tenth; raises AssertionError with what was broken."""
    chance = random.Random(seed)
    report = Report()
    began_s = time.monotonic()
    with Server(directory, program=program) as server:
        while report.rounds < rounds:
            queue = f"load-{report.rounds}"
            place = directory / queue
            place.mkdir()
            await _run_queue(server, queue, place, min(ROUNDS_PER_QUEUE, rounds - report.rounds), chance, report)
            shutil.rmtree(place)
            report.seconds = time.monotonic() - began_s
            say(str(report))
    return report


async def _run_queue(
    server: Server, queue: str, place: Path, rounds: int, chance: random.Random, report: Report
) -> None:
    load = Load(server, queue, place)
    try:
        await load.begin()
        for _ in range(rounds):
            for victim in chance.sample(_KINDS, len(_KINDS)):
                await load.goes_on()
                await _kill_beside_a_stop(load, victim, chance.choice(_KINDS), chance, report.faults)
            report.rounds += 1
        evidence = await load.finish()
    finally:
        load.end()
        report.faults["starts refused for the client id"] += load.refused_count
    compare(evidence)
    report.messages += len(evidence.stored)
    report.deliveries += evidence.deliveries_count
    report.duplicates += evidence.duplicates_count


async def _kill_beside_a_stop(
    load: "Load", victim: str, stopped: str, chance: random.Random, faults: Counter[str]
) -> None:
    killed, frozen = load.pick(victim, chance), load.pick(stopped, chance)
    process = load.process(frozen)
    process.signal(signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(*_STOP_S))  # the fault itself; nothing is waited for
    load.kill(killed)
    if killed != frozen:
        load.start(killed)
        await asyncio.sleep(chance.uniform(*_STOP_S))
        process.signal(signal.SIGCONT)
    else:
        load.start(killed)
    faults[f"{victim} kills"] += 1
    faults[f"{stopped} stops"] += 1


class Load:
    """Publishers and subscribers of one queue, over all their lives; a process that was killed is started again."""

    def __init__(self, server: Server, queue: str, place: Path, *, url: str = "") -> None:
        self._server = server
        self._url = url or server.url
        self._queue = queue
        self._place = place
        self.refused_count = 0
        self._publishers: dict[str, list[Publisher]] = {name: [] for name in _PUBLISHERS}
        self._subscribers: dict[str, list[Subscriber]] = {name: [] for name in _SUBSCRIBERS}

    async def begin(self) -> None:
        """Starts all; the subscribers come before the first message."""
        for name in self._subscribers:
            self.start(name)
            await asyncio.to_thread(self._subscribers[name][-1].read_line)
        for name in self._publishers:
            self.start(name)

    def pick(self, kind: str, chance: random.Random) -> str:
        """Returns the name of a process of a kind."""
        return {"server": "server", "publisher": chance.choice(_PUBLISHERS)}.get(
            kind, chance.choice(tuple(_SUBSCRIBERS))
        )

    def process(self, name: str) -> Process:
        """Returns the living process of a name."""
        if name == "server":
            return self._server.process
        return (self._publishers.get(name) or self._subscribers[name])[-1]

    def start(self, name: str) -> None:
        """Starts a process; each life of a publisher or subscriber writes into a file of its own."""
        if name == "server":
            self._server.start()
        elif name in self._publishers:
            lives = self._publishers[name]
            life = f"{name}-{len(lives)}"
            lives.append(Publisher(self._place, self._url, self._queue, life, way=name))
        else:
            place = self._place / f"{name}-{len(self._subscribers[name])}"
            place.mkdir()
            subscriber = Subscriber(place, self._url, self._queue, name, way=_SUBSCRIBERS[name])
            self._subscribers[name].append(subscriber)

    def kill(self, name: str) -> None:
        """Ends a process with `kill -9`."""
        self.process(name).kill()

    async def goes_on(self) -> None:
        """Returns once every publisher was confirmed, and every subscriber handed, some hundred messages more."""
        names = (*self._publishers, *self._subscribers)
        goals = {name: (self.process(name), self._living(name).progress + _STEP_BYTES) for name in names}

        def is_past(name: str) -> bool:
            process = self._living(name)
            if process is not goals[name][0]:
                goals[name] = (process, _STEP_BYTES)  # a life later, with a file of its own
            return process.progress > goals[name][1]

        await eventually(lambda: all(is_past(name) for name in goals), what="publishers and subscribers go on")

    def _living(self, name: str) -> Publisher | Subscriber:
        process = self.process(name)
        assert isinstance(process, Publisher | Subscriber)
        if not process.running:
            # Who is started again at once may come before the server has seen the end of its former connection. It
            # is refused then, by the rule for two processes with one client id, and whoever started it tries again.
            errors = process.log.read_text()
            assert "ClientIdInUse" in errors, f"a process ended by itself: {errors}"
            self.refused_count += 1
            self.start(name)
        return process

    async def finish(self) -> Evidence:
        """Ends publishing, lets the subscribers ack everything, and returns what all wrote down."""
        await self.goes_on()
        for lives in self._publishers.values():
            assert await asyncio.to_thread(lives[-1].terminate) == 0, lives[-1].log.read_text()
        await eventually(lambda: caught_up(self._server), _CATCH_UP_S, what="the subscribers have acked everything")
        for subscribers in self._subscribers.values():
            assert await asyncio.to_thread(subscribers[-1].terminate) == 0, subscribers[-1].log.read_text()
        return Evidence(
            stored=await stored_messages(self._server, self._queue),
            confirmed=[life.confirmed() for lives in self._publishers.values() for life in lives],
            handed={
                name: [delivery for life in lives for delivery in life.deliveries()]
                for name, lives in self._subscribers.items()
            },
        )

    def end(self) -> None:
        """Makes sure that none of them runs any more."""
        for lives in (*self._publishers.values(), *self._subscribers.values()):
            for life in lives:
                life.end()
