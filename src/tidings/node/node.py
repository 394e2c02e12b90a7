"""The loop: collects inputs, works in rounds, obeys the broker's effects.

    gateways --submit--> inbox --round--> Broker.handle --effects--> peers, commits, reads
                           ^                                               |
                           +------ Committed, Fetched, Surveyed, ... <-----+

A round drains the inbox in one go; everything it has to write becomes one transaction, while which the next
round's inputs collect: the longer the disk takes, the larger the group.
"""

import asyncio
import gc
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple, assert_never

import msgspec

from tidings import limits
from tidings.broker import PREFIXES, Broker, queue_epochs, restore
from tidings.broker.effects import (
    Close,
    Confirm,
    Deliver,
    Effect,
    Fetch,
    ListRecords,
    Locate,
    Read,
    ReadRecords,
    ReadRows,
    Refuse,
    Sample,
    StartCommit,
    Survey,
    ToConnection,
    Transacted,
    WebhooksChanged,
)
from tidings.broker.inputs import (
    CommitRefused,
    Committed,
    Disconnect,
    DiskSpace,
    Drain,
    Fetched,
    Input,
    Located,
    Publish,
    RecordsListed,
    RecordsRead,
    RowsRead,
    Sampled,
    StoreReady,
    Surveyed,
    Tick,
    Transact,
)
from tidings.errors import Draining, InternalError, InvalidOption, StoreDamaged, StoreUnusable, TidingsError
from tidings.model import Webhook
from tidings.node.clock import Clock
from tidings.node.decoded import Decoded
from tidings.node.metrics import Metrics
from tidings.node.pages import Pages
from tidings.node.peers import Peer
from tidings.node.published import Published
from tidings.node.samples import sample
from tidings.store.port import CommitFailed, OutcomeUnknown, Store
from tidings.transaction import Commit, Row

_log = logging.getLogger("tidings.node")
_COMMIT_KEY = "commit"  # record that tells, after an unknown outcome, which commit was the last one
_RETRY_S = 1.0
_DRAIN_REFUSALS_MAX = 20  # refused transactions after which a drain gives up on what is left, about a second of them
_DISK_INTERVAL_S = 1.0


class _UnderWay(NamedTuple):
    """A commit that the store has begun, or will when its end is awaited."""

    commit: Commit
    number: bytes
    end: Awaitable[None]
    began_s: float
    oldest_s: float | None


