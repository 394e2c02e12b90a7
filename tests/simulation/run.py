"""Runs scenarios: the real server and real clients, on virtual time, with everything going wrong that can."""

import asyncio
import gc
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from tests.simulation.checkers import CHECKERS, Evidence
from tests.simulation.history import (
    AckedDurably,
    AckTaken,
    Attached,
    Attaching,
    Confirmed,
    Deleted,
    Fact,
    Forgotten,
    Handed,
    History,
    Made,
    Note,
    Opened,
    Opening,
    Ousted,
    Published,
    Refused,
    Sent,
    Told,
    ToldForgotten,
)
from tests.simulation.scenario import EVENTS, Ending, Fault, PublisherPlan, Scenario, SubscriberPlan, make
from tidings import limits
from tidings.batch import StoredBatch
from tidings.broker.broker import Broker
from tidings.broker.effects import Deliver, Effect, Subscribed
from tidings.broker.inputs import Ack, Delete, Input
from tidings.broker.invariants import Invariants
from tidings.client import Client, Message, Subscription
from tidings.errors import (
    ClientIdInUse,
    DiskFull,
    NotFound,
    StoreUnavailable,
    SubscriptionInUse,
    TakenOver,
    TidingsError,
    TimedOut,
)
from tidings.ranges import Ranges
from tidings.server import Server
from tidings.testing.clock import LoopClock
from tidings.testing.crashing_store import CrashingStore, Disk
from tidings.testing.network import Network, SimulatedConnection, SimulatedDialer
from tidings.testing.virtual_time import TimeLimitReached, VirtualLoop

_TIME_LIMIT_S: Final = 1_500.0
_EVER_S: Final = 2_000.0  # longer than anything may take
_BEGINNING: Final = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # what LoopClock tells at virtual time 0


class Outcome(msgspec.Struct, kw_only=True):
    """What came of one seed."""

    seed: int
    broken: dict[str, list[str]]
    """Promise -> how it was broken."""
    history: list[str]
    virtual_s: float
    real_s: float
    published: int
    handed: int
    faults: dict[str, int]


def run(seed: int, *, invariants: bool = True) -> Outcome:
    """Runs the scenario of a seed and checks every promise; and the broker's invariants, unless told not to."""
    began_s = time.perf_counter()
    scenario = make(seed)
    simulation = Simulation(scenario, invariants=invariants)
    collecting = gc.isenabled()
    gc.disable()  # the collector runs finalizers when it likes, which no seed decides
    logging.disable(logging.CRITICAL)
    loop = VirtualLoop(_TIME_LIMIT_S)
    loop.set_exception_handler(simulation.failed)
    try:
        with _smaller(scenario.limits), asyncio.Runner(loop_factory=lambda: loop) as runner:
            broken = runner.run(simulation.run())
            virtual_s = loop.time()
    except TimeLimitReached as error:
        broken, virtual_s = {"comes to rest": [str(error), *simulation.unrest()]}, _TIME_LIMIT_S
    finally:
        logging.disable(logging.NOTSET)
        if collecting:
            gc.enable()
    return Outcome(
        seed=seed,
        broken=broken,
        history=simulation.history.lines(),
        virtual_s=virtual_s,
        real_s=time.perf_counter() - began_s,
        published=sum(len(fact.payloads) for fact in simulation.history.of(Published)),
        handed=sum(1 for _ in simulation.history.of(Handed)),
        faults=dict(simulation.faults),
    )


@contextmanager
def _smaller(values: dict[str, int]) -> Iterator[None]:
    usual = {name: getattr(limits, name) for name in values}
    for name, value in values.items():
        setattr(limits, name, value)
    try:
        yield
    finally:
        for name, value in usual.items():
            setattr(limits, name, value)


class Process:
    """One client process: a client, and what it does."""

    def __init__(self, name: str, client: Client, dialer: SimulatedDialer) -> None:
        self.name = name
        self.client = client
        self.dialer = dialer

    @property
    def connection(self) -> SimulatedConnection | None:
        """The connection by which it is let in, if both ends have it."""
        if not self.client.connected or not self.dialer.transports:
            return None
        connection = self.dialer.transports[-1].connection
        ended = connection.is_cut or connection.client.is_closing() or connection.server.is_closing()
        return None if ended else connection

    async def vanish(self) -> None:
        """Ends without a word."""
        self.dialer.kill()
        await self.client.close(timeout=0)


