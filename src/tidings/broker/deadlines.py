"""Deadlines: when which key wants attention, at most one time for each key."""

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """A heap of (time, key). Setting a key again moves it; what is out of date is dropped when it surfaces."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, K]] = []
        self._times: dict[K, int] = {}
        self._count = 0  # breaks ties, so that keys are never compared

    def set(self, key: K, time_ms: int) -> None:
        """Sets or moves the time of a key."""
        if self._times.get(key) != time_ms:
            self._times[key] = time_ms
            self._count += 1
            heappush(self._heap, (time_ms, self._count, key))
            if len(self._heap) > 2 * len(self._times) + 64:  # most of it was moved or removed before its time
                self._heap = [(time_ms, place, key) for place, (key, time_ms) in enumerate(self._times.items())]
                heapify(self._heap)

    def set_at_latest(self, key: K, time_ms: int) -> None:
        """Sets the time of a key unless it has an earlier one. Cheap when called again and again."""
        if self._times.get(key, time_ms + 1) > time_ms:
            self.set(key, time_ms)

    def remove(self, key: K) -> None:
        """Forgets a key."""
        self._times.pop(key, None)

    def is_set(self, key: K, time_ms: int) -> bool:
        """Whether a key wants attention at that time or earlier."""
        return self._times.get(key, time_ms + 1) <= time_ms

    def next_ms(self) -> int | None:
        """Returns the earliest time."""
        heap = self._heap
        while heap and self._times.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now_ms: int) -> Iterator[K]:
        """Yields and forgets the keys whose time has come, earliest first."""
        while (time_ms := self.next_ms()) is not None and time_ms <= now_ms:
            key = heappop(self._heap)[2]
            del self._times[key]
            yield key
