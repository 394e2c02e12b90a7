"""A conversation: clients that say anything to a running node, while two well-behaved clients go on.

Node, broker, store and network run in virtual time. What must hold whatever is said:

1. The well-behaved publisher's messages reach the well-behaved subscriber, each once, in order.
2. The broker's invariants hold after each input; nothing raises, nothing is logged as a mistake of the server.
3. What breaks the protocol is told so, as the last frame, and its connection ends; every farewell has a known code.
4. On a connection that stays open every request is answered once.
5. When they are gone nothing of them is left in the node's memory but what they published and subscribed durably.
"""

import asyncio
import logging
import random
from collections import Counter
from typing import Any, Final

from tests.fuzz import frames
from tests.fuzz.choices import Choices
from tidings import limits
from tidings.broker.broker import Broker
from tidings.broker.effects import Effect
from tidings.broker.inputs import Input
from tidings.broker.invariants import Invariants
from tidings.client import Client
from tidings.errors import REGISTRY, ProtocolViolation
from tidings.server import Server
from tidings.store.memory import MemoryStore
from tidings.testing.clock import LoopClock
from tidings.testing.network import Network, NetworkFaults, SimulatedDialer, Transport
from tidings.testing.virtual_time import run
from tidings.transaction import Commit
from tidings.wire import (
    Ack,
    Backup,
    Call,
    Confirmed,
    Connection,
    Delete,
    Done,
    Extend,
    Frame,
    Goodbye,
    List,
    Listing,
    Nack,
    Publish,
    Refusal,
    Result,
    Role,
    Subscribe,
    Subscribed,
    Transact,
    Transacted,
    Unsubscribe,
    Welcome,
)
from tidings.wire.codec import Reader
from tidings.wire.connection import State
from tidings.wire.frames import KIND_OF, SERVER_KINDS

_STEPS_MAX: Final = 300
_ROGUES_MAX: Final = 4
_SETTLE_S: Final = 5.0
_SILENCE_S: Final = 9.0
"""Silence after which the server may rightly give up a connection."""
_PUBLISHING: Final = (KIND_OF[Publish], KIND_OF[Transact])
_SETTLING: Final = (KIND_OF[Ack], KIND_OF[Nack], KIND_OF[Extend])
"""Kinds that ask for no answer with request 0."""
_INTEGERS: Final = range(-(2**63), 2**63)
QUEUE: Final = "well-behaved"


def conversation(data: bytes) -> None:
    """Whatever rogue clients say to a node, the others lose nothing, and the node stays as it should be."""
    run(_World(Choices(data)).run(), time_limit_s=3600.0)


class StrictStore(MemoryStore):
    """A store in memory that takes no number which a data file could not hold."""

    async def commit(self, commit: Commit) -> None:
        """Applies a transaction."""
        for queue, stored in commit.appends:
            for number in (queue, stored.first_sequence, stored.last_sequence, stored.time_ms):
                assert number in _INTEGERS, f"{number} is stored"
        for queue, to_sequence in commit.trims:
            assert queue in _INTEGERS, f"queue {queue} is trimmed"
            assert to_sequence >= 0, f"trimmed to {to_sequence}"
        await super().commit(commit)

    async def read(self, queue: int, after: int, limit_bytes: int) -> Any:
        """Returns rows."""
        assert queue in _INTEGERS, f"queue {queue} is read"
        assert after in _INTEGERS, f"read from {after}"
        return await super().read(queue, after, limit_bytes)


