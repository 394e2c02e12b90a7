"""The node: rounds, a store that fails, back-pressure, draining."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from tests.unit.broker.harness import START_MS, batch_of
from tidings import limits
from tidings.broker import effects, inputs
from tidings.broker.effects import ToConnection
from tidings.errors import DiskFull, Draining, StoreDamaged, StoreNewer, StoreUnavailable, StoreUnusable
from tidings.model import QueueInfo
from tidings.node import Node
from tidings.node.clock import SystemClock
from tidings.store.memory import MemoryStore
from tidings.store.port import Commit, CommitFailed, OutcomeUnknown

DEADLINE_S = 10


class FailingStore(MemoryStore):
    """A store in memory whose next commits go wrong as they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.troubles: list[Callable[[Commit], Exception | None]] = []
        self.always: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, commit: Commit) -> None:
        """Waits for the gate, then does as it was told."""
        await self.gate.wait()
        if self.always:
            raise self.always
        trouble = self.troubles.pop(0) if self.troubles and commit.appends else None
        error = trouble(commit) if trouble else None
        if error is None or getattr(error, "stored", False):
            await super().commit(commit)
        if error:
            raise error


class FakePeer:
    """A connection that keeps what it is told."""

    def __init__(self, node: Node) -> None:
        self.told: list[ToConnection] = []
        self.flushes = 0
        self.reading = True
        self.changed = asyncio.Event()
        self.connection = node.add_peer(self)

    def obey(self, effect: ToConnection) -> None:
        """Takes an effect."""
        self.told.append(effect)
        self.changed.set()

    def flush(self) -> None:
        """Counts."""
        self.flushes += 1

    def pause_reading(self) -> None:
        """Takes note; twice in a row would be a bug."""
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        """Takes note; twice in a row would be a bug."""
        assert not self.reading
        self.reading = True

    async def wait_for(self, kind: type[ToConnection], count: int = 1) -> list[ToConnection]:
        """Returns the effects of a kind once there are so many."""
        async with asyncio.timeout(DEADLINE_S):
            while len(found := [effect for effect in self.told if isinstance(effect, kind)]) < count:
                self.changed.clear()
                await self.changed.wait()
        return found


@asynccontextmanager
async def running(store: MemoryStore, prefix: str = "token") -> AsyncIterator[Node]:
    """Runs a node on a store."""
    tokens = iter(range(10**6))
    node = Node(store, SystemClock(), lambda: f"{prefix}-{next(tokens)}")
    task = asyncio.create_task(node.run())
    await asyncio.wait((task, asyncio.ensure_future(node.ready.wait())), return_when=asyncio.FIRST_COMPLETED)
    try:
        yield node
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def connected(node: Node, client_id: str | None = None) -> FakePeer:
    """Returns a peer whose client has introduced itself."""
    peer = FakePeer(node)
    node.submit(
        inputs.Connect(
            connection=peer.connection,
            client_id=client_id,
            producer=f"producer-{peer.connection}",
            token="",
            fresh_token=node.fresh_token(),
            take_over=False,
            address="here",
            protocol="test",
        )
    )
    return peer


def publish(node: Node, peer: FakePeer, number: int, payload: bytes = b"x") -> None:
    """Publishes one message."""
    node.publish(inputs.Publish(peer.connection, number, 0, "orders", batch_of("created", payload=payload)))


def failure(error: Exception, *, stored: bool = False) -> Callable[[Commit], Exception]:
    """Makes a commit raise, stored or not."""
    error.stored = stored  # type: ignore[attr-defined]
    return lambda commit: error


async def test_no_two_new_stores_number_their_queues_alike() -> None:
    store = MemoryStore()
    epochs = [await _epoch_of_presence(store, prefix) for prefix in ("a", "b")]
    assert epochs[0] == epochs[1], "a store that is opened again goes on"
    others = [await _epoch_of_presence(MemoryStore(), str(number)) for number in range(20)]
    assert len({*epochs, *others}) == 21
    assert all(0 < epoch <= 2**31 for epoch in others), "there is room for many more"


async def _epoch_of_presence(store: MemoryStore, prefix: str) -> int:
    async with running(store, prefix) as node:
        peer = connected(node)
        node.submit(inputs.List(peer.connection, 1, "queues"))
        [listing] = await peer.wait_for(effects.Listing)
        publish(node, peer, 1)
        await peer.wait_for(effects.Confirm)  # so that all of it is in the store
    assert isinstance(listing, effects.Listing)
    return next(entry.epoch for entry in listing.entries if isinstance(entry, QueueInfo))


