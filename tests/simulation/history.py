"""What happened in a simulation, as facts in the order of virtual time; what checkers read."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, TypeAlias, TypeVar


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


class Attached(NamedTuple):
    """A process is attached. `ends` and `begins` are the last and the first stored sequence of each queue's life."""

    process: str
    subscription: str
    durable: bool
    created: bool
    ends: dict[int, int]
    begins: dict[int, int]


class Sent(NamedTuple):
    """The server sends messages to a subscription, in its life number `life`."""

    connection: int
    handle: int
    subscription: str
    durable: bool
    life: int
    queue: str
    epoch: int
    ranges: tuple[tuple[int, int], ...]
    redelivered: bool


class AckTaken(NamedTuple):
    """An ack reaches the server, in its life number `life`."""

    connection: int
    handle: int
    life: int
    ranges: tuple[tuple[int, int, int], ...]


class Made(NamedTuple):
    """The server makes a durable subscription; `ends` is the last sequence of each queue's life on the disk.

    `subscription` tells those apart that had one name after each other; everywhere else, too.
    """

    subscription: str
    name: str
    ends: dict[int, int]


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
    epoch: int
    sequence: int
    event: str
    payload: str
    attempt: int
    redelivered: bool


class AckedDurably(NamedTuple):
    """A process was told that its ack of these sequences is durable. `stored`: whether it really is."""

    process: str
    subscription: str
    epoch: int
    first: int
    last: int
    stored: bool


class Told(NamedTuple):
    """A process was told of a gap."""

    process: str
    subscription: str
    epoch: int
    first: int
    last: int
    reason: str


class Deleted(NamedTuple):
    """A queue, in this life of it, was deleted, or at least may have been."""

    queue: str
    epoch: int


class Note(NamedTuple):
    """Anything else: faults, restarts, comings and goings."""

    text: str


Fact: TypeAlias = (
    Published
    | Confirmed
    | Refused
    | Opening
    | Opened
    | Ousted
    | Attaching
    | Attached
    | Made
    | Forgotten
    | ToldForgotten
    | Sent
    | TimeFell
    | AckTaken
    | Handed
    | AckedDurably
    | Told
    | Deleted
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
