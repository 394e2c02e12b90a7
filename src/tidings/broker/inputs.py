"""What happens to a broker: commands of clients, and facts that the node reports."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from tidings import calls
from tidings.batch import Batch, StoredBatch
from tidings.model import Failure, HeaderFilter
from tidings.transaction import Damage, Row

# --- Commands: `connection` is the node's number of the connection that they came over ---


class Connect(msgspec.Struct, frozen=True, kw_only=True):
    """A client introduced itself. `fresh_token` becomes the session's token unless `token` is a known one."""

    connection: int
    client_id: str | None
    producer: str
    token: str
    fresh_token: str
    take_over: bool
    address: str
    protocol: str


class Disconnect(msgspec.Struct, frozen=True):
    """A connection ended. `farewell` is true if the client said goodbye, false if it was lost."""

    connection: int
    farewell: bool
    reason: str


class Publish(msgspec.Struct, frozen=True):
    """A validated batch to store. `number` and `answered` as in the native protocol's frame."""

    connection: int
    number: int
    answered: int
    queue: str
    batch: Batch


class Transact(msgspec.Struct, frozen=True):
    """Validated batches to store, and (handle, epoch, first, last) to settle, all of it or nothing.

    `batch` is all of the batches as one, for what counts bytes.
    """

    connection: int
    number: int
    answered: int
    batches: list[tuple[str, Batch]]
    acks: list[tuple[int, int, int, int]]
    batch: Batch


class Resume(msgspec.Struct, frozen=True):
    """Where a returning subscriber stands in one queue; with ELSEWHERE for its epoch: it has nothing of all others.

    One that began with the last message of each event, up to `begin_to`, and stands before that, gets the rest of them.
    """

    epoch: int
    received: int
    acked: list[tuple[int, int]]
    begin_to: int = 0


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """A client wants to be attached to a subscription. Zeros and None mean defaults.

    The first three are filled in by whoever speaks for the client. With an empty `queue` it is the subscription of
    this `name` as it is, shared or not. A client that `pulls` is delivered what it asks for, see `Ask`, no more.
    One that `rewinds` is delivered all again that comes after what it `received`, also what counts as acked.

    With an `end` it is a replay: a subscription of its own that ends with the connection, to one queue, from `start` to
    the `end`, "latest" (what is stored by now), "sequence" (the last one) or "time" (what was stored before it), at
    `rate` messages a second (0 for as fast as it goes). `Ended` says that it is done.
    """

    connection: int = 0
    request: int = 0
    handle: int = 0
    queue: str
    event: str
    name: str | None = None
    start: str = "latest"
    start_value: int = 0
    in_flight_max: int = 0
    concurrency: int = 1
    ack_timeout_ms: int = 0
    attempts_max: int = 0
    backoff_min_ms: int = 0
    backoff_max_ms: int = 0
    expires_after_ms: int | None = None
    resume: list[Resume] = []
    shared: bool = False
    single_active: bool | None = None
    pulls: bool = False
    rewinds: bool = False
    end: str = ""
    end_value: int = 0
    rate: float = 0.0
    headers: Sequence[HeaderFilter] = ()


class Unsubscribe(msgspec.Struct, frozen=True):
    """A client detaches from a subscription."""

    connection: int
    request: int
    handle: int


class Ack(msgspec.Struct, frozen=True):
    """A client settles (epoch, first, last) ranges; with `request` above 0 it wants an answer.

    What it says to have had `earlier` may have been delivered by a broker before this one.
    """

    connection: int
    handle: int
    ranges: list[tuple[int, int, int]]
    request: int = 0
    earlier: bool = False


class Nack(msgspec.Struct, frozen=True):
    """A client gives back (epoch, first, last) ranges as failed; with `request` above 0 it wants an answer.

    They are delivered again after `delay_ms`, or None for the subscription's backoff; not at all with `reject`.
    """

    connection: int
    handle: int
    ranges: list[tuple[int, int, int]]
    request: int = 0
    delay_ms: int | None = None
    reject: bool = False
    failure: Failure | None = None


