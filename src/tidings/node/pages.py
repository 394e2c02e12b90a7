"""Pages: recently written and read rows, for subscriptions close behind the tail."""

from bisect import bisect_right
from collections import OrderedDict

from tidings.batch import StoredBatch

_ROW_OVERHEAD_BYTES = 500


class Pages:
    """A cache of rows, bounded in bytes; the least recently used go first.

    Args:
        size_bytes_max: bytes of bodies to keep.
    """

    def __init__(self, size_bytes_max: int) -> None:
        self._size_bytes_max = size_bytes_max
        self._size_bytes = 0
        self._rows: OrderedDict[tuple[int, int], StoredBatch] = OrderedDict()
        self._firsts: dict[int, list[int]] = {}  # epoch -> first sequences, sorted

    def add(self, epoch: int, row: StoredBatch) -> None:
        """Keeps a row."""
        key = (epoch, row.first_sequence)
        if key in self._rows:
            self._rows.move_to_end(key)
            return
        self._rows[key] = row
        firsts = self._firsts.setdefault(epoch, [])
        if not firsts or row.first_sequence > firsts[-1]:
            firsts.append(row.first_sequence)
        else:
            firsts.insert(bisect_right(firsts, row.first_sequence), row.first_sequence)
        self._size_bytes += _size(row)
        while self._size_bytes > self._size_bytes_max and len(self._rows) > 1:
            self._drop(*next(iter(self._rows)))

    def read(self, epoch: int, after: int, limit_bytes: int) -> list[StoredBatch]:
        """Returns neighbouring rows from the one that holds `after` + 1 on; empty if that one is not here."""
        firsts = self._firsts.get(epoch, [])
        rows: list[StoredBatch] = []
        sequence, size = after + 1, 0
        for index in range(bisect_right(firsts, sequence) - 1, len(firsts)):
            if index < 0 or size >= limit_bytes:
                break
            row = self._rows[epoch, firsts[index]]
            if not row.first_sequence <= sequence <= row.last_sequence:
                break
            self._rows.move_to_end((epoch, firsts[index]))
            rows.append(row)
            sequence = row.last_sequence + 1
            size += len(row.batch.body)
        return rows

    def trim(self, epoch: int, to_sequence: int) -> None:
        """Forgets rows that were trimmed."""
        firsts = self._firsts.get(epoch, [])
        while firsts and self._rows[epoch, firsts[0]].last_sequence <= to_sequence:
            self._drop(epoch, firsts[0])
            firsts = self._firsts.get(epoch, [])

    def _drop(self, epoch: int, first: int) -> None:
        self._size_bytes -= _size(self._rows.pop((epoch, first)))
        firsts = self._firsts[epoch]
        del firsts[bisect_right(firsts, first) - 1]
        if not firsts:
            del self._firsts[epoch]


def _size(row: StoredBatch) -> int:
    return len(row.batch.body) + _ROW_OVERHEAD_BYTES * len(row.batch.runs)