async def test_a_publish_is_confirmed_and_delivered_and_each_peer_flushed_once_a_round() -> None:
    async with running(MemoryStore()) as node:
        peer = connected(node, "reader")
        node.submit(inputs.Subscribe(connection=peer.connection, request=1, handle=1, queue="orders", event="#"))
        await peer.wait_for(effects.Subscribed)
        flushes = peer.flushes
        publish(node, peer, 1)
        publish(node, peer, 2)
        (deliver,) = await peer.wait_for(effects.Deliver)
        assert isinstance(deliver, effects.Deliver)
        assert [row.last_sequence for row in deliver.rows] == [2]
        assert len(await peer.wait_for(effects.Confirm)) == 2
        assert peer.flushes == flushes + 1


async def test_a_refused_commit_refuses_its_publishes_and_the_node_goes_on() -> None:
    store = FailingStore()
    async with running(store) as node:
        peer = connected(node)
        store.troubles = [failure(CommitFailed("broken")), failure(CommitFailed("no space", full=True))]
        publish(node, peer, 1)
        (refusal,) = await peer.wait_for(effects.Refuse)
        assert isinstance(refusal, effects.Refuse)
        assert isinstance(refusal.error, StoreUnavailable)
        publish(node, peer, 1)
        last = (await peer.wait_for(effects.Refuse, 2))[-1]
        assert isinstance(last, effects.Refuse)
        assert isinstance(last.error, DiskFull)
        publish(node, peer, 1)
        (confirm,) = await peer.wait_for(effects.Confirm)
        assert isinstance(confirm, effects.Confirm)
        assert confirm.first_sequence == 1


async def test_an_unknown_outcome_that_was_stored_is_a_confirm() -> None:
    store = FailingStore()
    async with running(store) as node:
        peer = connected(node)
        store.troubles = [failure(OutcomeUnknown("silence"), stored=True)]
        publish(node, peer, 1)
        await peer.wait_for(effects.Confirm)
        publish(node, peer, 2)
        confirm = (await peer.wait_for(effects.Confirm, 2))[-1]
        assert isinstance(confirm, effects.Confirm)
        assert confirm.first_sequence == 2


async def test_an_unknown_outcome_that_was_not_stored_is_a_refusal() -> None:
    store = FailingStore()
    async with running(store) as node:
        peer = connected(node)
        store.troubles = [failure(OutcomeUnknown("silence"))]
        publish(node, peer, 1)
        await peer.wait_for(effects.Refuse)
        publish(node, peer, 1)
        (confirm,) = await peer.wait_for(effects.Confirm)
        assert isinstance(confirm, effects.Confirm)
        assert confirm.first_sequence == 1


async def test_an_unknown_outcome_is_read_until_the_store_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.node.node._RETRY_S", 0.0)
    store = FailingStore()
    async with running(store) as node:
        peer = connected(node)
        store.troubles = [failure(OutcomeUnknown("silence"), stored=True)]
        errors = [StoreUnusable("I/O error"), OutcomeUnknown("silence")]
        get = store.get

        async def failing(key: str) -> bytes | None:
            if errors:
                raise errors.pop()
            return await get(key)

        monkeypatch.setattr(store, "get", failing)
        publish(node, peer, 1)
        await peer.wait_for(effects.Confirm)
        assert errors == []


async def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is() -> None:
    store = MemoryStore()
    await store.commit(Commit(puts=[("format", msgspec.msgpack.encode(2)), ("counters", b"whatever that is")]))
    before = await store.list("")
    with pytest.raises(StoreNewer):
        await Node(store, SystemClock(), lambda: "token").run()
    assert await store.list("") == before


async def test_a_commit_number_goes_on_after_a_restart() -> None:
    store = FailingStore()
    async with running(store) as node:
        peer = connected(node)
        publish(node, peer, 1)
        await peer.wait_for(effects.Confirm)
    async with running(store) as node:
        peer = connected(node)
        # With a number that begins anew, the first commit of this life could pass for one of the last.
        store.troubles = [failure(OutcomeUnknown("silence"))]
        publish(node, peer, 2)
        await peer.wait_for(effects.Refuse)


async def test_a_connection_with_too_much_waiting_is_not_read_until_it_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTION_PENDING_BYTES_MAX", 1000)
    store = FailingStore()
    async with running(store) as node:
        busy, quiet = connected(node), connected(node)
        store.gate.clear()
        publish(node, quiet, 1)
        for number in range(1, 4):
            publish(node, busy, number, bytes(400))
        assert (busy.reading, quiet.reading) == (False, True)
        store.gate.set()
        await busy.wait_for(effects.Confirm, 3)
        assert busy.reading


