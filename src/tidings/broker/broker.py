"""The broker: what comes in, which rule it goes to, what comes out.

Pure: no clock, no I/O, no randomness. The same inputs at the same times give the same effects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, assert_never

from tidings import limits
from tidings.broker.answers import done_when_durable, not_found
from tidings.broker.catalog import Catalog
from tidings.broker.clients import Clients
from tidings.broker.deletions import Deletions
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Close, Done, Effect, Listing, Refuse, StartCommit
from tidings.broker.expiry import Expiry
from tidings.broker.forgetting import Forgetting
from tidings.broker.giving_up import GivingUp
from tidings.broker.inputs import (
    Ack,
    Ask,
    Call,
    CommitRefused,
    Committed,
    Connect,
    Delete,
    Disconnect,
    DiskSpace,
    Drain,
    Extend,
    Fetched,
    Input,
    List,
    Located,
    Nack,
    Publish,
    RecordsListed,
    RecordsRead,
    Request,
    RowsRead,
    Sampled,
    SendBuffer,
    StoreReady,
    Subscribe,
    Surveyed,
    Tick,
    Transact,
    Unsubscribe,
)
from tidings.broker.pausing import Pausing
from tidings.broker.peeking import Peeking
from tidings.broker.presence import Presence
from tidings.broker.publishing import Publishing
from tidings.broker.quotas import Quotas
from tidings.broker.receipts import Receipts
from tidings.broker.replies import Replies
from tidings.broker.retention import Retention
from tidings.broker.retries import Retries
from tidings.broker.schedules import Schedules
from tidings.broker.seeking import Seeking
from tidings.broker.sessions import Session
from tidings.broker.settings import Settings
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import attached
from tidings.broker.transactions import Transactions
from tidings.broker.waiting import Waiting
from tidings.broker.webhooks import Webhooks
from tidings.calls import (
    AwaitReceipt,
    AwaitReply,
    CancelSchedule,
    ConfigureClient,
    ConfigureQueue,
    ConfigureSubscription,
    DeadLetterGroups,
    DeleteDeadLetters,
    DeleteMessage,
    DeleteWebhook,
    DisableWebhook,
    EditDeadLetter,
    ListDeadLetters,
    ListReceipts,
    ListSchedules,
    ListWebhooks,
    Pause,
    Peek,
    Purge,
    PutWebhook,
    Redrive,
    Respond,
    Schedule,
    Seek,
)
from tidings.errors import NotFound, TidingsError
from tidings.model import PRESENCE_QUEUE

_PRODUCERS_INTERVAL_MS = 60_000
I = TypeVar("I")  # noqa: E741  an input


class Broker:
    """All rules of Tidings, on one memory."""

    def __init__(self, now_ms: int) -> None:
        self.state = BrokerState(now_ms)
        self._deliveries = Deliveries(self.state)
        self._quotas = Quotas(self.state, self._deliveries)
        self._publishing = Publishing(self.state, self._quotas)
        self._presence = Presence(self.state, self._publishing)
        self._giving_up = GivingUp(self.state, self._deliveries, self._publishing)
        self._retries = Retries(self.state, self._deliveries, self._giving_up)
        self._retention = Retention(self.state)
        self._pausing = Pausing(self.state, self._deliveries)
        self._catalog = Catalog(
            self.state, self._deliveries, self._retries, self._presence, self._retention, self._quotas
        )
        self._deletions = Deletions(self.state, self._deliveries, self._pausing)
        self._receipts = Receipts(self.state)
        self._replies = Replies(self.state)
        self._clients = Clients(self.state, self._catalog, self._presence, self._receipts, self._replies, self._quotas)
        self._schedules = Schedules(self.state, self._publishing)
        self._transactions = Transactions(self.state, self._publishing, self._deliveries)
        self._seeking = Seeking(self.state, self._deliveries, self._retention)
        self._webhooks = Webhooks(self.state)
        self._waiting = Waiting(self.state, self._deliveries)
        self._settings = Settings(self.state, self._waiting, self._quotas)
        self._forgetting = Forgetting(self.state, self._deliveries)
        self._peeking = Peeking(self.state)
        self._expiry = Expiry(self.state, self._deliveries)
        self.state.deadlines.set(("producers", 0), now_ms + _PRODUCERS_INTERVAL_MS)

    def begin(self, lost: list[tuple[str, str | None, str, str]]) -> None:
        """Starts after a restart: (token, client id, address, protocol) of clients that were connected before."""
        self.state.open_queue(PRESENCE_QUEUE)
        self._quotas.begin()
        self._waiting.begin()
        self._catalog.watch_expiries()
        self._schedules.begin()
        for subscription in self.state.subscriptions.values():
            self._retries.watch(subscription)
        for session in lost:
            self._presence.lost(*session)

    def handle(self, input: Input, now_ms: int) -> list[Effect]:
        """Takes one input and returns what is to be done about it, in order.

        `now_ms` is UTC in milliseconds and never goes backwards. Errors of clients are effects; an exception is
        a bug.
        """
        state = self.state
        state.now_ms = now_ms
        effects = state.effects = []
        match input:
            case Publish():
                self._request(input.connection, "publish", input.number, self._publish, input)
            case Ack():
                self._request(input.connection, "ack", input.request, self._ack, input)
            case Fetched():
                self._deliveries.fetched(input)
            case Transact():
                self._request(input.connection, "transact", input.number, self._transact, input)
            case Nack():
                self._request(input.connection, "nack", input.request, self._nack, input)
            case Extend():
                self._request(input.connection, "extend", input.request, self._extend, input)
            case Ask():
                self._request(input.connection, "ask", input.request, self._ask, input)
            case Call():
                self._request(input.connection, "call", input.request, self._call, input)
            case RowsRead():
                state.lookups.rows_read(input.ticket, input.rows)
            case RecordsRead():
                state.lookups.records_read(input.ticket, input.records)
            case StoreReady():
                self._store_ready()
            case Committed():
                self._committed()
            case CommitRefused():
                self._commit_refused(input)
            case Tick():
                self._tick()
            case Connect():
                self._connect(input)
            case Disconnect():
                session = state.sessions.get(input.connection)
                if session:
                    self._clients.disconnect(session, farewell=input.farewell, reason=input.reason)
            case Subscribe():
                self._request(input.connection, "subscribe", input.request, self._catalog.subscribe, input)
            case Unsubscribe():
                self._request(input.connection, "unsubscribe", input.request, self._catalog.unsubscribe, input)
            case List():
                self._request(input.connection, "list", input.request, self._list, input)
            case Delete():
                self._request(input.connection, "delete", input.request, self._deletions.delete, input)
            case SendBuffer():
                self._send_buffer(input)
            case RecordsListed():
                state.lookups.records_listed(input.ticket, input.records)
            case Surveyed():
                self._retention.surveyed(input)
            case Sampled():
                state.lookups.sampled(input.ticket, input.rows)
            case Located():
                state.lookups.located(input.ticket, input.sequence)
            case DiskSpace():
                state.free_bytes = input.free_bytes
            case Drain():
                state.draining = True
            case _:
                assert_never(input)
        if state.limited:
            self._quotas.go_on(input)
        if state.crowded_out:
            self._deliveries.go_on_crowded_out()
        self._deliveries.scan()
        if state.moved:
            self._receipts.look()
        return effects

    def next_deadline_ms(self) -> int | None:
        """Returns when a Tick (and then a StoreReady) is wanted at the latest."""
        due_ms, written_ms = self.state.deadlines.next_ms(), self.state.ledger.deadline_ms()
        if due_ms is None or written_ms is None:
            return written_ms if due_ms is None else due_ms
        return min(due_ms, written_ms)

    def pending_bytes(self) -> int:
        """Returns how many published bytes wait for the store."""
        return self.state.ledger.pending_bytes

    # --- commands ---

    def _request(
        self, connection: int, kind: Request, request: int, rule: Callable[[Session, I], None], input: I
    ) -> None:
        session = self.state.sessions.get(connection)
        if session is None:
            return  # taken over or closed while the input was on its way
        try:
            rule(session, input)
        except TidingsError as error:
            if isinstance(error, NotFound) and kind in ("delete", "call"):
                not_found(self.state, connection, kind, request, error)
            else:
                self.state.effects.append(Refuse(connection, kind, request, error))

    def _connect(self, input: Connect) -> None:
        try:
            self._clients.connect(input)
        except TidingsError as error:
            self.state.effects.append(Close(input.connection, error))

    def _publish(self, session: Session, input: Publish) -> None:
        self._publishing.publish(session, input)
        if not session.announced:
            self._presence.announce(session)

    def _transact(self, session: Session, input: Transact) -> None:
        self._transactions.transact(session, input)
        if not session.announced:
            self._presence.announce(session)

    def _ack(self, session: Session, input: Ack) -> None:
        self._deliveries.ack(attached(session, input.handle, "ack"), input.ranges, earlier=input.earlier)
        if input.request:
            done_when_durable(self.state, input.connection, "ack", input.request)

    def _nack(self, session: Session, input: Nack) -> None:
        def done(error: TidingsError | None) -> None:
            if input.request and error:
                self.state.effects.append(Refuse(input.connection, "nack", input.request, error))
            elif input.request:
                done_when_durable(self.state, input.connection, "nack", input.request)

        self._retries.nack(attached(session, input.handle, "nack"), input, done)

    def _extend(self, session: Session, input: Extend) -> None:
        self._retries.extend(attached(session, input.handle, "extend"), input)
        if input.request:
            self.state.effects.append(Done(input.connection, input.request))

    def _ask(self, session: Session, input: Ask) -> None:
        self._deliveries.ask(attached(session, input.handle, "ask"), input.count, input.request)

    def _call(self, session: Session, input: Call) -> None:
        match input.call:
            case ConfigureSubscription():
                self._catalog.configure(session, input.request, input.call)
            case ConfigureQueue():
                self._settings.configure(session, input.request, input.call)
            case DeadLetterGroups():
                self._giving_up.groups(session, input.request, input.call)
            case ListDeadLetters():
                self._giving_up.page(session, input.request, input.call)
            case EditDeadLetter():
                self._giving_up.edit(session, input.request, input.call)
            case DeleteDeadLetters():
                self._giving_up.delete(session, input.request, input.call)
            case Redrive():
                self._giving_up.redrive(session, input.request, input.call)
            case Schedule():
                self._schedules.schedule(session, input.request, input.call)
            case CancelSchedule():
                self._schedules.cancel(session, input.request, input.call)
            case ListSchedules():
                self._schedules.page(session, input.request, input.call)
            case Pause():
                self._pausing.pause(session, input.request, input.call)
            case Seek():
                self._seeking.seek(session, input.request, input.call)
            case PutWebhook():
                self._webhooks.put(session, input.request, input.call)
            case DisableWebhook():
                self._webhooks.disable(session, input.request, input.call)
            case DeleteWebhook():
                self._webhooks.delete(session, input.request, input.call)
            case ListWebhooks():
                self._webhooks.page(session, input.request, input.call)
            case Purge():
                self._forgetting.purge(session, input.request, input.call)
            case DeleteMessage():
                self._forgetting.delete(session, input.request, input.call)
            case Peek():
                self._peeking.peek(session, input.request, input.call)
            case ConfigureClient():
                self._quotas.configure(session, input.request, input.call)
            case ListReceipts():
                self._receipts.page(session, input.request, input.call)
            case AwaitReceipt():
                self._receipts.wait(session, input.request, input.call)
            case AwaitReply():
                self._replies.wait(session, input.request, input.call)
            case Respond():
                self._replies.respond(session, input.request, input.call)
            case _:
                assert_never(input.call)

    def _list(self, session: Session, input: List) -> None:
        if session.client_id is None and not session.announced:
            session.only_looks = True
        entries, after = self._presence.listing(input.what, input.after, input.name)
        self.state.effects.append(Listing(input.connection, input.request, entries, after))

    def _send_buffer(self, input: SendBuffer) -> None:
        session = self.state.sessions.get(input.connection)
        if session:
            session.send_buffer_full = input.full
            if not input.full:
                self._replies.go_on(session)
                for subscriber in session.subscribers.values():
                    self._deliveries.pump(subscriber.subscription)

    # --- rounds ---

    def _store_ready(self) -> None:
        commit = self.state.ledger.begin(self.state.now_ms, self.state.open_queue)
        if commit is not None:
            self.state.effects.append(StartCommit(commit))

    def _committed(self) -> None:
        round = self.state.ledger.end(stored=True, now_ms=self.state.now_ms)
        self._publishing.stored(round)
        self._transactions.stored(round)
        bursts: dict[Session, int] = {}
        for queue, rows in round.rows.items():
            queue.last_time_ms = rows[-1].time_ms
            queue.size_bytes += sum(len(row.batch.body) for row in rows)
            if queue.marks is not None:
                for row in rows:
                    queue.marks.add(row.last_sequence, len(row.batch.body), row.time_ms)
            self._deliveries.committed(queue, rows, bursts)
            self._waiting.bound(queue)
        for answer in round.answers:
            answer.reached()
        self._retention.trimmed(round.trims, stored=True)

    def _commit_refused(self, input: CommitRefused) -> None:
        round = self.state.ledger.end(stored=False, now_ms=self.state.now_ms)
        self._transactions.refused(self._publishing.refused(round, input.reason, full=input.full))
        for answer in round.answers:
            answer.failed(input.reason, input.full)
        self._retention.trimmed(round.trims, stored=False)

    # --- time ---

    def _tick(self) -> None:
        state = self.state
        for what, number in state.deadlines.due(state.now_ms):
            if what == "trim":
                self._retention.tick()
                self._retention.follow()
                self._expiry.tick()
                self._waiting.tick()
            elif what == "schedule":
                self._schedules.due()
            elif what == "receipt":
                self._receipts.overdue(number)
            elif what == "reply":
                self._replies.overdue(number)
            elif what == "producers":
                self._forget_producers()
            else:
                self._subscription_due(what, number)

    def _subscription_due(self, what: str, number: int) -> None:
        subscription = self.state.numbers.get(number)
        if subscription is None:
            return
        if what == "ack":
            self._retries.overdue(subscription)
        elif what == "retry":
            self._retries.due(subscription)
        elif what == "pace":
            self._deliveries.paced(subscription)
        elif what == "redrive":
            self._giving_up.redrive_some(subscription)
        else:
            self._catalog.expire(subscription)

    def _forget_producers(self) -> None:
        """Forgets publishers that have been away for too long, or are too many."""
        state = self.state
        state.deadlines.set(("producers", 0), state.now_ms + _PRODUCERS_INTERVAL_MS)
        connected = {session.producer.id for session in state.sessions.values()}
        away = [item for item in state.producers.values() if item.id not in connected and not item.pending]
        away.sort(key=lambda producer: producer.last_seen_ms)
        surplus = max(0, len(away) - limits.PRODUCERS_MAX)
        for index, producer in enumerate(away):
            if index >= surplus and state.now_ms - producer.last_seen_ms < limits.PRODUCER_AGE_MS:
                break
            del state.producers[producer.id]
            state.ledger.deleted(producer.key, state.now_ms)
