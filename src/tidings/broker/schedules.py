"""Schedules: messages that are published later, by themselves.

1. A scheduled message is a record whose key begins with its time. What comes next is known in memory, `_covered_to`
   says up to which key; the rest waits on disk, however much it is.
2. When its time has come it is read and published in the transaction that removes its record: not lost, and not
   published twice, whatever happens.
3. One that recurs is replaced by its next time in that same transaction. Times that passed while the server was
   down are made up for once.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, nsmallest
from typing import Final

from tidings import limits
from tidings.batch import Batch, check_headers_size, check_payload_size, encode_item
from tidings.broker.answers import answered_when_durable, not_found, refuse
from tidings.broker.effects import Answered, Refuse
from tidings.broker.ledger import Answer
from tidings.broker.lookups import Listed, Records
from tidings.broker.publishing import Publishing
from tidings.broker.records import decode_scheduled
from tidings.broker.scheduled import PREFIX, Scheduled, key_before, key_of, keys_of, time_of
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.calls import CancelSchedule, ListSchedules, Schedule
from tidings.errors import DiskFull, InvalidOption, NotFound, StoreUnavailable, SystemQueue, TidingsError
from tidings.model import Flags, Run, check_name

_END: Final = "\uffff"  # after every key
_SIZE_BYTES: Final = 512  # of a record, before one was seen
_PAUSE_MS: Final = 1_000  # until what could not be published is tried again


class Schedules:
    """The rules of scheduled messages, on the broker's state."""

    def __init__(self, state: BrokerState, publishing: Publishing) -> None:
        self._state = state
        self._publishing = publishing
        self._next: list[str] = []  # heap of keys
        self._known: set[str] = set()  # those of the heap that still count
        self._covered_to = ""  # all keys up to this one are known
        self._listing = False
        self._stored_meanwhile: list[str] = []  # keys that were written while a listing was read
        self._waiting: list[Callable[[], None]] = []  # what goes on once a listing was read
        self._firing: set[str] = set()  # keys whose messages are being read to be published
        self._looking = False  # whether any are being read, also if all of these were cancelled meanwhile
        self._recurring: set[str] = set()  # numbers of those that are published, whose next time is not stored yet
        self._cancelling = 0
        self._published: set[str] = set()  # keys whose messages were published while some were being cancelled
        self._paused_to_ms = 0
        self._size_bytes = _SIZE_BYTES  # of a record, as those that were read last

    def begin(self) -> None:
        """Starts after a restart."""
        self._state.deadlines.set(("schedule", 0), self._state.now_ms)

    # --- commands ---

    def schedule(self, session: Session, request: int, call: Schedule) -> None:
        """Keeps a message for later.

        Raises:
            InvalidName, InvalidOption, PayloadTooLarge, SystemQueue: it could never be published like that.
            DiskFull: free disk space is below the reserve.
        """
        state = self._state
        time_ms = self._check(call)
        flags = (
            Flags.IDS * (call.id is not None) | Flags.KEYS * (call.key is not None) | Flags.HEADERS * bool(call.headers)
        )
        body = encode_item(call.payload, call.id, call.key, call.headers or None)
        run = Run(call.event, 1, len(body), call.content_type, flags, call.ttl_ms or 0)
        self._publishing.count_later(session, call.queue, Batch([run], body))
        key = key_of(time_ms, state.counters.next_schedule)
        state.counters.next_schedule += 1
        item = Scheduled(key, call.queue, run, body, call.every_ms)
        state.ledger.changed_together([state.counters, item], state.now_ms)

        def reached() -> None:
            self._stored(key)
            state.effects.append(Answered(session.connection, request, item.info()))

        def failed(reason: str, full: bool) -> None:
            state.ledger.deleted(key, state.now_ms)  # nobody has its handle
            error = DiskFull(reason) if full else StoreUnavailable(reason)
            state.effects.append(Refuse(session.connection, "call", request, error))

        state.ledger.when_durable(Answer(reached, failed))

    def cancel(self, session: Session, request: int, call: CancelSchedule) -> None:
        """Takes a message back.

        Raises:
            InvalidOption: the handle is malformed.
        """
        state = self._state

        def again() -> None:
            self.cancel(session, request, call)  # what was not there may be now: its next time, if it recurs

        def failed(reason: str, full: bool) -> None:
            refuse(state, session.connection, "call", request, reason, full=full)

        keys = keys_of(call.handle, state.now_ms)
        number = keys[0].rpartition("/")[2]
        # One that recurs and was missed while the server was down has an older time, which a listing tells.
        if len(keys) > 1 and self._covered_to < key_of(state.now_ms, 0):
            self._waiting.append(again)
            return
        if number in self._recurring:
            state.ledger.when_durable(Answer(again, failed))
            return
        keys += [key for key in (*self._known, *self._firing) if key.endswith(number) and key not in keys]

        def found(records: Records) -> None:
            there = [key for key, record in zip(keys, records, strict=True) if record is not None]
            overtaken = not going.isdisjoint(there) or not self._published.isdisjoint(there)
            self._cancelling -= 1
            if not self._cancelling:
                self._published.clear()
            if overtaken:
                state.ledger.when_durable(Answer(again, failed))
                return
            there = [key for key in there if not state.ledger.is_deleted(key)]
            if not there:
                error = NotFound(f"there is no scheduled message {call.handle!r}; it was published or cancelled")
                not_found(state, session.connection, "call", request, error)
                return
            for key in there:
                self._known.discard(key)
                self._firing.discard(key)
                state.ledger.deleted(key, state.now_ms)
            answered_when_durable(state, session.connection, request, None)

        self._cancelling += 1
        going = {key for key in keys if state.ledger.is_deleted(key)}
        state.effects.append(state.lookups.records(keys, found))

    def page(self, session: Session, request: int, call: ListSchedules) -> None:
        """Answers with what is scheduled, the next ones first.

        Raises:
            InvalidOption: the handle to begin after is malformed.
        """
        after = keys_of(call.after, 0)[0] if call.after else ""

        def found(records: Listed) -> None:
            scheduled = [decode_scheduled(key, value).info() for key, value in records]
            self._state.effects.append(Answered(session.connection, request, scheduled))

        effect = self._state.lookups.listing(PREFIX, after, limits.SCHEDULES_READ_BYTES, found)
        self._state.effects.append(effect)

    # --- time ---

    def due(self) -> None:
        """Publishes what is due."""
        state = self._state
        if self._looking:
            return  # the next ones follow when these are published
        keys: list[str] = []
        while self._next and len(keys) < limits.SCHEDULES_STEP_COUNT:
            if self._next[0] in self._known:
                if time_of(self._next[0]) > state.now_ms:
                    break
                self._known.discard(self._next[0])
                keys.append(self._next[0])
            heappop(self._next)
        if keys:
            self._firing, self._looking = set(keys), True
            # They follow each other in the store, so one look brings them all, and not many that are not due yet.
            limit_bytes = min(len(keys) * self._size_bytes, limits.SCHEDULES_READ_BYTES)
            listing = state.lookups.listing(
                PREFIX, key_before(keys[0]), limit_bytes, lambda records: self._fire(keys[-1], records)
            )
            state.effects.append(listing)
        self._watch()
        self._read_on()

    def _fire(self, last: str, records: Listed) -> None:
        firing, self._firing, self._looking = self._firing, set(), False
        if records:
            self._size_bytes = 1 + sum(len(record) for _, record in records) // len(records)
        for key, record in records:
            if key in firing:
                self._publish(decode_scheduled(key, record))
        if records and records[-1][0] < last:  # there are more than one look brings
            for key in firing:
                if key > records[-1][0]:
                    self._know(key)
        self._watch()

    def _publish(self, item: Scheduled) -> None:
        state = self._state
        try:
            if state.free_bytes is not None and state.free_bytes < limits.DISK_RESERVE_BYTES:
                raise DiskFull("free disk space is below the reserve")
            state.open_queue(item.queue)
        except TidingsError:
            # Nothing is dropped: the record stays, and it is tried again soon.
            self._know(item.key)
            self._paused_to_ms = state.now_ms + _PAUSE_MS
            return
        if self._cancelling:
            self._published.add(item.key)
        self._publishing.publish_own(item.queue, Batch([item.run], item.body), hurry=True)
        state.ledger.deleted(item.key, state.now_ms)
        if item.every_ms:
            time_ms = time_of(item.key)
            time_ms += ((state.now_ms - time_ms) // item.every_ms + 1) * item.every_ms
            number = item.key.rpartition("/")[2]
            following = item._replace(key=key_of(time_ms, int(number)))
            state.ledger.changed_together([following], state.now_ms)
            self._recurring.add(number)
            self._know_once_stored(following.key)

    # --- what is known ---

    def _know_once_stored(self, key: str) -> None:
        def again(_reason: str, _full: bool) -> None:
            self._know_once_stored(key)  # what was not stored is written with the next transaction

        self._state.ledger.when_durable(Answer(lambda: self._stored(key), again))

    def _stored(self, key: str) -> None:
        """Takes note of a record that is on disk now."""
        self._recurring.discard(key.rpartition("/")[2])
        if self._listing:
            self._stored_meanwhile.append(key)
        if key <= self._covered_to:
            self._know(key)
            self._watch()

    def _know(self, key: str) -> None:
        """Takes note of a message that is to be published, unless it is being published already.

        A listing may bring it before the transaction that stores it is known to have ended, and again after that.
        """
        if key in self._firing or self._state.ledger.is_deleted(key):
            return
        if key not in self._known:
            self._known.add(key)
            heappush(self._next, key)
        if len(self._known) > 2 * limits.SCHEDULES_KNOWN_MAX:
            self._next = nsmallest(limits.SCHEDULES_KNOWN_MAX, self._known)
            self._known = set(self._next)
            self._covered_to = self._next[-1]

    def _read_on(self) -> None:
        """Reads which messages come next, when few are known."""
        if self._listing or self._covered_to == _END or len(self._known) > limits.SCHEDULES_KNOWN_MAX // 2:
            return
        self._listing = True
        self._stored_meanwhile = []
        after = self._covered_to
        effect = self._state.lookups.listing(PREFIX, after, limits.SCHEDULES_READ_BYTES, self._listed)
        self._state.effects.append(effect)

    def _listed(self, records: Listed) -> None:
        self._listing = False
        before, self._covered_to = self._covered_to, records[-1][0] if records else _END
        for key in (*(key for key, _ in records), *self._stored_meanwhile):
            if before < key <= self._covered_to:
                self._know(key)
        self._stored_meanwhile = []
        self._watch()
        self._read_on()
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()

    def _watch(self) -> None:
        while self._next and self._next[0] not in self._known:
            heappop(self._next)
        if self._next:
            self._state.deadlines.set_at_latest(("schedule", 0), max(time_of(self._next[0]), self._paused_to_ms))

    def _check(self, call: Schedule) -> int:
        """Returns when a message is to be published."""
        if call.queue.startswith("$"):
            raise SystemQueue(f"queue {call.queue!r} is the server's own; it cannot be published into")
        check_name(call.queue, "queue")
        check_name(call.event, "event")
        check_payload_size(len(call.payload))
        check_headers_size(call.headers or {})
        for what, text in (("id", call.id), ("key", call.key)):
            if text is not None and not 1 <= len(text) <= limits.ID_LENGTH_MAX:
                raise InvalidOption(f"{what} of {len(text)} characters; it can have 1 to {limits.ID_LENGTH_MAX}")
        if len(call.headers or ()) > limits.HEADERS_MAX:
            raise InvalidOption(f"{len(call.headers or ())} headers; a message has at most {limits.HEADERS_MAX}")
        if not 1 <= len(call.content_type.encode()) <= limits.NAME_SIZE_BYTES_MAX:
            raise InvalidOption(f"a content type has 1 to {limits.NAME_SIZE_BYTES_MAX} bytes")
        if call.ttl_ms is not None and not 1 <= call.ttl_ms <= limits.TTL_MS_MAX:
            raise InvalidOption(f"ttl_ms is {call.ttl_ms}; it can be 1 to {limits.TTL_MS_MAX}")
        if call.every_ms is not None and not limits.SCHEDULE_EVERY_MS_MIN <= call.every_ms <= 2**40:
            raise InvalidOption(f"every of {call.every_ms} ms is outside {limits.SCHEDULE_EVERY_MS_MIN} to {2**40} ms")
        if call.at_ms is not None and call.delay_ms is not None:
            raise InvalidOption("give a time or a delay, not both")
        now_ms = self._state.now_ms
        time_ms = now_ms + (call.delay_ms or 0) if call.at_ms is None else call.at_ms
        if not 0 <= time_ms <= limits.SCHEDULE_TIME_MS_MAX or (call.delay_ms or 0) < 0:
            raise InvalidOption(
                f"a time of {time_ms} ms since 1970; it can be 0 to {limits.SCHEDULE_TIME_MS_MAX}, which is in 2286"
            )
        free_bytes = self._state.free_bytes
        if free_bytes is not None and free_bytes < limits.DISK_RESERVE_BYTES:
            raise DiskFull(f"free disk space of {free_bytes} bytes is below the reserve; free some and publish again")
        return time_ms
