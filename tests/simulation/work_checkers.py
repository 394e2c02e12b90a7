"""More promises, of what is done beside publishing and acking; a part of `checkers.py`.

accounting
    Once all is quiet every message that a durable subscription wants, of those that were confirmed (or redriven to
    it), after the place where it began or was moved to at last, is one of these, and no two that exclude each other:
    acked by a process that was sent it since then, or by a stored transaction; waiting, so that the disk's cursor has
    not settled it; a dead letter, or one that was; inside one gap. No message is inside two different gaps; but a gap
    may be told again, without what was acked since then, and after a crash with what had been acked.
dead letters
    What a durable subscription gives up becomes a dead letter of it once, in the transaction that settles it: not
    settled before, settled after it, with the message's payload. "rejected" it is only after somebody has rejected
    it, else only after as many attempts as it may have. Who is told that a reject is durable finds the dead letter on
    the disk. It leaves in the transaction that stores its message again in the queue through which the subscription
    that failed gets it back, and no other one is sent anything of that queue; or because an administrator deletes it,
    or the subscription is gone.
message ids
    In one life of a queue no id is stored twice within its window, whoever publishes it, whatever crashes. Whoever is
    told that a message is a duplicate finds, at the sequence that it is told, one of that id on the disk.
schedules
    What a process was told is scheduled is on the disk. Each time of it is published once, in the transaction that
    removes that time, and not before it. What recurs, recurs in its rhythm; of the times that passed while the server
    was down one is made up for. What a process was told is cancelled is never published after that, and what was to
    be published once and was not cancelled is, at last.
sharing
    A message of a shared subscription is in flight to one member at a time: sent to another one only once it was
    given back, or who had it has left, or its ack timeout may have ended. With a single active member, whoever has
    been attached the longest is sent everything.
key order
    To a shared subscription, of the messages of one key in a queue, in one reading, the next one is sent only when
    all before it are settled, or may be: acked, dead, or inside a gap; in one life of the server never an earlier one
    after a later one. (That a failing key does not hold up others is among what has to come to rest.)
transactions
    What one transaction publishes is stored by one transaction of the disk, and nothing of it otherwise. That one
    settles what it acks: not settled before, settled after it, so that what came of a message is stored once. Who is
    told that it is stored, or is not, is told the truth.
moves
    Who is told that a subscription was moved finds it so on the disk, at the place that was asked for. Nothing is sent
    from there before that. What is sent for the first time after a move is attempt 1.
pause
    Once an administrator is told that a queue or a subscription is paused, nothing of it is sent until somebody asks
    for it to go on.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from tests.simulation.evidence import Evidence, Reader, readers
from tests.simulation.history import (
    AckedDurably,
    AckTaken,
    Cancelled,
    Cancelling,
    Confirmed,
    Deleted,
    Died,
    Duplicate,
    Left,
    LettersDeleted,
    LifeBegan,
    Moved,
    Moving,
    NackTaken,
    Paused,
    Refused,
    RejectedDurably,
    Resuming,
    Scheduled,
    Scheduling,
    Sent,
    Telling,
    Transacted,
    Transacting,
)
from tests.simulation.journal import Letter, is_settled
from tidings import limits
from tidings.model import Reading, epoch_of, moves_of
from tidings.ranges import Ranges

Ways = dict[tuple[str, Reading], Ranges]


def accounting(evidence: Evidence) -> list[str]:
    broken = []
    acked, sure = acked_of(evidence)
    dead: dict[tuple[int, Reading], set[int]] = defaultdict(set)
    stay: dict[tuple[int, Reading], set[int]] = defaultdict(set)
    for letter in evidence.journal.letters:
        dead[letter.subscription, letter.reading].add(letter.record.sequence)
        if letter.removed is None:
            stay[letter.subscription, letter.reading].add(letter.record.sequence)
    deleted = evidence.journal.deleted
    last = len(evidence.commits) - 1
    discarded = _discarded(evidence)
    for (name, process), reader in readers(evidence).items():
        if process or name not in evidence.alive or reader.attached is None:
            continue
        number = evidence.numbers[name]
        if number in evidence.journal.ended:
            continue  # it expired while the server drained at last, and its cursors went with it
        for epoch, sequences in _owed(evidence, number, reader).items():
            reading = evidence.reading(name, epoch)
            record = None if epoch in deleted else evidence.journal.cursor(number, epoch, last)
            gaps, buried = reader.gaps[reading], dead[number, reading]
            for sequence in sequences:
                settled = epoch in deleted or is_settled(record, sequence)
                done = sequence in acked[name, reading]
                given_up, cut = sequence in buried, sequence in gaps
                where = f"sequence {sequence} of {evidence.queue_of[epoch]} ({reading}) for {name!r}"
                if settled and not (done or given_up or cut or sequence in discarded[name, reading]):
                    broken.append(f"{where} vanished: settled, neither acked, nor dead, nor in a gap")
                if not settled and given_up:
                    broken.append(f"{where} is a dead letter and still waits")
                if given_up and cut:
                    broken.append(f"{where} is a dead letter and in a gap")
                # Once it was redriven or deleted an ack of it settles nothing, and is not refused any more.
                if sequence in stay[number, reading] and sequence in sure[name, reading]:
                    broken.append(f"{where} is a dead letter and durably acked")
        broken += _overlapping_gaps(name, reader)
    return broken


def acked_of(evidence: Evidence) -> tuple[Ways, Ways]:
    """Returns what may have been acked, and of it what somebody was told is."""
    taken: Ways = defaultdict(Ranges)
    sure: Ways = defaultdict(Ranges)
    told = {fact.payloads for fact in evidence.history.of(Transacted)}
    for fact in evidence.history.of(AckTaken | AckedDurably | Transacting):
        match fact:
            case AckTaken():
                for reading, first, last in () if fact.transaction else fact.ranges:
                    taken[fact.subscription, reading].add(first, last)
            case AckedDurably():
                sure[fact.subscription, fact.reading].add(fact.first, fact.last)
            case Transacting():
                stored = any(payload in evidence.places for payload in fact.payloads)
                for name, reading, sequence in fact.acks if stored or fact.payloads in told else ():
                    taken[name, reading].add(sequence, sequence)
                    sure[name, reading].add(sequence, sequence)
    return taken, sure


def _discarded(evidence: Evidence) -> Ways:
    """Returns what was redriven or deleted, or may have been, before it was written down as a dead letter."""
    found: Ways = defaultdict(Ranges)
    deleted = {fact.name for fact in evidence.history.of(LettersDeleted)}
    for name, reading, sequence in evidence.history.of(Died):
        message = evidence.stored.get(epoch_of(reading), {}).get(sequence)
        if evidence.name_of[name] in deleted or (
            message and message.payload in evidence.redriven[evidence.numbers[name]]
        ):
            found[name, reading].add(sequence, sequence)
    return found


def _owed(evidence: Evidence, number: int, reader: Reader) -> dict[int, list[int]]:
    """Returns the sequences that a subscription has to account for, by epoch."""
    owed: dict[int, list[int]] = defaultdict(list)
    name = reader.attached.subscription if reader.attached else ""
    confirmed: dict[int, set[int]] = defaultdict(set)
    for fact in evidence.history.of(Confirmed | Duplicate):
        count = len(fact.payloads) if isinstance(fact, Confirmed) else 1
        confirmed[fact.epoch].update(range(fact.sequence, fact.sequence + count))
    for epoch, messages in evidence.stored.items():
        if evidence.queue_of.get(epoch, "").startswith(f"$redriven/{number}/"):
            owed[epoch] += messages
        elif epoch not in reader.deleted_before and reader.filter.wants_queue(evidence.queue_of[epoch]):
            after = reader.place(evidence.reading(name, epoch)).most
            wants = reader.wants
            known = confirmed[epoch]
            owed[epoch] += [at for at, message in messages.items() if at > after and at in known and wants(message)]
    return owed


def _overlapping_gaps(name: str, reader: Reader) -> Iterator[str]:
    told: dict[Reading, list[Telling]] = defaultdict(list)
    for gap in reader.standing:
        before = [each for each in told[gap.reading] if each.first <= gap.last and gap.first <= each.last]
        again = [each for each in before if each.reason == gap.reason]
        if any(each.first <= gap.first and gap.last <= each.last for each in again):
            continue
        # After a crash it is told with what was acked in between, if that ack was lost.
        for each in (each for each in before if each not in again or each.life == gap.life):
            yield f"{name!r} was told twice of {gap}, before: {each}"
        told[gap.reading].append(gap)


def dead_letters(evidence: Evidence) -> list[str]:
    known = readers(evidence)  # what was removed meanwhile is a gap instead
    broken = [
        f"{fact.process} was told of a dead letter before it was one: {fact}"
        for fact in evidence.history.of(RejectedDurably)
        if not fact.stored and fact.sequence not in known[fact.subscription, ""].gaps[fact.reading]
    ]
    reader_of = {number: reader for reader, number in evidence.numbers.items()}
    rejected: Ways = defaultdict(Ranges)
    for fact in evidence.history.of(NackTaken):
        for reading, first, last in fact.ranges if fact.reject else ():
            rejected[fact.subscription, reading].add(first, last)
    seen: Counter[tuple[int, Reading, int]] = Counter()
    for letter in evidence.journal.letters:
        number, record, reading = letter.subscription, letter.record, letter.reading
        before, after = (
            evidence.journal.cursor(number, record.epoch, letter.written - 1),
            evidence.journal.cursor(number, record.epoch, letter.written),
        )
        if is_settled(before, record.sequence) and before is not None and before.moves == record.moves:
            broken.append(f"{letter} was settled before it died")
        deleted = evidence.journal.deleted.get(record.epoch) == letter.written  # the cursor left with its queue
        if not is_settled(after, record.sequence) and (not deleted if after is None else after.moves == record.moves):
            broken.append(f"{letter} was not settled when it died")
        seen[number, reading, record.sequence] += 1
        if seen[number, reading, record.sequence] > 1:
            broken.append(f"{letter} died twice")
        stored = evidence.stored.get(record.epoch, {}).get(record.sequence)
        if stored is None or stored.payload != letter.payload:
            broken.append(f"{letter} was published as {stored}")
        plan = evidence.plan(reader_of[number])
        if record.reason == "rejected":
            honest = record.sequence in rejected[reader_of[number], reading]
        else:
            honest = plan.attempts_max is not None and record.attempts >= plan.attempts_max
        if not honest or record.attempts < 1:
            broken.append(f"{letter} died without reason; it may have {plan.attempts_max} attempts")
        broken += _left(evidence, letter, reader_of[number])
    for sent in evidence.history.of(Sent):
        queue = evidence.queue_of.get(epoch_of(sent.reading), "")
        if queue.startswith("$redriven/") and int(queue.split("/")[1]) != evidence.numbers[sent.subscription]:
            broken.append(f"what was redriven went to another subscription: {sent} of {queue}")
    return broken


def _left(evidence: Evidence, letter: Letter, reader: str) -> list[str]:
    """Returns why a dead letter should not have left in the transaction in which it did."""
    if letter.removed is None or evidence.journal.ended.get(letter.subscription, -1) == letter.removed:
        return []
    if any(fact.name == evidence.name_of[reader] for fact in evidence.history.of(LettersDeleted)):
        return []  # it may have been deleted; what was redriven is accounted for in any case
    if letter.removed in evidence.redriven[letter.subscription][letter.payload]:
        return []
    return [f"{letter} left and was not stored again"]


def message_ids(evidence: Evidence) -> list[str]:
    broken = []
    window_ms = evidence.scenario.limits.get("ID_WINDOW_MS", limits.ID_WINDOW_MS)
    # The clock may be set back while the server is down; what was forgotten before that stays forgotten.
    latest_ms = list(accumulate(evidence.begun_ms, max))
    for epoch, messages in evidence.stored.items():
        if evidence.is_own(epoch):
            continue
        last: dict[str, int] = {}
        for sequence, message in sorted(messages.items()):
            if message.id is None:
                continue
            before = last.get(message.id)
            taken_ms = {at: time_ms for time_ms, at in evidence.journal.ids[epoch, message.id]}
            if sequence not in taken_ms:
                broken.append(f"id {message.id!r} of {sequence} in epoch {epoch} was not written down with it")
            elif before is not None and latest_ms[message.commit] - taken_ms[before] < window_ms:
                broken.append(
                    f"id {message.id!r} is at {before} and at {sequence} of epoch {epoch} within {window_ms} ms"
                )
            last[message.id] = sequence
    for fact in evidence.history.of(Duplicate):
        found = evidence.stored.get(fact.epoch, {}).get(fact.sequence)
        if found is None or found.id != fact.id or not fact.stored:
            broken.append(f"{fact}, there is {found}")
    return broken


def schedules(evidence: Evidence) -> list[str]:
    broken = [f"{fact} was not on the disk" for fact in evidence.history.of(Scheduled) if not fact.stored]
    asked = {fact.payload for fact in evidence.history.of(Cancelling)} | {""}
    begins = {fact.commits: fact.time_ms for fact in evidence.history.of(LifeBegan)}
    published: dict[str, Counter[int]] = defaultdict(Counter)
    scheduled = {fact.payload for fact in evidence.history.of(Scheduling)}
    for payload in scheduled:
        for epoch, sequence in evidence.places.get(payload, ()):
            published[payload][evidence.stored[epoch][sequence].commit] += 1
    removed: dict[str, Counter[int]] = defaultdict(Counter)
    made_up: dict[tuple[str, int], int] = {}
    for due in evidence.journal.due:
        if due.removed is None:
            continue
        removed[due.payload][due.removed] += 1
        if due.removed in published[due.payload]:
            appends = evidence.commits[due.removed].appends
            if all(row.time_ms < due.time_ms for _, row in appends):
                broken.append(f"{due} was published before its time")
            life = max(commits for commits in begins if commits <= due.removed)
            if due.time_ms <= begins[life]:
                made_up[due.payload, life] = made_up.get((due.payload, life), 0) + 1
                if made_up[due.payload, life] > 1:
                    broken.append(f"{due}: of what passed while the server was down more than one was made up for")
        elif due.payload not in asked and not _unknown_cancel(evidence, due.payload):
            broken.append(f"{due} was removed and not published")
    for payload in scheduled:
        for commit, count in published[payload].items():
            if removed[payload][commit] != count:
                broken.append(f"{payload} was published {count} times by {commit}, due was {removed[payload][commit]}")
    every = {fact.payload: fact for fact in evidence.history.of(Scheduled)}
    for due in evidence.journal.due:
        fact = every.get(due.payload)
        if fact is not None and (due.time_ms - fact.at_ms) % (fact.every_ms or due.time_ms + 1):
            broken.append(f"{due} is out of the rhythm of {fact}")
    for cancelled in evidence.history.of(Cancelled):
        late = [commit for commit in published[cancelled.payload] if commit >= cancelled.commits]
        recurs = cancelled.payload in every and every[cancelled.payload].every_ms
        if late or (published[cancelled.payload] and not recurs and cancelled.payload):
            broken.append(f"{cancelled}, and it was published by {list(published[cancelled.payload])}")
    return broken


def _unknown_cancel(evidence: Evidence, payload: str) -> bool:
    """Whether a schedule whose confirm was lost may have been ended by whoever found it in the listing."""
    told = {fact.payload for fact in evidence.history.of(Scheduled)}
    refused = {payload for fact in evidence.history.of(Refused) for payload in fact.payloads}
    return payload not in told or payload in refused


def schedules_come(evidence: Evidence) -> list[str]:
    asked = {fact.payload for fact in evidence.history.of(Cancelling)}
    deleted = {fact.queue for fact in evidence.history.of(Deleted)}
    return [
        f"{fact} never came"
        for fact in evidence.history.of(Scheduled)
        if fact.payload not in asked
        and fact.queue not in deleted
        and fact.payload not in evidence.places
        and fact.at_ms < evidence.end_ms
    ]


def sharing(evidence: Evidence) -> list[str]:
    broken = []
    holders: dict[tuple[int, str, Reading, int], tuple[tuple[int, int], float]] = {}
    for at, fact in evidence.history.facts:
        if isinstance(fact, AckTaken | NackTaken):
            for reading, first, last in fact.ranges:
                for sequence in range(first, last + 1):
                    key = fact.life, fact.subscription, reading, sequence
                    if holders.get(key, ((-1, -1), 0.0))[0] == (fact.connection, fact.handle):
                        del holders[key]
        elif isinstance(fact, Left):
            left = fact.connection, fact.handle
            for held in [held for held, (who, _) in holders.items() if held[0] == fact.life and who == left]:
                del holders[held]
        elif isinstance(fact, Sent) and fact.durable:
            plan = evidence.plan(fact.subscription)
            if not plan.shared:
                continue
            if plan.single_active and fact.ranges and not fact.longest:
                broken.append(f"at {at:.4f} {fact} although another member has been there for longer")
            who = fact.connection, fact.handle
            for first, last in fact.ranges:
                for sequence in range(first, last + 1):
                    key = fact.life, fact.subscription, fact.reading, sequence
                    other, since = holders.get(key, (who, at))
                    # The clock may run a tenth fast.
                    if other != who and since > at - plan.ack_timeout_s / 1.1 + 0.002:
                        broken.append(f"at {at:.4f} {sequence} of {fact} was in flight to {other} since {since:.4f}")
                    holders[key] = who, at
    return broken


def key_order(evidence: Evidence) -> list[str]:
    broken = []
    may_be_settled: Ways = defaultdict(Ranges)
    for died in evidence.history.of(Died):  # a crash may undo it, as it does with what was acked in the last moment
        may_be_settled[died.subscription, died.reading].add(died.sequence, died.sequence)
    latest: dict[tuple[int, str, Reading, str], int] = {}
    by_key: dict[int, dict[str, list[int]]] = {}
    for epoch, messages in evidence.stored.items():
        of_epoch = by_key[epoch] = defaultdict(list)
        for sequence, message in sorted(messages.items()):
            if message.key is not None and sequence not in evidence.damaged.get(epoch, Ranges()):
                of_epoch[message.key].append(sequence)
    known = readers(evidence)
    for at, fact in evidence.history.facts:
        if isinstance(fact, AckTaken):
            for reading, first, last in fact.ranges:
                may_be_settled[fact.subscription, reading].add(first, last)
        elif isinstance(fact, Sent) and fact.durable and evidence.plan(fact.subscription).shared:
            epoch = epoch_of(fact.reading)
            settled, reader = may_be_settled[fact.subscription, fact.reading], known[fact.subscription, ""]
            after = 0 if evidence.is_own(epoch) else reader.place(fact.reading).most
            for sequence in [at for first, last in fact.ranges for at in range(first, last + 1)]:
                message = evidence.stored.get(epoch, {}).get(sequence)
                if message is None or message.key is None:
                    continue
                before = [
                    other
                    for other in by_key[epoch][message.key]
                    if after < other < sequence
                    and other not in settled
                    and other not in reader.gaps[fact.reading]
                    and (evidence.is_own(epoch) or reader.wants(evidence.stored[epoch][other]))
                ]
                if before:
                    broken.append(f"at {at:.4f} {sequence} of key {message.key} was sent before {before[0]}: {fact}")
                place = fact.life, fact.subscription, fact.reading, message.key
                if latest.get(place, 0) > sequence:
                    broken.append(f"at {at:.4f} {sequence} of key {message.key} after {latest[place]}: {fact}")
                latest[place] = sequence
    return broken


def transactions(evidence: Evidence) -> list[str]:
    broken = []
    told = {fact.payloads for fact in evidence.history.of(Transacted)}
    refused = {fact.payloads for fact in evidence.history.of(Refused)}
    for fact in evidence.history.of(Transacting):
        places = [place for payload in fact.payloads for place in evidence.places.get(payload, ())]
        by = {evidence.stored[epoch][sequence].commit for epoch, sequence in places}
        if places and (len(by) > 1 or len(places) != len(fact.payloads)):
            broken.append(f"of {fact} are stored {places} by {sorted(by)}")
        if fact.payloads in told and not places:
            broken.append(f"{fact} was confirmed and is not stored")
        if fact.payloads in refused and places:
            broken.append(f"{fact} was refused and is stored at {places}")
        for commit in by:
            for name, reading, sequence in fact.acks:
                number, epoch = evidence.numbers[name], epoch_of(reading)
                before, after = (evidence.journal.cursor(number, epoch, index) for index in (commit - 1, commit))
                if after is None or after.moves != moves_of(reading):
                    continue  # deleted, or moved, meanwhile
                if is_settled(before, sequence) and before is not None and before.moves == after.moves:
                    broken.append(f"{fact} acked {sequence}, which was settled before")
                if not is_settled(after, sequence):
                    broken.append(f"{fact} is stored and has not settled {sequence}")
    return broken


def moves(evidence: Evidence) -> list[str]:
    broken = []
    sent: Ways = defaultdict(Ranges)
    asking: dict[str, tuple[float, Moving]] = {}
    deleted_at: dict[str, float] = {}
    known_readers = readers(evidence)
    for at, fact in evidence.history.facts:
        if isinstance(fact, Moving):
            asking[fact.subscription] = at, fact
        elif isinstance(fact, Deleted):
            deleted_at[fact.queue] = at
        elif isinstance(fact, Moved):
            asked_at, asked = asking[fact.subscription]
            for queue, cursor in fact.places:
                if deleted_at.get(queue, -1.0) >= asked_at:
                    continue  # with it went the cursor, perhaps before it was written where it was moved to
                epochs = [epoch for epoch, name in evidence.queue_of.items() if name == queue]
                number = evidence.numbers[fact.subscription]
                places = {epoch: evidence.journal.moved_to(number, epoch, fact.commits) for epoch in epochs}
                reader = known_readers[fact.subscription, ""]
                if not any(
                    # Before it was written it may have followed what it does not want, and passed what was cut.
                    cursor <= place
                    and not any(
                        reader.wants(message) and not reader.was_cut(epoch, sequence)
                        for sequence, message in messages.items()
                        if cursor < sequence <= place
                    )
                    for epoch in epochs
                    if (messages := evidence.stored.get(epoch, {})) is not None
                    for place in places[epoch]
                ):
                    broken.append(f"at {at:.4f} {fact}: on the disk it was moved to {places} of {queue}")
                if not any(_is_goal(evidence, asked, fact, epoch, cursor) for epoch in epochs):
                    broken.append(f"at {at:.4f} {fact} after {asked}")
        elif isinstance(fact, Sent) and fact.durable and moves_of(fact.reading):
            known = sent[fact.subscription, fact.reading]
            if fact.ranges and not fact.recorded:
                broken.append(f"at {at:.4f} {fact} before the move was on the disk")
            failed = [at for at in fact.failed if at not in known]
            if failed:
                broken.append(f"at {at:.4f} {failed} failed before the move: {fact}")
            for first, last in fact.ranges:
                known.add(first, last)
    return broken


def _is_goal(evidence: Evidence, asked: Moving, told: Moved, epoch: int, cursor: int) -> bool:
    """Whether a cursor is where it was asked to be; what is stored and trimmed meanwhile moves the goal."""
    if told.to == "latest":
        return asked.ends.get(epoch, 0) <= cursor <= told.ends.get(epoch, 0)
    trims = {trim.to_sequence for commit in evidence.commits for trim in commit.trims if trim.queue == epoch}
    kept = {asked.begins.get(epoch, 1) - 1, told.begins.get(epoch, told.ends.get(epoch, 0) + 1) - 1, *trims}
    if told.to == "earliest":
        return cursor in kept
    return cursor == int(told.to) - 1 or (cursor >= int(told.to) and cursor in kept)


def pause(evidence: Evidence) -> list[str]:
    broken = []
    paused = set[int | str]()
    for at, fact in evidence.history.facts:
        if isinstance(fact, Paused):
            paused.add(fact.what)
        elif isinstance(fact, Resuming):
            paused.discard(fact.what)
        elif isinstance(fact, Sent) and fact.ranges and paused & {fact.subscription, epoch_of(fact.reading)}:
            broken.append(f"at {at:.4f} {fact} was sent while {paused} are paused")
    return broken


WORK_CHECKERS: Final[dict[str, Callable[[Evidence], list[str]]]] = {
    "accounting": accounting,
    "dead letters": dead_letters,
    "message ids": message_ids,
    "schedules": schedules,
    "schedules come": schedules_come,
    "sharing": sharing,
    "key order": key_order,
    "transactions": transactions,
    "moves": moves,
    "pause": pause,
}

WORK_AT_REST: Final = {"accounting", "schedules come"}
