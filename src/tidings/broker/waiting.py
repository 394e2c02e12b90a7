"""Waiting: how much of a queue may wait for a durable subscription, and what happens beyond.

1. What waits for a subscription is neither settled nor in flight. With a filter all messages after the oldest one that
   waits count, since it is not known which of them it wants.
2. It may be too many messages, too many bytes, or too old; the queue says how much of each may be.
3. A queue refuses what is published into it while as much waits as may, counting what is being stored, unless who
   reads it has nothing waiting and takes it at once. A batch is taken or refused as a whole: the last one that is
   taken may be larger than the room that was left.
4. Or it takes everything, and of what waits the oldest is cut and told as a gap; what is in flight never is. What is
   cut for its size leaves the newest message, however large.
5. What was scheduled before, and what is redriven, comes in any case.
"""

from __future__ import annotations

from tidings.broker.cursors import Cursor, State
from tidings.broker.deliveries import Deliveries
from tidings.broker.marks import Marks
from tidings.broker.queues import Queue
from tidings.broker.retention import Turns
from tidings.broker.state import BrokerState
from tidings.errors import QueueFull
from tidings.model import QueueSettings
from tidings.transaction import Row


class Waiting:
    """The rules of what may wait, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries
        self._turns = Turns(state)

    def begin(self) -> None:
        """Lets the limits that were set before a restart hold."""
        for queue in self._state.queues.values():
            self.configured(queue)

    def configured(self, queue: Queue) -> None:
        """Lets the limits of a queue hold from now on."""
        settings = queue.settings
        if settings.waiting_bytes is None and settings.waiting_age_ms is None:
            queue.marks = None
        elif queue.marks is None:
            queue.marks = Marks(queue.first_sequence, queue.committed, queue.size_bytes, queue.last_time_ms)
            if queue.first_sequence < queue.committed:
                self._sample(queue, queue.marks)
        self.bound(queue)

    def _sample(self, queue: Queue, marks: Marks) -> None:
        def found(rows: list[Row]) -> None:
            if queue.marks is not marks:
                return  # changed meanwhile, or deleted
            if rows and not marks.refine(rows):
                self._sample(queue, marks)  # more was stored meanwhile than there are marks
            self.bound(queue)

        self._state.effects.append(self._state.lookups.sample(queue.epoch, queue.committed, found))

    def tick(self) -> None:
        """Cuts what has waited too long, of queues that drop their oldest."""
        for queue in self._turns.take():
            if queue.settings.waiting_age_ms is not None:
                self.bound(queue)

    def bound(self, queue: Queue) -> None:
        """Cuts what waits beyond what may, if the queue is one that drops its oldest."""
        if queue.settings.when_full != "drop-oldest" or not _is_limited(queue.settings):
            return
        for cursor in list(queue.cursors):
            if _counts(cursor):
                self._bound(queue, cursor)

    def _bound(self, queue: Queue, cursor: Cursor) -> None:
        settings, marks = queue.settings, queue.marks
        if settings.waiting_age_ms is not None and marks is not None:
            old = marks.last_stored_by(self._state.now_ms - settings.waiting_age_ms)
            if cursor.oldest_waiting <= old:
                self._deliveries.cut(cursor, old, "waited too long")
        if settings.waiting_messages is not None and (surplus := cursor.waiting - settings.waiting_messages) > 0:
            self._deliveries.cut(cursor, cursor.end_of_oldest(surplus), "too many waited")
        if settings.waiting_bytes is not None and marks is not None:
            rest = settings.waiting_bytes
            for first, last in reversed(list(cursor.what_waits())):
                size_bytes = marks.size_bytes(first, last)
                if size_bytes > rest:
                    end = min(max(marks.begin_of_last(rest, last) - 1, first), last, queue.committed - 1)
                    self._deliveries.cut(cursor, end, "too many bytes waited")
                    break
                rest -= size_bytes


def check_room(state: BrokerState, queue: Queue) -> None:
    """Raises QueueFull if a queue takes nothing more at the moment."""
    settings = queue.settings
    if settings.when_full != "refuse-new" or not _is_limited(settings):
        return
    arriving = state.ledger.arriving.get(queue.name)
    for cursor in queue.cursors:
        counts = _counts(cursor)
        waiting = cursor.waiting if counts else 0
        is_next = bool(waiting) or _will_wait(cursor)
        if settings.waiting_messages is not None:
            count = waiting + (arriving.count if arriving and is_next else 0)
            if count >= settings.waiting_messages:
                raise QueueFull(
                    f"{count} messages {_for_whom(queue, cursor)}, at most {settings.waiting_messages} may; publish"
                    " again when it has settled some, or raise waiting_messages of the queue"
                )
        if settings.waiting_bytes is not None and queue.marks is not None:
            ranges = cursor.what_waits() if waiting else ()
            size_bytes = sum(queue.marks.size_bytes(first, last) for first, last in ranges)
            size_bytes += arriving.size_bytes if arriving and is_next else 0
            if size_bytes >= settings.waiting_bytes:
                raise QueueFull(
                    f"{size_bytes} bytes {_for_whom(queue, cursor)}, at most {settings.waiting_bytes} may; publish"
                    " again when it has settled some, or raise waiting_bytes of the queue"
                )
        if settings.waiting_age_ms is not None and queue.marks is not None and waiting:
            age_ms = state.now_ms - queue.marks.time_ms(cursor.oldest_waiting)
            if age_ms >= settings.waiting_age_ms:
                raise QueueFull(
                    f"messages of {age_ms / 1000:g} s {_for_whom(queue, cursor)}, they may be"
                    f" {settings.waiting_age_ms / 1000:g} s old; publish again when it has settled them, or raise"
                    " waiting_age of the queue"
                )


def _is_limited(settings: QueueSettings) -> bool:
    limits = settings.waiting_messages, settings.waiting_bytes, settings.waiting_age_ms
    return any(limit is not None for limit in limits)


def _for_whom(queue: Queue, cursor: Cursor) -> str:
    return f"of queue {queue.name!r} wait for subscription {cursor.subscription.name!r}"


def _will_wait(cursor: Cursor) -> bool:
    """Whether what is being stored will wait for a durable subscription that has nothing waiting yet: it is away."""
    subscription = cursor.subscription
    return subscription.durable and subscription.subscriber is None and cursor.filter.everything


def _counts(cursor: Cursor) -> bool:
    """Whether something may wait for a durable subscription."""
    return cursor.subscription.durable and cursor.state is not State.IDLE and not cursor.subscription.locating
