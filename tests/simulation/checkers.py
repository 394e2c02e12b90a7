"""The promises of Tidings, and how a simulation's history shows that they were kept; `work_checkers.py` has more.

What is really stored is known from the simulated disk: every row that was ever appended to it.

durable confirm
    When a publisher is told the sequence of a message, the disk holds that message at that sequence. What a
    publisher was told is not stored never appears on the disk.
stored once
    Each payload is different, but for what recurs; none is on the disk twice, however often its batch was sent. What
    one process published to one queue is stored in the order of its calls.
dense sequences
    In one life of a queue the rows follow each other from 1 without a gap, and a life never begins again.
at least once, without silent loss
    Once faults have ended and everybody has come back: every confirmed message that a durable subscription wants,
    and that is after the place where it began, or was moved to at last, was since then handed to one of its
    subscribers, became a dead letter (before it reached one), or lies in a gap that one of them was told of. The same
    holds for an ephemeral subscription between the first and the last message of a queue's life that it was handed.
    A new subscription to the live end begins no earlier than at the moment it was asked for, and no later than at the
    moment its process was told that it is attached.
last messages
    A new subscription that begins with the last message of each event is handed, of each event that it wants, the last
    one that the queue held when it was made, and none before that. What was published while it was made may come too.
    What is purged, deleted or expired is not held; for one that is damaged the one before it may come.
honest gaps
    A durable subscription is told of a gap only where rows are damaged, a queue was deleted, or an administrator asked
    for what has this reason (a purge, a ttl, a limit); never for what was trimmed, unless that was gone when it asked
    for it, or was moved back to it: what it has not settled stays. That a queue is deleted is told once the disk has it
    no more. An ephemeral one is told of what it gave up. A
    subscription is handed nothing that it did not ask for, and what it is handed is what was published at that
    sequence.
order
    To one subscription that is not shared the first delivery of each message of a queue's life, and again after each
    move, comes in the order of sequences; one whose time ran out, or whose connection was lost, before it was handed
    over comes again like any other, also when a crash has forgotten that failed attempt; and so does what was in an
    answer that nobody got.
ack means gone
    When a subscriber is told that an ack is durable, the disk holds a cursor that has settled the message. What was
    acked, and durably so, is never sent to that subscription again, also not by the server's next life, unless it was
    moved back.
redelivery is marked
    A message that the server sends again in the same life of it is marked as redelivered, and so is one that a
    process is handed again; attempts are counted from 1, never fall for one process in one life of the server, and
    an attempt above 1 is marked, too.
presence
    When all is quiet the listings show exactly the clients that are connected, every durable subscription has
    lag 0 and nothing in flight; on `$presence` each client's `connected` and `disconnected` take turns, and the
    last one says how it is.
window
    A subscriber of a durable subscription never has more messages in flight than it asked for: sent over one
    connection, neither acked nor given back, and not so old that the ack timeout may have taken them back. Nor than its
    client may have: from when an administrator was told so until somebody asks for the end of that.
subscriptions stay
    A durable subscription that a process was told of stays until an administrator deletes it, or until it has been
    without a subscriber for as long as it may; the server's absence does not count for those that had one until
    then, as soon as the disk knows of it. One that an administrator was told is deleted is gone for good.
time goes on
    The server's time never goes back while it lives, and no message of a queue is older than the one before it,
    whatever the wall clock does.
one process for a client id
    While a process is connected, another one with its client id is let in only by taking over, and then the first
    one is out. Nobody is told of having been taken over from unless somebody asked to.

(That cursors never move back is among the broker's invariants, checked after every input, and so is the window.)
"""

import math
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import msgspec

from tests.simulation.evidence import Evidence, readers
from tests.simulation.history import (
    AckedDurably,
    AckTaken,
    Attached,
    Bounded,
    Confirmed,
    Deleted,
    Died,
    Duplicate,
    Failed,
    Forgetting,
    Forgotten,
    Handed,
    Made,
    NackTaken,
    Opened,
    Opening,
    Ousted,
    Published,
    Refused,
    Scheduling,
    Sent,
    Telling,
    TimeFell,
    ToldForgotten,
    Unbinding,
    Unseen,
)
from tests.simulation.pull_checkers import PULL_CHECKERS
from tests.simulation.quota_checkers import QUOTA_CHECKERS
from tests.simulation.receipt_checkers import RECEIPT_CHECKERS
from tests.simulation.replay_checkers import REPLAY_CHECKERS
from tests.simulation.reply_checkers import REPLY_CHECKERS
from tests.simulation.work_checkers import WORK_AT_REST, WORK_CHECKERS
from tidings.model import PRESENCE_QUEUE, Reading, epoch_of, moves_of
from tidings.ranges import Ranges