class Extend(msgspec.Struct, frozen=True):
    """A client needs more time for what it is handling; with `request` above 0 it wants an answer."""

    connection: int
    handle: int
    ranges: list[tuple[int, int, int]]
    request: int = 0


class Ask(msgspec.Struct, frozen=True):
    """A client that pulls wants up to `count` messages, whatever it asked for before; 0 for none from now on.

    It is answered once all of those that are there now were delivered.
    """

    connection: int
    handle: int
    count: int
    request: int


class Call(msgspec.Struct, frozen=True):
    """A client asks for something else, see `tidings.calls`."""

    connection: int
    request: int
    call: calls.Call


class List(msgspec.Struct, frozen=True):
    """A client asks for a listing, from after a key, or for what it says of one name."""

    connection: int
    request: int
    what: str
    after: str = ""
    name: str | None = None


class Delete(msgspec.Struct, frozen=True):
    """A client deletes a queue or a subscription, with `if_match` only one whose tag that is, see `calls.tag_of`."""

    connection: int
    request: int
    what: str
    name: str
    if_match: str | None = None


class SendBuffer(msgspec.Struct, frozen=True):
    """A connection's send buffer filled up, or has room again."""

    connection: int
    full: bool


# --- Facts ---


class StoreReady(msgspec.Struct, frozen=True):
    """The store can take a transaction: every input that was waiting has been handled."""


class Committed(msgspec.Struct, frozen=True):
    """The transaction that the broker ordered is durable."""


class CommitRefused(msgspec.Struct, frozen=True):
    """Nothing of the transaction that the broker ordered was stored."""

    reason: str
    full: bool


class Fetched(msgspec.Struct, frozen=True):
    """The rows that a Fetch asked for, empty at the end of the queue."""

    subscription: int
    epoch: int
    rows: list[StoredBatch | Damage]


class RowsRead(msgspec.Struct, frozen=True):
    """The rows that a ReadRows asked for."""

    ticket: int
    rows: list[StoredBatch | Damage]


class RecordsRead(msgspec.Struct, frozen=True):
    """The records that a ReadRecords asked for, None for those that are not there."""

    ticket: int
    records: list[bytes | None]


class RecordsListed(msgspec.Struct, frozen=True):
    """The records that a ListRecords asked for; empty at the end."""

    ticket: int
    records: list[tuple[str, bytes]]


class Surveyed(msgspec.Struct, frozen=True):
    """The oldest rows of a queue, and how many bytes from its beginning up to the surveyed sequence."""

    epoch: int
    rows: list[Row]
    settled_bytes: int


class Located(msgspec.Struct, frozen=True):
    """The first sequence at or after the time that a Locate asked for; None beyond the end."""

    ticket: int
    sequence: int | None


class Sampled(msgspec.Struct, frozen=True):
    """The rows that a Sample asked for."""

    ticket: int
    rows: list[Row]


class DiskSpace(msgspec.Struct, frozen=True):
    """Free bytes where the store lives."""

    free_bytes: int


class Tick(msgspec.Struct, frozen=True):
    """Time passed: `next_deadline_ms` was reached."""


class Drain(msgspec.Struct, frozen=True):
    """The node is about to stop."""


Input: TypeAlias = (
    Connect
    | Disconnect
    | Publish
    | Transact
    | Subscribe
    | Unsubscribe
    | Ack
    | Nack
    | Extend
    | Ask
    | Call
    | List
    | Delete
    | SendBuffer
    | StoreReady
    | Committed
    | CommitRefused
    | Fetched
    | RowsRead
    | RecordsRead
    | RecordsListed
    | Surveyed
    | Located
    | Sampled
    | DiskSpace
    | Tick
    | Drain
)

Request: TypeAlias = Literal[
    "publish",
    "transact",
    "subscribe",
    "unsubscribe",
    "ack",
    "nack",
    "extend",
    "ask",
    "call",
    "list",
    "delete",
    "backup",
]
