"""Seeking: a subscription is moved in its queues, forward or back, whether or not somebody is attached.

1. After a move all up to the new cursor counts as settled, and all after it is delivered, as if for the first time:
   what was in flight, failed or waited before is void, and its late acks are refused.
2. What it is moved past is the user's choice: counted, and no gap. What was trimmed of what it is to get is one. A
   gap after that place, which nobody acked, is told no more: what it covered is delivered, or is a gap anew.
3. Dead letters stay, and what was redriven from them is delivered as ever.
4. Nothing is delivered before the move is durable: else a crash could undo it, and the next one could not be told
   from it.
"""

from __future__ import annotations

from functools import partial

from tidings.broker.answers import refuse
from tidings.broker.cursors import Cursor
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Answered
from tidings.broker.ledger import Answer
from tidings.broker.retention import Retention
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.subscriptions import Subscription
from tidings.calls import Seek
from tidings.errors import InvalidOption, NotFound
from tidings.model import MovedInfo


class Seeking:
    """The rules of moved subscriptions, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries, retention: Retention) -> None:
        self._state = state
        self._deliveries = deliveries
        self._retention = retention

    def seek(self, session: Session, request: int, call: Seek) -> None:
        """Moves a subscription.

        Raises:
            NotFound: there is no such subscription, or it does not read the queue.
            InvalidOption: the goal is not known, or not in the queue.
            Refused: the subscription is just being made.
        """
        subscription = self._state.find_made(call.subscription)
        cursors = _chosen(subscription, call)
        if call.to != "time":
            targets = {cursor: _target(cursor, call, self._retention.first_kept(cursor.queue)) for cursor in cursors}
            self._move(session, request, targets)
        elif cursors:
            self._move_to_time(session, request, call.value, cursors)
        else:
            self._move(session, request, {})

    def _move_to_time(self, session: Session, request: int, time_ms: int, cursors: list[Cursor]) -> None:
        targets: dict[Cursor, int] = {}

        def found(cursor: Cursor, end: int, sequence: int | None) -> None:
            targets[cursor] = end if sequence is None else sequence - 1
            if len(targets) == len(cursors):
                self._move(session, request, targets)

        for cursor in cursors:
            # What is stored while the store looks is after that time, so it must not be moved past.
            then = partial(found, cursor, cursor.queue.committed)
            self._state.effects.append(self._state.lookups.sequence_at(cursor.queue.epoch, time_ms, then))

    def _move(self, session: Session, request: int, targets: dict[Cursor, int]) -> None:
        state = self._state
        moved: dict[Cursor, MovedInfo] = {}
        for cursor, target in targets.items():
            queue, subscription = cursor.queue, cursor.subscription
            if subscription.cursors.get(queue.epoch) is not cursor:
                continue  # deleted while its place was looked up
            first_kept = self._retention.first_kept(queue)
            before = cursor.settled_to
            skipped = self._deliveries.move(cursor, max(target, first_kept - 1))
            begins_anew = subscription.forget_gaps_after(queue.epoch, target)
            if target < first_kept - 1:
                reason = "purged" if first_kept - 1 == queue.purged_to else "trimmed"
                self._deliveries.gaps.tell(subscription, queue, target + 1, first_kept - 1, reason)
            if begins_anew or target < first_kept - 1:
                state.cut_from(cursor)
            moved[cursor] = MovedInfo(queue=queue.name, before=before, cursor=cursor.settled_to, skipped=skipped)

        def reached() -> None:
            state.effects.append(Answered(session.connection, request, list(moved.values())))

        def failed(reason: str, full: bool) -> None:
            refuse(state, session.connection, "call", request, reason, full=full)

        state.ledger.when_durable(Answer(reached, failed))
        self._deliver_when_durable(list(moved))

    def _deliver_when_durable(self, cursors: list[Cursor]) -> None:
        def reached() -> None:
            for cursor in cursors:
                cursor.moving -= 1
                self._deliveries.pump(cursor.subscription)

        def failed(_reason: str, _full: bool) -> None:
            self._deliver_when_durable(cursors)  # what was not stored is written with the next transaction

        self._state.ledger.when_durable(Answer(reached, failed))


def _chosen(subscription: Subscription, call: Seek) -> list[Cursor]:
    cursors = [cursor for cursor in subscription.cursors.values() if cursor.queue.owner is None]
    if call.queue is not None:
        cursors = [cursor for cursor in cursors if cursor.queue.name == call.queue]
        if not cursors:
            raise NotFound(f"subscription {subscription.name!r} does not read queue {call.queue!r}")
    elif call.to == "sequence" and not subscription.filter.literal:
        raise InvalidOption(
            f"subscription {subscription.name!r} reads the queues {subscription.filter.queue!r};"
            " say in which one the sequence is"
        )
    return cursors


def _target(cursor: Cursor, call: Seek, first_kept: int) -> int:
    """Returns up to which sequence all is to count as settled."""
    queue = cursor.queue
    if call.to == "earliest":
        return first_kept - 1
    if call.to == "latest":
        return queue.committed
    if call.to != "sequence":
        raise InvalidOption(f"{call.to!r} is no goal; there are 'earliest', 'latest', 'sequence' and 'time'")
    last = queue.committed + 1
    if not 1 <= call.value <= last:
        raise InvalidOption(f"sequence {call.value} of queue {queue.name!r}; it can be 1 to {last}, the next one")
    return call.value - 1
