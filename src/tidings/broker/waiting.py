"""Waiting: how many messages of a queue may wait for a durable subscription, and what happens beyond.

1. What waits for a subscription is neither settled nor in flight. With a filter all messages after the oldest one that
   waits count, since it is not known which of them it wants.
2. A queue refuses what is published into it while as much waits as may, counting what is being stored, unless who
   reads it has nothing waiting and takes it at once. A batch is taken or refused as a whole: the last one that is
   taken may be larger than the room that was left.
3. Or it takes everything, and of what waits the oldest is cut and told as a gap; what is in flight never is.
4. What was scheduled before, and what is redriven, comes in any case.
"""

from __future__ import annotations

from tidings.broker.cursors import Cursor, State
from tidings.broker.deliveries import Deliveries
from tidings.broker.queues import Queue
from tidings.broker.state import BrokerState
from tidings.errors import QueueFull


class Waiting:
    """The rules of what may wait, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries

    def bound(self, queue: Queue) -> None:
        """Cuts what waits beyond what may, if the queue is one that drops its oldest."""
        most = queue.settings.waiting_messages
        if most is None or queue.settings.when_full != "drop-oldest":
            return
        for cursor in list(queue.cursors):
            if not _counts(cursor):
                continue
            surplus = cursor.waiting - most
            if surplus > 0:
                self._deliveries.cut(cursor, cursor.end_of_oldest(surplus), "too many waited")


def check_room(state: BrokerState, queue: Queue) -> None:
    """Raises QueueFull if a queue takes nothing more at the moment."""
    most = queue.settings.waiting_messages
    if most is None or queue.settings.when_full != "refuse-new":
        return
    arriving = state.ledger.arriving(queue.name)
    for cursor in queue.cursors:
        waiting = cursor.waiting if _counts(cursor) else 0
        if waiting or _will_wait(cursor):
            waiting += arriving
        if waiting >= most:
            raise QueueFull(
                f"{waiting} messages of queue {queue.name!r} wait for subscription {cursor.subscription.name!r}, at"
                f" most {most} may; publish again when it has settled some, or raise waiting_messages of the queue"
            )


def _will_wait(cursor: Cursor) -> bool:
    """Whether what is being stored will wait for a durable subscription that has nothing waiting yet: it is away."""
    subscription = cursor.subscription
    return subscription.durable and subscription.subscriber is None and cursor.filter.everything


def _counts(cursor: Cursor) -> bool:
    """Whether something may wait for a durable subscription."""
    return cursor.subscription.durable and cursor.state is not State.IDLE and not cursor.subscription.locating
