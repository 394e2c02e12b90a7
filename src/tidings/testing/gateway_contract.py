"""The gateway contract: what every door must keep, whatever protocol it speaks, as tests that it inherits.

    class TestMyDoor(GatewayContract):
        async def connect(self, bench: Bench) -> GatewayClient:
            return await MyClient.connect(bench.urls.http)

`connect` returns a client that does over the door what `GatewayClient` says; where the door refuses something the
client raises the `TidingsError` of its code (`errors.from_code`). The contract starts a server for each test, with
stores that fail when they are told to, and looks at it from beside, through the native door. The tests need pytest
with pytest-asyncio in its automatic mode, or call them one by one.

The clauses:

    confirm       a publish is confirmed once it is durable, and refused if it was not stored
    at least once what a durable subscription was not acked for comes (again), after any absence
    gone          what was acked does not come again
    marked        a delivery that comes again says so: its attempt is above 1
    order         messages of one publisher come in the order in which it published them
    gap           what was cut from the backlog is told, in its place
    back-pressure what waits for its ack is bounded by the window; nothing is dropped for it
    refusal       what is refused has the code of the registry, and the connection goes on
    one cursor    what one door began another continues
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

import tidings
from tidings import limits
from tidings.client import Client
from tidings.config import parse_address
from tidings.errors import TidingsError
from tidings.model import SubscriptionInfo
from tidings.server import Server
from tidings.store.memory import MemoryStore
from tidings.store.port import CommitFailed
from tidings.transaction import Commit

DEADLINE_S = 20.0
"""Time after which a test fails that waits for something."""


class Urls(NamedTuple):
    """Where the server of a test is."""

    native: str
    http: str


class Received(NamedTuple):
    """A message as a client of the door got it; `payload` is the JSON value. `handle` is the driver's own."""

    queue: str
    event: str
    sequence: int
    payload: object
    attempt: int
    handle: object = None


class Missed(NamedTuple):
    """A gap as a client of the door was told it."""

    queue: str
    first_sequence: int
    last_sequence: int
    reason: str


class GatewayClient(Protocol):
    """A client of a door, with at most one subscription. What is refused raises the TidingsError of its code."""

    async def publish(self, queue: str, event: str, payload: object) -> int:
        """Publishes a JSON value; returns the sequence that was confirmed."""
        ...

    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        """Attaches to a durable subscription, made if there is none; `in_flight_max` 0 leaves the window as it is."""
        ...

    async def receive(self) -> Received | Missed:
        """Waits for the next message or gap, and does not ack it."""
        ...

    async def ack(self, received: Received) -> None:
        """Settles a message; durably on return."""
        ...

    async def nack(self, received: Received, *, delay_ms: int) -> None:
        """Gives a message back as failed, to come again after a time."""
        ...

    async def close(self) -> None:
        """Says goodbye; may be called more than once."""
        ...

    async def lose(self) -> None:
        """Breaks the connection off, as a killed process does."""
        ...


class TroubledStore(MemoryStore):
    """A store whose next commits of messages go wrong as they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.troubles: list[CommitFailed] = []

    async def commit(self, commit: Commit) -> None:
        """Commits, or stores nothing and says why."""
        if commit.appends and self.troubles:
            raise self.troubles.pop(0)
        await super().commit(commit)


class Bench:
    """A server, a client of the door under test, and what is seen from beside."""

    def __init__(self, server: Server, store: TroubledStore, urls: Urls, beside: Client, connect: "_Connect") -> None:
        self.server = server
        self.store = store
        self.urls = urls
        self.beside = beside
        """An anonymous client of the native door."""
        self._connect = connect
        self._clients: list[GatewayClient] = []

    async def client(self) -> GatewayClient:
        """Returns a client of the door, connected."""
        client = await self._connect(self)
        self._clients.append(client)
        return client

    async def info(self, name: str) -> SubscriptionInfo:
        """Returns a subscription's entry in the listing."""
        [info] = [info for info in await self.beside.subscriptions() if info.name == name]
        return info

    async def free(self, name: str) -> None:
        """Waits until nobody is attached to a subscription."""
        await self.until(lambda info: not info.connected, name)

    async def until(self, condition: Callable[[SubscriptionInfo], bool], name: str) -> None:
        """Waits until something is true of a subscription."""
        while not condition(await self.info(name)):  # noqa: ASYNC110  the server tells of no such change
            await asyncio.sleep(_POLL_S)

    async def end(self) -> None:
        """Ends the clients."""
        for client in self._clients:
            await client.close()


