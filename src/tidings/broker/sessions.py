"""Sessions: what the server keeps for a connected client, and what it remembers of clients and publishers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidings.batch import Batch
from tidings.broker.subscribers import Subscriber
from tidings.errors import TidingsError
from tidings.model import ClientQuotas, Flags

if TYPE_CHECKING:
    from tidings.broker.quotas import Quota
    from tidings.broker.transactions import Transaction


class Pending:
    """A batch on its way to the store. `connection` is who waits for the confirm; None for the server's own."""

    __slots__ = (
        "batch",
        "connection",
        "duplicates",
        "epoch",
        "first_sequence",
        "has_ids",
        "number",
        "producer",
        "queue",
        "transaction",
    )

    def __init__(
        self, connection: int | None, producer: Producer | None, number: int, queue: str, batch: Batch
    ) -> None:
        self.connection = connection
        self.producer = producer
        self.number = number
        self.queue = queue
        self.batch = batch
        self.has_ids = any(run.flags & Flags.IDS for run in batch.runs)
        self.epoch = 0
        self.first_sequence = 0
        self.duplicates: list[tuple[int, int]] = []
        """(place in the batch, sequence) of messages that were stored before, under the same id."""
        self.transaction: Transaction | None = None
        """What it stands for if it is not one batch; `queue` and the batch's sequences mean nothing then."""


class Producer:
    """A publishing client process: which of its batches are stored, as long as it may send them again.

    A batch that is sent again, after a reconnect or a crash, keeps its number; so it is confirmed from here
    and not stored twice.
    """

    __slots__ = ("answered", "duplicates", "id", "last_seen_ms", "pending", "refusal", "stored", "transactions")

    def __init__(self, id: str, last_seen_ms: int) -> None:
        self.id = id
        self.last_seen_ms = last_seen_ms
        self.answered = 0
        """All numbers below it were answered."""
        self.stored: dict[int, tuple[int, int]] = {}
        """Number of a batch -> epoch and first sequence."""
        self.duplicates: dict[int, list[tuple[int, int]]] = {}
        """Number of a stored batch -> its duplicates, if it had any."""
        self.transactions: dict[int, list[tuple[int, int, list[tuple[int, int]]]]] = {}
        """Number of a stored transaction -> epoch, first sequence and duplicates of each of its batches."""
        self.pending: dict[int, Pending] = {}
        self.refusal: tuple[int, TidingsError] | None = None
        """Number of the last batch that was refused for the moment, and why; None once the client knows of it."""

    @property
    def key(self) -> str:
        """The key of the producer's record."""
        return f"producer/{self.id}"

    def forget_answered(self, answered: int) -> None:
        """Forgets batches whose answer has arrived."""
        if answered > self.answered:
            self.answered = answered
            for number in [number for number in self.stored if number < answered]:
                del self.stored[number]
                self.duplicates.pop(number, None)
            for number in [number for number in self.transactions if number < answered]:
                del self.transactions[number]


class Session:
    """A connected client."""

    __slots__ = (
        "address",
        "announced",
        "client_id",
        "connected_ms",
        "connection",
        "in_flight_max",
        "only_looks",
        "producer",
        "protocol",
        "queues",
        "receipts",
        "replies",
        "send_buffer_full",
        "subscribers",
        "token",
    )

    def __init__(
        self, connection: int, client_id: str | None, token: str, producer: Producer, *, address: str, protocol: str
    ) -> None:
        self.connection = connection
        self.client_id = client_id
        self.token = token
        self.producer = producer
        self.address = address
        self.protocol = protocol
        self.connected_ms = 0
        self.announced = False
        self.only_looks = False
        """An anonymous client that asked for listings and did nothing else."""
        self.queues: dict[str, None] = {}
        """Queues that it published into."""
        self.subscribers: dict[int, Subscriber] = {}
        """By the client's handle."""
        self.send_buffer_full = False
        self.in_flight_max: int | None = None
        """How many messages may be in flight to all its subscribers together; None is no limit."""
        self.receipts: dict[int, None] = {}
        """The numbers of the receipts that it waits for."""
        self.replies: dict[str, None] = {}
        """The addresses that it waits for replies at."""

    @property
    def key(self) -> str:
        """The key of the session's record, which outlives a crash to tell that the client is gone."""
        return f"session/{self.token}"


class Client:
    """A known client id, connected or away."""

    __slots__ = ("address", "client_id", "last_seen_ms", "protocol", "quota", "quotas")

    def __init__(self, client_id: str, address: str, protocol: str, last_seen_ms: int) -> None:
        self.client_id = client_id
        self.address = address
        self.protocol = protocol
        self.last_seen_ms = last_seen_ms
        self.quotas = ClientQuotas()
        self.quota: Quota | None = None
        """The rates of these, where there are any."""

    @property
    def key(self) -> str:
        """The key of the client's record."""
        return f"client/{self.client_id}"
