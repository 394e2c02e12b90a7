"""The catalog: subscriptions made, attached, changed and detached."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from msgspec import UNSET
from msgspec.structs import replace

from tidings import limits
from tidings.broker.answers import answered_when_durable, done_when_durable, refuse
from tidings.broker.cursors import Cursor
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Refuse, Subscribed
from tidings.broker.filters import Filter
from tidings.broker.inputs import Resume, Subscribe, Unsubscribe
from tidings.broker.last_messages import LastMessages
from tidings.broker.ledger import Answer
from tidings.broker.members import Member
from tidings.broker.pace import Pace
from tidings.broker.presence import Presence
from tidings.broker.queues import Queue
from tidings.broker.quotas import Quotas
from tidings.broker.retention import Retention
from tidings.broker.retries import Retries
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscription_options import (
    apply_options,
    check_free,
    check_options,
    check_room,
    check_same,
    check_setting,
    name_of,
    set_backoff,
)
from tidings.broker.subscriptions import Subscription
from tidings.calls import ConfigureSubscription, check_tag
from tidings.errors import (
    InvalidOption,
    LimitReached,
    NotFound,
    Refused,
)
from tidings.model import ELSEWHERE, epoch_of, moves_of
from tidings.ranges import Ranges

_ENDS = ("latest", "sequence", "time")
_RETURN_MS = 60_000  # longest time that a restart adds to an expiry


class Catalog:
    """The rules of subscriptions and queues, on the broker's state."""

    def __init__(
        self,
        state: BrokerState,
        deliveries: Deliveries,
        retries: Retries,
        presence: Presence,
        retention: Retention,
        quotas: Quotas,
    ) -> None:
        self._state = state
        self._retention = retention
        self._quotas = quotas
        self._deliveries = deliveries
        self._retries = retries
        self._presence = presence
        self._last_messages = LastMessages(state)

    # --- subscribing ---

    def subscribe(self, session: Session, input: Subscribe) -> None:
        """Attaches a client to a subscription, which is made if there is none of the name.

        Raises:
            InvalidFilter, InvalidName, InvalidOption: the request can never work.
            SubscriptionConflict: the name belongs to another filter or owner.
            SubscriptionInUse: it has a subscriber already.
            LimitReached: too many subscriptions on this connection.
            NotFound: it was to be attached as it is, and is not there.
        """
        state = self._state
        if not input.queue and input.name:
            input = self._as_it_is(input, input.name)
        chosen = Filter(input.queue, input.event, input.headers)
        check_options(input, chosen)
        if input.end or input.rate:
            self._check_replay(input, chosen)
        check_room(session, input.handle)
        name = name_of(session, input, chosen)
        subscription = state.subscriptions.get(name)
        created = subscription is None
        if subscription is None:
            subscription = self._create(session, input, chosen, name)
        else:
            check_same(subscription, chosen, client_id=session.client_id, shared=input.shared)
            check_free(subscription)
        apply_options(subscription, input)
        self._watch_expiry(subscription)
        kind = Member if subscription.shared else Subscriber
        subscriber = kind(subscription, session, input.handle, input.request, created=created)
        subscriber.credit = 0 if input.pulls else None
        if input.rate:
            subscriber.pace = Pace(input.rate, state.now_ms)
            subscriber.credit = subscriber.pace.grow(0, state.now_ms)
        session.subscribers[input.handle] = subscriber
        self._deliveries.attach(subscriber)
        subscriber.resume = input.resume
        subscriber.rewinds = input.rewinds
        if not subscription.durable:
            self._resume(subscriber)
        self._presence.announce(session)
        if created and input.start in ("time", "last"):
            # Where an ephemeral one stood counts, and not where it began once.
            stood = {} if subscription.durable else _stood(input)
            for cursor in subscription.cursors.values():
                if _appeared_later(cursor.queue, stood):
                    continue
                if input.start == "last":
                    self._begin_with_last(cursor, stood.get(cursor.queue.epoch))
                elif cursor.queue.epoch not in stood:
                    self._locate(cursor, input.start_value)
        if input.end:
            self._bound(subscription, input)
        if not subscription.locating:
            self._ready(subscriber)

    def _as_it_is(self, input: Subscribe, name: str) -> Subscribe:
        """Returns a request that names a subscription only, with what is to be the same."""
        subscription = self._state.subscriptions.get(name)
        if subscription is None:
            raise NotFound(f"there is no subscription {name!r}; say of which queue and event it is to be")
        chosen = subscription.filter
        return replace(
            input, queue=chosen.queue, event=chosen.event, headers=chosen.headers, shared=subscription.shared
        )

    def _check_replay(self, input: Subscribe, chosen: Filter) -> None:
        if not input.end:
            raise InvalidOption("a rate is for replays; say where it ends, too")
        if input.end not in _ENDS:
            raise InvalidOption(f"end {input.end!r} is not known; there are {', '.join(_ENDS)}")
        if input.name is not None or input.shared or input.pulls:
            raise InvalidOption("a replay is a subscription of its own: leave out name, shared= and pulls")
        if input.start in ("latest", "last"):
            raise InvalidOption(f"a replay begins at 'earliest', a sequence or a time, not at {input.start!r}")
        if input.rate and not limits.RATE_MIN <= input.rate <= limits.RATE_MAX:
            raise InvalidOption(
                f"a rate of {input.rate:g} messages/s; it can be {limits.RATE_MIN} to {limits.RATE_MAX}, or 0 for as"
                " fast as it goes"
            )
        if not chosen.literal:
            raise InvalidOption(f"a replay is of one queue, {chosen.queue!r} may be many; replay them one by one")
        if chosen.queue not in self._state.queues:
            raise NotFound(f"there is no queue {chosen.queue!r} to replay; `tidings queues` lists them")

    def _bound(self, subscription: Subscription, input: Subscribe) -> None:
        """Says where a replay ends."""
        (cursor,) = subscription.cursors.values()
        subscription.end_told = False
        cursor.end = committed = cursor.queue.committed  # at the latest: what is stored while the store looks is later
        if input.end == "sequence":
            cursor.end = min(input.end_value, committed)
        elif input.end == "time":
            subscription.locating += 1

            def found(sequence: int | None) -> None:
                if self._is_known(subscription):
                    cursor.end = committed if sequence is None else min(sequence - 1, committed)
                    self._placed(cursor)

            self._state.effects.append(self._state.lookups.sequence_at(cursor.queue.epoch, input.end_value, found))

    def _locate(self, cursor: Cursor, time_ms: int) -> None:
        """Moves the cursor of a new subscription to the time that was asked for."""
        cursor.subscription.locating += 1
        end = cursor.queue.committed  # what is stored while the store looks is after that time

        def found(sequence: int | None) -> None:
            if self._is_known(cursor.subscription):
                position = end if sequence is None else min(sequence - 1, cursor.queue.committed)
                cursor.position = cursor.begin = max(cursor.position, position)
                self._placed(cursor)

        self._state.effects.append(self._state.lookups.sequence_at(cursor.queue.epoch, time_ms, found))

    def _begin_with_last(self, cursor: Cursor, stood: Resume | None) -> None:
        """Lets the cursor of a new subscription begin with the last message of each event, and go on after them.

        An ephemeral one that had begun with some of them, and comes back, begins with the others.
        """
        subscription, first, last = cursor.subscription, cursor.position + 1, cursor.queue.committed
        if stood is not None:
            if stood.received >= stood.begin_to:
                return  # it had got all of them
            first, last = max(1, stood.received + 1), min(stood.begin_to, last)
        if first > last:
            return  # nothing is there, as after a purge; a search would end before those in other queues begin
        subscription.locating += 1

        def found(wanted: Ranges | LimitReached) -> None:
            if not self._is_known(subscription):
                return
            if not isinstance(wanted, LimitReached):
                cursor.begin_with(wanted, last)
                self._placed(cursor)
                return
            for subscriber in subscription.attached():
                connection = subscriber.session.connection
                self._state.effects.append(Refuse(connection, "subscribe", subscriber.request, wanted))
                self.detach(subscriber, lost=False)

        self._last_messages.find(cursor, first, last, found)

    def _is_known(self, subscription: Subscription) -> bool:
        """Whether somebody still waits for a new subscription: else it was forgotten while it was placed."""
        return self._state.numbers.get(subscription.number) is subscription

    def _placed(self, cursor: Cursor) -> None:
        """Takes note of where a cursor of a new subscription begins; after the last one it is attached."""
        subscription = cursor.subscription
        if cursor.queue.epoch in subscription.cursors:
            self._state.changed_cursor(cursor)
        subscription.locating -= 1
        if not subscription.locating:
            for subscriber in subscription.attached():
                self._ready(subscriber)

    def unsubscribe(self, session: Session, input: Unsubscribe) -> None:
        """Detaches a client.

        Raises:
            NotFound: the handle is not in use.
        """
        subscriber = session.subscribers.get(input.handle)
        if subscriber is None:
            raise NotFound(f"handle {input.handle} is not a subscription of this connection")
        if subscriber.starting:
            # It was not answered yet, and every request is: it would be waited for without end.
            error = Refused(f"handle {input.handle} was unsubscribed before it was attached")
            self._state.effects.append(Refuse(session.connection, "subscribe", subscriber.request, error))
        self._presence.unsubscribed(session, subscriber.subscription)
        self.detach(subscriber, lost=False)
        done_when_durable(self._state, session.connection, "unsubscribe", input.request)

    def detach(self, subscriber: Subscriber, *, lost: bool) -> None:
        """Ends an attachment, and with it an ephemeral subscription."""
        subscription = subscriber.subscription
        subscriber.session.subscribers.pop(subscriber.handle, None)
        if lost:
            self._retries.connection_lost(subscriber)
        self._deliveries.detach(subscriber)
        if subscription.subscriber:
            return  # other members are still there
        if subscription.durable and not subscription.locating:
            self._state.changed(subscription)
            self._watch_expiry(subscription)
        else:
            # Ephemeral, or new and not yet at the time where it was to start: its client will ask again.
            self._state.remove_subscription(subscription)

    def expire(self, subscription: Subscription) -> None:
        """Deletes a subscription that was away for as long as it may be."""
        expires_after_ms = subscription.expires_after_ms
        if expires_after_ms is None or subscription.subscriber:
            return
        if self._state.now_ms - subscription.last_seen_ms >= expires_after_ms:
            self._state.remove_subscription(subscription)
        else:
            self._watch_expiry(subscription)

    def watch_expiries(self) -> None:
        """Lets the time of all subscriptions that may expire go on after a restart.

        Nobody could come back while the server was down, and who had just come may not be on disk as that: all get
        a while to be attached.
        """
        for subscription in self._state.subscriptions.values():
            if subscription.expires_after_ms is not None:
                due_ms = subscription.last_seen_ms + subscription.expires_after_ms
                least_ms = self._state.now_ms + min(subscription.expires_after_ms, _RETURN_MS)
                self._state.deadlines.set(("expire", subscription.number), max(due_ms, least_ms))

    def _create(self, session: Session, input: Subscribe, chosen: Filter, name: str) -> Subscription:
        state = self._state
        self._quotas.admit_subscription(session, chosen)
        names = [chosen.queue] if chosen.literal else [name for name in state.queues if chosen.wants_queue(name)]
        queues = [state.open_queue(name) for name in names]
        durable = not input.end and (input.name is not None or session.client_id is not None)
        stood = {} if durable else _stood(input)
        positions = [0 if _appeared_later(queue, stood) else _start(input, queue) for queue in queues]
        subscription = Subscription(
            state.counters.next_subscription,
            name,
            None if input.shared else session.client_id,
            chosen,
            durable=durable,
            created_ms=state.now_ms,
        )
        if input.shared:
            subscription.shared = True
            subscription.in_flight_max = limits.SHARED_IN_FLIGHT_DEFAULT
        state.counters.next_subscription += 1
        if subscription.durable:
            state.changed(state.counters)
        state.add_subscription(subscription)
        for queue, position in zip(queues, positions, strict=True):
            first_kept = self._retention.first_kept(queue)
            if subscription.durable and input.start == "sequence" and position < first_kept - 1:
                # Told from the record, since after a crash all that was trimmed counts as settled by everybody.
                state.add_cursor(subscription, queue, position=first_kept - 1)
                reason = "purged" if first_kept - 1 == queue.purged_to else "trimmed"
                self._deliveries.gaps.tell(subscription, queue, position + 1, first_kept - 1, reason)
            else:
                state.add_cursor(subscription, queue, position=position)
        return subscription

    def _resume(self, subscriber: Subscriber) -> None:
        subscription, places = subscriber.subscription, [*subscriber.resume, *_elsewhere(subscriber)]
        subscriber.resume = []
        for place in places:
            cursor = subscription.cursors.get(epoch_of(place.epoch))
            if cursor is None:
                continue
            if not subscription.durable:
                cursor.set_moves(moves_of(place.epoch))  # only its client knows of them
            elif cursor.reading != place.epoch:
                continue  # it was moved meanwhile: what was acked before counts no more
            committed = cursor.queue.committed
            if subscription.durable:
                known_to = cursor.known_to
                for first, last in place.acked:
                    if first <= min(last, known_to):
                        for low, high in subscriber.not_held_by_others(cursor, max(first, 1), min(last, known_to)):
                            cursor.settle_ahead(low, high)
                if subscriber.rewinds and not subscription.shared:
                    self._rewind(cursor, max(place.received, 0))
                self._deliveries.go_on(cursor)
                self._state.changed_cursor(cursor)
            else:
                cursor.position = min(max(place.received, 0), committed)

    def _rewind(self, cursor: Cursor, received: int) -> None:
        """Makes due again what was settled after a sequence; what the queue does not have any more is a gap."""
        kept, position = self._retention.first_kept(cursor.queue), cursor.position
        lost = min(kept - 1, position)
        if received < lost:
            self._deliveries.gaps.tell(cursor.subscription, cursor.queue, received + 1, lost, "trimmed")
        cursor.rewind(max(received + 1, kept))

    def _ready(self, subscriber: Subscriber) -> None:
        # Recorded only now: a crash before it is placed must leave nothing that begins at another place.
        if subscriber.subscription.durable:
            self._resume(subscriber)
            self._state.changed(subscriber.subscription)
        self._answer(subscriber)

    def _answer(self, subscriber: Subscriber) -> None:
        """Tells the client that it is attached, a durable subscription only once it is on disk."""
        state, subscription = self._state, subscriber.subscription
        if not subscription.durable or subscription.is_stored:
            self._attached(subscriber)
            return

        def reached() -> None:
            subscription.is_stored = True
            # All who asked meanwhile, in their order: who asks now is told at once, and would come before them.
            for each in subscription.attached():
                if each.starting:
                    self._attached(each)

        def failed(reason: str, full: bool) -> None:
            if subscription.is_stored:
                return  # by an earlier transaction, for who asked first, and with its answer this one was told, too
            if subscriber in subscription.attached():
                refuse(state, subscriber.session.connection, "subscribe", subscriber.request, reason, full=full)
                self.detach(subscriber, lost=False)
                if subscription.subscriber is None:
                    state.remove_subscription(subscription)

        state.ledger.when_durable(Answer(reached, failed))

    def _attached(self, subscriber: Subscriber) -> None:
        subscription, session = subscriber.subscription, subscriber.session
        cursors = islice(subscription.cursors.values(), limits.RESUME_QUEUES_MAX)
        places: list[tuple[int, int]] = []
        if not subscription.durable:
            # Without one its client could not be told from one that comes for the first time.
            places = [(cursor.reading, cursor.position) for cursor in cursors] or [(ELSEWHERE, 0)]
        elif subscriber.rewinds and not subscription.shared:
            # What is of queues that are new until it comes back is not among it.
            places = [(ELSEWHERE, 0), *[(cursor.reading, cursor.settled_to) for cursor in cursors]]
        self._state.effects.append(
            Subscribed(
                session.connection,
                subscriber.request,
                subscription.name,
                subscription.durable,
                subscriber.created,
                places,
                subscription.ack_timeout_ms,
                subscription.attempts_max,
                _end(subscription),
            )
        )
        self._presence.subscribed(session, subscription)
        self._deliveries.start(subscriber)

    def _watch_expiry(self, subscription: Subscription) -> None:
        if subscription.expires_after_ms is not None and subscription.subscriber is None:
            due_ms = subscription.last_seen_ms + subscription.expires_after_ms
            self._state.deadlines.set(("expire", subscription.number), due_ms)

    # --- changing ---

    def configure(self, session: Session, request: int, call: ConfigureSubscription) -> None:
        """Changes the settings of a subscription, connected or away.

        Raises:
            NotFound: there is no such subscription.
            InvalidOption: a setting is out of its range.
            Changed: it is not as `if_match` says.
            Refused: it is just being made.
        """
        subscription = self._state.find_made(call.name)
        check_tag(ConfigureSubscription, call.if_match, subscription)
        given = {
            name: value
            for name in call.__struct_fields__
            if name not in ("name", "if_match") and (value := getattr(call, name)) is not UNSET
        }
        if "single_active" in given and not subscription.shared:
            raise InvalidOption(f"subscription {subscription.name!r} is not shared; single_active is for those")
        for name, value in given.items():
            if value is not None:
                check_setting(name, value)
        set_backoff(subscription, given.pop("backoff_min_ms", None), given.pop("backoff_max_ms", None))
        for name, value in given.items():
            setattr(subscription, name, value)
        self._watch_expiry(subscription)
        for subscriber in subscription.attached():
            self._state.watch(subscriber)
        self._deliveries.pump(subscription)
        if subscription.durable:
            self._state.changed(subscription)
        answered_when_durable(self._state, session.connection, request, None)


