"""Giving up: from a failed message to a dead letter, and back.

1. A message that is given up is read from its queue and becomes a dead letter of its subscription, in the
   transaction that settles it. Until then it is unsettled, whatever happens.
2. A dead letter keeps the message and says why it died. Those that failed in the same way, the same error in the
   same place, have the same fingerprint.
3. To redrive means: into the side queue of the subscription, in the transaction that removes the dead letter. From
   there it is delivered like any message, and to this subscription only.
4. An ephemeral subscription has no dead letters: what it gives up it is told as a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import msgspec
from msgspec import UNSET

from tidings import limits
from tidings.batch import Batch, StoredBatch, check_headers_size, check_payload_size, decode_items, encode_item
from tidings.broker.answers import answered_when_durable
from tidings.broker.cursors import Cursor, State
from tidings.broker.dead_letters import DeadContent, DeadLetter, Redriving, headline, trimmed
from tidings.broker.deliveries import Deliveries
from tidings.broker.effects import Answered, Refuse
from tidings.broker.gone import why_gone
from tidings.broker.ledger import Answer
from tidings.broker.lookups import Records, Rows
from tidings.broker.publishing import Publishing
from tidings.broker.records import decode_dead_content
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.subscriptions import Subscription
from tidings.calls import DeadLetterGroups, DeleteDeadLetters, EditDeadLetter, ListDeadLetters, Redrive, check_tag
from tidings.errors import Changed, InvalidOption, NotFound
from tidings.model import DeadLetterGroup, DeadLetterInfo, Failure, Flags, Run, check_name


class GivingUp:
    """The rules of dead letters, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries, publishing: Publishing) -> None:
        self._state = state
        self._deliveries = deliveries
        self._publishing = publishing

    # --- dying ---

    def is_full(self, subscription: Subscription) -> bool:
        """Whether a subscription can have no more dead letters: what it gives up is tried again."""
        return len(subscription.dead) + subscription.dying >= limits.DEAD_LETTERS_MAX

    def give_up(
        self,
        cursor: Cursor,
        sequence: int,
        reason: str,
        client_id: str | None,
        failure: Failure | None,
        then: Callable[[bool], None] = lambda overtaken: None,
    ) -> None:
        """Lets a message that is unsettled become a dead letter, as soon as it is read.

        `then` is called after that, with whether it was acked meanwhile instead.
        """
        state, subscription = self._state, cursor.subscription
        if self.is_full(subscription):
            # Nothing is dropped: it is tried again, and listings say why.
            cursor.park(sequence, state.now_ms + subscription.backoff_max_ms)
            state.deadlines.set_at_latest(("retry", subscription.number), state.now_ms + subscription.backoff_max_ms)
            state.changed_cursor(cursor)
            then(False)
            return
        cursor.park(sequence, None)
        subscription.dying += 1
        failure = trimmed(failure) if failure else None

        def found(rows: Rows) -> None:
            subscription.dying -= 1
            gone = subscription.cursors.get(cursor.queue.epoch) is not cursor
            overtaken = not gone and not cursor.is_given_up(sequence)
            if not gone and not overtaken:
                self._bury(cursor, sequence, reason, client_id, failure, rows)
            then(overtaken)

        state.effects.append(state.lookups.rows(cursor.queue.epoch, sequence - 1, 1, found))

    def _bury(
        self,
        cursor: Cursor,
        sequence: int,
        reason: str,
        client_id: str | None,
        failure: Failure | None,
        rows: Rows,
    ) -> None:
        state, subscription, queue = self._state, cursor.subscription, cursor.queue
        attempts = cursor.attempts.get(sequence, 0)
        cursor.settle(sequence, sequence)
        row = next((row for row in rows if row.first_sequence <= sequence <= row.last_sequence), None)
        gone = why_gone(queue, sequence)
        message = _cut(row, sequence) if isinstance(row, StoredBatch) and not gone else None
        if message is None or not subscription.durable:
            lost = str(gone or getattr(row, "reason", "trimmed"))
            reason = f"given up after {attempts} attempts: {reason}" if message else lost
            self._deliveries.gaps.tell(subscription, queue, sequence, sequence, reason)
            state.cut_from(cursor)
        else:
            letter = DeadLetter(
                subscription.number,
                subscription.next_dead,
                queue=queue.shown_as,
                epoch=queue.epoch,
                moves=cursor.moves,
                sequence=sequence,
                reason=reason,
                attempts=attempts,
                died_ms=state.now_ms,
                type=failure.type if failure else "",
                place=failure.place if failure else "",
                text=headline(failure.text) if failure else "",
            )
            run, body, time_ms = message
            content = DeadContent(letter.content_key, run, body, time_ms, client_id, failure)
            subscription.bury(letter)
            state.ledger.changed_together([letter, content, cursor], state.now_ms)
            if cursor.awaited:
                state.moved[cursor] = None
        if subscription.subscriber:
            self._deliveries.go_on(cursor)
        elif cursor.state is State.WAITING:
            state.rest(cursor)

    # --- looking ---

    def groups(self, session: Session, request: int, call: DeadLetterGroups) -> None:
        """Answers how a subscription's dead letters failed.

        Raises:
            NotFound: there is no such subscription.
        """
        groups: dict[str, list[DeadLetter]] = {}
        for letter in self._state.find(call.subscription).dead.values():
            groups.setdefault(letter.fingerprint, []).append(letter)
        found = [
            DeadLetterGroup(
                fingerprint=fingerprint,
                count=len(letters),
                text=letters[-1].how,
                first_died=letters[0].died_ms,
                last_died=letters[-1].died_ms,
                last_number=letters[-1].number,
            )
            for fingerprint, letters in groups.items()
        ]
        found.sort(key=lambda group: -group.count)
        self._state.effects.append(Answered(session.connection, request, found[: limits.LISTING_PAGE_COUNT]))

    def page(self, session: Session, request: int, call: ListDeadLetters) -> None:
        """Answers with a page of dead letters.

        Raises:
            NotFound: there is no such subscription.
            InvalidOption: the count is out of its range.
        """
        if not 1 <= call.count_max <= limits.DEAD_LETTERS_PAGE_COUNT:
            raise InvalidOption(f"count_max is {call.count_max}; it can be 1 to {limits.DEAD_LETTERS_PAGE_COUNT}")
        subscription = self._state.find(call.subscription)
        chosen = (
            letter
            for letter in subscription.dead.values()
            if letter.number > call.after and call.fingerprint in (None, letter.fingerprint)
        )
        letters = list(islice(chosen, call.count_max))

        def found(records: Records) -> None:
            entries: list[DeadLetterInfo] = []
            size_bytes = 0
            for letter, record in zip(letters, records, strict=True):
                size_bytes += len(record or b"")
                if entries and size_bytes > limits.DELIVERY_BODY_SIZE_BYTES_MAX // 2:
                    break  # the next page has them
                if record is not None:  # else it was deleted meanwhile
                    entries.append(_info(letter, decode_dead_content(letter.content_key, record)))
            self._state.effects.append(Answered(session.connection, request, entries))

        self._read(letters, found)

    # --- changing ---

    def edit(self, session: Session, request: int, call: EditDeadLetter) -> None:
        """Changes a dead letter.

        Raises:
            NotFound: there is no such subscription, or no such dead letter.
            InvalidName, PayloadTooLarge: the message could not be published like that.
        """
        subscription = self._state.find(call.subscription)
        letter = _one(subscription, call.number)
        if call.event is not UNSET:
            check_name(call.event, "event")
        if call.payload is not UNSET:
            check_payload_size(len(call.payload))
        if call.headers is not UNSET:
            check_headers_size(call.headers)
            if len(call.headers) > limits.HEADERS_MAX:
                raise InvalidOption(f"{len(call.headers)} headers; a message has at most {limits.HEADERS_MAX}")
        if call.content_type is not UNSET and not 1 <= len(call.content_type.encode()) <= limits.NAME_SIZE_BYTES_MAX:
            raise InvalidOption(f"a content type has 1 to {limits.NAME_SIZE_BYTES_MAX} bytes")

        def found(content: DeadContent) -> None:
            _edit(content, call)
            self._state.ledger.changed(content, self._state.now_ms)
            answered_when_durable(self._state, session.connection, request, None)

        self._find(session, request, subscription, letter, call.if_match, found)

    def _find(
        self,
        session: Session,
        request: int,
        subscription: Subscription,
        letter: DeadLetter,
        if_match: str | None,
        then: Callable[[DeadContent], None],
    ) -> None:
        """Reads a dead letter, and goes on if it is there and as its client has seen it."""

        def found(records: Records) -> None:
            try:
                if records[0] is None or subscription.dead.get(letter.number) is not letter:
                    raise NotFound(f"dead letter {letter.number} was deleted or redriven meanwhile")
                content = decode_dead_content(letter.content_key, records[0])
                check_tag(EditDeadLetter, if_match, _info(letter, content))
            except (NotFound, Changed) as error:
                self._state.effects.append(Refuse(session.connection, "call", request, error))
                return
            then(content)

        self._read([letter], found)

    def delete(self, session: Session, request: int, call: DeleteDeadLetters) -> None:
        """Deletes dead letters.

        Raises:
            NotFound: there is no such subscription, or no such dead letter.
            InvalidOption: a tag is given, and not the number of what has it.
        """
        subscription = self._state.find(call.subscription)
        letters = _chosen(subscription, call.number, call.fingerprint)
        if call.if_match is None:
            self._delete(session, request, subscription, letters)
        elif call.number is None:
            raise InvalidOption("a tag is that of one dead letter; say its number, too")
        else:
            self._find(
                session,
                request,
                subscription,
                letters[0],
                call.if_match,
                lambda _: self._delete(session, request, subscription, letters),
            )

    def _delete(self, session: Session, request: int, subscription: Subscription, letters: list[DeadLetter]) -> None:
        for letter in letters:
            self._state.remove_dead_letter(subscription, letter)
        if letters:  # else it may be an ephemeral one, which has no record
            self._state.changed(subscription)
        answered_when_durable(self._state, session.connection, request, len(letters))

    # --- redriving ---

    def redrive(self, session: Session, request: int, call: Redrive) -> None:
        """Begins to send dead letters to their subscription again.

        Raises:
            NotFound: there is no such subscription, or no such dead letter.
            InvalidOption: the rate is out of its range.
        """
        if call.rate != 0 and not limits.RATE_MIN <= call.rate <= limits.RATE_MAX:
            raise InvalidOption(
                f"a rate of {call.rate:g} messages/s; it can be {limits.RATE_MIN} to"
                f" {limits.RATE_MAX}, or 0 for as fast as it goes"
            )
        subscription = self._state.find(call.subscription)
        numbers = [letter.number for letter in _chosen(subscription, call.number, call.fingerprint)]
        if numbers:
            subscription.redriving.append(Redriving(numbers, call.rate))
            self.redrive_some(subscription)
        self._state.effects.append(Answered(session.connection, request, len(numbers)))

    def redrive_some(self, subscription: Subscription) -> None:
        """Takes the next step of what is being redriven and whose time has come."""
        for redriving in subscription.redriving:
            if redriving.moving:
                continue
            if redriving.next_ms <= self._state.now_ms:
                self._step(subscription, redriving)
            else:
                self._state.deadlines.set_at_latest(("redrive", subscription.number), redriving.next_ms)

    def _step(self, subscription: Subscription, redriving: Redriving) -> None:
        count = limits.REDRIVE_STEP_COUNT
        if redriving.rate:
            count = max(1, min(count, int(redriving.rate / 10)))
            redriving.next_ms = self._state.now_ms + int(1000 * count / redriving.rate)
        numbers = [redriving.numbers.popleft() for _ in range(min(count, len(redriving.numbers)))]
        letters = [subscription.dead[number] for number in numbers if number in subscription.dead]
        redriving.moving = True

        def found(records: Records) -> None:
            if redriving not in subscription.redriving:
                return  # the subscription was deleted
            for letter, record in zip(letters, records, strict=True):
                if record is not None and subscription.dead.get(letter.number) is letter:
                    self._send_back(subscription, letter, decode_dead_content(letter.content_key, record))
            self._state.changed(subscription)
            self._go_on_when_durable(subscription, redriving)

        self._read(letters, found)

    def _go_on_when_durable(self, subscription: Subscription, redriving: Redriving) -> None:
        """Takes the next step only after this one, so that never more than one step waits in memory."""

        def reached() -> None:
            redriving.moving = False
            if redriving in subscription.redriving:
                if not redriving.numbers:
                    subscription.redriving.remove(redriving)
                self.redrive_some(subscription)

        def failed(_reason: str, _full: bool) -> None:
            if redriving in subscription.redriving:
                self._go_on_when_durable(subscription, redriving)

        self._state.ledger.when_durable(Answer(reached, failed))

    def _send_back(self, subscription: Subscription, letter: DeadLetter, content: DeadContent) -> None:
        queue = self._state.open_side_queue(subscription, letter.queue)
        # Whoever redrives it wants it delivered, however long ago it was published.
        run = msgspec.structs.replace(content.run, ttl_ms=0)
        self._publishing.publish_own(queue.name, Batch([run], content.body))
        self._state.remove_dead_letter(subscription, letter)

    # --- helpers ---

    def _read(self, letters: list[DeadLetter], then: Callable[[Records], None]) -> None:
        # What died or was edited a moment ago is not in the store yet, or on its way there.
        ledger, keys = self._state.ledger, [letter.content_key for letter in letters]
        before = [ledger.unwritten(key) for key in keys]

        def found(records: Records) -> None:
            known = zip(keys, before, records, strict=True)
            then([ledger.unwritten(key) or value or record for key, value, record in known])

        self._state.effects.append(self._state.lookups.records(keys, found))


