"""The parcel: what is collected of one queue for one subscriber, and sent as few deliveries."""

from __future__ import annotations

from tidings import limits
from tidings.batch import StoredBatch
from tidings.broker.cursors import Cursor, Taken
from tidings.broker.effects import Deliver
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber


class Parcel:
    """What one subscriber is to get of one queue in this turn.

    `bursts` counts the bytes that a transaction brings to each session: whether its socket takes them shows
    only afterwards. Who would get more than a send buffer is to hold reads the rest in pages.
    """

    __slots__ = (
        "_bursts",
        "_count",
        "_cursor",
        "_ranges",
        "_redelivered",
        "_rows",
        "_runs",
        "_size_bytes",
        "_state",
        "subscriber",
    )

    def __init__(
        self, state: BrokerState, subscriber: Subscriber, cursor: Cursor, bursts: dict[Session, int] | None = None
    ) -> None:
        self.subscriber = subscriber
        self._state = state
        self._cursor = cursor
        self._bursts = bursts
        self._clear()

    def _clear(self) -> None:
        self._rows: list[StoredBatch] = []
        self._ranges: list[tuple[int, int]] = []
        self._count = 0
        self._size_bytes = 0
        self._runs = 0
        self._redelivered = False

    def load(self) -> int:
        """Returns how many messages the subscriber has in flight, with those that are on their way to it."""
        return self.subscriber.in_flight + self._count

    def room(self) -> int:
        """Returns how many more messages fit into the subscriber's window, and into this turn."""
        if self._bursts is not None:
            burst_bytes = self._bursts.get(self.subscriber.session, 0) + self._size_bytes
            if burst_bytes >= limits.SEND_BUFFER_BYTES_MAX:
                return 0
        return self._cursor.room(self.subscriber.room() - self._count)

    def fits(self, row: StoredBatch) -> bool:
        """Whether it is worth to take from a row, rather than to read it later."""
        room = self.room()
        return room >= row.batch.count or (room > 0 and self.subscriber.has_room())

    def take(self, row: StoredBatch) -> bool:
        """Takes what is wanted of a row; returns whether the window was too small for all of it."""
        taken = self._cursor.take(row, self.room())
        self.add(taken)
        return taken.cut_short

    def add(self, taken: Taken) -> None:
        """Adds what a cursor took."""
        row = taken.row
        if row is None:
            return
        if self._runs + len(row.batch.runs) > limits.BATCH_RUNS_MAX:
            self.send()
        self._rows.append(row)
        self._ranges.extend(taken.ranges)
        self._count += sum([last - first + 1 for first, last in taken.ranges])
        self._size_bytes += len(row.batch.body)
        self._redelivered = self._redelivered or taken.redelivered
        self._runs += len(row.batch.runs)
        if self._size_bytes >= limits.FETCH_SIZE_BYTES or self._runs >= limits.BATCH_RUNS_MAX:
            self.send()

    def send(self) -> None:
        """Sends what was taken, and begins anew."""
        if not self._rows:
            return
        state, subscriber, cursor = self._state, self.subscriber, self._cursor
        subscriber.delivered(cursor, self._ranges, self._size_bytes, state.now_ms)
        state.effects.append(
            Deliver(
                subscriber.session.connection,
                subscriber.handle,
                cursor.queue.shown_as,
                cursor.reading,
                self._rows,
                self._redelivered,
                cursor.attempts_in(self._ranges),
                cursor.queue.owner is not None,
            )
        )
        if self._bursts is not None:
            session = subscriber.session
            self._bursts[session] = self._bursts.get(session, 0) + self._size_bytes
        self._clear()
        state.watch(subscriber)
        state.changed_cursor(cursor)
