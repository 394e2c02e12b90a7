"""What is true of a broker between any two inputs; for simulations and tests.

1. A queue: first_sequence <= committed + 1; what is purged or deleted was committed. Only a round under way may
   have given out sequences above `committed`.
2. A cursor: `due` and `parked` lie within `unsettled` and have nothing in common, `unsettled` lies within
   1..position, position <= committed; attempts are counted only of what is unsettled.
   Of a key only the first message that is known may be in flight, the others of it wait.
3. A cursor's state: LIVE and BEHIND have a subscriber, the others have none; LIVE is at the tail, and exactly the
   LIVE ones are in the queue's set; exactly the BEHIND ones are in their subscriber's; IDLE has nothing unsettled;
   WAITING has something outstanding; SCANNING is being looked through or will be.
4. A subscriber: what it has in flight is what its cursors have in flight; its clock runs for at most
   `concurrency` deliveries, all of them in flight. Of several members each message is in flight to exactly one.
5. Tables agree: every cursor is known to its queue and its subscription, every subscriber to its session, every
   token and client id to its session; bytes that wait for the store are counted right.
6. Over time, in one life of the broker: what a subscription has settled stays settled until it is moved; what a
   subscriber has in flight does not grow beyond its window, nor what all have in flight of a queue beyond what may be;
   both may become smaller than what is in flight already.
7. Dead letters: only a durable subscription has some, with numbers below the next one, and never more than allowed;
   those on their way there are counted; what waits for a retry has a deadline.
"""

from __future__ import annotations

from collections.abc import Hashable

from tidings import limits
from tidings.broker.broker import Broker
from tidings.broker.cursors import FOLLOWS, Cursor, State
from tidings.broker.members import Members
from tidings.broker.queues import Queue
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.ranges import Ranges

_ALL_EVERY = 16  # inputs, until also what looks as before is checked again


