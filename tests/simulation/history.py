"""What happened in a simulation, as facts in the order of virtual time; what checkers read."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, TypeAlias, TypeVar

from tidings.model import HeaderFilter


class Published(NamedTuple):
    """A process hands these payloads over, in this order."""

    process: str
    queue: str
    event: str
    payloads: tuple[str, ...]


class Confirmed(NamedTuple):
    """A process was told that these payloads are stored from `sequence` on. `stored`: whether they really are."""

    process: str
    queue: str
    epoch: int
    sequence: int
    payloads: tuple[str, ...]
    stored: bool


class Duplicate(NamedTuple):
    """A process was told that the queue has, at `sequence`, a message of this id already."""

    process: str
    queue: str
    epoch: int
    sequence: int
    id: str
    payload: str
    stored: bool


class Transacting(NamedTuple):
    """A process wants these payloads stored, and these (subscription, reading, sequence) settled, or nothing of it."""

    process: str
    payloads: tuple[str, ...]
    acks: tuple[tuple[str, int, int], ...] = ()


class Transacted(NamedTuple):
    """A process was told that its transaction is stored; payloads are those of `Transacting`."""

    process: str
    payloads: tuple[str, ...]


class Refused(NamedTuple):
    """A process was told that nothing of these payloads is stored."""

    process: str
    payloads: tuple[str, ...]
    code: str


class Attaching(NamedTuple):
    """A process asks for a subscription; `ends` is the last sequence of each queue's life that the server knows."""

    process: str
    subscription: str
    queue: str
    event: str
    start: str | int | datetime
    ends: dict[int, int]
    headers: tuple[HeaderFilter, ...] = ()


class Attached(NamedTuple):
    """A process is attached. `ends` and `begins` are the last and the first stored sequence of each queue's life."""

    process: str
    subscription: str
    durable: bool
    created: bool
    ends: dict[int, int]
    begins: dict[int, int]


class Sent(NamedTuple):
    """The server sends messages to a subscription, in its life number `life`.

    `reading` is the epoch, and how often the subscription was moved (`tidings.model.Reading`). `failed` are those of
    the messages that are sent with an attempt above 1. `longest`: whether nobody has been attached to it for longer.
    `recorded`: whether the disk knows of the last move.
    """

    connection: int
    handle: int
    subscription: str
    durable: bool
    life: int
    queue: str
    reading: int
    ranges: tuple[tuple[int, int], ...]
    redelivered: bool
    failed: tuple[int, ...]
    longest: bool
    recorded: bool


class AckTaken(NamedTuple):
    """An ack, by itself or in a transaction, reaches the server in its life number `life`.

    `ranges` are (reading, first, last).
    """

    connection: int
    handle: int
    life: int
    subscription: str
    ranges: tuple[tuple[int, int, int], ...]
    transaction: bool


class NackTaken(NamedTuple):
    """A nack or reject reaches the server, in its life number `life`."""

    connection: int
    handle: int
    life: int
    subscription: str
    ranges: tuple[tuple[int, int, int], ...]
    reject: bool


class Left(NamedTuple):
    """The server, in its life number `life`, lets go of a member of a shared subscription."""

    connection: int
    handle: int
    life: int


class LifeBegan(NamedTuple):
    """A life of the server begins, by its clock at `time_ms`; the disk has so many transactions."""

    life: int
    time_ms: int
    commits: int


class Made(NamedTuple):
    """The server makes a durable subscription; `ends` is the last sequence of each queue's life on the disk.

    `begins` is the first one that the server has not trimmed, nor is about to: that may fail, and is tried again.
    `subscription` tells those apart that had one name after each other; everywhere else, too.
    """

    subscription: str
    name: str
    ends: dict[int, int]
    begins: dict[int, int]


class Forgotten(NamedTuple):
    """The server forgets a durable subscription that a process was told of.

    `away_s`: how long it has had no subscriber, without the server's absence if it had one until then.
    `asked`: an administrator deletes it.
    """

    subscription: str
    asked: bool
    away_s: float


