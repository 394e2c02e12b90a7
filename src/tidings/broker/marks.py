"""Marks: at which sequence of a queue how many bytes had come, and when; between two marks it is the mean that counts.

Only queues have them that limit the bytes or the age of what waits. Each row that is stored is a mark; beyond
`MARKS_MAX` every second one or so goes. After a restart, or where the limit is new, there is one mark for all that is
there at first, and soon as many as the store was asked for.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from tidings import limits
from tidings.transaction import Row


class Marks:
    """Sizes and times along one queue. A mark tells the time of the newest message up to it, so none seems too old."""

    __slots__ = ("_bytes", "_sequences", "_times_ms")

    def __init__(self, first_sequence: int, last_sequence: int, size_bytes: int, time_ms: int) -> None:
        """Begins with what a queue holds; `time_ms` is that of its newest message."""
        self._sequences = array("q", [first_sequence - 1])
        self._bytes = array("q", [0])
        self._times_ms = array("q", [0])
        if last_sequence >= first_sequence:
            self.add(last_sequence, size_bytes, time_ms)

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, last_sequence: int, size_bytes: int, time_ms: int) -> None:
        """Takes note of what was stored up to a sequence after all that is known."""
        if len(self._sequences) >= limits.MARKS_MAX:
            self._thin_out()
        self._sequences.append(last_sequence)
        self._bytes.append(self._bytes[-1] + size_bytes)
        self._times_ms.append(time_ms)

    def _thin_out(self) -> None:
        """Leaves at most half of the marks, evenly spread."""
        sequences = self._sequences
        step = -(-4 * (sequences[-1] - sequences[0]) // limits.MARKS_MAX)
        places, begin = [0], sequences[0]
        for place in range(1, len(sequences)):
            if place + 1 == len(sequences) or sequences[place + 1] - begin > step:
                places.append(place)
                begin = sequences[place]
        self._sequences = array("q", [sequences[place] for place in places])
        self._bytes = array("q", [self._bytes[place] for place in places])
        self._times_ms = array("q", [self._times_ms[place] for place in places])

    def refine(self, rows: Sequence[Row]) -> bool:
        """Takes note of rows spread over what it began with; returns whether a mark is left where the last one ends."""
        place = bisect_left(self._sequences, rows[-1].last_sequence)
        if place == 0 or place == len(self) or self._sequences[place] != rows[-1].last_sequence:
            return False
        end_bytes = rows[-1].offset_bytes + rows[-1].size_bytes
        known = self._bytes[place]
        sequences, sizes, times = array("q"), array("q"), array("q")
        sequences.append(rows[0].first_sequence - 1)
        sizes.append(known - end_bytes + rows[0].offset_bytes)
        times.append(0)
        for row in rows:
            if row.first_sequence - 1 > sequences[-1]:  # what is between the last row and this one
                sequences.append(row.first_sequence - 1)
                sizes.append(known - end_bytes + row.offset_bytes)
                times.append(row.time_ms)
            sequences.append(row.last_sequence)
            sizes.append(known - end_bytes + row.offset_bytes + row.size_bytes)
            times.append(row.time_ms)
        after = place + 1
        self._sequences = sequences + self._sequences[after:]
        self._bytes = sizes + self._bytes[after:]
        self._times_ms = times + self._times_ms[after:]
        return True

    def forget(self, to_sequence: int) -> None:
        """Forgets what was trimmed."""
        place = bisect_right(self._sequences, to_sequence) - 1
        if place > 0:
            for kept in (self._sequences, self._bytes, self._times_ms):
                del kept[:place]

    def size_bytes(self, first: int, last: int) -> int:
        """Returns about how many bytes a range holds."""
        return self._bytes_to(last) - self._bytes_to(first - 1)

    def begin_of_last(self, size_bytes: int, last: int) -> int:
        """Returns the first sequence from which on, up to `last`, there are no more than so many bytes."""
        target = self._bytes_to(last) - size_bytes
        place = bisect_left(self._bytes, target)
        if place == 0:
            return self._sequences[0] + 1
        low, high = self._sequences[place - 1], self._sequences[place]
        least, most = self._bytes[place - 1], self._bytes[place]
        return low + -(-(target - least) * (high - low) // (most - least)) + 1

    def last_stored_by(self, time_ms: int) -> int:
        """Returns up to which sequence all was stored at a time or before."""
        return self._sequences[max(0, bisect_right(self._times_ms, time_ms) - 1)]

    def time_ms(self, sequence: int) -> int:
        """Returns when a message was stored, at the latest."""
        return self._times_ms[min(bisect_left(self._sequences, sequence), len(self) - 1)]

    def _bytes_to(self, sequence: int) -> int:
        place = bisect_left(self._sequences, sequence)
        if place == len(self):
            return self._bytes[-1]
        if place == 0:
            return self._bytes[0]
        low, high = self._sequences[place - 1], self._sequences[place]
        least, most = self._bytes[place - 1], self._bytes[place]
        return least + (most - least) * (sequence - low) // (high - low)
