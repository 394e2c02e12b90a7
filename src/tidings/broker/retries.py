"""Retries: what happens to a delivery that failed.

1. A nack, an ack timeout, and a lost connection of whoever was handling a message are a failed attempt.
2. After a failed attempt the message waits: exponentially longer each time, and by a part that differs from
   message to message, so that what failed together does not come back together. The others flow meanwhile.
   After a lost connection it waits for the next subscriber only.
3. After the last attempt, or a reject, it goes to the dead letters.
4. Whoever handles a message may ask for its time again, as often as it wants, within a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tidings import limits
from tidings.broker.cursors import HELD, Cursor, State
from tidings.broker.deliveries import Deliveries
from tidings.broker.giving_up import GivingUp
from tidings.broker.inputs import Extend, Nack
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.errors import DeliveryTakenAway, InvalidOption, LimitReached
from tidings.model import epoch_of

_SPREAD = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: neighbouring numbers land far apart (Knuth 6.4)


def backoff_ms(subscription: Subscription, failed: int, sequence: int) -> int:
    """Returns how long a message waits after so many failed attempts.

    The full time doubles from `backoff_min_ms` to `backoff_max_ms`; between its half and all of it is waited
    ("equal jitter", AWS Architecture Blog 2015), decided by sequence and attempt alone.
    """
    full_ms = min(subscription.backoff_max_ms, subscription.backoff_min_ms << min(failed - 1, 40))
    spread = ((sequence * 64 + failed) * _SPREAD >> 32) & 0xFFFF
    return full_ms // 2 + (full_ms - full_ms // 2) * spread // 0xFFFF


class Retries:
    """The rules of failed deliveries, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries, giving_up: GivingUp) -> None:
        self._state = state
        self._deliveries = deliveries
        self._giving_up = giving_up

    # --- commands ---

    def nack(self, subscriber: Subscriber, input: Nack, done: Callable[[DeliveryTakenAway | None], None]) -> None:
        """Takes messages back as failed; they are delivered again later, or given up.

        Calls `done` once all that it changes is known, also the dead letters, whose messages have to be read; with an
        error if one of these was acked meanwhile, which is possible for a member that had it before.

        Raises:
            InvalidOption: a range or the delay is malformed.
            DeliveryTakenAway: some of the messages were not in flight any more.
            LimitReached: some were rejected while there are too many dead letters: they are tried again.
        """
        delay_ms = input.delay_ms
        if delay_ms is not None and not 0 <= delay_ms <= limits.RETRY_DELAY_MS_MAX:
            raise InvalidOption(f"a delay of {delay_ms} ms; it can be 0 to {limits.RETRY_DELAY_MS_MAX}")
        client_id = subscriber.session.client_id
        found, missing = in_flight(subscriber, input.ranges)
        waiting = len(found) + 1
        overtaken: list[tuple[Cursor, int, int]] = []
        kept: list[int] = []  # what is rejected and cannot become a dead letter

        def changed() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting and not missing and not kept:
                done(taken_away("nack", subscriber.subscription, overtaken) if overtaken else None)

        def given_up(cursor: Cursor, sequence: int, lost: bool) -> None:
            if lost:
                overtaken.append((cursor, sequence, sequence))
            changed()

        for cursor, sequence in found:
            failed = cursor.fail(sequence)
            last = failed >= subscriber.subscription.attempts_max
            if input.reject and self._giving_up.is_full(subscriber.subscription):
                kept.append(sequence)
            if input.reject or last:
                reason = "rejected" if input.reject else "attempts"
                self._giving_up.give_up(
                    cursor, sequence, reason, client_id, input.failure, partial(given_up, cursor, sequence)
                )
            else:
                self._park(cursor, sequence, failed, delay_ms)
                changed()
            subscriber.settled(cursor, sequence, sequence, 1, self._state.now_ms)
        self._go_on(subscriber)
        changed()
        if missing:
            raise taken_away("nack", subscriber.subscription, missing)
        if kept:
            raise LimitReached(
                f"subscription {subscriber.subscription.name!r} has {limits.DEAD_LETTERS_MAX} dead letters, no more are"
                f" allowed; {len(kept)} rejected messages are delivered again later; redrive or delete some"
            )

    def extend(self, subscriber: Subscriber, input: Extend) -> None:
        """Gives messages that are being handled their whole time again.

        Raises:
            InvalidOption: a range is malformed.
            DeliveryTakenAway: some of the messages were not in flight any more.
        """
        found, missing = in_flight(subscriber, input.ranges, or_held=True)
        for cursor, sequence in found:
            subscriber.extend(cursor, sequence, self._state.now_ms)
        if missing:
            raise taken_away("extend", subscriber.subscription, missing)

    # --- time ---

    def overdue(self, subscription: Subscription) -> None:
        """Takes back what was not acked in time."""
        for subscriber in subscription.attached():
            for cursor, sequence in subscriber.overdue(self._state.now_ms):
                failed = cursor.fail(sequence)
                if failed >= subscription.attempts_max:
                    self._giving_up.give_up(cursor, sequence, "ack timeout", subscriber.session.client_id, None)
                else:
                    self._park(cursor, sequence, failed, None)
                subscriber.settled(cursor, sequence, sequence, 1, self._state.now_ms)
            self._go_on(subscriber)

    def due(self, subscription: Subscription) -> None:
        """Lets the messages be delivered again that have waited long enough."""
        for cursor in subscription.cursors.values():
            cursor.unpark(self._state.now_ms)
            self._watch(cursor)
            if cursor.due and cursor.state is State.LIVE:
                self._deliveries.fall_behind(cursor)
        self._deliveries.pump(subscription)

    def watch(self, subscription: Subscription) -> None:
        """Lets the time of retries go on after a restart."""
        for cursor in subscription.cursors.values():
            self._watch(cursor)

    def connection_lost(self, subscriber: Subscriber) -> None:
        """Counts an attempt of what was being handled over a connection that ended without a farewell."""
        for cursor, sequence in subscriber.on_the_clock():
            if cursor.fail(sequence) >= subscriber.subscription.attempts_max:
                client_id = subscriber.session.client_id
                self._giving_up.give_up(cursor, sequence, "connection lost", client_id, None)
                subscriber.settled(cursor, sequence, sequence, 1, self._state.now_ms)

    # --- helpers ---

    def _park(self, cursor: Cursor, sequence: int, failed: int, delay_ms: int | None) -> None:
        if delay_ms is None:
            delay_ms = backoff_ms(cursor.subscription, failed, sequence)
        cursor.park(sequence, self._state.now_ms + delay_ms)
        self._watch(cursor)
        self._state.changed_cursor(cursor)

    def _watch(self, cursor: Cursor) -> None:
        time_ms = cursor.next_unpark_ms()
        if time_ms is not None:
            self._state.deadlines.set_at_latest(("retry", cursor.subscription.number), time_ms)

    def _go_on(self, subscriber: Subscriber) -> None:
        self._state.watch(subscriber)
        self._deliveries.pump(subscriber.subscription)


