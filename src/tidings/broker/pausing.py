"""Pausing: a subscription or a queue delivers nothing new until it is resumed.

1. Neither loses anything by it: a paused queue takes messages, a paused subscription keeps its place, and what it
   has in flight can be settled, fails and waits for its retry as ever.
2. What is paused stays so over restarts. A queue that is deleted and used again is not paused.
3. A paused queue delivers nothing of what was redriven from it either, until it is resumed or deleted.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidings.broker.answers import answered_when_durable
from tidings.broker.cursors import Cursor, State
from tidings.broker.deliveries import Deliveries
from tidings.broker.queues import Queue, side_queue_name
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.calls import Pause
from tidings.errors import InvalidOption


class Pausing:
    """The rules of what is paused, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries

    def pause(self, session: Session, request: int, call: Pause) -> None:
        """Pauses or resumes a subscription or a queue.

        Raises:
            InvalidOption: not exactly one of them was named.
            NotFound: there is none of the name.
            SystemQueue: the queue is the server's own.
            Refused: the subscription is just being made.
        """
        if call.subscription is not None and call.queue is None:
            self._pause_subscription(call.subscription, call.paused)
        elif call.queue is not None and call.subscription is None:
            self._pause_queue(call.queue, call.paused)
        else:
            raise InvalidOption("name a subscription or a queue, one of the two")
        answered_when_durable(self._state, session.connection, request, None)

    def _pause_subscription(self, name: str, paused: bool) -> None:
        subscription = self._state.find_made(name)
        subscription.paused = paused
        if subscription.durable:
            self._state.changed(subscription)
        self._follow(subscription.cursors.values())

    def _pause_queue(self, name: str, paused: bool) -> None:
        queue = self._state.find_queue(name, "paused")
        for each in (queue, *self._side_queues(queue)):
            self._set(each, paused=paused)

    def let_go(self, queue: Queue) -> None:
        """Lets what was redriven from a queue go on that is deleted: nobody could resume it."""
        if queue.paused:
            for each in self._side_queues(queue):
                self._set(each, paused=False)

    def _side_queues(self, queue: Queue) -> list[Queue]:
        names = [side_queue_name(each.subscription.number, queue.name) for each in queue.cursors]
        return [self._state.queues[name] for name in names if name in self._state.queues]

    def _set(self, queue: Queue, *, paused: bool) -> None:
        queue.paused = paused
        self._state.changed(queue)
        self._follow(queue.cursors)

    def _follow(self, cursors: Iterable[Cursor]) -> None:
        """Lets cursors stop at the tail, or go on from where they stopped."""
        for cursor in list(cursors):
            if cursor.state is State.LIVE and cursor.is_held:
                self._deliveries.fall_behind(cursor)
            elif cursor.state is State.BEHIND:
                self._deliveries.pump(cursor.subscription)
