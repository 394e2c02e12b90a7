"""What a broker orders: answers and deliveries to connections, and work for the store."""

from typing import TypeAlias

import msgspec

from tidings.batch import StoredBatch
from tidings.broker.inputs import Request
from tidings.errors import TidingsError
from tidings.model import ClientInfo, QueueInfo, SubscriptionInfo
from tidings.transaction import Commit

# --- To a connection ---


class Welcome(msgspec.Struct, frozen=True):
    """The client is known now, under this token."""

    connection: int
    token: str


class Confirm(msgspec.Struct, frozen=True):
    """A batch is durable, from `first_sequence` on; per run, so many subscriptions' names match.

    `duplicates` are (place in the batch, sequence) of messages that were stored before, under the same id.
    """

    connection: int
    number: int
    epoch: int
    first_sequence: int
    subscriptions: list[int]
    duplicates: list[tuple[int, int]]


class Transacted(msgspec.Struct, frozen=True):
    """A transaction is durable. Its confirms are those of its batches; their numbers are the places, from 0."""

    connection: int
    number: int
    confirms: list[Confirm]


class Subscribed(msgspec.Struct, frozen=True):
    """The client is attached; deliveries with its handle may follow.

    `places` are the (epoch, sequence before the first message) where it goes on, of a subscription of which its client
    remembers that: an ephemeral one, or one that it rewinds. So is the `end` of a replay.
    """

    connection: int
    request: int
    name: str
    durable: bool
    created: bool
    places: list[tuple[int, int]]
    ack_timeout_ms: int
    attempts_max: int
    end: int | None = None


class Deliver(msgspec.Struct, frozen=True):
    """Rows of one queue for one subscriber, already cut to what it is to get."""

    connection: int
    handle: int
    queue: str
    epoch: int
    rows: list[StoredBatch]
    redelivered: bool
    attempts: list[tuple[int, int]]
    redriven: bool = False


class Gap(msgspec.Struct, frozen=True):
    """Sequences that will not come, told in place."""

    connection: int
    handle: int
    queue: str
    epoch: int
    first_sequence: int
    last_sequence: int
    reason: str


class Ended(msgspec.Struct, frozen=True):
    """All of a replay was delivered and settled: nothing more comes with this handle."""

    connection: int
    handle: int


class Listing(msgspec.Struct, frozen=True):
    """A page of a listing; `after` continues it, "" ends it."""

    connection: int
    request: int
    entries: list[ClientInfo] | list[QueueInfo] | list[SubscriptionInfo]
    after: str


class Done(msgspec.Struct, frozen=True):
    """A request is done, and durable."""

    connection: int
    request: int


class Answered(msgspec.Struct, frozen=True):
    """A call is answered; what it changed is durable."""

    connection: int
    request: int
    value: object


class Refuse(msgspec.Struct, frozen=True):
    """A request is refused. Request 0 reports on one that expects no answer."""

    connection: int
    kind: Request
    request: int
    error: TidingsError


class Close(msgspec.Struct, frozen=True):
    """The connection is to be closed, for this reason."""

    connection: int
    error: TidingsError


# --- To the node ---


class StartCommit(msgspec.Struct, frozen=True):
    """Make this transaction durable, then report Committed or CommitRefused. One at a time."""

    commit: Commit


class Fetch(msgspec.Struct, frozen=True):
    """Read rows with sequences above `after` for a subscription, then report Fetched."""

    subscription: int
    epoch: int
    after: int
    limit_bytes: int


class ReadRows(msgspec.Struct, frozen=True):
    """Read rows with sequences above `after`, about `limit_bytes` of them, then report RowsRead."""

    ticket: int
    epoch: int
    after: int
    limit_bytes: int


class ReadRecords(msgspec.Struct, frozen=True):
    """Read records, then report RecordsRead."""

    ticket: int
    keys: list[str]


class ListRecords(msgspec.Struct, frozen=True):
    """Read records whose keys start with `prefix` and come after `after`, then report RecordsListed."""

    ticket: int
    prefix: str
    after: str
    limit_bytes: int


class Survey(msgspec.Struct, frozen=True):
    """Look at the oldest rows of a queue, and at the bytes up to `settled_to`, then report Surveyed."""

    epoch: int
    settled_to: int


class Locate(msgspec.Struct, frozen=True):
    """Find the first sequence at or after a time, then report Located."""

    ticket: int
    epoch: int
    time_ms: int


class Sample(msgspec.Struct, frozen=True):
    """Find rows spread evenly over a queue, the last one with `to_sequence`, then report Sampled."""

    ticket: int
    epoch: int
    to_sequence: int


class WebhooksChanged(msgspec.Struct, frozen=True):
    """There are other webhooks now, durably."""


ToConnection: TypeAlias = (
    Welcome | Confirm | Transacted | Subscribed | Deliver | Gap | Ended | Listing | Done | Answered | Refuse | Close
)
Read: TypeAlias = Fetch | ReadRows | ReadRecords | ListRecords | Survey | Locate | Sample
Effect: TypeAlias = ToConnection | StartCommit | Read | WebhooksChanged
