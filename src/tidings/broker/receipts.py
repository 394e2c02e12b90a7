"""Receipts: how far subscriptions are with a message, told at once or when it is settled.

1. Nothing is kept for a message: what is told comes from cursors, subscribers and dead letters, as they are.
2. What is acked, given up or cut is told once that is durable.
3. Whether a message is meant for a subscription is seen by reading it; of what was trimmed it is not known.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from heapq import nsmallest
from typing import Final, NamedTuple

from tidings import limits
from tidings.batch import Batch, StoredBatch
from tidings.broker.answers import answered_when_durable
from tidings.broker.cursors import FOLLOWS, HELD, Cursor, State
from tidings.broker.effects import Answered, Refuse
from tidings.broker.lookups import Rows
from tidings.broker.queues import Queue
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.calls import AwaitReceipt, ListReceipts
from tidings.errors import InvalidOption, LimitReached, NotFound, TidingsError
from tidings.model import Receipt, epoch_of

_SETTLED: Final = ("acked", "dead", "gap")


class _Awaited(NamedTuple):
    session: Session
    request: int
    cursor: Cursor
    first: int
    last: int
    readable: bool


class Receipts:
    """The rules of receipts, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._awaited: dict[int, _Awaited] = {}
        # By cursor (sequence, number) in order, some of them over: the first unsettled message of what is waited for.
        self._of: dict[Cursor, list[tuple[int, int]]] = {}
        self._next_number = 1

    def page(self, session: Session, request: int, call: ListReceipts) -> None:
        """Answers how far each subscription is.

        Raises:
            NotFound: there is no such message.
        """
        queue = self._queue(call, call.sequence)

        def found(message: Batch | None) -> None:
            cursors = [cursor for cursor in queue.cursors if cursor.subscription.name > call.after]
            meant = [cursor for cursor in cursors if _is_meant(cursor, call.sequence, message)]
            page = nsmallest(limits.LISTING_PAGE_COUNT, meant, key=lambda cursor: cursor.subscription.name)
            told = [_receipt(cursor, call.sequence, call.sequence, message is not None) for cursor in page]
            self._answer(session, request, told, page)

        self._read(session, request, queue, call.sequence, found)

    def wait(self, session: Session, request: int, call: AwaitReceipt) -> None:
        """Answers how far one subscription is, once that is final or the time is over.

        Raises:
            NotFound: there is no such message or subscription.
            InvalidOption: the count or the time is out of its range.
            LimitReached: too many receipts are waited for.
        """
        if call.count < 1 or not 0 <= call.wait_ms <= limits.RECEIPT_WAIT_MS_MAX:
            raise InvalidOption(
                f"count is {call.count} and wait_ms {call.wait_ms}; they can be 1 or more and 0 to"
                f" {limits.RECEIPT_WAIT_MS_MAX}"
            )
        last = call.sequence + call.count - 1
        queue = self._queue(call, last)
        subscription = self._state.find(call.subscription)

        def found(message: Batch | None) -> None:
            cursor = subscription.cursors.get(queue.epoch)
            if cursor is None or not _is_meant(cursor, call.sequence, message):
                raise NotFound(
                    f"message {call.sequence} of queue {queue.name!r} is not meant for subscription"
                    f" {subscription.name!r}, which gets {subscription.filter}"
                )
            awaited = _Awaited(session, request, cursor, call.sequence, last, message is not None)
            receipt = _receipt(cursor, call.sequence, last, awaited.readable)
            if call.wait_ms == 0 or receipt.state in _SETTLED:
                self._answer(session, request, receipt, [cursor])
            else:
                self._begin(awaited, call.wait_ms)

        self._read(session, request, queue, call.sequence, found)

    def look(self) -> None:
        """Answers whoever waits for what is settled now."""
        moved, self._state.moved = self._state.moved, {}
        for cursor in moved:
            if cursor.subscription.cursors.get(cursor.queue.epoch) is not cursor:
                self._deleted(cursor)
                continue
            for number in self._take_settled(cursor):
                self._look_at(number)

    def overdue(self, number: int) -> None:
        """Answers whoever has waited for as long as was asked."""
        if number in self._awaited:
            awaited = self._end(number)
            receipt = _receipt(awaited.cursor, awaited.first, awaited.last, awaited.readable)
            self._answer(awaited.session, awaited.request, receipt, [awaited.cursor])

    def forget(self, session: Session) -> None:
        """Forgets what a client waits for that is gone."""
        for number in list(session.receipts):
            self._end(number)

    # --- helpers ---

    def _take_settled(self, cursor: Cursor) -> list[int]:
        """Takes out who waits for messages that are settled now, in leaps over all others."""
        waiting, reached = self._of.get(cursor, []), _reached(cursor)
        found: list[int] = []
        place = 0
        while place < len(waiting) and (sequence := waiting[place][0]) <= reached:
            unsettled = cursor.unsettled.next(sequence)
            if unsettled == sequence:
                place = bisect_left(waiting, (cursor.unsettled.next_outside(sequence),))
                continue
            end = bisect_left(waiting, (reached + 1 if unsettled is None else unsettled,))
            found += [number for _, number in waiting[place:end]]
            del waiting[place:end]
        return found

    def _look_at(self, number: int) -> None:
        awaited = self._awaited.get(number)
        if awaited is not None:
            receipt = _receipt(awaited.cursor, awaited.first, awaited.last, awaited.readable)
            if receipt.state in _SETTLED:
                self._end(number)
                self._answer(awaited.session, awaited.request, receipt, [awaited.cursor])
            else:
                insort(self._of[awaited.cursor], (_next_unsettled(awaited), number))

    def _deleted(self, cursor: Cursor) -> None:
        text = f"subscription {cursor.subscription.name!r} or queue {cursor.queue.name!r} was deleted meanwhile"
        for _, number in list(self._of.get(cursor, [])):
            if number in self._awaited:
                awaited = self._end(number)
                self._refuse(awaited.session, awaited.request, NotFound(text))

    def _begin(self, awaited: _Awaited, wait_ms: int) -> None:
        waiting = awaited.session.receipts
        if len(waiting) >= limits.RECEIPTS_AWAITED_MAX:
            raise LimitReached(
                f"this connection waits for {len(waiting)} receipts, the limit is {limits.RECEIPTS_AWAITED_MAX};"
                " wait for fewer at a time"
            )
        number = self._next_number
        self._next_number += 1
        self._awaited[number] = awaited
        waiting[number] = None
        awaited.cursor.awaited += 1
        insort(self._of.setdefault(awaited.cursor, []), (_next_unsettled(awaited), number))
        self._state.deadlines.set(("receipt", number), self._state.now_ms + wait_ms)

    def _end(self, number: int) -> _Awaited:
        awaited = self._awaited.pop(number)
        awaited.session.receipts.pop(number)
        cursor = awaited.cursor
        cursor.awaited -= 1
        if not cursor.awaited:
            del self._of[cursor]
        elif len(self._of[cursor]) > 2 * cursor.awaited + 64:
            self._of[cursor] = [entry for entry in self._of[cursor] if entry[1] in self._awaited]
        self._state.deadlines.remove(("receipt", number))
        return awaited

    def _queue(self, call: ListReceipts | AwaitReceipt, last: int) -> Queue:
        queue = self._state.queues.get(call.queue)
        if queue is None or queue.owner is not None or call.epoch not in (0, queue.epoch):
            raise NotFound(f"there is no queue {call.queue!r}, or it is another one than when the message was stored")
        if not 1 <= call.sequence <= last <= queue.committed:
            raise NotFound(f"queue {call.queue!r} has no message {last}; its last one is {queue.committed}")
        return queue

    def _read(
        self, session: Session, request: int, queue: Queue, sequence: int, then: Callable[[Batch | None], None]
    ) -> None:
        def found(rows: Rows) -> None:
            if session.connection not in self._state.sessions:
                return
            try:
                if self._state.epochs.get(queue.epoch) is not queue:
                    raise NotFound(f"queue {queue.name!r} was deleted meanwhile")
                then(_message(rows, sequence))
            except TidingsError as error:
                self._refuse(session, request, error)

        self._state.effects.append(self._state.lookups.rows(queue.epoch, sequence - 1, 1, found))

    def _answer(self, session: Session, request: int, told: Receipt | list[Receipt], cursors: list[Cursor]) -> None:
        receipts = told if isinstance(told, list) else [told]
        settled = [cursor for cursor, each in zip(cursors, receipts, strict=True) if each.state in _SETTLED]
        if any(self._state.ledger.is_unwritten(cursor.key) for cursor in settled):
            answered_when_durable(self._state, session.connection, request, told)
        else:
            self._state.effects.append(Answered(session.connection, request, told))

    def _refuse(self, session: Session, request: int, error: TidingsError) -> None:
        self._state.effects.append(Refuse(session.connection, "call", request, error))


