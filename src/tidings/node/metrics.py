"""Metrics: what a node counts and times, once a round, a transaction and a delivery, never once a message."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from tidings.broker.effects import Deliver
from tidings.transaction import Commit

SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds of buckets, from a round to a disk that hangs."""


class Histogram:
    """How often something took how long. `counts` has one more bucket than `bounds`: what is above the last."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Takes note of one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """Counters since the start of a node, and histograms of seconds."""

    __slots__ = (
        "_oldest_s",
        "commit_seconds",
        "confirm_seconds",
        "delivered",
        "published",
        "published_bytes",
        "refused_commits",
        "round_seconds",
    )

    def __init__(self) -> None:
        self.published = 0
        """Messages stored."""
        self.published_bytes = 0
        self.delivered = 0
        """Messages sent to subscribers, each time counted."""
        self.refused_commits = 0
        self.round_seconds = Histogram()
        """Time of a round: while it lasts nothing else happens in the server."""
        self.commit_seconds = Histogram()
        """Time of a transaction, until the store says that it is durable."""
        self.confirm_seconds = Histogram()
        """Time from a publish until it is stored, of the oldest one in each transaction."""
        self._oldest_s: float | None = None

    def publish(self, now_s: float) -> None:
        """Takes note that a batch came; only the first since the last transaction began counts."""
        if self._oldest_s is None:
            self._oldest_s = now_s

    def begin_commit(self) -> float | None:
        """Returns when the oldest batch of a transaction came, None if it has none."""
        oldest_s, self._oldest_s = self._oldest_s, None
        return oldest_s

    def committed(self, commit: Commit, oldest_s: float | None, began_s: float, now_s: float) -> None:
        """Takes note of a transaction that is durable."""
        self.commit_seconds.observe(now_s - began_s)
        for append in commit.appends:
            self.published += append.stored.batch.count
            self.published_bytes += len(append.stored.batch.body)
        if oldest_s is not None and commit.appends:
            self.confirm_seconds.observe(now_s - oldest_s)

    def deliver(self, effect: Deliver) -> None:
        """Takes note of a delivery."""
        for row in effect.rows:
            runs = row.batch.runs
            self.delivered += runs[0].count if len(runs) == 1 else sum([run.count for run in runs if run.event])