def in_flight(
    subscriber: Subscriber, ranges: list[tuple[int, int, int]], *, or_held: bool = False
) -> tuple[list[tuple[Cursor, int]], list[tuple[Cursor, int, int]]]:
    """Returns which messages of the ranges are in flight to a subscriber, each once, and which ranges hold others.

    With `or_held` those whose ack is being stored by a transaction count as neither.
    """
    found: dict[tuple[Cursor, int], None] = {}
    missing: list[tuple[Cursor, int, int]] = []
    for reading, first, last in ranges:
        if not 1 <= first <= last:
            raise InvalidOption(f"{first} to {last} is not a range of sequences; they count from 1")
        cursor = subscriber.subscription.cursors.get(epoch_of(reading))
        if cursor is None:
            continue  # the queue was deleted, and with it what there was to do
        if cursor.reading != reading:
            missing.append((cursor, first, last))
            continue
        count = 0
        for low, high in cursor.unsettled.within(first, last):
            for sequence in range(low, high + 1):
                if subscriber.holds(cursor, sequence):
                    found[cursor, sequence] = None
                    count += 1
                elif or_held and cursor.parked.get(sequence) == HELD:
                    count += 1
        if count < last - first + 1:
            missing.append((cursor, first, last))
    return list(found), missing


def taken_away(what: str, subscription: Subscription, missing: list[tuple[Cursor, int, int]]) -> DeliveryTakenAway:
    """Returns the error for messages that are not in flight any more."""
    cursor, first, last = missing[0]
    return DeliveryTakenAway(
        f"{what} of {first} to {last} of queue {cursor.queue.shown_as!r}: not all of it is in flight to subscription"
        f" {subscription.name!r} any more; it was settled, its time had run out and it is delivered again, or the"
        " subscription was moved"
    )