def _message(rows: Rows, sequence: int) -> Batch | None:
    for row in rows:
        if isinstance(row, StoredBatch) and row.first_sequence <= sequence <= row.last_sequence:
            place = sequence - row.first_sequence
            return row.batch.keep([(place, place)])
    return None


def _reached(cursor: Cursor) -> int:
    """Returns after which sequence nothing was looked at yet."""
    return cursor.queue.committed if cursor.state is State.IDLE else cursor.position


def _next_unsettled(awaited: _Awaited) -> int:
    """Returns the first message of what is waited for that is not settled."""
    unsettled = awaited.cursor.unsettled.next(awaited.first)
    if unsettled is not None and unsettled <= awaited.last:
        return unsettled
    return max(awaited.first, _reached(awaited.cursor) + 1)


def _is_meant(cursor: Cursor, sequence: int, message: Batch | None) -> bool:
    begun = sequence > cursor.begin or sequence in cursor.unsettled  # it may begin with some last ones before
    return begun and (message is None or cursor.filter.wants_any(message))


def _receipt(cursor: Cursor, first: int, last: int, readable: bool) -> Receipt:
    """Returns how far a subscription is with the first message of a range that is not settled, or with the last one."""
    subscription = cursor.subscription
    unsettled = cursor.unsettled.next(first)
    if unsettled is not None and unsettled <= last:
        return _unsettled(cursor, unsettled)
    if last > _reached(cursor):
        return Receipt(subscription=subscription.name, state="waiting", attempts=0)
    epoch = cursor.queue.epoch
    letters = subscription.dead_within(epoch, first, last)
    if letter := next((each for each in letters if each.reading == cursor.reading), None):
        return Receipt(
            subscription=subscription.name,
            state="dead",
            attempts=letter.attempts,
            at=letter.died_ms,
            reason=letter.reason,
            dead_letter=letter.number,
        )
    for gap in subscription.gaps:
        if epoch_of(gap.reading) == epoch and gap.first_sequence <= last and first <= gap.last_sequence:
            return Receipt(subscription=subscription.name, state="gap", reason=gap.reason)
    # Of what died before a move it is not known whether it was delivered again, and acked then.
    none_died = not letters and subscription.next_dead - 1 == len(subscription.dead)
    exact = none_died and not (cursor.skipped or cursor.cut) and (readable or cursor.filter.everything)
    return Receipt(subscription=subscription.name, state="acked", exact=exact)


def _unsettled(cursor: Cursor, sequence: int) -> Receipt:
    subscription = cursor.subscription
    failed = cursor.attempts.get(sequence, 0)
    until_ms = cursor.parked.get(sequence)
    if sequence in cursor.due or until_ms == FOLLOWS or cursor.is_given_up(sequence):
        return Receipt(subscription=subscription.name, state="waiting", attempts=failed)
    if until_ms is not None and until_ms != HELD:
        return Receipt(subscription=subscription.name, state="retrying", attempts=failed, at=until_ms)
    for subscriber in subscription.attached():
        if subscriber.holds(cursor, sequence):
            return Receipt(
                subscription=subscription.name,
                state="in flight",
                attempts=failed + 1,
                client_id=subscriber.session.client_id,
                address=subscriber.session.address,
                at=subscriber.since_ms(cursor, sequence),
            )
    return Receipt(subscription=subscription.name, state="in flight", attempts=failed + 1)  # acked, not durable yet
