"""Deletions: queues deleted with all they hold, and subscriptions with their cursors."""

from __future__ import annotations

from tidings.broker.answers import done_when_durable
from tidings.broker.cursors import Cursor, State
from tidings.broker.deliveries import Deliveries
from tidings.broker.inputs import Delete
from tidings.broker.pausing import Pausing
from tidings.broker.queues import Queue
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.subscription_options import addresses
from tidings.calls import ConfigureQueue, ConfigureSubscription, check_tag
from tidings.errors import InvalidOption, SubscriptionInUse
from tidings.ranges import Ranges


class Deletions:
    """The rules of deleting, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries, pausing: Pausing) -> None:
        self._state = state
        self._deliveries = deliveries
        self._pausing = pausing

    def delete(self, session: Session, input: Delete) -> None:
        """Deletes a queue with all it holds, or a subscription with its cursors.

        Raises:
            NotFound: there is nothing of the name.
            SystemQueue: the queue is the server's own.
            SubscriptionInUse: the subscription has a subscriber.
            Changed: it is not as `if_match` says.
            InvalidOption: neither a queue nor a subscription was named.
        """
        if input.what == "queue":
            self._delete_queue(input.name, input.if_match)
        elif input.what == "subscription":
            self._delete_subscription(input.name, input.if_match)
        else:
            raise InvalidOption(f"{input.what!r} cannot be deleted; a 'queue' and a 'subscription' can")
        done_when_durable(self._state, session.connection, "delete", input.request)

    def _delete_queue(self, name: str, if_match: str | None) -> None:
        state = self._state
        queue = state.find_queue(name, "deleted")
        check_tag(ConfigureQueue, if_match, queue.settings)
        self._pausing.let_go(queue)
        for cursor in list(queue.cursors):
            self._cut(queue, cursor)
            state.remove_cursor(cursor)
            subscriber = cursor.subscription.subscriber
            if subscriber:
                subscriber.wind(state.now_ms)
                self._deliveries.pump(cursor.subscription)
        state.remove_queue(queue)

    def _cut(self, queue: Queue, cursor: Cursor) -> None:
        """Tells a subscriber, now or when it comes back, that the rest of a queue will not come."""
        if cursor.subscription.locating:
            return  # it has not begun yet
        # What is being stored at this moment will be confirmed, and then it is lost like the rest.
        round = self._state.ledger.round
        rows = round.rows.get(queue) if round else None
        end = min(rows[-1].last_sequence if rows else queue.committed, cursor.end)
        begin = queue.committed if cursor.state is State.IDLE else cursor.position
        lost = Ranges(cursor.unsettled)
        if begin < end:
            lost.add(begin + 1, end)
        self._deliveries.gaps.tell_end(cursor.subscription, queue, lost, "queue deleted")

    def _delete_subscription(self, name: str, if_match: str | None) -> None:
        subscription = self._state.find(name)
        check_tag(ConfigureSubscription, if_match, subscription)
        attached = subscription.attached()
        if attached:
            where = addresses(attached)
            raise SubscriptionInUse(f"subscription {subscription.name!r} has {where}; stop it first, then delete")
        self._state.remove_subscription(subscription)