class Invariants:
    """Checks one broker after each input; remembers what may only grow."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._settled_to: dict[tuple[int, int, int, int], int] = {}
        self._in_flight: dict[tuple[int, int], int] = {}
        self._of_queues: dict[int, int] = {}
        self._looks: dict[int, Hashable] = {}
        self._turns = 0

    def check(self) -> None:
        """Checks everything.

        Raises:
            AssertionError: an invariant is broken; the text says which, and where.
        """
        state = self._broker.state
        self._in_flight = self._check(list(state.subscriptions.values()))

    def check_changed(self) -> None:
        """Checks everything but the subscriptions that look as before; now and then those, too.

        For who checks after hundreds of thousands of inputs, most of which change little.

        Raises:
            AssertionError: as `check`.
        """
        self._turns += 1
        if self._turns % _ALL_EVERY == 0:
            self.check()
            return
        subscriptions = self._broker.state.subscriptions.values()
        looks: dict[int, Hashable] = {subscription.number: _look(subscription) for subscription in subscriptions}
        changed = [each for each in subscriptions if looks[each.number] != self._looks.get(each.number)]
        self._looks = looks
        self._in_flight |= self._check(changed)

    def _check(self, subscriptions: list[Subscription]) -> dict[tuple[int, int], int]:
        _check_state(self._broker.state)
        self._check_crowds()
        in_flight: dict[tuple[int, int], int] = {}
        for subscription in subscriptions:
            _check_subscription(self._broker.state, subscription)
            for epoch, cursor in subscription.cursors.items():
                self._check_progress(cursor, (subscription.number, epoch, cursor.moves, cursor.rewound))
            in_flight |= self._check_windows(subscription)
        return in_flight

    def _check_crowds(self) -> None:
        bounded = [each for each in self._broker.state.queues.values() if each.settings.in_flight_max is not None]
        found: dict[int, int] = {}
        for queue in bounded:
            now = sum(cursor.in_flight for cursor in queue.cursors)
            most = max(queue.settings.in_flight_max or 0, self._of_queues.get(queue.epoch, now))
            assert now <= most, f"queue {queue.name!r}: {now} in flight, {most} may be"
            found[queue.epoch] = now
        self._of_queues = found

    def _check_windows(self, subscription: Subscription) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}
        for subscriber in subscription.attached():
            key, now = (subscriber.session.connection, subscriber.handle), subscriber.in_flight
            most = max(subscription.in_flight_max, self._in_flight.get(key, 0))
            assert now <= most, f"subscription {subscription.name!r}: {now} in flight, the window is {most}"
            found[key] = now
        return found

    def _check_progress(self, cursor: Cursor, key: tuple[int, int, int, int]) -> None:
        before, now = self._settled_to.get(key, 0), cursor.settled_to
        # An ephemeral one that comes back is a new one, with another number.
        assert now >= before or _is_placed(cursor), f"{_name(cursor)}: the cursor moved back from {before} to {now}"
        self._settled_to[key] = now


def check(broker: Broker) -> None:
    """Checks everything that can be seen at one moment.

    Raises:
        AssertionError: an invariant is broken; the text says which, and where.
    """
    _check_state(broker.state)
    for subscription in broker.state.subscriptions.values():
        _check_subscription(broker.state, subscription)


def _look(subscription: Subscription) -> Hashable:
    """Returns something that is another one when a subscription has changed, in all likelihood."""
    return (
        len(subscription.dead),
        subscription.dying,
        subscription.in_flight_max,
        *((id(each), each.in_flight, each.in_flight_bytes, each.starting) for each in subscription.attached()),
        *(
            (
                cursor.state,
                cursor.position,
                cursor.queue.committed,
                cursor.settled_to,
                cursor.unsettled.count,
                len(cursor.unsettled),
                cursor.due.count,
                len(cursor.parked),
                len(cursor.attempts),
                cursor.keys and cursor.keys.waiting,
                cursor.fetch_after,
            )
            for cursor in subscription.cursors.values()
        ),
    )


def _check_state(state: BrokerState) -> None:
    for queue in state.queues.values():
        _check_queue(state, queue)
    _check_tables(state)


def _check_subscription(state: BrokerState, subscription: Subscription) -> None:
    for cursor in subscription.cursors.values():
        _check_cursor(state, cursor)
        _check_keys(cursor)
    _check_dead(state, subscription)
    for subscriber in subscription.attached():
        _check_subscriber(state, subscription, subscriber)
    _check_members(subscription)


def _check_queue(state: BrokerState, queue: Queue) -> None:
    where = f"queue {queue.name!r}"
    assert queue.first_sequence <= queue.committed + 1, f"{where}: begins at {queue.first_sequence}, after its end"
    assert queue.purged_to <= queue.committed, f"{where}: purged to {queue.purged_to} of {queue.committed}"
    assert not queue.deleted or queue.first_kept <= queue.deleted.first <= queue.deleted.last <= queue.committed, (
        f"{where}: {queue.deleted} are deleted of {queue.first_kept} to {queue.committed}"
    )
    assert queue.size_bytes >= 0, f"{where}: holds {queue.size_bytes} bytes"
    live = [cursor for cursor in queue.cursors if cursor.state is State.LIVE]
    assert set(live) == set(queue.live), f"{where}: its set of live cursors is wrong"
    assert state.epochs.get(queue.epoch) is queue, f"{where}: its epoch leads elsewhere"


def _check_cursor(state: BrokerState, cursor: Cursor) -> None:
    where, subscription, queue = _name(cursor), cursor.subscription, cursor.queue
    subscriber = subscription.subscriber
    assert queue.epoch in state.epochs, f"{where}: its queue is deleted"
    assert cursor in queue.cursors, f"{where}: unknown to its queue"
    assert cursor.position <= queue.committed, f"{where}: position {cursor.position} of {queue.committed}"
    if cursor.unsettled:
        assert cursor.unsettled.first >= 1, f"{where}: unsettled {cursor.unsettled}"
        assert cursor.unsettled.last <= cursor.position, f"{where}: unsettled beyond {cursor.position}"
    for first, last in cursor.due:
        assert cursor.unsettled.within(first, last) == [(first, last)], f"{where}: {first}..{last} due but settled"
    for sequence in cursor.parked:
        assert sequence in cursor.unsettled, f"{where}: {sequence} waits for a retry but is settled"
        assert sequence not in cursor.due, f"{where}: {sequence} waits for a retry but is due"
    for sequence in cursor.attempts:
        assert sequence in cursor.unsettled, f"{where}: attempts of {sequence}, which is settled"
    attached = cursor.state in (State.LIVE, State.BEHIND)
    assert attached == (subscriber is not None), f"{where}: {cursor.state} with subscriber {subscriber}"
    if subscriber is not None:
        assert (cursor in subscriber.behind) == (cursor.state is State.BEHIND), (
            f"{where}: {cursor.state}, not so behind"
        )
    assert (cursor in queue.behind) == (cursor.state is State.BEHIND), f"{where}: {cursor.state}, not so in its queue"
    match cursor.state:
        case State.LIVE:
            assert cursor.at_tail, f"{where}: live at {cursor.position} of {queue.committed}, due {cursor.due}"
        case State.BEHIND:
            pass
        case State.IDLE:
            assert not cursor.unsettled, f"{where}: idle with {cursor.unsettled}"
        case State.WAITING:
            outstanding = cursor.unsettled or cursor.position < queue.committed
            assert outstanding, f"{where}: waiting with nothing outstanding"
            assert cursor.in_flight == 0, f"{where}: away with {cursor.in_flight} in flight"
        case State.SCANNING:
            coming = cursor in state.scans or cursor is state.scanning or cursor.fetch_after is not None
            assert coming, f"{where}: scanning, but nobody looks"


def _check_keys(cursor: Cursor) -> None:
    where, keys = _name(cursor), cursor.keys
    waiting = [sequence for sequence, until_ms in cursor.parked.items() if until_ms == FOLLOWS]
    assert (keys.waiting if keys else 0) == len(waiting), f"{where}: {waiting} follow, not so many are known"
    heads: dict[str, int] = {}
    for sequence, key in sorted(keys.all().items()) if keys else ():
        assert sequence in cursor.unsettled, f"{where}: key {key!r} is kept for {sequence}, which is settled"
        is_head = heads.setdefault(key, sequence) == sequence
        assert is_head != (cursor.parked.get(sequence) == FOLLOWS), f"{where}: {sequence} of key {key!r} out of order"


def _check_dead(state: BrokerState, subscription: Subscription) -> None:
    where, dead = f"subscription {subscription.name!r}", subscription.dead
    assert subscription.durable or not dead, f"{where}: ephemeral, but has {len(dead)} dead letters"
    assert len(dead) + subscription.dying <= limits.DEAD_LETTERS_MAX, f"{where}: {len(dead)} dead letters"
    assert max(dead, default=0) < subscription.next_dead, f"{where}: its next dead letter is {subscription.next_dead}"
    cursors = subscription.cursors.values()
    dying = sum(until_ms is None for cursor in cursors for until_ms in cursor.parked.values())
    assert dying <= subscription.dying, f"{where}: {dying} are dying, {subscription.dying} are counted"
    times = [time_ms for cursor in cursors if (time_ms := cursor.next_unpark_ms()) is not None]
    if times:
        assert state.deadlines.is_set(("retry", subscription.number), min(times)), f"{where}: no deadline of a retry"


def _check_subscriber(state: BrokerState, subscription: Subscription, subscriber: Subscriber) -> None:
    where = f"subscription {subscription.name!r}"
    in_flight = sum(subscriber.in_flight_of(cursor) for cursor in subscription.cursors.values())
    assert subscriber.in_flight == in_flight, f"{where}: counts {subscriber.in_flight} in flight of {in_flight}"
    assert subscriber.in_flight_bytes >= 0, f"{where}: {subscriber.in_flight_bytes} bytes in flight"
    clock = subscriber.on_the_clock()
    for cursor, sequence in clock:
        assert subscriber.holds(cursor, sequence), f"{where}: the clock runs for {sequence}, which is not in flight"
    assert len(clock) == min(in_flight, subscriber.concurrency), f"{where}: {in_flight} in flight, clock {clock}"
    assert subscriber.session.subscribers.get(subscriber.handle) is subscriber, f"{where}: unknown to its session"
    assert state.sessions.get(subscriber.session.connection) is subscriber.session, f"{where}: its session is gone"


def _check_members(subscription: Subscription) -> None:
    where, members = f"subscription {subscription.name!r}", subscription.subscriber
    assert members is None or isinstance(members, Members) == subscription.shared, f"{where}: {members} of a shared one"
    if not isinstance(members, Members):
        return
    assert len(members), f"{where}: members, but none is attached"
    for cursor in subscription.cursors.values():
        held = Ranges()
        for member in members:
            for first, last in member.held(cursor):
                assert held.add(first, last) == last - first + 1, f"{where}: {first}..{last} in flight to two members"
        for first, last in held:
            for sequence in range(first, last + 1):
                assert cursor.is_in_flight(sequence), f"{where}: a member holds {sequence}, which is not in flight"
        assert held.count == cursor.in_flight, f"{where}: {held.count} held of {cursor.in_flight} in flight"


def _check_tables(state: BrokerState) -> None:
    for connection, session in state.sessions.items():
        assert session.connection == connection, f"session {connection}: calls itself {session.connection}"
        assert state.tokens.get(session.token) is session, f"session {connection}: its token leads elsewhere"
        if session.client_id is not None:
            assert state.client_ids.get(session.client_id) is session, f"session {connection}: its client id is taken"
        for subscriber in session.subscribers.values():
            assert subscriber in subscriber.subscription.attached(), f"session {connection}: attached to nothing"
    assert state.ledger.is_counted_right(), "what is on its way into queues is counted wrong"
    assert len(state.tokens) == len(state.sessions), "a token leads to a session that is gone"
    assert set(state.client_ids) <= set(state.clients), "a connected client is not known"


def _is_placed(cursor: Cursor) -> bool:
    """Whether a cursor may still be moved to where its subscription is to begin."""
    subscriber = cursor.subscription.subscriber
    return subscriber is not None and subscriber.starting


def _name(cursor: Cursor) -> str:
    return f"subscription {cursor.subscription.name!r} in queue {cursor.queue.name!r}"