class Simulation:
    """One scenario under way."""

    def __init__(self, scenario: Scenario, *, invariants: bool) -> None:
        self.scenario = scenario
        self._invariants = invariants
        self.history = History()
        self.faults: Counter[str] = Counter()
        self.disk = Disk()
        self.network = Network(self._randomness("network"), scenario.network)
        self._quiet = asyncio.Event()
        self.life = 0
        self.lives: dict[str, int] = {}
        """Number of each life of the server, by the name it gives itself."""
        self.queue_of: dict[int, str] = {}
        self._damaged: dict[int, Ranges] = {}
        self._disk_length = 0
        self._ends: dict[int, int] = {}
        self._server: Server | None = None
        self._store: CrashingStore | None = None
        self._serving: asyncio.Task[None] | None = None
        self._processes: Counter[str] = Counter()
        self._publishing = 0
        self._main: asyncio.Task[object] | None = None
        self._mistakes: list[str] = []
        self._rivaling = 0
        self._holders: dict[str, list[Process]] = {}
        """Processes that were let in, by client id."""
        self.reader_of: dict[str, str] = {}
        """Which of the subscriptions that had one name a process is attached to, or was at last."""
        self._readers: dict[tuple[str, int], str] = {}
        self._told: set[str] = set()
        """Durable subscriptions that somebody was told of."""
        self._seen_s: dict[str, float] = {}
        """When each had a subscriber at last; for those who had one when the server ended, when it was up again."""
        self._at_end: dict[int, str] = {}
        """Durable subscriptions of the server's last life when it ended, by number, and those with a subscriber."""
        self._there_at_end: set[str] = set()
        self._evidence = Evidence(self.history, self.disk.appended, self.queue_of)
        self._evidence.plans = {plan.full_name: plan for plan in scenario.subscribers}

    @property
    def quiet(self) -> bool:
        """Whether faults have ended, so that everybody finishes."""
        return self._quiet.is_set()

    # --- the whole ---

    async def run(self) -> dict[str, list[str]]:
        """Runs to the end; returns which promises were broken, and how."""
        self._main = asyncio.current_task()
        actors: list[asyncio.Task[None]] = []
        try:
            await self._start_server()
            loop = asyncio.get_running_loop()
            self._publishing = len(self.scenario.publishers)
            works = [self._publisher(plan) for plan in self.scenario.publishers]
            works += [self._subscriber(plan) for plan in self.scenario.subscribers]
            rivals = [plan for plan in self.scenario.subscribers if plan.rivals]
            self._rivaling = len(rivals)
            works += [self._rivals(plan) for plan in rivals]
            actors = [loop.create_task(self._guarded(work)) for work in works]
            await self._make_faults()
            self._quiet.set()
            self.note("faults have ended")
            await self._come_to_rest()
        except asyncio.CancelledError:
            if not self._mistakes:
                raise
        for actor in actors:
            actor.cancel()
        await asyncio.gather(*actors, return_exceptions=True)
        if self._mistakes:
            return {"no mistakes": self._mistakes}
        self._evidence.alive = {reader for reader, _ in self._living().values()}
        await self._drain()
        self._evidence.damaged = self._damaged
        found = {promise: check(self._evidence) for promise, check in CHECKERS.items()}
        return {promise: broken for promise, broken in found.items() if broken}

    def failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Takes note of an exception in a callback: a bug, or a broken invariant."""
        error = context.get("exception")
        self._mistakes.append(f"{context.get('message')}: {_trace(error)}")
        if self._main is not None:
            self._main.cancel()

    def unrest(self) -> list[str]:
        """Says what is not settled."""
        found = [f"{self._publishing} publishers are not done"] if self._publishing else []
        return found + [str(info) for info in self._evidence.subscriptions if info.lag or info.in_flight]

    def fact(self, fact: Fact) -> None:
        """Writes down a fact."""
        self.history.facts.append((asyncio.get_running_loop().time(), fact))

    def note(self, text: str) -> None:
        """Writes down anything else."""
        self.fact(Note(text))

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self.failed(asyncio.get_running_loop(), {"message": "an actor failed", "exception": error})

    def _randomness(self, name: str) -> random.Random:
        return random.Random(f"{self.scenario.seed} {name}")

    async def _come_to_rest(self) -> None:
        """Waits until all that was published is settled by everybody; then looks who is there."""
        inspector = self._client("inspector", None, take_over=False)
        async with inspector.client as client:
            # Heartbeats find within so much time that an end is gone, on either side.
            await asyncio.sleep(limits.HEARTBEAT_MS * limits.HEARTBEATS_MISSED_MAX / 1000 + 10.0)
            while True:
                subscriptions = await client.subscriptions(timeout=_EVER_S)
                self._evidence.subscriptions = subscriptions
                names = {info.name for info in subscriptions if info.connected}
                if (
                    not self._publishing
                    and not self._rivaling
                    and all(
                        plan.name in self._evidence.connected or not plan.client_id
                        for plan in self.scenario.subscribers
                    )
                    and all(info.lag == info.in_flight == 0 for info in subscriptions)
                    and len(names) == len(self.scenario.subscribers)
                ):
                    break
                await asyncio.sleep(0.5)
            # Once more, for publishers that were the last to end, over connections that were dead.
            await asyncio.sleep(limits.HEARTBEAT_MS * limits.HEARTBEATS_MISSED_MAX / 1000 + 10.0)
            self._evidence.clients = await client.clients(timeout=_EVER_S)
            self._evidence.subscriptions = await client.subscriptions(timeout=_EVER_S)
            self._evidence.appended = list(self.disk.appended)

    # --- the server ---

    async def _start_server(self) -> None:
        self.life += 1
        randomness = self._randomness(f"server {self.life}")
        faults = self.scenario.store
        if self.quiet:
            faults = msgspec.structs.replace(faults, commit_fails=0, outcome_unknown=0, read_fails=0)
        self._store = CrashingStore(self.disk, randomness, faults)
        server = Server(self._store, LoopClock(), lambda: f"{randomness.getrandbits(64):016x}")
        self._server = server
        self.lives[server.node.id] = self.life
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        self._serving = loop.create_task(self._guarded(server.run()))
        await server.node.ready.wait()
        self._watch(server.node._broker, began_s)
        self.network.listen(server.native.protocol_factory)
        self.note(f"server is up, life {self.life}")

    def _watch(self, broker: Broker, began_s: float) -> None:
        """Checks the invariants after each input, and writes down what is sent, and who comes and goes."""
        invariants, handle, life = Invariants(broker), broker.handle, self.life
        known = dict[int, str]()
        living = self._living()
        self._seen_s.update(dict.fromkeys(self._there_at_end, began_s))
        for number, reader in self._at_end.items():
            if number not in living and reader in self._told:
                # It expired while the server was down, or in its first moment.
                away_s = asyncio.get_running_loop().time() - self._seen_s[reader]
                self.fact(Forgotten(reader, False, away_s))

        def watched(input: Input, now_ms: int) -> list[Effect]:
            nonlocal known, living
            if isinstance(input, Ack):
                self.fact(AckTaken(input.connection, input.handle, life, tuple(input.ranges)))
            names = {
                (session.connection, handle): subscriber.subscription
                for session in broker.state.sessions.values()
                for handle, subscriber in session.subscribers.items()
            }
            effects = handle(input, now_ms)
            living = self._compare(living, asked=isinstance(input, Delete))
            for effect in effects:
                if isinstance(effect, Subscribed):
                    process = broker.state.sessions[effect.connection].address.rpartition(":")[0]
                    self.reader_of[process] = self._reader(effect.name)
                    if effect.durable:
                        self._told.add(self._reader(effect.name))
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

    def _living(self) -> dict[int, tuple[str, bool]]:
        """Returns the durable subscriptions that the server has, and whether they have a subscriber, by number."""
        assert self._server is not None
        return {
            item.number: (
                self._readers.setdefault((item.name, item.number), f"{item.name} number {item.number}"),
                item.subscriber is not None,
            )
            for item in self._server.node._broker.state.subscriptions.values()
            if item.durable
        }

    def _server_ends(self) -> None:
        living = self._living()
        self._at_end = {number: reader for number, (reader, _) in living.items()}
        self._there_at_end = {reader for reader, attached in living.values() if attached}

    def _reader(self, name: str) -> str:
        """Returns what the subscription that has a name now is called in the history."""
        assert self._server is not None
        known = self._server.node._broker.state.subscriptions.get(name)
        return self._readers.get((name, known.number), name) if known else name

    def _compare(self, before: dict[int, tuple[str, bool]], *, asked: bool) -> dict[int, tuple[str, bool]]:
        """Writes down which durable subscriptions were made or forgotten by an input."""
        now_s, living = asyncio.get_running_loop().time(), self._living()
        if living == before and not any(attached for _, attached in living.values()):
            return living
        for number, (reader, attached) in before.items():
            if attached:
                self._seen_s[reader] = now_s
            if number not in living and reader in self._told:
                self._at_end.pop(number, None)  # told here, if a draining server still forgot it
                self.fact(Forgotten(reader, asked, now_s - self._seen_s[reader]))
                self.faults["subscription deleted" if asked else "subscription expired"] += 1
        for number, (reader, _) in living.items():
            if number not in before:
                self._seen_s[reader] = now_s
                name = reader.removesuffix(f" number {number}")
                self._evidence.name_of[reader] = name
                self.fact(Made(reader, name, dict(self._stored_ends())))
        return living

    async def _stop_serving(self) -> None:
        assert self._serving is not None
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)

    async def _crash(self) -> None:
        assert self._store is not None
        self._store.crash()
        self.network.kill_server()
        self._count_store_faults()
        self._server_ends()
        self.note(f"server crashed, life {self.life}")
        await self._stop_serving()

    async def _drain(self) -> None:
        assert self._server is not None
        assert self._serving is not None
        self.network.stop_listening()
        self._server_ends()
        self.note("server drains")
        await self._server.drain()
        await self._serving
        self._count_store_faults()

    def _count_store_faults(self) -> None:
        assert self._store is not None
        self.faults.update(self._store.injected)
        self._store.injected.clear()

    # --- faults ---

    async def _make_faults(self) -> None:
        scenario, chance, lives = self.scenario, self._randomness("faults"), self._randomness("lives")
        loop = asyncio.get_running_loop()
        forgettings = scenario.forgettings
        deletions, ends_at = scenario.deletions, loop.time() + scenario.duration_s
        while True:
            pause_s = chance.uniform(0, scenario.fault_pause_s_max)
            if loop.time() + pause_s > ends_at:
                break
            await asyncio.sleep(pause_s)
            if deletions and chance.random() < 0.5:
                deletions -= 1
                await self._delete_a_queue(chance)
            elif forgettings and lives.random() < 0.5:
                forgettings -= 1
                await self._delete_a_subscription(lives)
            elif scenario.faults:
                await self._make_fault(chance.choice(scenario.faults), chance)
        await asyncio.sleep(max(0, ends_at - loop.time()))
        assert self._store is not None
        # From now on the disk is reliable.
        reliable = msgspec.structs.replace(self._store.faults, commit_fails=0, outcome_unknown=0, read_fails=0)
        self._store.faults = reliable

    async def _make_fault(self, fault: Fault, chance: random.Random) -> None:
        connections = self.network.connections
        connection = chance.choice(connections) if connections else None
        self.note(f"fault: {fault}")
        match fault:
            case "crash":
                await self._crash()
            case "crash in commit":
                assert self._store is not None
                for _ in range(200):
                    if self._store.committing:
                        break
                    await asyncio.sleep(0.005)
                await asyncio.sleep(chance.uniform(0, self.scenario.store.commit_s_max))
                await self._crash()
            case "drain":
                await self._drain()
            case "slow reader" if connection:
                self._slow(connection.client.pause_reading, connection.client.resume_reading, chance.uniform(0, 8))
            case _ if connection:
                connection.cut(
                    client_notices=fault not in ("cut, client unaware", "blackout"),
                    server_notices=fault not in ("cut, server unaware", "blackout"),
                )
            case _:
                return
        self.faults[fault] += 1
        if fault in ("crash", "crash in commit", "drain"):
            await asyncio.sleep(chance.uniform(0, self.scenario.down_s_max))
            for _ in range(self.scenario.damages):
                self._damage(chance)
            await self._start_server()

    def _slow(self, pause: Callable[[], None], resume: Callable[[], None], for_s: float) -> None:
        pause()
        asyncio.get_running_loop().call_later(for_s, resume)

    def _damage(self, chance: random.Random) -> None:
        rows = [row for row in self.disk.appended if self.queue_of.get(row.queue, "$").startswith("queue")]
        if rows:
            epoch, row = chance.choice(rows)
            self.disk.damaged.add((epoch, row.first_sequence))
            self._damaged.setdefault(epoch, Ranges()).add(row.first_sequence, row.last_sequence)
            self.faults["damage"] += 1
            self.note(f"fault: rows {row.first_sequence} to {row.last_sequence} of epoch {epoch} are damaged")

    async def _delete_a_queue(self, chance: random.Random) -> None:
        names = sorted({queue for plan in self.scenario.publishers for queue in plan.queues})
        name = chance.choice(names)
        process = self._client("administrator", None, take_over=False)
        self.note(f"deleting {name}")
        try:
            async with process.client as client:
                await client.delete_queue(name, timeout=_EVER_S)
            self.faults["queue deleted"] += 1
        except (NotFound, StoreUnavailable, DiskFull) as error:
            self.note(f"deleting {name}: {error}")

    async def _delete_a_subscription(self, chance: random.Random) -> None:
        names = [plan.full_name for plan in self.scenario.subscribers if plan.client_id]
        if not names:
            return
        name = chance.choice(names)
        reader = self._reader(name)
        process = self._client("administrator", None, take_over=False)
        self.note(f"deleting subscription {name}")
        try:
            async with process.client as client:
                await client.delete_subscription(name, timeout=_EVER_S)
        except (NotFound, SubscriptionInUse, StoreUnavailable, DiskFull) as error:
            self.note(f"deleting subscription {name}: {error}")
        else:
            # While the administrator connected it may have expired and been made again: then it was another one.
            forgotten = [fact.subscription for fact in self.history.of(Forgotten) if fact.asked]
            if reader in forgotten:
                self.fact(ToldForgotten(reader))

    # --- processes ---

    def _client(self, name: str, client_id: str | None, *, take_over: bool) -> Process:
        self._processes[name] += 1
        process = f"{name}.{self._processes[name]}"
        dialer = SimulatedDialer(self.network, process)
        client = Client(
            [dialer],
            client_id=client_id,
            take_over=take_over,
            timeout=_EVER_S,
            randomness=self._randomness(process),
        )
        return Process(process, client, dialer)

    async def _open(self, process: Process, client_id: str | None, *, take_over: bool) -> None:
        """Connects a process; writes down who had the client id meanwhile."""
        if client_id is None:
            await process.client.open()
            return
        self.fact(Opening(process.name, client_id, take_over))
        holders = self._holders.setdefault(client_id, [])
        held = {holder.name: holder.connection for holder in holders if holder.connection}
        await process.client.open()
        still = [holder.name for holder in holders if holder.connection and holder.connection is held.get(holder.name)]
        self.fact(Opened(process.name, client_id, take_over, still[0] if still else ""))
        holders.append(process)

    async def _rivals(self, plan: SubscriberPlan) -> None:
        """Lets other processes come with the client id of a subscriber, whether it is there or not."""
        chance = self._randomness(f"{plan.name} rivals")
        for _ in range(plan.rivals):
            await self._until_quiet(chance.uniform(0, 15))
            if self.quiet:
                break
            take_over = chance.random() < 0.5
            process = self._client(f"{plan.name}rival", plan.client_id, take_over=take_over)
            try:
                await self._open(process, plan.client_id, take_over=take_over)
            except ClientIdInUse:
                self.note(f"{process.name} is refused")
                self.faults["rival refused"] += 1
                continue
            self.faults["rival took over" if take_over else "rival let in"] += 1
            consumer = Consumer(self, plan, process, self._randomness(f"{process.name} acks"))
            work = asyncio.get_running_loop().create_task(consumer.run())
            await asyncio.wait((work,), timeout=chance.uniform(0, 6))
            if work.done():
                error = work.exception()
                self._lost(plan, process, error)
            consumer.note_gaps()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            self.note(f"{process.name} ends")
            if chance.random() < 0.5:
                await process.vanish()
            else:
                await process.client.close(timeout=20.0)
        self._rivaling -= 1

    def _lost(self, plan: SubscriberPlan, process: Process, error: BaseException | None) -> None:
        """Takes note of why a process stopped to consume; only some reasons are good ones."""
        usual = SubscriptionInUse | TakenOver | StoreUnavailable | DiskFull | TimedOut
        if not isinstance(error, usual) and not (plan.rivals and isinstance(error, ClientIdInUse)):
            raise AssertionError(f"{process.name} stopped to consume: {error!r}") from error
        self.note(f"{process.name}: {error!r}")
        if isinstance(error, TakenOver) and plan.client_id:
            self.fact(Ousted(process.name, plan.client_id))

    # --- publishers ---

    async def _publisher(self, plan: PublisherPlan) -> None:
        chance = self._randomness(plan.name)
        remaining = [plan.messages]
        while remaining[0] > 0:
            process = self._client(plan.name, plan.name, take_over=True)
            await process.client.open()
            work = asyncio.get_running_loop().create_task(self._publish(plan, process, chance, remaining))
            if plan.life_s_max is not None and not self.quiet:
                await asyncio.wait((work,), timeout=chance.uniform(0, plan.life_s_max))
                if not work.done():
                    self.note(f"{process.name} vanishes")
                    self.faults["publisher vanished"] += 1
                    work.cancel()
                    await process.vanish()
                    await asyncio.gather(work, return_exceptions=True)
                    continue
            await work
            await process.client.close(timeout=_EVER_S)
        self._publishing -= 1

    async def _publish(
        self, plan: PublisherPlan, process: Process, chance: random.Random, remaining: list[int]
    ) -> None:
        number = 0
        while remaining[0] > 0:
            queue, event = chance.choice(plan.queues), chance.choice(EVENTS)
            size = min(remaining[0], chance.randint(1, plan.group_max))
            remaining[0] -= size
            paddings = [chance.randint(0, plan.padding_bytes_max) for _ in range(size)]
            payloads = tuple(
                f"{process.name}#{number + index}{'.' * padding}" for index, padding in enumerate(paddings)
            )
            number += size
            self.fact(Published(process.name, queue, event, payloads))
            if chance.random() < 0.5:
                one = [asyncio.ensure_future(self._publish_one(process, queue, event, payload)) for payload in payloads]
                await asyncio.gather(*one)
            else:
                await self._publish_many(process, queue, event, payloads)
            await asyncio.sleep(chance.uniform(0, plan.pause_s_max))

    async def _publish_one(self, process: Process, queue: str, event: str, payload: str) -> None:
        try:
            confirm = await process.client.publish(queue, event, payload.encode())
        except (StoreUnavailable, DiskFull) as error:
            self.fact(Refused(process.name, (payload,), error.code))
            return
        self._confirmed(process, queue, confirm.epoch, confirm.sequence, (payload,))

    async def _publish_many(self, process: Process, queue: str, event: str, payloads: tuple[str, ...]) -> None:
        try:
            confirms = await process.client.publish_many(queue, event, [payload.encode() for payload in payloads])
        except (StoreUnavailable, DiskFull) as error:
            self.note(f"{process.name}: of {payloads[0]} and {len(payloads) - 1} more not all are stored: {error}")
            return
        rest = payloads
        for confirm in confirms:
            self._confirmed(process, queue, confirm.epoch, confirm.sequence, rest[: confirm.count])
            rest = rest[confirm.count :]
        assert not rest, f"publish_many confirmed all but {rest}"

    def _confirmed(self, process: Process, queue: str, epoch: int, sequence: int, payloads: tuple[str, ...]) -> None:
        stored = self._stored_ends().get(epoch, 0) >= sequence + len(payloads) - 1
        self.fact(Confirmed(process.name, queue, epoch, sequence, payloads, stored))

    def _stored_ends(self) -> dict[int, int]:
        """Returns the last sequence on the disk, by epoch."""
        for epoch, row in self.disk.appended[self._disk_length :]:
            self._ends[epoch] = row.last_sequence
        self._disk_length = len(self.disk.appended)
        return self._ends

    def reported_ends(self) -> dict[int, int]:
        """Returns the last sequence that the server knows to be stored, by epoch."""
        assert self._server is not None
        return {epoch: queue.committed for epoch, queue in self._server.node._broker.state.epochs.items()}

    async def is_settled(self, subscription: str, reader: str, epoch: int, sequence: int) -> bool:
        """Whether the disk has a cursor by which a message is settled."""
        assert self._server is not None
        state = self._server.node._broker.state
        known = state.subscriptions.get(subscription)
        if known is None or not known.durable or epoch not in state.epochs or self._reader(subscription) != reader:
            return True  # an ephemeral one is nowhere on the disk, nor is the cursor of what was deleted
        record = await self.disk.content.get(f"cursor/{known.number}/{epoch}")
        position, unsettled = msgspec.msgpack.decode(record)[:2] if record else (0, [])
        return sequence <= position and not any(first <= sequence <= last for first, last in unsettled)

    # --- subscribers ---

    async def _subscriber(self, plan: SubscriberPlan) -> None:
        chance = self._randomness(plan.name)
        await self._until_quiet(chance.uniform(0, plan.begins_s_max))
        while True:
            process = self._client(plan.name, plan.client_id, take_over=plan.take_over)
            try:
                await self._open(process, plan.client_id, take_over=plan.take_over)
            except ClientIdInUse:
                # The server has not noticed yet that the process before is gone.
                await asyncio.sleep(1.0)
                continue
            ending = chance.choice(plan.endings)
            lost = await self._live(plan, process, chance, ending)
            if lost:
                continue
            if plan.client_id:
                self._evidence.connected.discard(plan.client_id)
            self.note(f"{process.name} ends: {ending}")
            self.faults[f"subscriber: {ending}"] += 1
            if ending == "vanish":
                await process.vanish()
            else:
                await process.client.close(timeout=20.0)
            await self._until_quiet(chance.uniform(0, plan.away_s_max))

    async def _until_quiet(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()

    async def _live(self, plan: SubscriberPlan, process: Process, chance: random.Random, ending: Ending) -> bool:
        """Lets a process live its life; returns whether it ended against its will."""
        if plan.client_id:
            self._evidence.connected.add(plan.client_id)
        consumer = Consumer(self, plan, process, self._randomness(f"{process.name} acks"))
        work = asyncio.get_running_loop().create_task(consumer.run())
        try:
            ends_at = asyncio.get_running_loop().time() + chance.uniform(0, plan.life_s_max)
            while not work.done() and (self.quiet or asyncio.get_running_loop().time() < ends_at):
                await asyncio.wait((work,), timeout=0.5)
            if work.done():
                self._lost(plan, process, work.exception())
                await process.client.close(timeout=20.0)
                await asyncio.sleep(0.5)
                return True
            if ending == "detach":
                await consumer.detach()
            return False
        finally:
            consumer.note_gaps()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


class Consumer:
    """What one process does with one subscription."""

    def __init__(self, simulation: Simulation, plan: SubscriberPlan, process: Process, chance: random.Random) -> None:
        self._simulation = simulation
        self._plan = plan
        self._process = process
        self._chance = chance
        self._subscription: Subscription | None = None
        self._name = plan.full_name
        self._gaps_noted = 0
        self._held: list[Message] = []
        self._cumulated = 0

    @property
    def reader(self) -> str:
        """What the subscription that it is attached to is called in the history."""
        known = self._simulation.reader_of.get(self._process.name)
        return self._name if known is None or self._plan.client_id is None else known

    async def run(self) -> None:
        """Subscribes and consumes for ever."""
        plan, simulation = self._plan, self._simulation
        durable = plan.client_id is not None
        start = plan.start if plan.starts_at_s is None else _BEGINNING + timedelta(seconds=round(plan.starts_at_s, 3))
        subscription = self._subscription = self._process.client.subscribe(
            plan.queue,
            plan.event,
            name=plan.subscription,
            start=start,
            in_flight_max=plan.in_flight_max,
            concurrency=plan.concurrency,
            ack_timeout=plan.ack_timeout_s,
            expires_after=plan.expires_after_s,
            timeout=_EVER_S,
        )
        # The server may not know yet of what the disk has stored already.
        ends = simulation.reported_ends()
        simulation.fact(Attaching(self._process.name, self._name, plan.queue, plan.event, start, ends))
        await subscription.attach()
        ends = dict(simulation._stored_ends())
        begins = {epoch: bounds.first_sequence for epoch, bounds in (await self._bounds(list(ends))).items()}
        attached = Attached(self._process.name, self.reader, subscription.durable, subscription.created, ends, begins)
        simulation.fact(attached)
        assert subscription.durable == durable, f"{attached} of {plan}"
        if plan.ack == "batches":
            async for batch in subscription.batches():
                for message in batch:
                    self._handed(message)
                await self._pause()
                if simulation.quiet or self._chance.random() < 0.9:
                    await batch.ack()
        else:
            async for message in subscription:
                self._handed(message)
                await self._pause()
                await self._settle(message)

    async def detach(self) -> None:
        """Closes the subscription and stays connected for a moment."""
        try:
            if self._subscription is not None:
                await self._subscription.close()
        except TidingsError as error:
            self._simulation.note(f"{self._process.name}: detaching: {error!r}")

    def note_gaps(self) -> None:
        """Writes down gaps that the process was told of since the last look."""
        subscriber = self._subscription._subscriber if self._subscription is not None else None
        if subscriber is not None and subscriber.gaps_seen > self._gaps_noted:
            for gap in subscriber.gaps[self._gaps_noted - subscriber.gaps_seen :]:
                first, last = gap.first_sequence, gap.last_sequence
                self._simulation.fact(Told(self._process.name, self.reader, gap.epoch, first, last, gap.reason))
            self._gaps_noted = subscriber.gaps_seen

    async def _bounds(self, epochs: list[int]) -> dict[int, object]:
        return await self._simulation.disk.content.bounds(epochs)  # type: ignore[return-value]

    async def _pause(self) -> None:
        if self._plan.handling_s_max and not self._simulation.quiet:
            await asyncio.sleep(self._chance.uniform(0, self._plan.handling_s_max))

    def _handed(self, message: Message) -> None:
        self.note_gaps()
        self._simulation.fact(
            Handed(
                self._process.name,
                self.reader,
                self._plan.client_id is not None,
                self._simulation.lives[self._process.client._session.node],  # that sent it
                message.queue,
                message.epoch,
                message.sequence,
                message.event,
                message.data.decode(),
                message.attempt,
                message.redelivered,
            )
        )

    async def _settle(self, message: Message) -> None:
        chance, style = self._chance, self._plan.ack
        if self._simulation.quiet:
            await message.ack()
            return
        match style:
            case "each":
                await message.ack()
            case "durable":
                await self._ack_durably(message)
            case "disorder" | "late":
                self._held.append(message)
                most = 5 if style == "disorder" else 50
                while len(self._held) > most or (self._held and chance.random() < 0.5):
                    await self._held.pop(chance.randrange(len(self._held))).ack()
            case "cumulative":
                if chance.random() < 0.3:
                    assert self._subscription is not None
                    await self._subscription.ack_to(message)
            case "forgetful":
                if chance.random() < 0.8:
                    await message.ack()
            case "batches":
                raise AssertionError("batches are settled as batches")

    async def _ack_durably(self, message: Message) -> None:
        reader = self.reader
        try:
            await message.ack(wait=True, timeout=20.0)
        except TidingsError as error:
            self._simulation.note(f"{self._process.name}: ack of {message.sequence}: {error!r}")
        else:
            sequence = message.sequence
            stored = await self._simulation.is_settled(self._name, reader, message.epoch, sequence)
            self._simulation.fact(AckedDurably(self._process.name, reader, message.epoch, sequence, sequence, stored))


def _present(row: StoredBatch) -> list[tuple[int, int]]:
    return [(row.first_sequence + low, row.first_sequence + high) for low, high in row.batch.present()]


def _trace(error: object) -> str:
    import traceback

    return "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else repr(error)