class Node:
    """One broker on one store.

    Args:
        store: what must survive; opened by `run` and closed when that ends.
        clock: the time.
        fresh_token: makes unguessable session tokens.
    """

    def __init__(self, store: Store, clock: Clock, fresh_token: Callable[[], str]) -> None:
        self.store = store
        self.clock = clock
        self.fresh_token = fresh_token
        self.id = fresh_token()
        self.ready = asyncio.Event()
        """Set once the broker has its memory back."""
        self.decoded = Decoded()
        """What conversations were delivered last, for all of them."""
        self.webhooks_changed = asyncio.Event()
        """Set once there are other webhooks, durably."""
        self._broker = Broker(clock.now_ms())
        self._inbox: list[Input] = []
        self._inbox_bytes = 0  # of the batches in it
        self._round_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0  # what it is set for
        self._commits: asyncio.Queue[_UnderWay] = asyncio.Queue()
        self._committing = False
        self._commit_number = 0
        self._reads: asyncio.Queue[Read] = asyncio.Queue()
        self._pages = Pages(limits.PAGE_CACHE_BYTES)
        self._peers: dict[int, Peer] = {}
        self._connections = 0
        self._published = Published()
        self.metrics = Metrics()
        self._rounds_over = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure: Exception | None = None
        self._refusals = 0  # transactions refused since the last that was stored

    # --- for gateways ---

    def add_peer(self, peer: Peer) -> int:
        """Takes on a connection and returns its number."""
        self._connections += 1
        self._peers[self._connections] = peer
        return self._connections

    def remove_peer(self, connection: int, *, farewell: bool, reason: str) -> None:
        """Lets go of a connection that has ended. May be called more than once."""
        if self._peers.pop(connection, None):
            self._published.forget(connection)
            self.submit(Disconnect(connection, farewell, reason))

    def submit(self, input: Input) -> None:
        """Puts an input into the inbox; it is handled in the next round."""
        self._inbox.append(input)
        self._schedule()

    def publish(self, input: Publish | Transact) -> None:
        """As `submit`, for batches; stops reading from the peer, or from all that publish, while too much waits."""
        size_bytes = len(input.batch.body)
        self._inbox_bytes += size_bytes
        self.metrics.publish(perf_counter())
        paused = self._published.add(input.connection, input.number, size_bytes)
        if self.pending_bytes > limits.NODE_PENDING_BYTES_MAX:
            # All at once: what a socket has already been asked for would come on top, from each of them.
            paused = self._published.pause_all()
        for connection in paused:
            peer = self._peers.get(connection)
            if peer:
                peer.pause_reading()
        self.submit(input)

    @property
    def connections(self) -> int:
        """How many connections there are, of all doors."""
        return len(self._peers)

    @property
    def pending_bytes(self) -> int:
        """How many published bytes are not confirmed yet."""
        return self._inbox_bytes + self._broker.pending_bytes()

    def webhooks(self) -> dict[str, Webhook]:
        """Returns the webhooks by their names."""
        return dict(self._broker.state.webhooks)

    async def backup(self, path: str) -> None:
        """Writes a consistent copy of the store to a new file.

        Raises:
            InvalidOption: the store cannot do that, or the file cannot be written.
        """
        backup = getattr(self.store, "backup", None)
        if backup is None:
            raise InvalidOption("this store keeps nothing on a disk of its own and cannot be copied to a file")
        await backup(path)

    # --- life ---

    async def run(self) -> None:
        """Opens the store, works until `drain` is done or the task is cancelled, and closes the store.

        Raises:
            StoreUnusable: the store cannot be opened as it is.
        """
        await self.store.open()
        try:
            with _collector_paused():
                await self._restore()
            async with asyncio.TaskGroup() as tasks:
                workers = [tasks.create_task(work()) for work in (self._commit, self._read, self._watch_disk)]
                self._schedule()
                self.ready.set()
                await self._stopped.wait()
                if self._failure:
                    raise self._failure
                for worker in workers:
                    worker.cancel()
        finally:
            self._cancel_rounds()
            while not self._commits.empty():
                end = self._commits.get_nowait().end
                if asyncio.iscoroutine(end):
                    end.close()  # it was not begun, and nobody waits for it any more
            await self.store.close()

    async def drain(self) -> None:
        """Stops: refuses publishes, finishes what is under way to disk, tells clients to connect again, ends."""
        self.submit(Drain())
        await self._settle()
        for connection, peer in list(self._peers.items()):
            peer.obey(Close(connection, Draining("the server is about to stop; connect again")))
            peer.flush()
            self.remove_peer(connection, farewell=False, reason="the server drains")
        await self._settle()
        self._stopped.set()

    async def _settle(self) -> None:
        """Waits until nothing is left to do or to write."""
        self._refusals = 0
        self._schedule()
        while self._inbox or self._committing or self._broker.state.ledger.has_work():
            if self._refusals >= _DRAIN_REFUSALS_MAX:
                _log.warning("the store takes nothing; stopping without what was not confirmed")
                return
            # What is left is under way, or has a deadline: either starts the next round.
            self._rounds_over.clear()
            await self._rounds_over.wait()

    async def _restore(self) -> None:
        records: dict[str, bytes] = {}
        for prefix in PREFIXES:
            records.update(await self.store.list(prefix))
        with _records_told_damaged():
            epochs = queue_epochs(records)
        bounds = await self.store.bounds(epochs)
        value = await self.store.get(_COMMIT_KEY)
        with _records_told_damaged():
            now_ms, first_epoch = self.clock.now_ms(), _first_epoch(self.id)
            self._broker = restore(records, bounds, now_ms, first_epoch=first_epoch)
            self._commit_number = msgspec.msgpack.decode(value, type=int) if value else 0

    # --- rounds ---

    def _schedule(self) -> None:
        if self._round_handle is None:
            self._round_handle = asyncio.get_running_loop().call_soon(self._try_round)

    def _cancel_rounds(self) -> None:
        for handle in (self._round_handle, self._timer):
            if handle:
                handle.cancel()
        # A handle that stays set keeps `_schedule` from starting another round.
        self._round_handle = self._timer = asyncio.get_running_loop().call_later(0, lambda: None)

    def _try_round(self) -> None:
        try:
            self._round()
        except Exception as error:
            # A bug of ours. What this round had decided is lost, perhaps a transaction that the broker now waits
            # for without end: to stop and start from what is on disk is safe, to go on is not.
            self._failure = error
            self._stopped.set()

    def _round(self) -> None:
        if self._round_handle:
            self._round_handle.cancel()  # it may be the one that runs
            self._round_handle = None
        now_ms = self.clock.now_ms()
        broker, touched = self._broker, dict[Peer, None]()
        inbox, self._inbox = self._inbox, []
        self._inbox_bytes = 0
        began_s = perf_counter()
        for input in inbox:
            self._obey(broker.handle(input, now_ms), touched)
        deadline_ms = broker.next_deadline_ms()
        if deadline_ms is not None and deadline_ms <= now_ms:
            self._obey(broker.handle(Tick(), now_ms), touched)
        if not self._committing:
            self._obey(broker.handle(StoreReady(), now_ms), touched)
        for peer in touched:
            peer.flush()
        self._resume_reading()
        self._wake_at(broker.next_deadline_ms(), now_ms)
        self.metrics.round_seconds.observe(perf_counter() - began_s)
        self._rounds_over.set()

    def _wake_at(self, deadline_ms: int | None, now_ms: int) -> None:
        # A timer that is set for earlier stays: one round too many now and then costs less than a timer for each round.
        if deadline_ms is None or (self._timer and self._timer_ms <= deadline_ms):
            return
        if self._timer:
            self._timer.cancel()
        self._timer_ms = deadline_ms
        self._timer = asyncio.get_running_loop().call_later(max(0, deadline_ms - now_ms) / 1000, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._schedule()

    def _obey(self, effects: list[Effect], touched: dict[Peer, None]) -> None:
        for effect in effects:
            match effect:
                case WebhooksChanged():
                    self.webhooks_changed.set()
                case StartCommit():
                    self._start_commit(effect.commit)
                case Fetch():
                    rows = self._pages.read(effect.epoch, effect.after, effect.limit_bytes)
                    if rows:
                        self.submit(Fetched(effect.subscription, effect.epoch, list(rows)))
                    else:
                        self._reads.put_nowait(effect)
                case Survey() | Locate() | Sample() | ReadRows() | ReadRecords() | ListRecords():
                    self._reads.put_nowait(effect)
                case _:
                    self._answer(effect, touched)

    def _answer(self, effect: ToConnection, touched: dict[Peer, None]) -> None:
        peer = self._peers.get(effect.connection)
        if peer is None:
            return
        if isinstance(effect, Confirm | Transacted):
            self._published.remove(effect.connection, effect.number)
        elif isinstance(effect, Refuse) and effect.kind in ("publish", "transact"):
            self._published.remove(effect.connection, effect.request)
        elif isinstance(effect, Deliver):
            self.metrics.deliver(effect)
        touched[peer] = None
        try:
            peer.obey(effect)
        except Exception:
            # What cannot be spelled for one connection must not end the round of all the others.
            _log.exception("connection %d: a %s cannot be told; closing it", peer.connection, type(effect).__name__)
            peer.obey(Close(peer.connection, InternalError("the server made a mistake; its log says which")))

    def _resume_reading(self) -> None:
        if not self._published.paused or self._broker.pending_bytes() > limits.NODE_PENDING_BYTES_MAX // 2:
            return
        for connection in self._published.resume():
            peer = self._peers.get(connection)
            if peer:
                peer.resume_reading()

    def _start_commit(self, commit: Commit) -> None:
        self._committing = True
        self._commit_number += 1
        number = msgspec.msgpack.encode(self._commit_number)
        began_s, oldest_s = perf_counter(), self.metrics.begin_commit()
        # Begun here and not where it is waited for: the disk works while this round still tells its peers.
        end = self.store.commit(commit._replace(puts=[*commit.puts, (_COMMIT_KEY, number)]))
        self._commits.put_nowait(_UnderWay(commit, number, end, began_s, oldest_s))

    # --- workers ---

    async def _commit(self) -> None:
        while True:
            under_way = await self._commits.get()
            commit = under_way.commit
            try:
                await self._commit_surely(under_way.end, under_way.number)
            except CommitFailed as error:
                _log.warning("nothing of commit %d was stored: %s", self._commit_number, error)
                self._committing = False
                self._refusals += 1
                self.metrics.refused_commits += 1
                self.submit(CommitRefused(str(error), error.full))
            else:
                for append in commit.appends:
                    self._pages.add(append.queue, append.stored)
                for trim in commit.trims:
                    self._pages.trim(trim.queue, trim.to_sequence)
                self._committing = False
                self._refusals = 0
                self.metrics.committed(commit, under_way.oldest_s, under_way.began_s, perf_counter())
                self._inbox.append(Committed())
                self._try_round()  # at once: what is durable is told before the loop looks at its sockets again

    async def _commit_surely(self, end: Awaitable[None], number: bytes) -> None:
        """Waits for the end of a commit; where its outcome is unknown, reads until it is known."""
        try:
            await end
            return
        except OutcomeUnknown as error:
            _log.warning("outcome of commit %d is unknown, reading it: %s", self._commit_number, error)
        while True:
            try:
                found = await self.store.get(_COMMIT_KEY)
                break
            except StoreDamaged:
                raise
            except TidingsError as error:
                _log.warning("reading the outcome of commit %d failed, trying again: %s", self._commit_number, error)
                await asyncio.sleep(_RETRY_S)
        if found != number:
            raise CommitFailed("the transaction was not stored; publish again")

    async def _read(self) -> None:
        while True:
            effect = await self._reads.get()
            try:
                self.submit(await self._answer_read(effect))
            except TidingsError as error:
                _log.warning("%s failed, trying again: %s", effect, error)
                asyncio.get_running_loop().call_later(_RETRY_S, self._reads.put_nowait, effect)

    async def _answer_read(self, effect: Read) -> Input:
        store = self.store
        match effect:
            case Fetch():
                rows = await store.read(effect.epoch, effect.after, effect.limit_bytes)
                for row in rows:
                    if not hasattr(row, "reason"):
                        self._pages.add(effect.epoch, row)
                return Fetched(effect.subscription, effect.epoch, rows)
            case Survey():
                oldest = await store.survey(effect.epoch, 0, limits.TRIM_ROWS_MAX)
                return Surveyed(effect.epoch, oldest, await self._settled_bytes(effect, oldest))
            case ReadRows():
                known = self._pages.read(effect.epoch, effect.after, effect.limit_bytes)
                rows = [*known] or await store.read(effect.epoch, effect.after, effect.limit_bytes)
                return RowsRead(effect.ticket, rows)
            case ListRecords():
                listed = await store.list(effect.prefix, effect.after, effect.limit_bytes)
                return RecordsListed(effect.ticket, listed)
            case ReadRecords():
                return RecordsRead(effect.ticket, [await store.get(key) for key in effect.keys])
            case Locate():
                sequence = await store.locate(effect.epoch, effect.time_ms)
                return Located(effect.ticket, sequence)
            case Sample():
                return Sampled(effect.ticket, await sample(store, effect.epoch, effect.to_sequence))
            case _:
                assert_never(effect)

    async def _settled_bytes(self, effect: Survey, oldest: list[Row]) -> int:
        if not oldest:
            return 0
        unsettled = await self.store.survey(effect.epoch, effect.settled_to, 1)
        if unsettled:
            return unsettled[0].offset_bytes - oldest[0].offset_bytes
        bounds = await self.store.bounds([effect.epoch])
        return bounds[effect.epoch].size_bytes if effect.epoch in bounds else 0

    async def _watch_disk(self) -> None:
        free_bytes = getattr(self.store, "free_bytes", None)
        while free_bytes is not None:
            self.submit(DiskSpace(free_bytes()))
            await asyncio.sleep(_DISK_INTERVAL_S)


def _first_epoch(fresh_token: str) -> int:
    """Returns a number that hardly any other store began with, in the lower half of what an epoch may be."""
    digest = hashlib.sha256(fresh_token.encode()).digest()
    return 1 + int.from_bytes(digest[:4], "big") // 2


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Spares the garbage collector what is made and kept: it would look through all of it again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # As if it had been looked through already: else that would come first, and take a fifth of the time.
            if not gc.get_freeze_count():  # of a program that has frozen something it stays so
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@contextmanager
def _records_told_damaged() -> Iterator[None]:
    try:
        yield
    except StoreUnusable:
        raise  # it says itself what is wrong
    except (msgspec.MsgspecError, ValueError, TidingsError) as error:
        raise StoreDamaged(f"a record of the store is damaged ({error}); `tidings check` says where") from error
