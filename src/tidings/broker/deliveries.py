"""Deliveries: who gets which message when, at the tail, behind it, and again.

1. What is committed goes at once to cursors at the tail whose subscriber has room and whose socket takes it.
2. Whoever is not served then falls behind and reads pages from the store until it meets the tail.
3. An ack settles; it never matters in which order acks come, or whether they come twice.
4. What failed (see `retries`), or was in flight when its connection ended, becomes due and is read again.
5. What cannot be read any more is told in place, as a gap (see `gaps`).
"""

from __future__ import annotations

from typing import TypeAlias

from tidings import limits
from tidings.batch import Batch, StoredBatch
from tidings.broker.cursors import Cursor, State
from tidings.broker.effects import Deliver, Done, Ended, Fetch
from tidings.broker.gaps import Gaps
from tidings.broker.gone import gone_of, has_expired, wanted_of
from tidings.broker.inputs import Fetched
from tidings.broker.members import Member, Members
from tidings.broker.parcels import Parcel
from tidings.broker.queues import Queue
from tidings.broker.sessions import Session
from tidings.broker.shares import Shares
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.errors import DeliveryTakenAway, InvalidOption, NeverDelivered, TidingsError
from tidings.model import Reading, epoch_of
from tidings.transaction import Damage

_FETCHES_MAX = 2  # pages on their way to one subscription: one to read while one is sent
Reader: TypeAlias = Subscriber | Members


