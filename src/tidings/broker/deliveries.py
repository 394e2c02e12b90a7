"""Deliveries: who gets which message when, at the tail, behind it, and again.

1. What is committed goes at once to cursors at the tail whose subscriber has room and whose socket takes it.
2. Whoever is not served then falls behind and reads pages from the store until it meets the tail.
3. An ack settles; it never matters in which order acks come, or whether they come twice.
4. What failed (see `retries`), or was in flight when its connection ended, becomes due and is read again.
5. What cannot be read any more is told in place, as a gap; to a durable subscription again on every connection,
   until it is acked like a message.
"""

from __future__ import annotations

from tidings import limits
from tidings.batch import StoredBatch
from tidings.broker.cursors import Cursor, State
from tidings.broker.effects import Deliver, Fetch, Gap
from tidings.broker.inputs import Fetched
from tidings.broker.queues import Queue
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import MissedGap, Subscription
from tidings.errors import DeliveryTakenAway, InvalidOption, NeverDelivered, TidingsError
from tidings.ranges import Ranges
from tidings.transaction import Damage

_FETCHES_MAX = 2  # pages on their way to one subscriber: one to read while one is sent


class _Page:
    """What is collected for one Deliver effect."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begins anew."""
        self.rows: list[StoredBatch] = []
        self.ranges: list[tuple[int, int]] = []
        self.size_bytes = 0
        self.runs = 0
        self.redelivered = False

    @property
    def is_full(self) -> bool:
        """Whether it is time to send it."""
        return self.size_bytes >= limits.FETCH_SIZE_BYTES or self.runs >= limits.BATCH_RUNS_MAX