Checker = Callable[[Evidence], list[str]]


def durable_confirm(evidence: Evidence) -> list[str]:
    broken = []
    for fact in evidence.history.of(Confirmed):
        if not fact.stored:
            broken.append(f"{fact.process} was told of {fact.queue} {fact.sequence} before it was stored: {fact}")
        for sequence, payload in enumerate(fact.payloads, fact.sequence):
            found = evidence.stored.get(fact.epoch, {}).get(sequence)
            if found is None or found.payload != payload:
                broken.append(f"{payload} was confirmed at epoch {fact.epoch} sequence {sequence}, there is {found}")
    everything = {message.payload for messages in evidence.stored.values() for message in messages.values()}
    for refused in evidence.history.of(Refused):
        broken += [
            f"{payload} was refused ({refused.code}) and is stored"
            for payload in refused.payloads
            if payload in everything
        ]
    return broken


def stored_once(evidence: Evidence) -> list[str]:
    recurring = {fact.payload for fact in evidence.history.of(Scheduling) if fact.every_ms}
    several = {payload: found for payload, found in evidence.places.items() if len(found) > 1}
    broken = [f"{payload} is stored at {found}" for payload, found in several.items() if payload not in recurring]
    places = {payload: found[0] for payload, found in evidence.places.items()}
    calls: dict[tuple[str, str], list[str]] = defaultdict(list)
    for fact in evidence.history.of(Published):
        calls[fact.process, fact.queue] += fact.payloads
    for (process, queue), payloads in calls.items():
        order = [places[payload] for payload in payloads if payload in places]
        for before, after in pairwise(order):
            if before > after:
                broken.append(f"what {process} published to {queue} is stored at {before} and then at {after}")
    return broken


def dense_sequences(evidence: Evidence) -> list[str]:
    broken, ends = [], dict[int, int]()
    for epoch, row in evidence.appended:
        end = ends.get(epoch, 0)
        if row.first_sequence != end + 1:
            broken.append(f"epoch {epoch} ended at {end}, the next row begins at {row.first_sequence}")
        ends[epoch] = row.last_sequence
    return broken


def at_least_once(evidence: Evidence) -> list[str]:
    broken = []
    confirmed: dict[int, list[int]] = defaultdict(list)
    for fact in evidence.history.of(Confirmed | Duplicate):
        count = len(fact.payloads) if isinstance(fact, Confirmed) else 1
        confirmed[fact.epoch] += range(fact.sequence, fact.sequence + count)
    dead: dict[tuple[int, Reading], set[int]] = defaultdict(set)
    for died in evidence.history.of(Died):
        dead[evidence.numbers[died.subscription], died.reading].add(died.sequence)
    known_readers = readers(evidence)
    for (name, process), reader in known_readers.items():
        for epoch, sequences in confirmed.items():
            if reader.attached is None or epoch in reader.deleted_before:
                continue
            if not process and name not in evidence.alive:
                continue  # what it had not settled is gone with it
            if not reader.filter.wants_queue(evidence.queue_of[epoch]):
                continue
            # A process whose subscription was made again while it was away does not get again what it has acked, nor
            # is it told again of a gap that it knows.
            of_the_name = [
                known
                for (other, owner), known in known_readers.items()
                if owner == process and evidence.name_of.get(other, other) == evidence.name_of.get(name, name)
            ]
            reading = evidence.reading(name, epoch)
            handed = {sequence for known in of_the_name for sequence in known.handed[reading]}
            handed |= dead[evidence.numbers.get(name, 0), reading]
            gaps = Ranges(span for known in of_the_name for span in known.gaps[reading])
            place = reader.place(reading)
            first, last = (
                (place.most + 1, max(sequences)) if not process else (min(handed, default=1), max(handed, default=0))
            )
            if process and epoch not in reader.attached.ends:
                first = 1  # it appeared later, perhaps while the process was away
            elif reader.asked.start == "last":
                first = max(first, place.most + 1)  # what comes before, and what does not, is another promise
            for sequence in sequences:
                message = evidence.stored.get(epoch, {}).get(sequence)
                if message is None or not first <= sequence <= last or not reader.wants(message):
                    continue
                if sequence not in handed and sequence not in gaps:
                    broken.append(
                        f"{message.payload} at sequence {sequence} of {evidence.queue_of[epoch]} (epoch {epoch}) never"
                        f" reached subscription {name!r} {process}, nor was a gap told"
                    )
            early = [sequence for sequence in reader.handed[reading] if sequence <= place.least]
            if early and not process and reader.asked.start != "last":
                broken.append(f"subscription {name!r} began after {place} in epoch {epoch} and was handed {early[:5]}")
    return broken