class Deliveries:
    """The rules of delivery, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self.gaps = Gaps(state)
        self._state = state
        self._turn: Cursor | None = None  # whose turn it is of those that wait in line

    # --- at the tail ---

    def committed(self, queue: Queue, rows: list[StoredBatch], bursts: dict[Session, int]) -> None:
        """Serves everyone who reads a queue, after rows were added to it; `bursts` as in `Parcel`."""
        state = self._state
        for cursor in queue.wanted_by_idle(rows):
            queue.set_state(cursor, State.WAITING)
            state.followed(cursor)  # what it passed by it would pass by again after a restart, and find the same
        queue.committed = rows[-1].last_sequence
        # Where storing took longer than a ttl, they read what is left of it as those who are behind.
        is_late = any(has_expired(row, queue, state.now_ms) for row in rows)
        for cursor in list(queue.live):
            if is_late:
                self.fall_behind(cursor)
                self.pump(cursor.subscription)
            else:
                self._serve_live(cursor, rows, bursts)

    def _serve_live(self, cursor: Cursor, rows: list[StoredBatch], bursts: dict[Session, int]) -> None:
        subscriber = cursor.subscription.subscriber
        assert subscriber is not None, "a live cursor has a subscriber"
        parcel = self._parcel(subscriber, cursor, bursts)
        behind = not subscriber.takes
        if not behind:
            for row in rows:
                if not parcel.fits(row) or _has_too_many_holes(cursor) or parcel.take(row):
                    behind = True
                    break
            parcel.send()
        if behind:
            self.fall_behind(cursor)
            self.pump(cursor.subscription)
        else:
            self._state.followed(cursor)

    # --- behind the tail ---

    def start(self, subscriber: Subscriber) -> None:
        """Begins deliveries to a subscriber that was told that it is attached."""
        subscriber.starting = False
        self.gaps.tell_again(subscriber)
        self.pump(subscriber.subscription)

    def pump(self, subscription: Subscription) -> None:
        """Orders the next pages for a subscription that is behind, if a subscriber has room."""
        self._read_on(subscription)
        if subscription.asked:
            self._answer_asked(subscription, subscription.asked)
        if subscription.end_told is not None:
            self._replay_on(subscription)

    def _read_on(self, subscription: Subscription) -> None:
        subscriber = subscription.subscriber
        if subscriber is None or not (subscriber.behind and subscriber.takes):
            return
        for cursor in list(subscriber.behind):
            if cursor.is_held:
                continue
            if cursor.position >= cursor.end and not cursor.due:
                cursor.position = cursor.queue.committed  # what follows is not for a replay
            if cursor.at_tail:
                self._go_live(subscriber, cursor)
                continue
            if len(subscriber.fetching) >= _FETCHES_MAX or not subscriber.has_room():
                return
            if cursor.fetch_after is not None or _has_too_many_holes(cursor):
                continue
            if cursor.queue.settings.in_flight_max is not None and self._has_to_wait(cursor):
                continue
            subscriber.fetching[cursor] = None
            self._fetch(cursor)
            # The others come first next time.
            del subscriber.behind[cursor]
            subscriber.behind[cursor] = None

    def _has_to_wait(self, cursor: Cursor) -> bool:
        """Whether too many messages of its queue are in flight; then it gets in line, as it does behind others."""
        waiting = self._state.crowded_out.setdefault(cursor.queue, {})
        if cursor is not self._turn and (waiting or cursor.room(1) <= 0):
            waiting[cursor] = None
        return cursor in waiting

    def go_on_crowded_out(self) -> None:
        """Lets those read on who waited until fewer messages of their queue are in flight, who came first at first."""
        for queue, waiting in list(self._state.crowded_out.items()):
            most = queue.settings.in_flight_max
            reading = sum(cursor.fetch_after is not None for cursor in queue.behind)  # theirs is the room there is
            room = len(waiting) if most is None else queue.room(most) - reading
            for cursor in list(waiting)[: max(0, room)]:
                del waiting[cursor]
                self._turn = cursor
                self.pump(cursor.subscription)
                self._turn = None
            if not waiting:
                del self._state.crowded_out[queue]

    def _replay_on(self, subscription: Subscription) -> None:
        """Lets the clock of a replay go on, and tells its client once that all of it is settled."""
        for subscriber in subscription.attached():
            if subscriber.starting:
                continue
            if subscriber.pace and subscriber.behind and not subscriber.credit:
                due_ms = subscriber.pace.next_ms(self._state.now_ms)
                self._state.deadlines.set_at_latest(("pace", subscription.number), due_ms)
            is_over = all(cursor.at_tail and not cursor.unsettled for cursor in subscription.cursors.values())
            if is_over and not subscription.end_told:
                subscription.end_told = True
                self._state.effects.append(Ended(subscriber.session.connection, subscriber.handle))

    def paced(self, subscription: Subscription) -> None:
        """Delivers of a replay what is its turn now."""
        for subscriber in subscription.attached():
            if subscriber.pace:
                subscriber.credit = subscriber.pace.grow(subscriber.credit or 0, self._state.now_ms)
        self.pump(subscription)

    def ask(self, subscriber: Subscriber, count: int, request: int) -> None:
        """Lets one that pulls be delivered up to `count` messages; answered once all that are there were.

        Raises:
            InvalidOption: it does not pull, or the count is out of its range.
        """
        if subscriber.credit is None:
            raise InvalidOption(f"handle {subscriber.handle} does not pull; subscribe with pulls to ask for messages")
        if not 0 <= count <= limits.IN_FLIGHT_MAX:
            raise InvalidOption(f"{count} messages were asked for; it can be 0 to {limits.IN_FLIGHT_MAX}")
        subscription = subscriber.subscription
        subscriber.credit = count
        subscription.asked = [*(subscription.asked or ()), (subscriber, request)]
        self.pump(subscription)

    def _answer_asked(self, subscription: Subscription, asked: list[tuple[Subscriber, int]]) -> None:
        """Answers those who asked, unless a page that may be for them is under way."""
        reader = subscription.subscriber
        # A page may have been ordered for whoever was attached before: then the next one comes after it.
        coming = reader is not None and any(cursor.fetch_after is not None for cursor in reader.behind)
        waiting = subscription.attached() if coming else []
        kept: list[tuple[Subscriber, int]] = []
        for subscriber, request in asked:
            if subscriber.credit and subscriber in waiting:
                kept.append((subscriber, request))
            else:
                self._state.effects.append(Done(subscriber.session.connection, request))
        subscription.asked = kept or None

    def fetched(self, input: Fetched) -> None:
        """Hands out a page."""
        state = self._state
        subscription = state.numbers.get(input.subscription)
        cursor = subscription.cursors.get(input.epoch) if subscription else None
        if cursor is None or cursor.fetch_after is None:
            return  # deleted meanwhile
        after, cursor.fetch_after = cursor.fetch_after, None
        # The store may be ahead: what it has committed and not reported yet is delivered when it is reported.
        rows = [row for row in input.rows if row.first_sequence <= cursor.queue.committed]
        if cursor is state.scanning:
            state.scanning = None
            self._scanned(cursor, after, rows)
            return
        subscriber = cursor.subscription.subscriber
        if subscriber is None:
            if cursor.state is State.SCANNING:
                state.scans[cursor] = None  # it was not looked through while this page was under way
            return
        subscriber.fetching.pop(cursor, None)
        if cursor.state is State.BEHIND and after <= cursor.next_read() and not cursor.is_held:
            self._serve_page(subscriber, cursor, after, rows)
        self.pump(cursor.subscription)

    def _serve_page(self, subscriber: Reader, cursor: Cursor, after: int, rows: list[StoredBatch | Damage]) -> None:
        parcel = self._parcel(subscriber, cursor)
        expected = after + 1
        for row in rows:
            if row.first_sequence > expected:
                self._skip_missing(cursor, parcel, expected, row.first_sequence - 1)
            expected = row.last_sequence + 1
            if isinstance(row, Damage):
                self._skip(cursor, parcel, row.first_sequence, row.last_sequence, row.reason)
            elif self._take(cursor, parcel, row):
                break
        if not rows and after < cursor.fetch_to:
            self._skip_missing(cursor, parcel, expected, cursor.fetch_to)
        parcel.send()
        self._state.followed(cursor)

    def _take(self, cursor: Cursor, parcel: Parcel | Shares, row: StoredBatch) -> bool:
        """Takes what is wanted of a row, and tells in its place what is gone; returns whether something is left."""
        for first, last, reason in gone_of(row, cursor.queue, cursor.filter, self._state.now_ms):
            if last <= cursor.position and not cursor.due.within(first, last):
                continue
            if first > row.first_sequence and parcel.take(row.before(first)):
                return True
            self._skip(cursor, parcel, first, last, reason)
        return parcel.take(row)

    def _skip_missing(self, cursor: Cursor, parcel: Parcel | Shares, first: int, last: int) -> None:
        """Gives up what the store has not any more."""
        purged_to = min(last, cursor.queue.purged_to)
        if first <= purged_to:
            self._skip(cursor, parcel, first, purged_to, "purged")
        if purged_to < last:
            self._skip(cursor, parcel, max(first, purged_to + 1), last, "trimmed")

    def _parcel(self, subscriber: Reader, cursor: Cursor, bursts: dict[Session, int] | None = None) -> Parcel | Shares:
        if isinstance(subscriber, Members):
            return Shares(self._state, subscriber, cursor, bursts)
        return Parcel(self._state, subscriber, cursor, bursts)

    def _skip(self, cursor: Cursor, parcel: Parcel | Shares, first: int, last: int, reason: str) -> None:
        parcel.send()
        last = min(last, cursor.end)
        if last < first:
            return
        for low, high in cursor.skip(first, last):
            self.gaps.tell(cursor.subscription, cursor.queue, low, high, reason)
        self._state.cut_from(cursor)

    def cut(self, cursor: Cursor, to_sequence: int, reason: str) -> None:
        """Gives up what waits for a subscription up to a sequence, and tells it. What is in flight stays so."""
        state = self._state
        if cursor.state is State.IDLE or cursor.subscription.locating:
            return  # nothing waits for it, or it is not known yet what does: then it is told when it reads
        cut = cursor.cut_waiting(1, min(to_sequence, cursor.end))
        for first, last in cut:
            self.gaps.tell(cursor.subscription, cursor.queue, first, last, reason)
        if cut:
            state.cut_from(cursor)
            self._go_on_after_cut(cursor)

    def cut_gone(self, cursor: Cursor, rows: list[StoredBatch]) -> None:
        """Gives up what is gone of the oldest messages that wait for a subscription, and tells it.

        Of what it has not read that is what comes before everything else it wants.
        """
        state, queue = self._state, cursor.queue
        before, cut = cursor.position, False
        for row in rows:
            gone = gone_of(row, queue, cursor.filter, state.now_ms)
            rest = wanted_of(row, cursor.filter)
            for first, last, _ in gone:
                rest.remove(first, last)
            left = rest.next(cursor.position + 1)
            end = row.last_sequence if left is None else left - 1
            for first, last, reason in gone:
                last = min(last, max(end, cursor.position))
                if first > last:
                    break
                cursor.position = max(cursor.position, min(first, end) - 1)
                for low, high in cursor.cut_waiting(first, last):
                    self.gaps.tell(cursor.subscription, queue, low, high, reason)
                    cut = True
            cursor.position = max(cursor.position, end)
            if left is not None:
                break
        if cut:
            state.cut_from(cursor)
        if cut or cursor.position > before:
            state.followed(cursor)
            self._go_on_after_cut(cursor)

    def _go_on_after_cut(self, cursor: Cursor) -> None:
        if cursor.subscription.subscriber:
            self.go_on(cursor)
        else:
            self._state.rest(cursor)

    def _go_live(self, subscriber: Reader, cursor: Cursor) -> None:
        subscriber.behind.pop(cursor, None)
        cursor.queue.set_state(cursor, State.LIVE)

    def _fetch(self, cursor: Cursor) -> None:
        cursor.fetch_after = cursor.next_read()
        cursor.fetch_to = cursor.queue.committed
        self._state.effects.append(
            Fetch(cursor.subscription.number, cursor.queue.epoch, cursor.fetch_after, limits.FETCH_SIZE_BYTES)
        )

    # --- acks ---

    def ack(self, subscriber: Subscriber, ranges: list[tuple[int, int, int]], *, earlier: bool = False) -> None:
        """Settles what a subscriber acked, all that is valid of it; what it had `earlier`, see `inputs.Ack`.

        Raises:
            InvalidOption: a range is malformed.
            NeverDelivered: a range names messages that were never delivered.
            DeliveryTakenAway: a message of a range was given up, or the subscription moved, meanwhile.
        """
        state, subscription = self._state, subscriber.subscription
        refused: TidingsError | None = None
        changed: Cursor | None = None
        for reading, first, last in ranges:
            cursor = subscription.cursors.get(epoch_of(reading))
            first = max(first, 1)
            was_gap = self.gaps.acked(subscription, reading, first, last)
            if cursor is None:  # the queue was deleted, and with it what there was to settle
                refused = _given_up(subscription, reading, first, last) or refused
                continue
            if cursor.reading != reading:
                if was_gap:
                    continue  # of what comes before the place to which it was moved
                refused = DeliveryTakenAway(
                    f"ack of {first} to {last} of queue {cursor.queue.name!r}: it was delivered before somebody moved"
                    f" subscription {subscription.name!r}, and counts no more"
                )
            elif last < first:
                refused = InvalidOption(f"ack of {first} to {last}: the range is empty; give first, then last")
            elif last > (cursor.known_to if earlier else cursor.position):
                refused = NeverDelivered(
                    f"ack of sequence {last} of queue {cursor.queue.name!r}: the last one delivered to subscription"
                    f" {subscription.name!r} is {cursor.position}; ack only what was delivered"
                )
            else:
                if earlier:
                    cursor.reach(last)
                if not self._settle(subscriber, cursor, first, last):
                    refused = DeliveryTakenAway(
                        f"ack of {first} to {last} of queue {cursor.queue.shown_as!r}: not all of it is in flight to"
                        f" this subscriber of {subscription.name!r} any more; it was delivered to another one"
                    )
                if cursor is not changed:
                    state.changed_cursor(cursor)
                    changed = cursor
                refused = _given_up(subscription, reading, first, last) or refused
        subscription.last_ack_ms = state.now_ms
        subscriber.wind(state.now_ms)
        state.watch(subscriber)
        self.pump(subscription)
        if refused:
            raise refused

    def _settle(self, subscriber: Subscriber, cursor: Cursor, first: int, last: int) -> bool:
        """Settles what an ack means; returns whether it may mean all that it names."""
        count = 0
        if subscriber.holds_all(cursor, first, last):
            count = last - first + 1
            cursor.settle_in_flight(first, last)
            subscriber.release(cursor, first, last, count)
        else:
            for low, high in subscriber.meant(cursor, first, last):
                subscriber.release(cursor, low, high, cursor.settle(low, high))
                count += high - low + 1
        if cursor.due and cursor.state is State.LIVE:
            self.fall_behind(cursor)  # what followed in its key
        return count == last - first + 1 or first == 1 < last

    def go_on(self, cursor: Cursor) -> None:
        """Lets a cursor read from the store what became due, and what there is room for now."""
        if cursor.due and cursor.state is State.LIVE:
            self.fall_behind(cursor)
        self.pump(cursor.subscription)

    def fall_behind(self, cursor: Cursor) -> None:
        """Lets a live cursor read from the store what became due again."""
        subscriber = cursor.subscription.subscriber
        assert subscriber is not None, "a live cursor has a subscriber"
        cursor.queue.set_state(cursor, State.BEHIND)
        subscriber.behind[cursor] = None

    # --- attaching and detaching ---

    def attach(self, subscriber: Subscriber) -> None:
        """Attaches a subscriber; the first one lets the cursors of a subscription read on."""
        subscription = subscriber.subscription
        begins = subscription.subscriber is None
        subscription.attach(subscriber)
        reader = subscription.subscriber
        if reader is None or not begins:
            return
        for cursor in subscription.cursors.values():
            self._state.scans.pop(cursor, None)
            cursor.queue.set_state(cursor, State.BEHIND)
            reader.behind[cursor] = None

    def detach(self, subscriber: Subscriber) -> None:
        """Takes back what is in flight to a subscriber; other members go on with it."""
        state, subscription = self._state, subscriber.subscription
        subscription.detach(subscriber)
        if subscription.asked:
            self._answer_asked(subscription, subscription.asked)
        for cursor in subscription.cursors.values():
            if isinstance(subscriber, Member):
                cursor.take_back(list(subscriber.held(cursor)))
            else:
                cursor.take_back()
            if subscription.subscriber is None:
                state.rest(cursor)
            elif cursor.due and cursor.state is State.LIVE:
                self.fall_behind(cursor)
            if cursor.unsettled or cursor.settled_to != cursor.recorded:  # of thousands of queues few have moved
                state.changed_cursor(cursor)
        if subscription.subscriber is None:
            subscription.last_seen_ms = state.now_ms
            subscription.left_in_drain = state.draining
            state.deadlines.remove(("ack", subscription.number))
        else:
            self.pump(subscription)

    # --- moving ---

    def move(self, cursor: Cursor, target: int) -> int:
        """Moves a cursor, attached or not, and tells its clients; returns how many messages it was moved past.

        What is in flight is void from now on. Nothing is delivered before `cursor.moving` is 0 again.
        """
        state, queue, reader = self._state, cursor.queue, cursor.subscription.subscriber
        if reader is None:
            state.scans.pop(cursor, None)
            queue.set_state(cursor, State.WAITING)
            skipped = cursor.move(target)
            state.rest(cursor)
        else:
            queue.set_state(cursor, State.BEHIND)
            reader.forget(cursor)
            reader.behind[cursor] = None
            skipped = cursor.move(target)
            reader.wind(state.now_ms)
            nothing = StoredBatch(target + 1, state.now_ms, Batch([], b""))
            for subscriber in cursor.subscription.attached():
                state.watch(subscriber)
                if not subscriber.starting:
                    connection, handle = subscriber.session.connection, subscriber.handle
                    told = Deliver(connection, handle, queue.shown_as, cursor.reading, [nothing], False, [])
                    state.effects.append(told)
        cursor.moving += 1
        state.changed_cursor(cursor)
        return skipped

    # --- in the background ---

    def scan(self) -> None:
        """Looks whether anything is outstanding for a filtering subscription that is away, a page at a time."""
        state = self._state
        while state.scanning is None and state.scans:
            cursor = next(iter(state.scans))
            del state.scans[cursor]
            if cursor.state is State.SCANNING and cursor.fetch_after is None:
                state.scanning = cursor
                self._fetch(cursor)

    def _scanned(self, cursor: Cursor, after: int, rows: list[StoredBatch | Damage]) -> None:
        if cursor.state is not State.SCANNING:
            self.pump(cursor.subscription)
            return
        if after != cursor.position:
            self._state.rest(cursor)  # it was attached meanwhile, and has read on
            return
        found = False
        for row in rows:
            if isinstance(row, Damage) or cursor.filter.wants_any(row.batch):
                found = True
                break
            cursor.position = max(cursor.position, row.last_sequence)
        if not rows:
            cursor.position = cursor.fetch_to
        if found:
            cursor.queue.set_state(cursor, State.WAITING)
        else:
            self._state.rest(cursor)
        self._state.changed_cursor(cursor)


def _given_up(subscription: Subscription, reading: Reading, first: int, last: int) -> DeliveryTakenAway | None:
    """Returns what to say of an ack that names a dead letter; one from 1 means what was delivered, not what died."""
    letters = subscription.dead_within(epoch_of(reading), first, last) if first > 1 or last == 1 else ()
    dead = next((letter for letter in letters if letter.reading == reading), None)
    if dead is None:
        return None
    return DeliveryTakenAway(
        f"ack of sequence {dead.sequence} of queue {dead.queue!r}: it was given up after {dead.attempts} attempts"
        f" ({dead.reason}) and is dead letter {dead.number} of subscription {subscription.name!r}; delete it there if"
        " it was done"
    )


def _has_too_many_holes(cursor: Cursor) -> bool:
    if cursor.due:  # and of those only what cannot even wait stops the others
        keys = cursor.keys
        stopped = keys is not None and keys.stopped_at == cursor.due.first
        return stopped and len(cursor.parked) >= limits.PARKED_MAX
    return len(cursor.unsettled) >= limits.HOLES_MAX or len(cursor.parked) >= limits.PARKED_MAX
