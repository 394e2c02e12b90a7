"""Random scenarios: what there is, who does what, and what goes wrong, all of it decided by one seed."""

import random
from typing import Any, Final, Literal

import msgspec

from tidings.model import HeaderFilter
from tidings.testing.crashing_store import StoreFaults
from tidings.testing.network import NetworkFaults

AckStyle = Literal["each", "durable", "disorder", "cumulative", "late", "forgetful", "batches", "transaction"]
Ending = Literal["vanish", "close", "detach"]
FAULTS: Final = {
    "lost connection": ("cut", "cut, client unaware", "cut, server unaware", "cut, nobody aware"),
    "half-open connection": ("client hears nothing", "server hears nothing"),
    "late frames": ("late frames", "frozen"),
    "stalled client": ("client reads nothing", "handler hangs", "no acks"),
    "crash": ("crash", "crash in commit", "crash while starting"),
    "drain": ("drain",),
    "failing disk": ("disk full", "I/O errors"),
    "unknown outcome": ("unknown outcomes",),
    "slow store": ("slow store",),
    "damaged rows": ("damage",),
    "clock jump": ("clock jump",),
    "takeover": ("rival asks", "rival takes over", "takeover race"),
    "another version": ("newer records", "older records", "incompatible records"),
    "administrator": ("queue deleted", "subscription deleted"),
    "pause": ("queue paused", "subscription paused"),
    "move": ("moved back", "moved forward"),
    "dead letters": ("redriven", "dead letters deleted"),
    "forgetting": ("queue purged", "message deleted", "ttl set", "queue limited"),
    "replay": ("range replayed",),
    "receipts": ("receipt awaited", "receipts listed"),
    "requests": ("requests made",),
    "quotas": ("little may wait", "publishing slowed", "little in flight"),
    "crowding": ("little of a queue in flight",),
}
"""All that happens at a time of its own: groups, and the kinds in each; `faults.py` says what they do.

Besides, processes of publishers and subscribers vanish or leave as their plans say, the network delays and splits,
the store takes its time and fails now and then, and bounds are smaller than usual.
"""

OPERATIONS: Final = (
    *("pause", "move", "dead letters", "forgetting", "replay", "receipts", "requests", "quotas", "crowding"),
)
"""Groups of what is no fault but done on purpose; plain scenarios have none of it."""

REGIONS: Final = ("eu", "eu-west", "us")
EVENTS: Final = ("created", "file.deleted", "file.moved", "error")


class PublisherPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A publisher: how much, how, and how long each of its processes lives."""

    name: str
    queues: list[str]
    messages: int
    group_max: int
    pause_s_max: float
    padding_bytes_max: int
    life_s_max: float | None
    keys: int = 0
    """How many different keys its messages have; 0 is none."""
    ids: bool = False
    """Whether its messages have ids, by which it publishes again what its last process was not told of."""
    transactions: float = 0.0
    """How much of it is published in transactions."""
    headers: bool = False
    """Whether messages that are published by themselves say in a header of which region they are."""


class SubscriberPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber. Without a client id it is ephemeral."""

    name: str
    client_id: str | None
    queue: str
    event: str
    subscription: str | None
    start: Literal["latest", "earliest", "last"] | int
    headers: tuple[HeaderFilter, ...] = ()
    starts_at_s: float | None = None
    """Begins at this virtual time instead of at `start`."""
    expires_after_s: float | None = None
    in_flight_max: int
    concurrency: int
    ack_timeout_s: float
    ack: AckStyle
    handling_s_max: float
    begins_s_max: float
    life_s_max: float
    away_s_max: float
    endings: list[Ending]
    take_over: bool
    shared: bool = False
    """Whether `subscription` is shared: those that name the same one are its members, all of one mind about it."""
    single_active: bool = False
    attempts_max: int | None = None
    """None: nothing is ever given up, unless it is rejected."""
    fails: float = 0.0
    rejects: float = 0.0
    """How much of what it is handed fails, or is given up at once."""
    failing_key: str | None = None
    """What has this key fails until all the rest is settled."""
    pulls: bool = False
    """Whether it holds its subscription from request to request, as those do who pull over HTTP."""
    results: str = ""
    """The queue into which it publishes, in the transaction that acks a message, what came of it."""

    @property
    def full_name(self) -> str:
        """The subscription's name, as the server makes it; an ephemeral one's is made up here."""
        if self.client_id is None:
            return f"~{self.name}"
        return self.subscription or f"{self.client_id}:{self.queue}/{self.event}"


class SchedulerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One who has messages published later: how many, when, which of them again and again, which not after all."""

    name: str
    queues: list[str]
    messages: int
    delay_s_max: float
    pause_s_max: float
    recurs: float
    cancels: float
    life_s_max: float | None


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. Its number is its source of randomness, so that it stays what it is when others are left out."""

    number: int
    kind: str
    at_s: float
    for_s: float


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, as data: a part that is left out changes the others no more than it must."""

    seed: int
    duration_s: float
    publishers: list[PublisherPlan]
    subscribers: list[SubscriberPlan]
    faults: list[FaultPlan]
    down_s_max: float
    network: NetworkFaults
    store: StoreFaults
    limits: dict[str, int]
    """Bounds that are smaller than usual, so that little data reaches them."""
    schedulers: list[SchedulerPlan] = []


def make_plain(seed: int, group: str | None = None) -> Scenario:
    """Returns the scenario of a seed, in which messages are published and acked; `work.py` makes more of it.

    With faults of one group of `FAULTS` only (or "one + other"), if given.
    """
    chance = random.Random(f"scenario {seed}")
    queues = [f"queue{number}" for number in range(chance.randint(1, 3))]
    duration_s = chance.uniform(5, 40)
    failures = chance.choice([0, 0, 0.05]), chance.choice([0, 0, 0.05]), chance.choice([0, 0, 0.05])
    commit_fails, outcome_unknown, read_fails = failures if group is None else (0, 0, 0)
    return Scenario(
        seed=seed,
        duration_s=duration_s,
        publishers=[_publisher(chance, number, queues) for number in range(chance.randint(1, 3))],
        subscribers=[
            _with_lives(chance, make_subscriber(chance, number, queues)) for number in range(chance.randint(1, 5))
        ],
        faults=_faults(chance, duration_s, group),
        down_s_max=chance.choice([0.1, 2.0, 8.0]),
        network=NetworkFaults(
            delay_s_max=chance.choice([0.001, 0.05, 0.3]),
            chunk_bytes_max=chance.choice([40, 500, 32_768]),
            notice_s_max=chance.choice([0.1, 3.0]),
        ),
        store=StoreFaults(
            commit_s_max=chance.choice([0.001, 0.02, 0.2]),
            read_s_max=chance.choice([0.001, 0.02, 0.2]),
            commit_fails=commit_fails / 2,
            disk_full=commit_fails / 2,
            outcome_unknown=outcome_unknown,
            read_fails=read_fails,
        ),
        limits=_limits(chance),
    )


def _faults(chance: random.Random, duration_s: float, group: str | None) -> list[FaultPlan]:
    wanted = set(FAULTS) if group is None else set(group.split(" + "))
    kinds = [kind for name, kinds in FAULTS.items() if name in wanted and name not in OPERATIONS for kind in kinds]
    if group is None:
        kinds = chance.sample(kinds, chance.choice([0, 1, 2, 4, 8, len(kinds)]))
    pause_s_max = chance.choice([2.0, 4.0, 8.0])
    at_once = chance.choice([0.0, 0.3, 0.6])
    plans: list[FaultPlan] = []
    at_s = 0.0
    while kinds:
        at_s += chance.uniform(0, 0.05 if plans and chance.random() < at_once else pause_s_max)
        if at_s > duration_s:
            break
        kind, for_s = chance.choice(kinds), chance.choice([0.5, 3.0, 10.0]) * chance.random()
        plans.append(FaultPlan(number=len(plans), kind=kind, at_s=round(at_s, 4), for_s=round(for_s, 4)))
    return plans


def _publisher(chance: random.Random, number: int, queues: list[str]) -> PublisherPlan:
    return PublisherPlan(
        name=f"publisher{number}",
        queues=chance.sample(queues, chance.randint(1, len(queues))),
        messages=chance.randint(10, 150),
        group_max=chance.choice([1, 5, 30]),
        pause_s_max=chance.choice([0.0, 0.3, 2.0]),
        padding_bytes_max=chance.choice([0, 20, 400]),
        life_s_max=chance.choice([None, None, 5.0]),
    )


def make_subscriber(chance: random.Random, number: int, queues: list[str]) -> SubscriberPlan:
    """Returns a subscriber that acks what it is handed."""
    name = f"subscriber{number}"
    durable = chance.random() < 0.8
    queue = chance.choice([*queues, *queues, "*", "#"])
    if chance.random() < 0.05:
        queue = "$presence"
    literal = queue not in ("*", "#")
    window = chance.choice([1, 2, 3, 10, 100, 1000])
    return SubscriberPlan(
        name=name,
        client_id=name if durable else None,
        queue=queue,
        event="#" if queue == "$presence" else chance.choice(["#", "#", "#", "created", "file.*", "file.#", "error"]),
        subscription=f"named{number}" if durable and chance.random() < 0.2 else None,
        start=chance.choice(["latest", "latest", "earliest", 1]) if literal else chance.choice(["latest", "earliest"]),
        in_flight_max=window,
        concurrency=min(window, chance.choice([1, 1, 3, 50])),
        ack_timeout_s=chance.choice([0.2, 1.0, 5.0]),
        ack=chance.choice(["each", "durable", "disorder", "cumulative", "late", "forgetful", "batches"]),
        handling_s_max=chance.choice([0.0, 0.0, 0.01, 0.3]),
        begins_s_max=chance.choice([0.0, 0.0, 10.0]),
        life_s_max=chance.choice([2.0, 10.0, 1000.0]),
        away_s_max=chance.choice([0.1, 3.0, 15.0]),
        endings=chance.choice([["vanish"], ["vanish", "close", "detach"], ["close", "detach"]]),
        take_over=chance.random() < 0.3,
    )


def _with_lives(chance: random.Random, plan: SubscriberPlan) -> SubscriberPlan:
    """Lets some begin at a time, and some expire."""
    chosen: dict[str, Any] = {}
    if chance.random() < 0.15 and plan.queue != "$presence":
        chosen["starts_at_s"] = chance.uniform(0, 20)
        chosen["begins_s_max"] = 25.0
    if chance.random() < 0.2:
        chosen["expires_after_s"] = chance.choice([0.5, 3.0, 1000.0])
    return msgspec.structs.replace(plan, **chosen)


def _limits(chance: random.Random) -> dict[str, int]:
    small = {
        "FETCH_SIZE_BYTES": chance.choice([30, 300]),
        "ROW_SIZE_BYTES_MAX": chance.choice([30, 300]),
        "BATCH_SIZE_BYTES_MAX": chance.choice([60, 600]),
        "BATCH_COUNT_MAX": 7,
        "PAGE_CACHE_BYTES": chance.choice([0, 2000]),
        "SEND_BUFFER_BYTES_MAX": 1000,
        "IN_FLIGHT_BYTES_MAX": 1000,
        "HOLES_MAX": chance.choice([5, 10]),
        "COMMIT_BYTES_MAX": 300,
        "CONNECTION_PENDING_BYTES_MAX": 500,
        "NODE_PENDING_BYTES_MAX": 1000,
        "UNCONFIRMED_BATCHES_MAX": 3,
        "PUBLISH_BUFFER_BYTES_MAX": 1000,
        "FOLLOW_PERSIST_MESSAGES": 5,
        "LISTING_PAGE_COUNT": 2,
        "READ_ROWS_MAX": 3,
        "ACK_RANGES_MAX": 4,
        "HISTORY_AGE_MS": 2_000,
        "HEARTBEAT_MS": 2_000,
        "CURSOR_DELAY_MS": 500,
        "TRIM_ROWS_MAX": 2,
    }
    share = chance.choice([0.0, 0.3, 0.6])
    chosen = {name: value for name, value in small.items() if chance.random() < share}
    if "BATCH_COUNT_MAX" in chosen:
        chosen["PUBLISH_CHUNK_COUNT"] = chosen["BATCH_COUNT_MAX"]  # a chunk fits into a batch
    return chosen