class Deliveries:
    """The rules of delivery, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state

    # --- at the tail ---

    def committed(self, queue: Queue, rows: list[StoredBatch], bursts: dict[Session, int]) -> None:
        """Serves everyone who reads a queue, after rows were added to it.

        `bursts` counts the bytes that a transaction brings to each session: whether its socket takes them shows
        only afterwards. Who would get more than a send buffer is to hold reads the rest in pages.
        """
        state = self._state
        for cursor in queue.wanted_by_idle(rows):
            queue.set_state(cursor, State.WAITING)
            state.changed_cursor(cursor)
        queue.committed = rows[-1].last_sequence
        for cursor in list(queue.live):
            self._serve_live(cursor, rows, bursts)

    def _serve_live(self, cursor: Cursor, rows: list[StoredBatch], bursts: dict[Session, int]) -> None:
        subscriber = cursor.subscription.subscriber
        assert subscriber is not None, "a live cursor has a subscriber"
        page, session = _Page(), subscriber.session
        behind = session.send_buffer_full or subscriber.starting
        other_bytes = bursts.get(session, 0) - subscriber.in_flight_bytes
        if not behind:
            for row in rows:
                room = subscriber.room() - _count(page.ranges)
                if (room < row.batch.count and not subscriber.has_room()) or _has_too_many_holes(cursor):
                    behind = True
                    break
                if other_bytes + subscriber.in_flight_bytes + page.size_bytes >= limits.SEND_BUFFER_BYTES_MAX:
                    behind = True
                    break
                if self._take(subscriber, cursor, row, room, page):
                    behind = True
                    break
        self._send(subscriber, cursor, page)
        bursts[session] = other_bytes + subscriber.in_flight_bytes
        if behind:
            self.fall_behind(cursor)
            self.pump(subscriber)
        elif not page.rows:
            self._state.followed(cursor)

    # --- behind the tail ---

    def start(self, subscriber: Subscriber) -> None:
        """Begins deliveries to a subscriber that was told that it is attached."""
        subscriber.starting = False
        for gap in subscriber.subscription.gaps:
            self._state.effects.append(
                Gap(subscriber.session.connection, subscriber.handle, *gap)  # same fields, in the same order
            )
        self.pump(subscriber)

    def pump(self, subscriber: Subscriber) -> None:
        """Orders the next pages for a subscriber that is behind and has room."""
        if subscriber.starting or subscriber.session.send_buffer_full or not subscriber.behind:
            return
        for cursor in list(subscriber.behind):
            if cursor.is_held:
                continue
            if cursor.at_tail:
                self._go_live(subscriber, cursor)
                continue
            if len(subscriber.fetching) >= _FETCHES_MAX or not subscriber.has_room():
                return
            if cursor.fetch_after is not None or _has_too_many_holes(cursor):
                continue
            subscriber.fetching[cursor] = None
            self._fetch(cursor)
            # The others come first next time.
            del subscriber.behind[cursor]
            subscriber.behind[cursor] = None

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
        self.pump(subscriber)

    def _serve_page(self, subscriber: Subscriber, cursor: Cursor, after: int, rows: list[StoredBatch | Damage]) -> None:
        page = _Page()
        expected = after + 1
        for row in rows:
            if row.first_sequence > expected:
                self._skip(subscriber, cursor, page, expected, row.first_sequence - 1, "trimmed")
            expected = row.last_sequence + 1
            if isinstance(row, Damage):
                self._skip(subscriber, cursor, page, row.first_sequence, row.last_sequence, row.reason)
            elif self._take(subscriber, cursor, row, subscriber.room() - _count(page.ranges), page):
                break
        if not rows and after < cursor.fetch_to:
            self._skip(subscriber, cursor, page, expected, cursor.fetch_to, "trimmed")
        self._send(subscriber, cursor, page)
        if not page.rows:
            self._state.followed(cursor)

    def _skip(self, subscriber: Subscriber, cursor: Cursor, page: _Page, first: int, last: int, reason: str) -> None:
        self._send(subscriber, cursor, page)
        for low, high in cursor.skip(first, last):
            self.tell_gap(subscriber.subscription, cursor.queue, low, high, reason)
        self._state.changed_cursor(cursor)

    def tell_gap(self, subscription: Subscription, queue: Queue, first: int, last: int, reason: str) -> None:
        """Tells a subscription, now or when its subscriber comes back, that messages will not come."""
        gap = MissedGap(queue.shown_as, queue.epoch, first, last, reason)
        subscriber = subscription.subscriber
        if subscriber and not subscriber.starting:
            self._state.effects.append(Gap(subscriber.session.connection, subscriber.handle, *gap))
        if subscription.durable:  # kept until it is acked: what a lost connection swallows is told on the next one
            subscription.gaps = [*subscription.gaps, gap][-limits.GAPS_MAX :]
            self._state.changed(subscription)

    def _forget_gaps(self, subscription: Subscription, epoch: int, first: int, last: int) -> None:
        if subscription.gaps:
            told = [
                g
                for g in subscription.gaps
                if g.epoch == epoch and first <= g.first_sequence <= g.last_sequence <= last
            ]
            if told:
                subscription.gaps = [gap for gap in subscription.gaps if gap not in told]
                self._state.changed(subscription)

    def _take(self, subscriber: Subscriber, cursor: Cursor, row: StoredBatch, room: int, page: _Page) -> bool:
        taken = cursor.take(row, room)
        if taken.row is not None:
            if page.runs + len(taken.row.batch.runs) > limits.BATCH_RUNS_MAX:
                self._send(subscriber, cursor, page)
            page.rows.append(taken.row)
            page.ranges.extend(taken.ranges)
            page.size_bytes += len(taken.row.batch.body)
            page.redelivered = page.redelivered or taken.redelivered
            page.runs += len(taken.row.batch.runs)
            if page.is_full:
                self._send(subscriber, cursor, page)
        return taken.cut_short

    def _send(self, subscriber: Subscriber, cursor: Cursor, page: _Page) -> None:
        if not page.rows:
            return
        state = self._state
        subscriber.delivered(cursor, page.ranges, page.size_bytes, state.now_ms)
        state.effects.append(
            Deliver(
                subscriber.session.connection,
                subscriber.handle,
                cursor.queue.shown_as,
                cursor.queue.epoch,
                page.rows,
                page.redelivered,
                cursor.attempts_in(page.ranges),
                cursor.queue.owner is not None,
            )
        )
        page.clear()
        self.watch(subscriber)
        state.changed_cursor(cursor)

    def _go_live(self, subscriber: Subscriber, cursor: Cursor) -> None:
        subscriber.behind.pop(cursor, None)
        cursor.queue.set_state(cursor, State.LIVE)

    def _fetch(self, cursor: Cursor) -> None:
        cursor.fetch_after = cursor.next_read()
        cursor.fetch_to = cursor.queue.committed
        self._state.effects.append(
            Fetch(cursor.subscription.number, cursor.queue.epoch, cursor.fetch_after, limits.FETCH_SIZE_BYTES)
        )

    # --- acks ---

    def ack(self, subscriber: Subscriber, ranges: list[tuple[int, int, int]]) -> None:
        """Settles what a subscriber acked, all that is valid of it.

        Raises:
            InvalidOption: a range is malformed.
            NeverDelivered: a range names messages that were never delivered.
            DeliveryTakenAway: a message of a range was given up meanwhile.
        """
        state, subscription = self._state, subscriber.subscription
        refused: TidingsError | None = None
        for epoch, first, last in ranges:
            cursor = subscription.cursors.get(epoch)
            first = max(first, 1)
            self._forget_gaps(subscription, epoch, first, last)
            if cursor is None:
                continue  # the queue was deleted, and with it what there was to settle
            if last < first:
                refused = InvalidOption(f"ack of {first} to {last}: the range is empty; give first, then last")
            elif last > cursor.position:
                refused = NeverDelivered(
                    f"ack of sequence {last} of queue {cursor.queue.name!r}: the last one delivered to subscription"
                    f" {subscription.name!r} is {cursor.position}; ack only what was delivered"
                )
            else:
                self._settle(subscriber, cursor, first, last)
                state.changed_cursor(cursor)
                # A cumulative ack means what was delivered before it, not what was given up.
                dead = subscription.dead_within(epoch, first, last) if first > 1 or last == 1 else None
                if dead:
                    refused = DeliveryTakenAway(
                        f"ack of sequence {dead.sequence} of queue {dead.queue!r}: it was given up after"
                        f" {dead.attempts} attempts ({dead.reason}) and is dead letter {dead.number} of subscription"
                        f" {subscription.name!r}; delete it there if it was done"
                    )
        subscription.last_ack_ms = state.now_ms
        self.watch(subscriber)
        self.pump(subscriber)
        if refused:
            raise refused

    def _settle(self, subscriber: Subscriber, cursor: Cursor, first: int, last: int) -> None:
        now_ms = self._state.now_ms
        waiting = Ranges()
        if first == 1 < last and (cursor.due or cursor.parked):
            waiting = Ranges([*cursor.due, *((sequence, sequence) for sequence in cursor.parked)])
        if not waiting:
            subscriber.settled(cursor, first, last, cursor.settle(first, last), now_ms)
            return
        # A cumulative ack means what its client was given, not what failed before and waits to be delivered again.
        given = Ranges([(first, last)])
        for low, high in waiting:
            given.remove(low, high)
        for low, high in given:
            subscriber.settled(cursor, low, high, cursor.settle(low, high), now_ms)

    def fall_behind(self, cursor: Cursor) -> None:
        """Lets a live cursor read from the store what became due again."""
        subscriber = cursor.subscription.subscriber
        assert subscriber is not None, "a live cursor has a subscriber"
        cursor.queue.set_state(cursor, State.BEHIND)
        subscriber.behind[cursor] = None

    def watch(self, subscriber: Subscriber) -> None:
        """Takes note of when the next delivery runs out of time."""
        deadline_ms = subscriber.deadline_ms()
        if deadline_ms is not None:
            self._state.deadlines.set_at_latest(("ack", subscriber.subscription.number), deadline_ms)

    # --- attaching and detaching ---

    def attach(self, subscriber: Subscriber) -> None:
        """Lets the cursors of a subscription read on."""
        for cursor in subscriber.subscription.cursors.values():
            self._state.scans.pop(cursor, None)
            cursor.queue.set_state(cursor, State.BEHIND)
            subscriber.behind[cursor] = None

    def detach(self, subscriber: Subscriber) -> None:
        """Takes back what is in flight."""
        state, subscription = self._state, subscriber.subscription
        subscription.subscriber = None
        subscription.last_seen_ms = state.now_ms
        subscription.left_in_drain = state.draining
        state.deadlines.remove(("ack", subscription.number))
        for cursor in subscription.cursors.values():
            cursor.take_back()
            state.rest(cursor)
            state.changed_cursor(cursor)

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
            if cursor.subscription.subscriber:
                self.pump(cursor.subscription.subscriber)
            return
        if after != cursor.position:
            self._state.rest(cursor)  # it was attached meanwhile, and has read on
            return
        found = False
        wants_event = cursor.filter.wants_event
        for row in rows:
            if isinstance(row, Damage) or any(run.event and wants_event(run.event) for run in row.batch.runs):
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


def _count(ranges: list[tuple[int, int]]) -> int:
    return sum(high - low + 1 for low, high in ranges)


def _has_too_many_holes(cursor: Cursor) -> bool:
    many = len(cursor.unsettled) >= limits.HOLES_MAX or len(cursor.parked) >= limits.PARKED_MAX
    return many and not cursor.due