def _elsewhere(subscriber: Subscriber) -> list[Resume]:
    """Returns where a subscriber stands in the queues that it did not name, if it says that it has nothing of them."""
    if not subscriber.rewinds:
        return []
    named = {epoch_of(place.epoch) for place in subscriber.resume}
    if ELSEWHERE not in named:
        return []
    cursors = subscriber.subscription.cursors
    # One that was moved since goes on from there, as in the queues that it named.
    others = [cursor for epoch, cursor in cursors.items() if epoch not in named and not cursor.moves]
    return [Resume(cursor.reading, cursor.begin, []) for cursor in others]


def _end(subscription: Subscription) -> int | None:
    """Returns the last sequence of a replay."""
    return None if subscription.end_told is None else next((c.end for c in subscription.cursors.values()), 0)


def _stood(input: Subscribe) -> dict[int, Resume]:
    """Returns where an ephemeral subscription stood in each queue, by its epoch; empty if it is attached first."""
    return {epoch_of(place.epoch): place for place in input.resume}


def _appeared_later(queue: Queue, stood: Mapping[int, Resume]) -> bool:
    """Whether a queue is younger than an ephemeral subscription that comes back: its client knows all others."""
    return 0 < len(stood) < limits.RESUME_QUEUES_MAX and queue.epoch not in stood


def _start(input: Subscribe, queue: Queue) -> int:
    if input.start == "latest":
        return queue.committed
    if input.start == "sequence":
        if input.start_value > queue.committed + 1:
            raise InvalidOption(
                f"start at sequence {input.start_value}: queue {queue.name!r} ends at {queue.committed};"
                f" the next one is {queue.committed + 1}"
            )
        return input.start_value - 1
    return queue.first_kept - 1
