"""Last messages: what a new subscription gets that begins with the last message of each event.

1. They are looked for in the store when somebody asks, from the end of the queue backwards, in windows that grow. Of a
   filter that names one event the first that is found is enough; of all others the queue is read to its beginning.
2. What cannot be read may have been the last of something: it is told as a gap in its place.
3. In memory are the names of the events that were found and the page that is looked at, of a few searches at a time;
   the others wait. A queue with more events than `LAST_EVENTS_MAX` is refused, nothing is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from tidings import limits
from tidings.batch import Batch, StoredBatch
from tidings.broker.cursors import Cursor
from tidings.broker.gone import gone_of
from tidings.broker.lookups import Rows
from tidings.broker.state import BrokerState
from tidings.errors import LimitReached
from tidings.ranges import Ranges
from tidings.transaction import Damage

_WINDOW_COUNT: Final = 1_024  # messages of the first window
_GROWTH: Final = 4
_SEARCHES_MAX: Final = 4  # under way at a time

Found = Callable[[Ranges | LimitReached], None]


class LastMessages:
    """Searches under way and waiting, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._waiting: deque[_Search] = deque()
        self._under_way = 0

    def find(self, cursor: Cursor, first: int, last: int, then: Found) -> None:
        """Looks among `first` to `last` of a queue for what a cursor is to begin with; `then` is called once."""
        self._waiting.append(_Search(cursor, first, last, then))
        self._begin()

    def _begin(self) -> None:
        while self._waiting and self._under_way < _SEARCHES_MAX:
            self._under_way += 1
            self._step(self._waiting.popleft())

    def _step(self, search: _Search) -> None:
        if search.is_over:
            self._under_way -= 1
            search.then(search.result())
            return

        def read(rows: Rows) -> None:
            search.look_at(rows, self._state.now_ms)
            self._step(search)
            self._begin()  # not in the step: thousands may be over at once, when whoever asked is gone

        epoch = search.cursor.queue.epoch
        self._state.effects.append(self._state.lookups.rows(epoch, search.after, limits.FETCH_SIZE_BYTES, read))


class _Search:
    """One search: what was found above the window, and what inside it up to where it is read."""

    def __init__(self, cursor: Cursor, first: int, last: int, then: Found) -> None:
        self.cursor = cursor
        self.then = then
        self._first = first
        self._last = last
        self._found: dict[str, int] = {}
        self._unreadable = Ranges()
        self._count = _WINDOW_COUNT
        self._high = last  # the window: above `_low`, up to `_high`
        self._low = max(first - 1, last - self._count)
        self._in_window: dict[str, int] = {}
        self.after = self._low
        """From after which sequence to read on."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be read."""
        too_many = len(self._found) + len(self._unreadable) > limits.LAST_EVENTS_MAX
        enough = self.cursor.filter.names_one_event and bool(self._found)
        gone = self.cursor.subscription.cursors.get(self.cursor.queue.epoch) is not self.cursor
        return too_many or enough or gone or self._high < self._first

    def look_at(self, rows: Rows, now_ms: int) -> None:
        """Takes the last of each event out of a page, and decides where to read on."""
        for row in rows:
            if row.first_sequence > self._last:
                break  # the store may be ahead, and only what was durable then is looked for
            if isinstance(row, Damage):
                self._unreadable.add(max(row.first_sequence, self._first), min(row.last_sequence, self._last))
                continue
            selected = self._selected(row, now_ms)
            sequence = row.first_sequence - 1
            for run in selected.runs if selected else ():
                sequence += run.count
                if run.event is not None and sequence >= self._first:
                    self._in_window[run.event] = sequence
        if rows and rows[-1].last_sequence < self._high and len(self._in_window) <= limits.LAST_EVENTS_MAX:
            self.after = rows[-1].last_sequence
            return
        for event, sequence in self._in_window.items():
            self._found.setdefault(event, sequence)
        self._in_window = {}
        self._count *= _GROWTH
        self._high = self._low
        self.after = self._low = max(self._first - 1, self._high - self._count)

    def _selected(self, row: StoredBatch, now_ms: int) -> Batch | None:
        """Returns a row's messages that are wanted, without those that are gone: they are no last ones."""
        selected = self.cursor.filter.select(row.batch)
        gone = gone_of(row, self.cursor.queue, self.cursor.filter, now_ms)
        if selected is None or not gone:
            return selected
        there = Ranges(selected.present())
        for first, last, _ in gone:
            there.remove(first - row.first_sequence, last - row.first_sequence)
        return selected.keep(list(there))

    def result(self) -> Ranges | LimitReached:
        """Returns what the cursor is to begin with."""
        queue = self.cursor.queue.name
        if len(self._found) + len(self._unreadable) > limits.LAST_EVENTS_MAX:
            return LimitReached(
                f"queue {queue!r} has more than {limits.LAST_EVENTS_MAX} events that {self.cursor.filter} wants; begin"
                " with the last message of fewer, for example of one kind: error.#"
            )
        found = Ranges(self._unreadable)
        for sequence in sorted(self._found.values()):
            found.add(sequence, sequence)
        return found