class Rogue(asyncio.Protocol):
    """A client that says anything, and notes what it is told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[Frame] = []
        self.lost = False
        self.left = False
        """Whether it hung up by itself."""
        self.spoke_s = 0.0
        self.expected = Connection(Role.SERVER, 0)
        """What the server's end must think of the bytes that were sent."""
        self.asked: Counter[int] = Counter()
        self.published: set[int] = set()
        self._reader = Reader(SERVER_KINDS, limits.DELIVERY_BODY_SIZE_BYTES_MAX)
        self.transport: Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        assert isinstance(transport, Transport)
        self.transport = transport
        self.spoke_s = asyncio.get_running_loop().time()

    def data_received(self, data: bytes) -> None:
        """Reads what the server says, which is always well formed."""
        self.told += [received.frame for received in self._reader.receive_data(data)]

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        self.lost = True

    def say(self, data: bytes) -> None:
        """Sends bytes."""
        if self.lost or self.transport.is_closing():
            return
        self.spoke_s = asyncio.get_running_loop().time()
        self.expected.receive_data(data, 0)
        for frame, _ in self.expected.frames_received():
            match frame:
                case Publish() | Transact():
                    self.published.add(frame.number)
                case Ack() | Nack() | Extend() if frame.request == 0:
                    pass
                case Ack() | Nack() | Extend() | Subscribe() | Unsubscribe() | List() | Delete() | Backup() | Call():
                    self.asked[frame.request] += 1
        self.transport.write(data)

    def leave(self) -> None:
        """Hangs up."""
        self.left = True
        self.transport.abort()

    def check(self, now_s: float) -> None:
        """Checks that it was told what the protocol says."""
        farewells = [frame for frame in self.told if isinstance(frame, Goodbye)]
        assert len(farewells) <= 1, f"{self.name} was told farewell twice"
        for farewell in farewells:
            assert self.told[-1] is farewell, f"{self.name} was told something after the farewell"
            assert farewell.code in REGISTRY, f"{self.name} was told {farewell}"
            assert farewell.code != "internal_error", f"{self.name} was told {farewell}"
        if self.left:
            return
        ended = self.expected.state is State.CLOSED
        if isinstance(self.expected.error, ProtocolViolation):
            assert farewells, f"{self.name} broke the protocol ({self.expected.error}) and was not told"
        if ended or farewells:
            assert self.lost, f"{self.name} was told {farewells} and its connection did not end"
        elif self.lost:
            assert now_s - self.spoke_s >= _SILENCE_S, f"{self.name} lost its connection without a word"
        else:
            self._check_answers()

    def _check_answers(self) -> None:
        greeted = any(isinstance(frame, Welcome) for frame in self.told)
        assert greeted == (self.expected.state is State.OPEN), f"{self.name} was not welcomed"
        answers: Counter[int] = Counter()
        confirmed: set[int] = set()
        for frame in self.told:
            match frame:
                case Done() | Listing() | Subscribed() | Result():
                    answers[frame.request] += 1
                case Confirmed() | Transacted():
                    confirmed.add(frame.number)
                case Refusal() if frame.kind in _PUBLISHING:
                    confirmed.add(frame.request)
                case Refusal() if frame.request or frame.kind not in _SETTLING:
                    answers[frame.request] += 1
        assert confirmed == self.published, f"{self.name}: published {self.published}, answered {confirmed}"
        assert answers == self.asked, f"{self.name}: asked {self.asked}, answered {answers}"


