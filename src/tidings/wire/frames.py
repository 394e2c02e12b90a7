"""The frames of the native protocol: what client and server say to each other.

Each frame is a kind, an envelope (a MessagePack array with the fields in the order given here) and for some a
body: of `Publish` and `Deliver` messages back to back (see `tidings.batch`), of `Call` and `Result` MessagePack.
Fields may be added at the end of an envelope; a reader takes the default for what is missing and ignores what it
does not know.

Requests carry a number of the client's choice and are answered by exactly one frame with the same number.
"""

from typing import NamedTuple, TypeAlias

import msgspec

from tidings.model import Failure, HeaderFilter, Run

VERSION = 1


class Hello(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client, first frame: who I am.

    `client_id` is None for an anonymous client. `token` is the one of the last Welcome, so that the same
    process gets its session back. `producer` identifies the client process to which batch numbers belong.
    """

    version: int
    client_id: str | None
    producer: str
    token: str = ""
    take_over: bool = False
    agent: str = ""


class Welcome(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server, first frame: the connection is open.

    `node` identifies this life of the server process. A peer that is silent for longer than
    `heartbeat_ms` x 2.5 is dead; both sides send something at least every `heartbeat_ms`.
    """

    version: int
    token: str
    node: str
    heartbeat_ms: int
    durability: str
    agent: str = ""


class Publish(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: store this batch (body follows). Answered by Confirmed or Refusal.

    `number` numbers the batches of a producer from 1 without end; a batch that is sent again keeps its number.
    All batches numbered below `answered` were answered: the server may forget them.
    """

    number: int
    answered: int
    queue: str
    runs: list[Run]


class Confirmed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: batch `number` is durable, from `first_sequence` on.

    `subscriptions` has one number for each run: how many subscriptions' names match. `duplicates` are (place in
    the batch from 0, sequence) of messages that the queue had stored before under the same id, and not again: the
    others follow each other without them.
    """

    number: int
    epoch: int
    first_sequence: int
    durability: str
    subscriptions: list[int]
    duplicates: list[tuple[int, int]] = []


class Transact(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: store these batches (body follows: all of them) and settle these deliveries, all of it or nothing.

    `batches` are (queue, its runs) in the order of their messages in the body; `acks` are (handle, epoch, first,
    last). `number` and `answered` as for Publish, of the same series. Answered by Transacted or Refusal.
    """

    number: int
    answered: int
    batches: list[tuple[str, list[Run]]]
    acks: list[tuple[int, int, int, int]] = []


class Transacted(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: transaction `number` is durable; of each of its batches, in their order, what Confirmed says.

    There the `number` is the place of the batch in the transaction, from 0.
    """

    number: int
    confirms: list[Confirmed]


class Resume(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a subscriber stands in one queue when it comes back.

    `received` is the last sequence that reached the application (continues an ephemeral subscription);
    `acked` are ranges that it settled and whose acks may have been lost (spares a durable one duplicates).
    `begin_to`: of one that began with the last message of each event, the place that Subscribed told.
    """

    epoch: int
    received: int
    acked: list[tuple[int, int]] = []
    begin_to: int = 0


class Subscribe(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """Client: attach me to a subscription, creating it if need be. Answered by Subscribed or Refusal.

    `handle` is the client's number for it on this connection. `queue` and `event` are patterns. `name` None means
    the default. `start` is "latest", "earliest", "last" (the last message of each event, then what follows),
    "sequence" or "time" (with `start_value`, a sequence or UTC ms) and counts only when the subscription is new.
    A 0 leaves a setting as it is, which is the default for a new subscription; `expires_after_ms` None leaves the
    expiry as it is, 0 removes it. Each of `headers` says what is wanted of one header.

    With an `end` it is a replay: a subscription of its own that ends with the connection, to a part of one queue up to
    the `end`, "latest" (what is stored by now), "sequence" (`end_value` is the last one) or "time" (what was stored
    before it), at `rate` messages a second (0 for as fast as it goes). It is over with `Ended`.
    """

    request: int
    handle: int
    queue: str
    event: str
    name: str | None = None
    start: str = "latest"
    start_value: int = 0
    in_flight_max: int = 0
    concurrency: int = 1
    ack_timeout_ms: int = 0
    expires_after_ms: int | None = None
    resume: list[Resume] = []
    attempts_max: int = 0
    backoff_min_ms: int = 0
    backoff_max_ms: int = 0
    shared: bool = False
    single_active: bool | None = None
    headers: list[HeaderFilter] = []
    end: str = ""
    end_value: int = 0
    rate: float = 0.0


class Subscribed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: attached; deliveries with this handle follow.

    `places` tells an ephemeral subscription where it begins, as (epoch, sequence before its first message): what
    to resume from if the connection is lost before anything came. With the start "last" that is up to where the last
    messages are looked for, `begin_to` of Resume. `ack_timeout_ms` and `attempts_max` are the
    subscription's settings at this moment; 0 from a server that does not tell. `end` is the last sequence of a replay.
    """

    request: int
    name: str
    durable: bool
    created: bool
    places: list[tuple[int, int]] = []
    ack_timeout_ms: int = 0
    attempts_max: int = 0
    end: int | None = None


class Unsubscribe(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: detach. A durable subscription stays; an ephemeral one ends. Answered by Done."""

    request: int
    handle: int


class Part(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One stored batch of a delivery: its place, its time, and its runs. Runs without event are not for you."""

    first_sequence: int
    time_ms: int
    runs: list[Run]


class Deliver(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: messages of one queue for one subscription, in sequence order (body follows: all parts joined).

    `redelivered` is true if any of it may have been sent before; `attempts` lists (sequence, attempt) of
    those whose attempt is above 1. `redriven` ones were dead letters: `epoch` and sequences are those of a side
    queue that only this subscription reads, `queue` is where they were published.

    The lower 32 bits of `epoch` are the queue's, the others count how often the subscription was moved there. With
    another `epoch` than before, all that came of that queue with the former one is void; a part without runs only
    says so, and where the subscription stands.
    """

    handle: int
    queue: str
    epoch: int
    parts: list[Part]
    redelivered: bool = False
    attempts: list[tuple[int, int]] = []
    redriven: bool = False


class Gap(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: these sequences were cut from the backlog and will not come.

    A durable subscription is told again on its next connection until the client acks them like messages.
    """

    handle: int
    queue: str
    epoch: int
    first_sequence: int
    last_sequence: int
    reason: str

    @property
    def count(self) -> int:
        """How many sequences it covers; with an event filter some of them may not have been wanted."""
        return self.last_sequence - self.first_sequence + 1


class Ended(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: all of a replay was delivered and settled; nothing more comes with this handle."""

    handle: int


class Ack(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: these (epoch, first, last) are settled. Settled ones may be repeated.

    A range from 1 is cumulative: it settles what is in flight, and leaves what waits to be delivered again.

    With `request` above 0 it is answered by Done once the ack is durable, or by Refusal; without, only a
    refusal comes back (with request 0).
    """

    handle: int
    ranges: list[tuple[int, int, int]]
    request: int = 0


class Nack(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: these (epoch, first, last) failed. They are delivered again, or become dead letters.

    `delay_ms` None means the subscription's backoff. With `reject` they become dead letters at once. `failure`
    tells why. With `request` above 0 it is answered by Done once that is durable, or by Refusal.
    """

    handle: int
    ranges: list[tuple[int, int, int]]
    request: int = 0
    delay_ms: int | None = None
    reject: bool = False
    failure: Failure | None = None


class Extend(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: these (epoch, first, last) are still being handled; their ack timeout begins anew.

    With `request` above 0 it is answered by Done or Refusal; without, only a refusal comes back (request 0).
    """

    handle: int
    ranges: list[tuple[int, int, int]]
    request: int = 0


class Call(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: do something else (body follows: a map, see `tidings.calls`). Answered by Result or Refusal."""

    request: int


class Result(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: the answer to a Call (body follows: MessagePack). What the call changed is durable."""

    request: int


class List(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: list "clients", "queues" or "subscriptions", from after this key. Answered by Listing."""

    request: int
    what: str
    after: str = ""


class Listing(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: entries as maps; `after` continues the listing, "" ends it."""

    request: int
    entries: msgspec.Raw
    after: str = ""


class Delete(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: delete a "queue" or "subscription" by name. Answered by Done when that is durable."""

    request: int
    what: str
    name: str


class Backup(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Client: write a consistent copy of the store to a file on the server's machine. Answered by Done."""

    request: int
    path: str


class Done(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: the request is done, and durable if it changed anything."""

    request: int


class Refusal(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Server: the request (of that `kind` of frame) was refused; code and text as in `tidings.errors`."""

    kind: int
    request: int
    code: str
    text: str


class Heartbeat(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Both: I live."""


class Goodbye(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Both, last frame: why the connection ends. Code "" is a plain farewell."""

    code: str = ""
    text: str = ""


Frame: TypeAlias = (
    Hello
    | Welcome
    | Publish
    | Confirmed
    | Transact
    | Transacted
    | Subscribe
    | Subscribed
    | Unsubscribe
    | Deliver
    | Gap
    | Ended
    | Ack
    | Nack
    | Extend
    | Call
    | Result
    | List
    | Listing
    | Delete
    | Backup
    | Done
    | Refusal
    | Heartbeat
    | Goodbye
)


class Received(NamedTuple):
    """A frame as it came, with its body."""

    frame: Frame
    body: bytes


# The kinds: odd from the client, even from the server, from 64 on from both.
CLIENT_KINDS: dict[int, type[Frame]] = {
    1: Hello,
    3: Publish,
    5: Subscribe,
    7: Unsubscribe,
    9: Ack,
    11: List,
    13: Delete,
    15: Backup,
    17: Nack,
    19: Extend,
    21: Call,
    23: Transact,
    64: Heartbeat,
    65: Goodbye,
}
SERVER_KINDS: dict[int, type[Frame]] = {
    2: Welcome,
    4: Confirmed,
    6: Subscribed,
    8: Deliver,
    10: Gap,
    12: Listing,
    14: Done,
    16: Refusal,
    18: Result,
    20: Transacted,
    22: Ended,
    64: Heartbeat,
    65: Goodbye,
}
KIND_OF: dict[type[Frame], int] = {
    frame: kind for kinds in (CLIENT_KINDS, SERVER_KINDS) for kind, frame in kinds.items()
}
WITH_BODY: frozenset[int] = frozenset(KIND_OF[frame] for frame in (Publish, Transact, Deliver, Call, Result))