def last_messages(evidence: Evidence) -> list[str]:
    broken = []
    known_readers = readers(evidence)
    for (name, process), reader in known_readers.items():
        if reader.asked.start != "last" or reader.attached is None or not reader.told_made:
            continue
        of_the_name = [
            known
            for (other, owner), known in known_readers.items()
            if owner == process and evidence.name_of.get(other, other) == evidence.name_of.get(name, name)
        ]
        for epoch in reader.attached.ends:
            reading = evidence.reading(name, epoch)
            if moves_of(reading) or epoch in reader.deleted_before or evidence.is_own(epoch):
                continue
            if not reader.filter.wants_queue(evidence.queue_of[epoch]):
                continue
            place, handed = reader.place(reading), reader.handed[reading]
            got = {sequence for known in of_the_name for sequence in known.handed[reading]}
            gaps = Ranges(span for known in of_the_name for span in known.gaps[reading])
            by_event: dict[str, list[int]] = defaultdict(list)
            for sequence, message in sorted(evidence.stored.get(epoch, {}).items()):
                if sequence <= place.most and reader.wants(message):
                    by_event[message.event].append(sequence)
            gone, damaged = reader.gone_before(epoch), evidence.damaged.get(epoch, Ranges())
            for event, sequences in by_event.items():
                last = sequences[-1]
                there = [at for at in sequences if at <= place.least and at not in gone and at not in damaged]
                # What is damaged is told as a gap in its place, or comes from memory.
                early = [at for at in sequences if at in handed and at not in damaged and at < max(there, default=0)]
                if early:
                    broken.append(f"{name!r} {process} was handed {early[:5]} of {event} in epoch {epoch}: {sequences}")
                owed = name in evidence.alive if not process else last < max(handed, default=0)
                kept = last >= reader.attached.begins.get(epoch, place.most + 1) and last not in gone
                if Forgetting(evidence.queue_of[epoch], "expired") in reader.forgetting:
                    kept = False
                if owed and kept and last not in got and last not in gaps:
                    broken.append(f"{name!r} {process} never got {last}, the last {event} in epoch {epoch} at {place}")
    return broken


def honest_gaps(evidence: Evidence) -> list[str]:
    broken = []
    deleted = {fact.epoch for fact in evidence.history.of(Deleted)}
    forgotten = {(fact.queue, fact.reason) for fact in evidence.history.of(Forgetting)}
    for fact in evidence.history.of(Telling):
        if fact.reason == "queue deleted" and fact.queue_stored:
            broken.append(f"a queue was told to be deleted before it was: {fact}")
    for (name, process), reader in readers(evidence).items():
        if reader.filter.queue == PRESENCE_QUEUE:
            continue
        for told in reader.told:
            epoch = epoch_of(told.reading)
            damaged = evidence.damaged.get(epoch, Ranges())
            honest = (
                (told.reason == "queue deleted" and epoch in deleted)
                or (told.reason == "damaged" and damaged.within(told.first, told.last) == [(told.first, told.last)])
                or (told.reason == "trimmed" and (process or told.last < reader.first_kept(epoch)))
                # (One that is away follows what it does not want, so it may be beyond that place when it is written.)
                or (told.reason == "trimmed" and told.last <= max(evidence.moved_to(name, epoch), default=0))
                or (told.reason.startswith("given up") and process and told.first == told.last)
                or (evidence.queue_of.get(epoch), told.reason) in forgotten
            )
            if not honest or told.first > told.last:
                broken.append(f"subscription {name!r} was told of a gap without reason: {told}")
        for reading, handed in reader.handed.items():
            for sequence, payload in handed.items():
                message = evidence.stored.get(epoch_of(reading), {}).get(sequence)
                if message is None or message.payload != payload or not reader.wants(message):
                    broken.append(
                        f"subscription {name!r} was handed {payload} at {reading}/{sequence}, stored is {message}"
                    )
    return broken


def order(evidence: Evidence) -> list[str]:
    broken = []
    seen: dict[tuple[str, str, Reading], Ranges] = defaultdict(Ranges)
    failed: dict[tuple[str, Reading], Ranges] = defaultdict(Ranges)
    for fact in evidence.history.of(Handed | Failed | Unseen):
        if isinstance(fact, Failed | Unseen):
            failed[fact.subscription, fact.reading].add(fact.sequence, fact.sequence)
            continue
        if evidence.plan(fact.subscription).shared:
            continue
        known = seen[fact.subscription, "" if fact.durable else fact.process, fact.reading]
        # A failed attempt may have reached nobody: its time ran out in a buffer, or its connection was lost.
        is_first = fact.sequence not in known and fact.sequence not in failed[fact.subscription, fact.reading]
        if is_first and known and fact.sequence < known.last:
            broken.append(f"first delivery of {fact.sequence} after that of {known.last}: {fact}")
        known.add(fact.sequence, fact.sequence)
    return broken