def _one(subscription: Subscription, number: int) -> DeadLetter:
    letter = subscription.dead.get(number)
    if letter is None:
        raise NotFound(
            f"subscription {subscription.name!r} has no dead letter {number}; `tidings dead-letters` lists them"
        )
    return letter


def _chosen(subscription: Subscription, number: int | None, fingerprint: str | None) -> list[DeadLetter]:
    if number is not None:
        return [_one(subscription, number)]
    chosen = [letter for letter in subscription.dead.values() if fingerprint in (None, letter.fingerprint)]
    if fingerprint is not None and not chosen:
        raise NotFound(
            f"no dead letter of subscription {subscription.name!r} has the fingerprint {fingerprint!r};"
            " `tidings dead-letters` lists them"
        )
    return chosen


def _cut(row: StoredBatch, sequence: int) -> tuple[Run, bytes, int] | None:
    place = sequence - row.first_sequence
    kept = row.batch.keep([(place, place)])
    if kept is None:
        return None
    run = next(run for run in kept.runs if run.event is not None)
    return run, kept.body, row.time_ms


def _edit(content: DeadContent, call: EditDeadLetter) -> None:
    run = content.run
    payload, id, key, headers = decode_items(1, run.flags, content.body)[0]
    if call.payload is not UNSET:
        payload = call.payload
    if call.headers is not UNSET:
        headers = call.headers or None
    flags = Flags.IDS * (id is not None) | Flags.KEYS * (key is not None) | Flags.HEADERS * (headers is not None)
    content.body = encode_item(payload, id, key, headers)
    content.run = Run(
        run.event if call.event is UNSET else call.event,
        1,
        len(content.body),
        run.content_type if call.content_type is UNSET else call.content_type,
        flags,
    )
    content.edited = True


def _info(letter: DeadLetter, content: DeadContent) -> DeadLetterInfo:
    payload, id, key, headers = decode_items(1, content.run.flags, content.body)[0]
    return DeadLetterInfo(
        number=letter.number,
        queue=letter.queue,
        epoch=letter.epoch,
        sequence=letter.sequence,
        event=content.run.event or "",
        payload=payload,
        content_type=content.run.content_type,
        id=id,
        key=key,
        headers=headers or {},
        published=content.published_ms,
        died=letter.died_ms,
        reason=letter.reason,
        attempts=letter.attempts,
        client_id=content.client_id,
        fingerprint=letter.fingerprint,
        failure=content.failure,
        edited=content.edited,
    )
