"""The world of a scenario: one disk, one network, the lives of a server, and client processes."""

import asyncio
import random
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from tests.simulation.history import Fact, History, Note, Opened, Opening
from tests.simulation.scenario import Scenario
from tests.simulation.watcher import Watcher
from tidings.broker.records import QueueRecord
from tidings.client import Client
from tidings.errors import ConnectionLost, StoreNewer
from tidings.gateways.http.pullers import Pullers
from tidings.model import Confirm
from tidings.node import SystemClock
from tidings.ranges import Ranges
from tidings.server import Server
from tidings.testing.crashing_store import CrashingStore, Disk, StoreFaults
from tidings.testing.network import Network, SimulatedConnection, SimulatedDialer

if TYPE_CHECKING:
    from tests.simulation.consumer import Consumer

T = TypeVar("T")
_BEGINNING_S: Final = 1_700_000_000.0  # what the wall clock shows at virtual time 0
EVER_S: Final = 2_000.0
"""Longer than anything may take."""


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


class World:
    """Everything that those who act in a scenario share."""

    def __init__(self, scenario: Scenario, *, invariants: bool) -> None:
        self.scenario = scenario
        self.history = History()
        self.faults: Counter[str] = Counter()
        """How often which fault happened."""
        self.disk = Disk()
        self.damaged: dict[int, Ranges] = {}
        self.network = Network(self.randomness("network"), scenario.network)
        self.watcher = Watcher(self.history, self.disk, invariants=invariants)
        self.life = 0
        self.lives: dict[str, int] = {}
        """Number of each life of the server, by the name it gives itself."""
        self.server: Server | None = None
        self.store: CrashingStore | None = None
        self.pullers: Pullers | None = None
        """What holds subscriptions for those who pull, while the server is up."""
        self.restarting = asyncio.Lock()
        self.consumers: dict[Consumer, None] = {}
        """Those at work."""
        self.stubborn = True
        """Whether what is to fail until all the rest is settled fails."""
        self.in_hand: set[str] = set()
        """Queues and subscriptions that an administrator does something with: one at a time."""
        self.confirms: deque[Confirm] = deque(maxlen=30)
        """What publishers were told at last."""
        self.wall_ahead_s = 0.0
        """How far the wall clock was set forward."""
        self.connected: set[str] = set()
        """Client ids whose subscribers mean to be connected."""
        self.mistakes: list[str] = []
        self.main: asyncio.Task[object] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._up = False
        self._down = asyncio.Event()
        """Set when this life of the server ends; another one for the next."""
        self._reliable = False
        self._troubles: list[dict[str, float]] = []
        self._quiet = asyncio.Event()
        self._processes: Counter[str] = Counter()
        self._holders: dict[str, list[Process]] = {}
        """Processes that were let in, by client id."""

    @property
    def quiet(self) -> bool:
        """Whether faults have ended, so that everybody finishes."""
        return self._quiet.is_set()

    def calm(self) -> None:
        """Ends the time of faults."""
        self._quiet.set()
        self.note("faults have ended")

    async def until_quiet(self, seconds: float) -> None:
        """Waits, but not longer than faults last."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()

    def fact(self, fact: Fact) -> None:
        """Writes down a fact."""
        self.history.facts.append((asyncio.get_running_loop().time(), fact))

    def note(self, text: str) -> None:
        """Writes down anything else."""
        self.fact(Note(text))

    def randomness(self, name: str) -> random.Random:
        """Returns what decides for one of those who act, whatever the others do."""
        return random.Random(f"{self.scenario.seed} {name}")

    def failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Takes note of an exception in a callback: a bug, or a broken invariant."""
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else repr(error)
        self.mistakes.append(f"{context.get('message')}: {trace}")
        if self.main is not None:
            self.main.cancel()

    async def guarded(self, work: Awaitable[None]) -> None:
        """Does work; an exception is a mistake."""
        try:
            await work
        except Exception as error:
            self.failed(asyncio.get_running_loop(), {"message": "an actor failed", "exception": error})

    # --- the server ---

    async def start_server(self) -> None:
        """Begins a life of the server."""
        loop = asyncio.get_running_loop()
        self.life += 1
        randomness = self.randomness(f"server {self.life}")
        self.store = CrashingStore(self.disk, randomness, self._store_faults())
        clock = SystemClock(loop.time, lambda: _BEGINNING_S + loop.time() + self.wall_ahead_s)
        began_ms = clock.now_ms()
        server = Server(self.store, clock, lambda: f"{randomness.getrandbits(64):016x}")
        self.server = server
        self.lives[server.node.id] = self.life
        self._serving = loop.create_task(self.guarded(server.run()))
        await server.node.ready.wait()
        self.watcher.watch(server.node._broker, self.life, began_ms, clock.now_ms())
        self._up, self._down = True, asyncio.Event()
        self.pullers = Pullers(server.node, "pull")
        self.network.listen(server.native.protocol_factory)
        self.note(f"server is up, life {self.life}")

    async def start_in_vain(self) -> None:
        """Begins a life of the server on a store that it must refuse."""
        loop = asyncio.get_running_loop()
        store = CrashingStore(self.disk, self.randomness(f"server {self.life} refused"), self._store_faults())
        try:
            await Server(store, SystemClock(loop.time, loop.time), lambda: "token").run()
        except BaseExceptionGroup as group:
            refused, other = group.split(StoreNewer)
            assert refused is not None, repr(other)
            return
        raise AssertionError("a server began on a store of a newer version")

    async def crash(self) -> None:
        """Ends a life of the server without a word."""
        assert self.store is not None
        assert self._serving is not None
        self.store.crash()
        self.network.kill_server()
        self._count_store_faults()
        if self._up:
            self.watcher.server_ends()
        self._up = False
        pullers, self.pullers = self.pullers, None
        self._down.set()
        self.note(f"server crashed, life {self.life}")
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        if pullers is not None:
            pullers.close()  # there is nobody left to hear of it

    async def drain(self) -> None:
        """Ends a life of the server as SIGTERM does."""
        assert self.server is not None
        assert self._serving is not None
        self.network.stop_listening()
        self.watcher.server_ends()
        self._up = False
        pullers, self.pullers = self.pullers, None
        self.note("server drains")
        await self.server.drain()
        await self._serving
        self._down.set()
        if pullers is not None:
            pullers.close()
        self._count_store_faults()

    async def trouble(self, seconds: float, faults: dict[str, float]) -> None:
        """Makes the store worse for a time."""
        self._troubles.append(faults)
        self._set_store_faults()
        await asyncio.sleep(seconds)
        self._troubles.remove(faults)
        self._set_store_faults()

    def rely_on_store(self) -> None:
        """From now on the disk is reliable."""
        self._reliable = True
        self._set_store_faults()

    def _set_store_faults(self) -> None:
        if self.store is not None:
            self.store.faults = self._store_faults()

    def _store_faults(self) -> StoreFaults:
        if self._reliable:
            slow = self.scenario.store
            return StoreFaults(commit_s_max=slow.commit_s_max, read_s_max=slow.read_s_max)
        found = self.scenario.store
        for trouble in self._troubles:
            worse = {name: max(value, getattr(found, name)) for name, value in trouble.items()}
            found = msgspec.structs.replace(found, **worse)
        return found

    def _count_store_faults(self) -> None:
        assert self.store is not None
        self.faults.update({f"({fault})": count for fault, count in self.store.injected.items()})
        self.store.injected.clear()

    async def begins(self) -> dict[int, int]:
        """Returns the first sequence that the disk has of each queue's life and that nobody purged."""
        content = self.disk.content
        bounds = await content.bounds(list(self.watcher.stored_ends()))
        found = {epoch: each.first_sequence for epoch, each in bounds.items()}
        for epoch in found:
            record = await content.get(f"queue/{epoch}")
            if record is not None:
                purged_to = msgspec.msgpack.decode(record, type=QueueRecord).purged_to
                found[epoch] = max(found[epoch], purged_to + 1)
        return found

    # --- client processes ---

    async def request(self, handle: Callable[[Pullers], Coroutine[Any, Any, T]]) -> T:
        """Has a request handled by this life of the server.

        Raises:
            ConnectionLost: there is none, or it ended meanwhile.
            TidingsError: why it was refused.
        """
        if self.pullers is None:
            raise ConnectionLost("the server is down")
        loop = asyncio.get_running_loop()
        handling, ended = loop.create_task(handle(self.pullers)), loop.create_task(self._down.wait())
        try:
            await asyncio.wait((handling, ended), return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():
                raise ConnectionLost("the server ended")
            return handling.result()
        finally:
            ended.cancel()
            handling.cancel()
            await asyncio.gather(handling, ended, return_exceptions=True)

    def process(self, name: str, client_id: str | None, *, take_over: bool) -> Process:
        """Makes a client process; it is not connected yet."""
        self._processes[name] += 1
        process = f"{name}.{self._processes[name]}"
        dialer = SimulatedDialer(self.network, process)
        client = Client(
            [dialer],
            client_id=client_id,
            take_over=take_over,
            timeout=EVER_S,
            randomness=self.randomness(process),
        )
        return Process(process, client, dialer)

    async def open(self, process: Process, client_id: str | None, *, take_over: bool) -> None:
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