def ack_means_gone(evidence: Evidence) -> list[str]:
    broken = []
    gone: dict[tuple[str, Reading], Ranges] = defaultdict(Ranges)
    for at, fact in evidence.history.facts:
        if isinstance(fact, AckedDurably):
            if not fact.stored:
                broken.append(f"at {at:.4f} {fact.process} was told of an ack before it was stored: {fact}")
            gone[fact.subscription, fact.reading].add(fact.first, fact.last)
        elif isinstance(fact, Sent):
            for first, last in fact.ranges:
                again = gone[fact.subscription, fact.reading].within(first, last)
                if again:
                    broken.append(f"at {at:.4f} {again} of {fact} was sent although its ack was durable")
    return broken


def redelivery_is_marked(evidence: Evidence) -> list[str]:
    broken = []
    last: dict[tuple[str, str, int, int], Handed] = {}
    sent: dict[tuple[int, str, Reading], Ranges] = defaultdict(Ranges)
    for fact in evidence.history.of(Handed | Sent):
        if isinstance(fact, Sent):
            known = sent[fact.life, fact.subscription, fact.reading]
            for span in fact.ranges if fact.durable else ():
                if not fact.redelivered and known.within(*span):
                    broken.append(f"sent again, not marked: {fact}")
                known.add(*span)
            continue
        # Two processes of one client id may hand over in another order than that in which they were sent to.
        key = (fact.process, fact.subscription, fact.reading, fact.sequence)
        before = last.get(key)
        if fact.attempt < 1 or (fact.attempt > 1 and not fact.redelivered):
            broken.append(f"attempt {fact.attempt}, redelivered {fact.redelivered}: {fact}")
        if before and before.life == fact.life:
            if not fact.redelivered and fact.durable:
                broken.append(f"handed over again, not marked: {fact}")
            if fact.attempt < before.attempt:
                broken.append(f"attempt fell from {before.attempt} to {fact.attempt}: {fact}")
        last[key] = fact
    return broken


def presence(evidence: Evidence) -> list[str]:
    broken = []
    listed = {client.client_id for client in evidence.clients if client.connected and client.client_id}
    if listed != evidence.connected:
        broken.append(f"connected are {sorted(evidence.connected)}, listed {sorted(map(str, listed))}")
    attached = {evidence.name_of[fact.subscription] for fact in evidence.history.of(Attached) if fact.durable}
    for info in evidence.subscriptions:
        if info.durable and (info.lag or info.in_flight or not info.connected):
            broken.append(f"not settled although all is quiet: {info}")
    known = {info.name for info in evidence.subscriptions}
    broken += [f"subscription {name!r} is not listed" for name in sorted(attached - known)]
    states: dict[str, str] = {}
    for epoch, messages in evidence.stored.items():
        if evidence.queue_of.get(epoch) != PRESENCE_QUEUE:
            continue
        for sequence, message in sorted(messages.items()):
            if message.commit >= evidence.commits_at_rest:
                break
            who: dict[str, Any] = msgspec.json.decode(message.payload)
            if message.event in ("connected", "disconnected") and who["client_id"]:
                if states.get(who["client_id"], "disconnected") == message.event:
                    broken.append(f"$presence {sequence}: {who['client_id']} is {message.event} twice in a row")
                states[who["client_id"]] = message.event
    told = {client_id for client_id, event in states.items() if event == "connected"}
    if told != evidence.connected:
        broken.append(f"connected are {sorted(evidence.connected)}, told on $presence {sorted(told)}")
    return broken