class ToldForgotten(NamedTuple):
    """An administrator is told that a subscription is deleted."""

    subscription: str


class TimeFell(NamedTuple):
    """The server's time went back within its life."""

    life: int
    from_ms: int
    to_ms: int


class Opening(NamedTuple):
    """A process asks to be let in, now and after each loss of its connection."""

    process: str
    client_id: str
    take_over: bool


class Opened(NamedTuple):
    """A process is let in. `holder` had the client id for sure all the time that this took; "" if none did."""

    process: str
    client_id: str
    take_over: bool
    holder: str


class Ousted(NamedTuple):
    """A process is told that another one has taken over its client id."""

    process: str
    client_id: str


class Handed(NamedTuple):
    """A process gets a message out of its subscription; the server sent it in its life number `life`."""

    process: str
    subscription: str
    durable: bool
    life: int
    queue: str
    reading: int
    sequence: int
    event: str
    payload: str
    attempt: int
    redelivered: bool


class Asked(NamedTuple):
    """A subscriber that pulls asks the server, in its life number `life`, for messages: for none when it begins."""

    connection: int
    handle: int
    life: int
    count: int


class Pulled(NamedTuple):
    """A pull that began at `asked_s`, and would have waited so long, is answered, with this message before others."""

    subscription: str
    reading: int
    sequence: int
    asked_s: float
    wait_s: float


class Unseen(NamedTuple):
    """A message was in an answer that the client who pulled did not wait for, or did not get."""

    subscription: str
    reading: int
    sequence: int


class AckedDurably(NamedTuple):
    """A process was told that its ack of these sequences is durable. `stored`: whether it really is."""

    process: str
    subscription: str
    reading: int
    first: int
    last: int
    stored: bool


class RejectedDurably(NamedTuple):
    """A process was told that its reject of a message is durable. `stored`: whether the disk has its dead letter."""

    process: str
    subscription: str
    reading: int
    sequence: int
    stored: bool


class Scheduling(NamedTuple):
    """A process wants a payload published later."""

    process: str
    queue: str
    payload: str
    every_ms: int | None


class Scheduled(NamedTuple):
    """A process was told that a payload is to be published. `stored`: whether the disk knew, or had done it."""

    process: str
    queue: str
    payload: str
    at_ms: int
    every_ms: int | None
    stored: bool


class Cancelling(NamedTuple):
    """A process wants a scheduled payload not to be published (any more)."""

    process: str
    payload: str


class Cancelled(NamedTuple):
    """A process was told so; the disk had so many transactions."""

    process: str
    payload: str
    commits: int


class Moving(NamedTuple):
    """An administrator wants a subscription moved; `ends` and `begins` are those of each queue's life on the disk."""

    subscription: str
    to: str | int
    queue: str | None
    ends: dict[int, int]
    begins: dict[int, int]


class Moved(NamedTuple):
    """An administrator was told of (queue, cursor) to which it was moved; the disk had so many transactions.

    `ends` and `begins` as they were when it was told.
    """

    subscription: str
    to: str | int
    places: tuple[tuple[str, int], ...]
    commits: int
    ends: dict[int, int]
    begins: dict[int, int]


class Paused(NamedTuple):
    """An administrator was told that a queue (by its epoch) or a subscription is paused."""

    what: int | str


class Resuming(NamedTuple):
    """An administrator asks for it to go on."""

    what: int | str


class Bounded(NamedTuple):
    """An administrator was told that a queue (by its epoch) or a client is bounded."""

    what: int | str
    setting: str
    most: int


class Unbinding(NamedTuple):
    """An administrator asks for that bound to end."""

    what: int | str
    setting: str


class Died(NamedTuple):
    """The server gives up a message of a durable subscription; the disk does not know of it yet."""

    subscription: str
    reading: int
    sequence: int


class Failed(NamedTuple):
    """The server counts a failed attempt of a message, the first one; the disk does not know of it yet."""

    subscription: str
    reading: int
    sequence: int


