"""Gaps: what a subscription is told of messages that never come.

1. A gap is told in its place among the messages, at once; that a queue has ended only once that is durable, since
   nothing of it is told afterwards.
2. To a durable subscription it is told again on every connection, until it is acked like a message.
"""

from __future__ import annotations

from tidings.broker.answers import once_durable
from tidings.broker.effects import Gap
from tidings.broker.queues import Queue
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import MissedGap, Subscription
from tidings.model import Reading, epoch_of
from tidings.ranges import Ranges


class Gaps:
    """The rules of telling gaps, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._untold_ends: set[tuple[int, str]] = set()  # of queues: epoch and reason, until that is durable

    def tell(self, subscription: Subscription, queue: Queue, first: int, last: int, reason: str) -> None:
        """Tells a subscription, now or when its subscriber comes back, that messages will not come."""
        cursor = subscription.cursors[queue.epoch]
        cursor.cut += last - first + 1
        gap = MissedGap(queue.shown_as, cursor.reading, first, last, reason)
        told = [_shown(subscriber, gap) for subscriber in subscription.attached() if not subscriber.starting]
        self._state.effects += told
        self._keep(subscription, gap, told=bool(told))

    def tell_end(self, subscription: Subscription, queue: Queue, lost: Ranges, reason: str) -> None:
        """Tells a subscription that a queue ended: once that is durable, of what was not acked until then."""
        if not lost:
            return
        reading = subscription.cursors[queue.epoch].reading
        gaps = [MissedGap(queue.shown_as, reading, first, last, reason) for first, last in lost]
        for gap in gaps:
            self._keep(subscription, gap, told=False)
        end = queue.epoch, reason
        self._untold_ends.add(end)

        def tell() -> None:
            self._untold_ends.discard(end)
            left = subscription.gaps if subscription.durable else gaps
            for subscriber in subscription.attached():
                if not subscriber.starting:
                    self._state.effects += [_shown(subscriber, gap) for gap in left if _end_of(gap) == end]

        once_durable(self._state, tell)

    def tell_again(self, subscriber: Subscriber) -> None:
        """Tells a subscriber that has come what was not acked before."""
        subscription = subscriber.subscription
        subscription.untold = 0
        told = [gap for gap in subscription.gaps if _end_of(gap) not in self._untold_ends]
        self._state.effects += [_shown(subscriber, gap) for gap in told]

    def acked(self, subscription: Subscription, reading: Reading, first: int, last: int) -> bool:
        """Forgets what is in a range that was acked; returns whether there was something."""
        if first > last or not subscription.gaps or not subscription.forget_gaps(reading, first, last):
            return False
        self._state.changed(subscription)
        return True

    def _keep(self, subscription: Subscription, gap: MissedGap, *, told: bool) -> None:
        """Keeps a gap of a durable subscription until it is acked: what a lost connection swallows is told again."""
        if subscription.durable:
            subscription.remember(gap, told=told)
            self._state.has_gap(subscription)


def _end_of(gap: MissedGap) -> tuple[int, str]:
    return epoch_of(gap.reading), gap.reason


def _shown(subscriber: Subscriber, gap: MissedGap) -> Gap:
    return Gap(subscriber.session.connection, subscriber.handle, *gap)
