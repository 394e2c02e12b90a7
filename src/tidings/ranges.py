"""Ranges: a set of sequences as sorted, disjoint, inclusive ranges."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of integers that mostly come in runs.

    Adding at the end and removing from the front, the work of a subscription that acks in order, touch only
    one range; everything else is a binary search and a splice.
    """

    __slots__ = ("_firsts", "_lasts", "count")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self.count = 0
        for first, last in ranges:
            self.add(first, last)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __len__(self) -> int:
        """Returns the number of ranges."""
        return len(self._firsts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._lasts, strict=True))

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._firsts == other._firsts and self._lasts == other._lasts

    __hash__ = None  # type: ignore[assignment]  # changes

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"

    @property
    def first(self) -> int:
        """The smallest number; there must be one."""
        return self._firsts[0]

    @property
    def last(self) -> int:
        """The largest number; there must be one."""
        return self._lasts[-1]

    def add(self, first: int, last: int) -> int:
        """Adds all numbers of a range; returns how many were new."""
        firsts, lasts = self._firsts, self._lasts
        if not firsts or first > lasts[-1] + 1:
            firsts.append(first)
            lasts.append(last)
            self.count += last - first + 1
            return last - first + 1
        if first == lasts[-1] + 1:
            lasts[-1] = last
            self.count += last - first + 1
            return last - first + 1
        low = bisect_left(lasts, first - 1)
        high = bisect_right(firsts, last + 1)
        if low == high:
            firsts.insert(low, first)
            lasts.insert(low, last)
            self.count += last - first + 1
            return last - first + 1
        covered = sum(lasts[index] - firsts[index] + 1 for index in range(low, high))
        first, last = min(first, firsts[low]), max(last, lasts[high - 1])
        firsts[low:high] = [first]
        lasts[low:high] = [last]
        new = last - first + 1 - covered
        self.count += new
        return new

    def remove(self, first: int, last: int) -> int:
        """Removes all numbers of a range; returns how many were there."""
        firsts, lasts = self._firsts, self._lasts
        low = bisect_left(lasts, first)
        high = bisect_right(firsts, last)
        if low >= high:
            return 0
        if low + 1 == high:
            removed = self._remove_within(low, max(first, firsts[low]), min(last, lasts[low]))
            self.count -= removed
            return removed
        before = (firsts[low], first - 1)
        after = (last + 1, lasts[high - 1])
        covered = sum(lasts[index] - firsts[index] + 1 for index in range(low, high))
        rest = [part for part in (before, after) if part[0] <= part[1]]
        firsts[low:high] = [part[0] for part in rest]
        lasts[low:high] = [part[1] for part in rest]
        removed = covered - sum(part[1] - part[0] + 1 for part in rest)
        self.count -= removed
        return removed

    def _remove_within(self, index: int, first: int, last: int) -> int:
        """Removes numbers that are all inside the range at an index; returns how many."""
        firsts, lasts = self._firsts, self._lasts
        if first == firsts[index]:
            if last == lasts[index]:
                del firsts[index], lasts[index]
            else:
                firsts[index] = last + 1
        else:
            if last < lasts[index]:
                firsts.insert(index + 1, last + 1)
                lasts.insert(index + 1, lasts[index])
            lasts[index] = first - 1
        return last - first + 1

    def covers(self, first: int, last: int) -> bool:
        """Whether all numbers of a range are in this set."""
        index = bisect_left(self._lasts, last)
        return index < len(self._firsts) and self._firsts[index] <= first

    def next(self, number: int) -> int | None:
        """Returns the smallest member that is at least `number`."""
        index = bisect_left(self._lasts, number)
        return max(self._firsts[index], number) if index < len(self._firsts) else None

    def next_outside(self, number: int) -> int:
        """Returns the smallest number that is at least `number` and no member."""
        index = bisect_left(self._lasts, number)
        inside = index < len(self._firsts) and self._firsts[index] <= number
        return self._lasts[index] + 1 if inside else number

    def within(self, first: int, last: int) -> list[tuple[int, int]]:
        """Returns the parts of this set inside a range."""
        low = bisect_left(self._lasts, first)
        high = bisect_right(self._firsts, last)
        return [(max(self._firsts[i], first), min(self._lasts[i], last)) for i in range(low, high)]