async def test_all_publishers_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODE_PENDING_BYTES_MAX", 1000)
    store = FailingStore()
    async with running(store) as node:
        one, two, silent = connected(node), connected(node), connected(node)
        store.gate.clear()
        publish(node, one, 1, bytes(900))
        publish(node, two, 1, bytes(200))
        assert not one.reading, "what its socket has already been asked for would come on top"
        assert (two.reading, silent.reading) == (False, True)
        store.gate.set()
        await two.wait_for(effects.Confirm)
        assert (one.reading, two.reading) == (True, True)


async def test_what_a_lost_connection_published_counts_until_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODE_PENDING_BYTES_MAX", 1000)
    store = FailingStore()
    async with running(store) as node:
        store.gate.clear()
        lost, late = connected(node), connected(node)
        publish(node, lost, 1, bytes(2000))
        node.remove_peer(lost.connection, farewell=False, reason="gone")
        await late.wait_for(effects.Welcome)
        publish(node, late, 1)
        assert not late.reading
        store.gate.set()
        await late.wait_for(effects.Confirm)
        assert late.reading


async def test_refused_publishes_count_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTION_PENDING_BYTES_MAX", 1000)
    store = FailingStore()
    async with running(store) as node:
        peer = connected(node)
        store.troubles = [failure(CommitFailed("broken"))]
        publish(node, peer, 1, bytes(2000))
        assert not peer.reading
        await peer.wait_for(effects.Refuse)
        assert peer.reading


async def test_a_drain_writes_everything_tells_clients_and_ends() -> None:
    store = FailingStore()
    tokens = iter(range(100))
    node = Node(store, SystemClock(), lambda: str(next(tokens)))
    task = asyncio.create_task(node.run())
    await node.ready.wait()
    peer = connected(node, "billing")
    store.gate.clear()
    publish(node, peer, 1)
    draining = asyncio.create_task(node.drain())
    publish(node, peer, 2)
    await peer.wait_for(effects.Welcome)
    store.gate.set()
    async with asyncio.timeout(DEADLINE_S):
        await draining
        await task
    await peer.wait_for(effects.Confirm)
    refusals = [effect for effect in peer.told if isinstance(effect, effects.Refuse)]
    assert all(isinstance(refusal.error, Draining) for refusal in refusals)
    close = peer.told[-1]
    assert isinstance(close, effects.Close)
    assert isinstance(close.error, Draining)
    async with running(store) as again:
        looker = connected(again)
        again.submit(inputs.List(looker.connection, 1, "clients"))
        (listing,) = await looker.wait_for(effects.Listing)
        assert isinstance(listing, effects.Listing)
        assert [entry.client_id for entry in listing.entries if entry.client_id] == ["billing"]  # type: ignore[union-attr]


async def test_a_drain_ends_although_the_store_takes_nothing_any_more() -> None:
    store = FailingStore()
    node = Node(store, SystemClock(), lambda: "token")
    task = asyncio.create_task(node.run())
    await node.ready.wait()
    connected(node, "billing")
    store.always = CommitFailed("no space", full=True)
    async with asyncio.timeout(DEADLINE_S):
        await node.drain()
        await task


async def test_a_bug_in_a_rule_ends_the_node_instead_of_letting_it_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(MemoryStore(), SystemClock(), lambda: "token")
    task = asyncio.create_task(node.run())
    await node.ready.wait()
    monkeypatch.setattr("tidings.broker.broker.Broker.handle", lambda *_: 1 / 0)
    connected(node)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with asyncio.timeout(DEADLINE_S):
            await task
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


@pytest.mark.parametrize(
    "record", [("queue/1", b"\xc1"), ("queue/q", b"\xc1"), ("trash/", b"\xc0"), ("commit", b"\xc1")]
)
async def test_a_damaged_record_is_told_as_a_damaged_store(record: tuple[str, bytes]) -> None:
    store = MemoryStore()
    await store.commit(Commit(puts=[record]))
    node = Node(store, SystemClock(), lambda: "token")
    with pytest.raises(StoreDamaged, match="tidings check"):
        await node.run()


async def test_a_peer_is_let_go_once() -> None:
    async with running(MemoryStore()) as node:
        peer, other = connected(node, "billing"), connected(node)
        await peer.wait_for(effects.Welcome)
        node.remove_peer(peer.connection, farewell=True, reason="closed")
        node.remove_peer(peer.connection, farewell=False, reason="lost")
        node.submit(inputs.List(other.connection, 1, "clients"))
        (listing,) = await other.wait_for(effects.Listing)
        assert isinstance(listing, effects.Listing)
        assert [entry.connected for entry in listing.entries] == [False]  # type: ignore[union-attr]
        assert listing.entries[0].last_seen > START_MS  # type: ignore[union-attr, operator]