def window(evidence: Evidence) -> list[str]:
    broken = []
    in_flight: dict[tuple[int, int, int], dict[tuple[Reading, int], float]] = defaultdict(dict)
    allowed: dict[int | str, float] = {}
    for at, fact in evidence.history.facts:
        if isinstance(fact, AckTaken | NackTaken):
            flying = in_flight[fact.life, fact.connection, fact.handle]
            for reading, first, last in fact.ranges:
                for key in [key for key in flying if key[0] == reading and first <= key[1] <= last]:
                    del flying[key]
        elif isinstance(fact, Deleted):
            for flying in in_flight.values():
                for key in [key for key in flying if epoch_of(key[0]) == fact.epoch]:
                    del flying[key]
        elif isinstance(fact, Bounded | Unbinding) and fact.setting == "in_flight_max":
            allowed[fact.what] = fact.most if isinstance(fact, Bounded) else math.inf
        elif isinstance(fact, Sent) and fact.durable:
            plan = evidence.plan(fact.subscription)
            most = plan.in_flight_max
            if plan.client_id and not plan.shared:
                most = min(most, allowed.get(plan.client_id, math.inf))
            flying = in_flight[fact.life, fact.connection, fact.handle]
            for key in [key for key, sent_at in flying.items() if sent_at <= at - plan.ack_timeout_s / 1.1 + 0.002]:
                del flying[key]  # it may have been taken back; the clock may run a tenth fast
            moves = moves_of(fact.reading)
            for key in [key for key in flying if epoch_of(key[0]) == epoch_of(fact.reading)]:
                if moves_of(key[0]) < moves:
                    del flying[key]  # it is void
            flying.update(
                ((fact.reading, sequence), at) for first, last in fact.ranges for sequence in range(first, last + 1)
            )
            if fact.ranges and len(flying) > most:
                broken.append(f"at {at:.4f} {len(flying)} of {most} are in flight: {fact}")
    return broken


def subscriptions_stay(evidence: Evidence) -> list[str]:
    broken = []
    told, gone, deleted = set[str](), set[str](), set[str]()
    for at, fact in evidence.history.facts:
        if isinstance(fact, Attached) and fact.durable:
            told.add(fact.subscription)
        elif isinstance(fact, Made) and fact.subscription in told:
            broken.append(f"at {at:.4f} {fact.subscription} was made again although it was there: {fact}")
        elif isinstance(fact, Forgotten):
            gone.add(fact.subscription)
            after_s = evidence.plan(fact.subscription).expires_after_s
            # Times of the server are whole milliseconds.
            if not fact.asked and (after_s is None or fact.away_s < after_s - 0.002):
                broken.append(f"at {at:.4f} {fact} although it may be away for {after_s} s")
        elif isinstance(fact, ToldForgotten):
            deleted.add(fact.subscription)
        elif isinstance(fact, Sent) and fact.subscription in deleted:
            broken.append(f"at {at:.4f} {fact} to a subscription that is deleted")
    broken += [f"{name} is not there any more" for name in sorted(told - gone - evidence.alive)]
    broken += [f"{name} is there although it was deleted" for name in sorted(deleted & evidence.alive)]
    return broken


def time_goes_on(evidence: Evidence) -> list[str]:
    broken = [str(fact) for fact in evidence.history.of(TimeFell)]
    latest_ms = dict[int, int]()
    for epoch, row in evidence.appended:
        if row.time_ms < latest_ms.get(epoch, 0):
            broken.append(f"epoch {epoch}: {row.first_sequence} is of {row.time_ms}, before it {latest_ms[epoch]}")
        latest_ms[epoch] = row.time_ms
    return broken


def one_process(evidence: Evidence) -> list[str]:
    broken = []
    contenders: dict[str, set[str]] = defaultdict(set)
    for fact in evidence.history.of(Opening | Opened | Ousted):
        match fact:
            case Opening(process, client_id, take_over):
                if take_over:
                    contenders[client_id].add(process)
            case Opened(_, _, take_over, holder):
                if holder:
                    broken.append(f"{fact}, and the other one stayed")
            case Ousted(process, client_id):
                if not contenders[client_id] - {process}:
                    broken.append(f"{fact}, and nobody had asked for that")
    return broken


CHECKERS: Final[dict[str, Checker]] = {
    "durable confirm": durable_confirm,
    "stored once": stored_once,
    "dense sequences": dense_sequences,
    "at least once": at_least_once,
    "last messages": last_messages,
    "honest gaps": honest_gaps,
    "order": order,
    "ack means gone": ack_means_gone,
    "redelivery is marked": redelivery_is_marked,
    "presence": presence,
    "window": window,
    "subscriptions stay": subscriptions_stay,
    "time goes on": time_goes_on,
    "one process for a client id": one_process,
    **WORK_CHECKERS,
    **REPLAY_CHECKERS,
    **QUOTA_CHECKERS,
    **RECEIPT_CHECKERS,
    **REPLY_CHECKERS,
    **PULL_CHECKERS,
}

AT_REST: Final = {"at least once", "last messages", "presence", "subscriptions stay", *WORK_AT_REST}
"""Promises that only a simulation which came to rest can show; all others hold at any moment."""