class _World:
    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._randomness = random.Random(choices.number(2))
        self._network = Network(self._randomness, NetworkFaults(chunk_bytes_max=choices.pick([32 * 1024, 50, 7])))
        self._rogues: list[Rogue] = []
        self._mistakes: list[str] = []
        self._sent = 0
        self._got: list[object] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._mistakes.append(_described(context)))
        log = _Log(self._mistakes)
        logging.getLogger("tidings").addHandler(log)
        try:
            await self._serve()
        finally:
            logging.getLogger("tidings").removeHandler(log)
        assert not self._mistakes, self._mistakes[0]

    async def _serve(self) -> None:
        server = Server(StrictStore(), LoopClock(), lambda: f"{self._randomness.getrandbits(64):016x}")
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.run())
            await server.node.ready.wait()
            _watch(server.node._broker)
            self._network.listen(server.native.protocol_factory)
            publisher, subscriber = self._client("publisher"), self._client("subscriber")
            async with publisher, subscriber:
                subscription = subscriber.subscribe(QUEUE, "good")
                await subscription.attach()
                receiving = tasks.create_task(self._receive(subscription))
                publishing = await self._talk(publisher, tasks)
                await asyncio.gather(*publishing)
                await asyncio.sleep(_SETTLE_S)
                for rogue in self._rogues:
                    rogue.check(asyncio.get_running_loop().time())
                    rogue.leave()
                await asyncio.sleep(_SETTLE_S)
                assert self._got == list(range(self._sent)), f"of {self._sent} messages came {self._got}"
                receiving.cancel()
            await asyncio.sleep(_SETTLE_S)
            self._check_nothing_is_left(server)
            await server.drain()
            await serving

    def _client(self, name: str) -> Client:
        dialer = SimulatedDialer(self._network, name)
        return Client([dialer], client_id=f"{QUEUE}-{name}", reconnect=False, randomness=self._randomness)

    async def _receive(self, subscription: Any) -> None:
        async for message in subscription:
            self._got.append(message.payload)
            await message.ack()

    async def _talk(self, publisher: Client, tasks: asyncio.TaskGroup) -> list[asyncio.Task[Any]]:
        choices, publishing = self._choices, list[asyncio.Task[Any]]()
        await self._dial()
        for _ in range(_STEPS_MAX):
            if not choices.left:
                break
            action = choices.below(16)
            rogue = self._rogues[choices.below(_ROGUES_MAX) % len(self._rogues)]
            match action:
                case 0:
                    await asyncio.sleep(choices.number(1) / 1000)
                case 1 if choices.below(4) == 3 or rogue.lost:
                    await self._dial()
                case 2 if choices.below(16) == 15:
                    rogue.say(choices.take(choices.below(64)))
                case 3 if choices.below(4) == 0:
                    rogue.leave()
                case 3 | 4 if not rogue.lost:
                    rogue.transport.pause_reading()
                case 5 | 6:
                    rogue.transport.resume_reading()
                case 7 | 8:
                    publishing.append(tasks.create_task(publisher.publish(QUEUE, "good", self._sent)))
                    self._sent += 1
                case _:
                    rogue.say(frames.frame(choices))
        for rogue in self._rogues:
            rogue.transport.resume_reading()
        return publishing

    async def _dial(self) -> None:
        rogue = Rogue(f"rogue {len(self._rogues) + 1}")
        await self._network.connect(rogue.name, lambda: rogue)
        if len(self._rogues) == _ROGUES_MAX:
            self._rogues.pop(0).leave()
        self._rogues.append(rogue)
        if self._choices.below(16) != 15:
            rogue.say(frames.hello(self._choices))

    def _check_nothing_is_left(self, server: Server) -> None:
        node, state = server.node, server.node._broker.state
        assert not self._network.connections, f"left: {[each.name for each in self._network.connections]}"
        assert not node._peers, f"left: connections {list(node._peers)}"
        pending_bytes = node._broker.pending_bytes()
        assert not pending_bytes, f"left: {pending_bytes} unanswered bytes"
        assert not state.sessions, f"left: sessions {list(state.sessions)}"
        assert not state.tokens, f"left: tokens {list(state.tokens)}"
        assert not state.client_ids, f"left: client ids {list(state.client_ids)}"
        ephemeral = [item.name for item in state.subscriptions.values() if not item.durable]
        assert not ephemeral, f"left: ephemeral subscriptions {ephemeral}"
        pending = [producer.id for producer in state.producers.values() if producer.pending]
        assert not pending, f"left: unstored batches of {pending}"


class _Log(logging.Handler):
    """Collects what the server says about mistakes of its own."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._mistakes = mistakes

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._mistakes.append(f"logged: {record.getMessage()} {error!r}")


def _described(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"


def _watch(broker: Broker) -> None:
    """Checks the invariants after each input."""
    invariants, handle = Invariants(broker), broker.handle

    def watched(input: Input, now_ms: int) -> list[Effect]:
        effects = handle(input, now_ms)
        invariants.check()
        return effects

    broker.handle = watched  # type: ignore[method-assign]
