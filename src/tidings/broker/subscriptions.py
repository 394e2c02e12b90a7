"""The subscription: the server's named state of one reader."""

from __future__ import annotations

from typing import NamedTuple

from tidings.broker.cursors import Cursor
from tidings.broker.filters import Filter
from tidings.broker.subscribers import Subscriber


class MissedGap(NamedTuple):
    """Something that was cut from a backlog while its subscriber was away."""

    queue: str
    epoch: int
    first_sequence: int
    last_sequence: int
    reason: str


class Subscription:
    """A filter, a cursor for each queue it matches, and at most one subscriber."""

    def __init__(
        self, number: int, name: str, client_id: str | None, filter: Filter, *, durable: bool, created_ms: int
    ) -> None:
        self.number = number
        self.name = name
        self.client_id = client_id
        self.filter = filter
        self.durable = durable
        self.created_ms = created_ms
        self.in_flight_max = 1
        self.concurrency = 1
        self.ack_timeout_ms = 1
        self.expires_after_ms: int | None = None
        self.last_seen_ms = created_ms
        self.left_in_drain = False
        """Whether its last subscriber left because the server ends."""
        self.last_ack_ms: int | None = None
        self.gaps: list[MissedGap] = []
        self.cursors: dict[int, Cursor] = {}
        self.subscriber: Subscriber | None = None

    @property
    def key(self) -> str:
        """The key of the subscription's record."""
        return f"subscription/{self.number}"

    def outstanding(self) -> int:
        """Returns the sum of its lags: an upper bound of what waits for it."""
        return sum(cursor.queue.committed - cursor.settled_to for cursor in self.cursors.values())