_Connect = Callable[[Bench], Awaitable[GatewayClient]]
_POLL_S = 0.01


class GatewayContract:
    """The tests; see the module."""

    client_id: str | None = None
    """Under which id the clients of the door come; a subscription that is not shared belongs to it."""

    deadline_s: float = DEADLINE_S

    async def connect(self, bench: Bench) -> GatewayClient:
        """Returns a connected client of the door."""
        raise NotImplementedError("a door's test says how its clients connect")

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        """Runs a server for the length of a test."""
        store = TroubledStore()
        server = Server(store)
        ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        addresses = [parse_address("tidings://127.0.0.1:0"), parse_address("http://127.0.0.1:0")]
        async with asyncio.timeout(self.deadline_s), asyncio.TaskGroup() as tasks:
            tasks.create_task(server.run(addresses, ready.set_result))
            urls = Urls(*await ready)
            async with tidings.connect(urls.native) as beside:
                bench = Bench(server, store, urls, beside, self.connect)
                try:
                    yield bench
                finally:
                    await bench.end()
                    store.troubles.clear()
            await server.drain()

    # --- confirm -------------------------------------------------------------------------------------------

    async def test_a_publish_is_confirmed_with_its_place(self) -> None:
        """The sequence that is confirmed is the message's, and it is stored by then."""
        async with self.bench() as bench:
            client = await bench.client()
            for sequence in (1, 2, 3):
                assert await client.publish("orders", "created", {"id": sequence}) == sequence
                [info] = [info for info in await bench.beside.queues() if info.name == "orders"]
                assert info.last_sequence == sequence

    async def test_a_publish_that_is_not_stored_is_refused_and_never_comes(self) -> None:
        """A store that fails is told with its code, and publishing again stores the message once."""
        async with self.bench() as bench:
            client, reader = await bench.client(), await bench.client()
            await reader.subscribe("orders", "#", name="s", start="earliest", in_flight_max=0)
            for full, code in ((False, "store_unavailable"), (True, "disk_full")):
                bench.store.troubles.append(CommitFailed("broken", full=full))
                await _refused(client.publish("orders", "created", "lost"), code)
            await client.publish("orders", "created", "stored")
            assert (await _message(reader)).payload == "stored"

    # --- at least once -------------------------------------------------------------------------------------

    async def test_what_was_published_while_it_was_away_comes(self) -> None:
        """Of the events that the subscription wants, in order, each once."""
        async with self.bench() as bench:
            client = await bench.client()
            await client.subscribe("orders", "created", name="s", start="latest", in_flight_max=0)
            await client.close()
            await bench.free("s")
            for number in range(20):
                await bench.beside.publish("orders", "created" if number % 2 else "other", number)
            client = await bench.client()
            await client.subscribe("orders", "created", name="s", start="latest", in_flight_max=0)
            await bench.beside.publish("orders", "created", 21)
            assert [(await _message(client)).payload for _ in range(11)] == list(range(1, 22, 2))

    async def test_what_was_not_acked_comes_again_after_a_lost_connection(self) -> None:
        """Whatever the client had received of it."""
        async with self.bench() as bench:
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=0)
            for number in range(4):
                await bench.beside.publish("orders", "created", number)
            await _message(client)
            acked = await _message(client)
            await client.ack(acked)
            await _message(client)
            await client.lose()
            await bench.free("s")
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=0)
            assert [(await _message(client)).payload for _ in range(3)] == [0, 2, 3]

    # --- gone ----------------------------------------------------------------------------------------------

    async def test_what_was_acked_is_gone(self) -> None:
        """In whatever order it was acked; also for who comes back."""
        async with self.bench() as bench:
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=0)
            for number in range(6):
                await bench.beside.publish("orders", "created", number)
            received = [await _message(client) for _ in range(6)]
            for place in (5, 0, 2, 1):
                await client.ack(received[place])
            assert (await bench.info("s")).cursor == 3
            await client.close()
            await bench.free("s")
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=0)
            await bench.beside.publish("orders", "created", 6)
            assert [(await _message(client)).payload for _ in range(3)] == [3, 4, 6]

    # --- marked --------------------------------------------------------------------------------------------

    async def test_what_comes_again_says_so(self) -> None:
        """The first delivery is attempt 1, each later one that failed before counts on."""
        async with self.bench() as bench:
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=0)
            await bench.beside.publish("orders", "created", "x")
            for attempt in (1, 2, 3):
                message = await _message(client)
                assert (message.payload, message.attempt) == ("x", attempt)
                await client.nack(message, delay_ms=1)
            await client.ack(await _message(client))
            assert (await bench.info("s")).lag == 0

    # --- order ---------------------------------------------------------------------------------------------

    async def test_messages_come_in_the_order_in_which_they_were_published(self) -> None:
        """Published and received over the door, with their names and places."""
        async with self.bench() as bench:
            client, publisher = await bench.client(), await bench.client()
            await client.subscribe("orders", "#", name="s", start="earliest", in_flight_max=0)
            for number in range(30):
                await publisher.publish("orders", "odd" if number % 2 else "even.number", {"n": number, "t": "ü\n"})
            for number in range(30):
                message = await _message(client)
                event = "odd" if number % 2 else "even.number"
                expected = Received("orders", event, number + 1, {"n": number, "t": "ü\n"}, 1)
                assert message._replace(handle=None) == expected

    # --- gap -----------------------------------------------------------------------------------------------

    async def test_what_was_cut_from_the_backlog_is_told_in_its_place(self) -> None:
        """A queue that is deleted while messages wait: what is not acked is a gap, and what is new comes after it."""
        async with self.bench() as bench:
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=0)
            for number in range(3):
                await bench.beside.publish("orders", "created", number)
            await client.ack(await _message(client))
            await client.close()
            await bench.free("s")
            await bench.beside.delete_queue("orders")
            await bench.beside.publish("orders", "created", "new")
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=0)
            assert await client.receive() == Missed("orders", 2, 3, "queue deleted")
            message = await _message(client)
            assert (message.sequence, message.payload) == (1, "new")

    # --- back-pressure -------------------------------------------------------------------------------------

    async def test_what_waits_for_its_ack_is_bounded_by_the_window(self) -> None:
        """A client that acks nothing has so many in flight and no more, and gets all of them once it acks."""
        async with self.bench() as bench:
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=5)
            for number in range(40):
                await bench.beside.publish("orders", "created", number)
            await bench.until(lambda info: info.in_flight == 5, "s")
            received = [await _message(client) for _ in range(5)]
            for _ in range(20):
                assert (await bench.info("s")).in_flight == 5, "nothing was acked"
            for number in range(40):
                message = received.pop(0) if received else await _message(client)
                assert message.payload == number
                await client.ack(message)
                assert (await bench.info("s")).in_flight <= 5

    async def test_a_client_that_takes_nothing_holds_back_only_itself(self) -> None:
        """Others publish and are delivered, and what waits for it comes whole once it takes it."""
        async with self.bench() as bench:
            slow, fast = await bench.client(), await bench.client()
            await slow.subscribe("orders", "#", name="slow", start="latest", in_flight_max=0)
            await fast.subscribe("orders", "#", name="fast", start="latest", in_flight_max=0)
            text = "x" * (limits.PAYLOAD_SIZE_BYTES_MAX // 8)
            for number in range(64):
                await bench.beside.publish("orders", "created", [number, text])
                message = await _message(fast)
                assert message.payload == [number, text]
                await fast.ack(message)
            info = await bench.info("slow")
            assert info.in_flight * len(text) <= limits.IN_FLIGHT_BYTES_MAX + limits.FETCH_SIZE_BYTES * 2
            for number in range(64):
                message = await _message(slow)
                assert message.payload == [number, text]
                await slow.ack(message)

    # --- refusal -------------------------------------------------------------------------------------------

    async def test_what_is_refused_has_its_code_and_the_connection_goes_on(self) -> None:
        """Of publishing and subscribing, each error that the client can make."""
        async with self.bench() as bench:
            client = await bench.client()
            await _refused(client.publish("a b", "created", 1), "invalid_name")
            await _refused(client.publish("orders", "a..b", 1), "invalid_name")
            await _refused(client.publish("$orders", "created", 1), "system_queue")
            await _refused(client.publish("orders", "e", "x" * limits.PAYLOAD_SIZE_BYTES_MAX), "payload_too_large")
            for queue, event, name, code in (
                ("orders", "a..b", "s", "invalid_filter"),
                ("orders", "created", "a b", "invalid_name"),
                ("orders", "created", "taken", "subscription_conflict"),
                ("orders", "#", "taken", "subscription_in_use"),
            ):
                async with self._held(bench, "taken"):
                    subscribing = client.subscribe(queue, event, name=name, start="latest", in_flight_max=0)
                    await _refused(subscribing, code)
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=0)
            assert await client.publish("orders", "created", "good") == 1
            assert (await _message(client)).payload == "good"

    @asynccontextmanager
    async def _held(self, bench: Bench, name: str) -> AsyncIterator[None]:
        holder = await bench.client()
        await holder.subscribe("orders", "#", name=name, start="latest", in_flight_max=0)
        yield
        await holder.close()
        await bench.free(name)

    # --- one cursor ----------------------------------------------------------------------------------------

    async def test_another_door_continues_what_this_one_began(self) -> None:
        """What was acked here does not come there, and the rest does."""
        async with self.bench() as bench:
            client = await bench.client()
            await client.subscribe("orders", "created", name="s", start="earliest", in_flight_max=0)
            for number in range(5):
                await bench.beside.publish("orders", "created", number)
            for _ in range(2):
                await client.ack(await _message(client))
            await client.close()
            await bench.free("s")
            async with (
                tidings.connect(bench.urls.native, client_id=self.client_id) as other,
                other.subscribe("orders", "created", name="s") as subscription,
            ):
                found = []
                async for message in subscription:
                    found.append(message.payload)
                    if len(found) == 3:
                        break
                assert found == [2, 3, 4]

    async def test_this_door_continues_what_another_one_began(self) -> None:
        """What was acked there does not come here, and the rest does."""
        async with self.bench() as bench:
            async with (
                tidings.connect(bench.urls.native, client_id=self.client_id) as other,
                other.subscribe("orders", "created", name="s") as subscription,
            ):
                for number in range(5):
                    await other.publish("orders", "created", number)
                async for message in subscription:
                    await message.ack(wait=True)
                    if message.payload == 2:
                        break
            await bench.free("s")
            client = await bench.client()
            await client.subscribe("orders", "created", name="s", start="earliest", in_flight_max=0)
            assert [(await _message(client)).payload for _ in range(2)] == [3, 4]


async def _message(client: GatewayClient) -> Received:
    received = await client.receive()
    assert isinstance(received, Received), f"a message was expected, not {received}"
    return received


async def _refused(doing: Awaitable[object], code: str) -> None:
    try:
        result = await doing
    except TidingsError as error:
        assert error.code == code, f"refused with {error.code} ({error.text}) instead of {code}"
        return
    raise AssertionError(f"it was to be refused with {code}, and returned {result!r}")
