"""Everything a broker knows, shared by the rules that work on it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from tidings import limits
from tidings.broker.cursors import Cursor, State
from tidings.broker.dead_letters import DeadLetter
from tidings.broker.deadlines import Deadlines
from tidings.broker.effects import Effect
from tidings.broker.ledger import Ledger, Recorded
from tidings.broker.lookups import Lookups
from tidings.broker.queues import Queue, side_queue_name
from tidings.broker.records import Counters, Trash, encode
from tidings.broker.sessions import Client, Producer, Session
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.errors import LimitReached, NotFound, Refused, SystemQueue
from tidings.model import Webhook, check_name


class BrokerState:
    """The broker's memory. `now_ms` and `effects` belong to the input that is being handled."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.effects: list[Effect] = []
        self.ledger = Ledger(encode)
        self.deadlines: Deadlines[tuple[str, int]] = Deadlines()
        self.counters = Counters()
        self.queues: dict[str, Queue] = {}
        self.epochs: dict[int, Queue] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self._names: list[str] | None = None  # of the subscriptions in order, once somebody lists them
        self.numbers: dict[int, Subscription] = {}
        self.literal: dict[str, dict[Subscription, None]] = {}
        """Subscriptions to exactly one queue, by its name."""
        self.wide: dict[Subscription, None] = {}
        """Subscriptions whose queue pattern has wildcards."""
        self.sessions: dict[int, Session] = {}
        self.tokens: dict[str, Session] = {}
        self.client_ids: dict[str, Session] = {}
        self.clients: dict[str, Client] = {}
        self.producers: dict[str, Producer] = {}
        self.webhooks: dict[str, Webhook] = {}
        self.trash: dict[int, int] = {}
        """Epochs of deleted queues whose rows are still to be removed, and up to which sequence they are."""
        self.limited: dict[int, Session] = {}
        """Sessions whose subscribers share a quota of messages in flight, by connection."""
        self.crowded_out: dict[Queue, dict[Cursor, None]] = {}
        """Cursors that have to wait until fewer messages of their queue are in flight, by queue."""
        self.lookups = Lookups()
        self.scans: dict[Cursor, None] = {}
        self.moved: dict[Cursor, None] = {}
        """Cursors that moved since the input came, and of which somebody waits for a receipt."""
        self.scanning: Cursor | None = None
        self.free_bytes: int | None = None
        self.draining = False

    def changed(self, item: Recorded) -> None:
        """Takes note that a record is out of date."""
        self.ledger.changed(item, self.now_ms)

    def changed_cursor(self, cursor: Cursor) -> None:
        """Takes note that a cursor moved; only those of durable subscriptions have a record."""
        if cursor.awaited:
            self.moved[cursor] = None
        if cursor.subscription.durable:
            self.ledger.changed(cursor, self.now_ms)

    def cut_from(self, cursor: Cursor) -> None:
        """Takes note that a cursor has changed with the gaps that its subscription is to be told: both or none."""
        if cursor.awaited:
            self.moved[cursor] = None
        self._changed_at_once(cursor.subscription, [cursor, cursor.subscription])

    def has_gap(self, subscription: Subscription) -> None:
        """Takes note that a subscription is to be told a gap: in the transaction that makes it one."""
        self._changed_at_once(subscription, [subscription])

    def _changed_at_once(self, subscription: Subscription, items: list[Recorded]) -> None:
        """Takes note of changes that are in the next transaction, however many others wait.

        A subscription that is not stored yet is never before its cursors: it would begin elsewhere after a crash.
        """
        if subscription.is_stored:
            self.ledger.changed_together(items, self.now_ms)
        elif subscription.durable:
            for item in items:
                self.ledger.changed(item, self.now_ms)

    def followed(self, cursor: Cursor) -> None:
        """Takes note that a cursor moved past messages it does not want: written once that is worth it."""
        if cursor.settled_to - cursor.recorded >= limits.FOLLOW_PERSIST_MESSAGES:
            self.changed_cursor(cursor)

    def watch(self, subscriber: Subscriber) -> None:
        """Takes note of when the next delivery of a subscriber runs out of time."""
        deadline_ms = subscriber.deadline_ms()
        if deadline_ms is not None:
            self.deadlines.set_at_latest(("ack", subscriber.subscription.number), deadline_ms)

    def open_queue(self, name: str) -> Queue:
        """Returns the queue of this name; it exists from its first use.

        Raises:
            InvalidName: the name breaks the rules.
            LimitReached: there are too many queues.
        """
        queue = self.queues.get(name)
        if queue:
            return queue
        check_name(name, "queue")
        if len(self.queues) >= limits.QUEUES_MAX:
            raise LimitReached(f"there are {limits.QUEUES_MAX} queues, no more are allowed; delete some")
        queue = self._new_queue(name)
        for subscription in [*self.literal.get(name, ()), *self.wide]:
            # A replay is of the queue that was deleted, and over.
            if subscription.end_told is None and subscription.filter.wants_queue(name):
                self.add_cursor(subscription, queue, position=0)
        return queue

    def open_side_queue(self, subscription: Subscription, shown_as: str) -> Queue:
        """Returns the side queue through which messages of a queue come back to one subscription."""
        name = side_queue_name(subscription.number, shown_as)
        queue = self.queues.get(name)
        if queue is None:
            queue = self._new_queue(name)
            published_into = self.queues.get(shown_as)
            queue.paused = published_into is not None and published_into.paused
            self.add_cursor(subscription, queue, position=0)
        return queue

    def _new_queue(self, name: str) -> Queue:
        queue = Queue(name, self.counters.next_epoch, self.now_ms)
        self.counters.next_epoch += 1
        self.changed(self.counters)
        self.add_queue(queue)
        self.changed(queue)
        return queue

    def add_queue(self, queue: Queue) -> None:
        """Lets a queue be known."""
        self.queues[queue.name] = queue
        self.epochs[queue.epoch] = queue

    def remove_queue(self, queue: Queue) -> None:
        """Forgets a queue that no cursor reads any more; its rows are removed in the background."""
        del self.queues[queue.name]
        del self.epochs[queue.epoch]
        for key in queue.recent_ids.record_keys():
            self.ledger.deleted(key, self.now_ms)
        for session in self.sessions.values():
            session.queues.pop(queue.name, None)
        if queue.owner is not None:
            self.ledger.forget_own(queue.name)
        self.trash[queue.epoch] = 0
        self.ledger.deleted(queue.key, self.now_ms)
        self.changed(Trash(queue.epoch))

    def find(self, name: str) -> Subscription:
        """Returns the subscription of this name, or the only one of the client of this name.

        Raises:
            NotFound: there is none.
            Refused: the client has several.
        """
        found = self.subscriptions.get(name)
        if found:
            return found
        owned = [item for item in self.subscriptions.values() if item.client_id == name and item.durable]
        if len(owned) == 1:
            return owned[0]
        if owned:
            names = ", ".join(repr(item.name) for item in owned[:5])
            raise Refused(f"client {name!r} has {len(owned)} subscriptions; name one: {names}")
        raise NotFound(f"there is no subscription {name!r}; `tidings subscriptions` lists them")

    def find_made(self, name: str) -> Subscription:
        """Returns a subscription as `find` does, to change it.

        Raises:
            NotFound: there is none.
            Refused: the client has several, or it is just being made: it is written once it has its place, not before.
        """
        subscription = self.find(name)
        if subscription.locating:
            raise Refused(f"subscription {subscription.name!r} is just being made; ask again in a moment")
        return subscription

    def find_queue(self, name: str, done: str) -> Queue:
        """Returns a queue of clients that something is to be `done` to.

        Raises:
            NotFound: there is none of the name.
            SystemQueue: it is the server's own.
        """
        queue = self.queues.get(name)
        if queue is None:
            raise NotFound(f"there is no queue {name!r}; `tidings queues` lists them")
        if queue.is_system:
            raise SystemQueue(f"queue {name!r} is the server's own and cannot be {done}")
        return queue

    def subscriptions_from(self, name: str) -> Iterator[Subscription]:
        """Yields the subscriptions in the order of their names, from a name on."""
        names = self._names
        if names is None:
            names = self._names = sorted(self.subscriptions)
        for place in range(bisect_left(names, name), len(names)):
            yield self.subscriptions[names[place]]

    def add_subscription(self, subscription: Subscription) -> None:
        """Lets a subscription be known."""
        self.subscriptions[subscription.name] = subscription
        self._names = None
        self.numbers[subscription.number] = subscription
        if subscription.filter.literal:
            self.literal.setdefault(subscription.filter.queue, {})[subscription] = None
        else:
            self.wide[subscription] = None

    def remove_subscription(self, subscription: Subscription) -> None:
        """Forgets a subscription, its cursors and their records."""
        for cursor in list(subscription.cursors.values()):
            self.remove_cursor(cursor)
            if cursor.queue.owner is not None:
                self.remove_queue(cursor.queue)
        for letter in list(subscription.dead.values()):
            # Also from its memory: lookups under way look there whether their letter still matters.
            self.remove_dead_letter(subscription, letter)
        subscription.redriving.clear()
        del self.subscriptions[subscription.name]
        self._names = None
        del self.numbers[subscription.number]
        self.wide.pop(subscription, None)
        readers = self.literal.get(subscription.filter.queue)
        if readers:
            readers.pop(subscription, None)
            if not readers:
                del self.literal[subscription.filter.queue]
        if subscription.durable:
            self.ledger.deleted(subscription.key, self.now_ms)

    def remove_dead_letter(self, subscription: Subscription, letter: DeadLetter) -> None:
        """Forgets a dead letter and its records."""
        subscription.unbury(letter)
        self.ledger.deleted(letter.key, self.now_ms)
        self.ledger.deleted(letter.content_key, self.now_ms)

    def add_cursor(self, subscription: Subscription, queue: Queue, *, position: int) -> Cursor:
        """Gives a subscription its place in a queue."""
        cursor = Cursor(subscription, queue, position)
        subscription.cursors[queue.epoch] = cursor
        queue.add(cursor)
        subscriber = subscription.subscriber
        if subscriber is None:
            self.rest(cursor)
        elif cursor.at_tail and not cursor.is_held:
            queue.set_state(cursor, State.LIVE)
        else:
            queue.set_state(cursor, State.BEHIND)
            subscriber.behind[cursor] = None
        if subscription.durable:
            self.changed(cursor)
        return cursor

    def remove_cursor(self, cursor: Cursor) -> None:
        """Takes a subscription out of a queue."""
        if cursor.awaited:
            self.moved[cursor] = None
        if cursor.subscription.subscriber:
            cursor.subscription.subscriber.forget(cursor)
        self.scans.pop(cursor, None)
        self.crowded_out.get(cursor.queue, {}).pop(cursor, None)
        if self.scanning is cursor:
            self.scanning = None
        cursor.queue.remove(cursor)
        cursor.subscription.cursors.pop(cursor.queue.epoch, None)
        if cursor.subscription.durable:
            self.ledger.deleted(cursor.key, self.now_ms)

    def rest(self, cursor: Cursor) -> None:
        """Chooses the state of a cursor whose subscriber is away."""
        queue = cursor.queue
        if cursor.unsettled:
            queue.set_state(cursor, State.WAITING)
        elif cursor.position >= queue.committed:
            queue.set_state(cursor, State.IDLE)
        elif cursor.filter.everything:
            queue.set_state(cursor, State.WAITING)
        else:
            queue.set_state(cursor, State.SCANNING)
            self.scans[cursor] = None