class LettersDeleted(NamedTuple):
    """An administrator deletes dead letters of the subscription that has a name, perhaps of a later one of it."""

    name: str


class Telling(NamedTuple):
    """The server, in its life number `life`, tells a durable subscription of a gap; the disk may not know of it yet.

    `queue_stored`: whether the disk has its queue.
    """

    life: int
    subscription: str
    reading: int
    first: int
    last: int
    reason: str
    queue_stored: bool


class Told(NamedTuple):
    """A process was told of a gap."""

    process: str
    subscription: str
    reading: int
    first: int
    last: int
    reason: str


class Deleted(NamedTuple):
    """A queue, in this life of it, was deleted, or at least may have been.

    `moved` are the (subscription, reading, cursor) of those that had been moved in it when the disk did not know yet.
    """

    queue: str
    epoch: int
    moved: tuple[tuple[str, int, int], ...] = ()


class Forgetting(NamedTuple):
    """An administrator asks for something by which messages of a queue may become gaps with this reason."""

    queue: str
    reason: str


class Replayed(NamedTuple):
    """A process replayed `first` to `last` (None: to the end) of a queue, in this life of it, until the replay ended.

    `before` and `after` are the last sequences that the server knew when it was asked, and that the disk had when it
    began. `handed` are (sequence, payload) in their order, `again` those of them that were given back over a connection
    that was not lost (else nothing of that), `gaps` what it was told will not come.
    """

    process: str
    queue: str
    epoch: int
    first: int
    last: int | None
    before: int
    after: int
    handed: tuple[tuple[int, str], ...]
    again: tuple[int, ...]
    gaps: tuple[tuple[int, int], ...]


class ReceiptTold(NamedTuple):
    """A process was told how far a durable subscription is with messages, which it had asked at `asked_s`.

    `stored`: whether the disk says so, too.
    """

    process: str
    asked_s: float
    subscription: str
    epoch: int
    first: int
    last: int
    state: str
    exact: bool
    stored: bool


class Responding(NamedTuple):
    """A process replies to a request, the message with this payload."""

    process: str
    payload: str
    reply: str


class Replied(NamedTuple):
    """A process that made a request, with this payload, got a reply."""

    process: str
    payload: str
    reply: str


class Note(NamedTuple):
    """Anything else: faults, restarts, comings and goings."""

    text: str


Fact: TypeAlias = (
    Published
    | Confirmed
    | Duplicate
    | Transacting
    | Transacted
    | Refused
    | Opening
    | Opened
    | Ousted
    | Attaching
    | Attached
    | Made
    | Asked
    | Pulled
    | Unseen
    | Forgotten
    | ToldForgotten
    | Sent
    | TimeFell
    | AckTaken
    | NackTaken
    | Left
    | LifeBegan
    | Handed
    | AckedDurably
    | RejectedDurably
    | Scheduling
    | Scheduled
    | Cancelling
    | Cancelled
    | Moving
    | Moved
    | Paused
    | Resuming
    | Bounded
    | Unbinding
    | Died
    | Failed
    | LettersDeleted
    | Telling
    | Told
    | Deleted
    | Forgetting
    | Replayed
    | ReceiptTold
    | Responding
    | Replied
    | Note
)
F = TypeVar("F", bound=Fact)


class History:
    """The facts, with the virtual seconds at which they happened."""

    def __init__(self) -> None:
        self.facts: list[tuple[float, Fact]] = []

    def of(self, kind: type[F]) -> Iterator[F]:
        """Yields the facts of one kind, in order."""
        return (fact for _, fact in self.facts if isinstance(fact, kind))

    def lines(self) -> list[str]:
        """Returns it as people read it."""
        return [f"{at:10.4f}  {_spell(fact)}" for at, fact in self.facts]


def _spell(fact: Fact) -> str:
    if isinstance(fact, Note):
        return f"* {fact.text}"
    fields = ", ".join(f"{name}={_short(value)}" for name, value in fact._asdict().items())
    return f"{type(fact).__name__:<12} {fields}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-30:]}"
