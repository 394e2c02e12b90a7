"""What a file of results says: medians and spread of each figure, by workload and peer."""

from statistics import median
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """A figure over several runs."""

    median: float
    minimum: float
    maximum: float
    runs: int


class Results:
    """The results of one call of the benchmarks.

    Args:
        document: what `python -m benchmarks` wrote, decoded.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.peers: dict[str, dict[str, Any]] = document["peers"]

    def figure(self, workload: str, peer: str, name: str) -> Spread | None:
        """Returns a figure; None if no run has it."""
        values = [
            result["figures"][name]
            for result in self.document["results"]
            if result["workload"] == workload and result["peer"] == peer and name in result.get("figures", {})
        ]
        return Spread(median(values), min(values), max(values), len(values)) if values else None

    def value(self, workload: str, peer: str, name: str) -> float | None:
        """Returns the median of a figure; None if no run has it."""
        found = self.figure(workload, peer, name)
        return found.median if found else None

    def measured(self, workload: str) -> list[str]:
        """Returns the peers that have figures for a workload, in the order of the runs."""
        found = [
            result["peer"]
            for result in self.document["results"]
            if result["workload"] == workload and "figures" in result
        ]
        return list(dict.fromkeys(found))

    def best_syncing(self, workload: str, name: str, *, lowest: bool = False) -> tuple[str, float] | None:
        """Returns the best of the others that sync before they confirm, and its figure."""
        values = {
            peer: value
            for peer in self.measured(workload)
            if self.peers[peer]["syncs"]
            and peer != "floor"
            and not peer.startswith("tidings")
            and (value := self.value(workload, peer, name)) is not None
        }
        if not values:
            return None
        best = (min if lowest else max)(values, key=values.__getitem__)
        return best, values[best]

    def failures(self) -> list[str]:
        """Returns the runs that failed, in words."""
        return [
            f"{result['workload']}, {result['peer']}, run {result['run']}: {result['error']}"
            for result in self.document["results"]
            if "error" in result
        ]
