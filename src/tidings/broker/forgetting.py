"""Forgetting: a queue is purged, or one message of it deleted, by whoever asks.

1. What is purged or deleted is delivered to nobody from then on. To whom it was still to be delivered it is a gap, in
   its place: what waits at a purge is cut at once, what is deleted singly when it would be its turn.
2. Who has it in flight may still ack it. If it fails it is not delivered again, and no dead letter: it is a gap then.
3. Sequences stay as they are, and are not used again.
4. Rows are removed from the store once nobody has anything of them in flight; a deleted message goes with its row.
"""

from __future__ import annotations

from tidings import limits
from tidings.broker.answers import answered_when_durable
from tidings.broker.deliveries import Deliveries
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.calls import DeleteMessage, Purge
from tidings.errors import LimitReached, NotFound


class Forgetting:
    """The rules of what somebody removes from queues, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries

    def purge(self, session: Session, request: int, call: Purge) -> None:
        """Empties a queue.

        Raises:
            NotFound: there is no such queue.
            SystemQueue: it is the server's own.
        """
        state = self._state
        queue = state.find_queue(call.queue, "purged")
        count = queue.messages
        queue.purged_to = queue.committed
        queue.deleted.remove(1, queue.committed)
        queue.trim_after_ms = 0
        # Together with what is cut: else a crash could leave messages that nobody gets and nobody is told of.
        state.ledger.changed_together([queue], state.now_ms)
        for cursor in list(queue.cursors):
            self._deliveries.cut(cursor, queue.purged_to, "purged")
        answered_when_durable(state, session.connection, request, count)

    def delete(self, session: Session, request: int, call: DeleteMessage) -> None:
        """Takes one message out of a queue.

        Raises:
            NotFound: there is no such queue, or no such message in it.
            SystemQueue: it is the server's own.
            LimitReached: too many of its messages are deleted and not trimmed yet.
        """
        state, sequence = self._state, call.sequence
        queue = state.find_queue(call.queue, "changed")
        if not queue.first_kept <= sequence <= queue.committed or sequence in queue.deleted:
            held = f"{queue.first_kept} to {queue.committed}" if queue.messages else "none"
            was = ", and that one was deleted" if sequence in queue.deleted else ""
            raise NotFound(f"queue {queue.name!r} has no message {sequence}; it holds {held}{was}")
        queue.deleted.add(sequence, sequence)
        if len(queue.deleted) > limits.DELETED_RANGES_MAX:
            queue.deleted.remove(sequence, sequence)
            raise LimitReached(
                f"queue {queue.name!r} has {limits.DELETED_RANGES_MAX} ranges of deleted messages, no more are allowed"
                " before the oldest are trimmed; purge the queue, or let its subscriptions settle more"
            )
        state.ledger.changed_together([queue], state.now_ms)
        answered_when_durable(state, session.connection, request, None)
