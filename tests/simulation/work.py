"""More work: what makes of a plain scenario one with failures, sharing, keys, ids, transactions and schedules.

It is drawn by itself, so that the plain scenario of a seed stays what it was.
"""

import random
from typing import Any

from msgspec.structs import replace

from tests.simulation.scenario import (
    FAULTS,
    OPERATIONS,
    FaultPlan,
    PublisherPlan,
    Scenario,
    SchedulerPlan,
    SubscriberPlan,
    make_plain,
    make_subscriber,
)
from tidings.model import HeaderFilter
from tidings.testing.network import NetworkFaults

_RESULTS = "results"
_PLAIN_SHARE = 0.2
_FORGETTING = 5  # one seed of so many, since it takes away what others look for
_PULLING_SHARE = 0.15
_USUALLY = ("pause", "move", "dead letters")
_SHARES = {"quotas": 0.25, "replay": 0.25, "receipts": 0.25, "requests": 0.25, "crowding": 0.25}


def make(seed: int, group: str | None = None) -> Scenario:
    """Returns the scenario of a seed; with faults of one group of `FAULTS` only (or "one + other"), if given."""
    scenario = _with_choosers(random.Random(f"choices {seed}"), _make(seed, group))
    scenario = _with_pullers(random.Random(f"pulls {seed}"), scenario)
    for name, share in _SHARES.items() if group is None else ():
        scenario = _with_some(random.Random(f"{name} {seed}"), scenario, name, share)
    return scenario


def _make(seed: int, group: str | None) -> Scenario:
    scenario, chance = make_plain(seed, group), random.Random(f"work {seed}")
    groups = () if group is None else tuple(name for name in group.split(" + ") if name in OPERATIONS)
    if chance.random() < _PLAIN_SHARE and not groups:
        return scenario
    queues = sorted({queue for plan in scenario.publishers for queue in plan.queues})
    with_keys = chance.random() < 0.5
    publishers = [_publisher(chance, plan, with_keys=with_keys) for plan in scenario.publishers]
    subscribers = [_subscriber(chance, plan) for plan in scenario.subscribers]
    if chance.random() < (0.8 if with_keys else 0.3):
        subscribers += _members(chance, queues, with_keys=with_keys)
    subscribers = [_with_time(plan, scenario.network) for plan in subscribers]
    schedulers = [_scheduler(chance, queues)] if chance.random() < 0.4 else []
    limits = dict(scenario.limits)
    if group is None:
        groups = (*_USUALLY, "forgetting") if seed % _FORGETTING == 1 else _USUALLY
    operations = _operations(chance, scenario, groups)
    if any(plan.failing_key for plan in subscribers):
        limits.pop("HOLES_MAX", None)  # at this bound deliveries pause, so that everything would wait for the key
    if any(plan.ids for plan in publishers) and chance.random() < 0.5:
        limits["ID_WINDOW_MS"] = chance.choice([1_000, 10_000])
    return replace(
        scenario,
        publishers=publishers,
        subscribers=subscribers,
        schedulers=schedulers,
        faults=scenario.faults + operations,
        limits=limits,
    )


def _with_choosers(chance: random.Random, scenario: Scenario) -> Scenario:
    """Adds subscribers that choose by headers, or begin with the last message of each event, or both."""
    queues = sorted({queue for plan in scenario.publishers for queue in plan.queues})
    if chance.random() < 0.6:
        return scenario
    choosers = []
    for number in range(chance.randint(1, 2)):
        plan = make_subscriber(chance, number, queues)
        name = f"chooser{number}"
        wanted = chance.choice([HeaderFilter("region", ("eu",)), HeaderFilter("region", ("us",), ("eu-",)), None])
        begins_with_last = wanted is None or chance.random() < 0.5
        changed: dict[str, Any] = {
            "name": name,
            "client_id": name if plan.client_id else None,
            "subscription": None,
            "headers": (wanted,) if wanted else (),
        }
        if plan.queue == "$presence":
            # A sequence is a place in one queue only.
            changed |= {"queue": "*", "start": "earliest" if plan.start == 1 else plan.start}
        if begins_with_last:
            changed |= {"start": "last", "begins_s_max": 20.0}
        choosers.append(replace(plan, **changed))
    return replace(
        scenario,
        publishers=[replace(plan, headers=True) for plan in scenario.publishers],
        subscribers=[*scenario.subscribers, *choosers],
    )


def _with_pullers(chance: random.Random, scenario: Scenario) -> Scenario:
    """Adds one or two who pull to some scenarios."""
    if chance.random() >= _PULLING_SHARE:
        return scenario
    queues = sorted({queue for plan in scenario.publishers for queue in plan.queues})
    pullers = []
    for number in range(chance.randint(1, 2)):
        plan = make_subscriber(chance, number, queues)
        changed: dict[str, Any] = {
            "name": f"puller{number}",
            "client_id": f"puller{number}",
            "subscription": f"pulled{number}",
            "ack": "each",
            "pulls": True,
        }
        if chance.random() < 0.4:
            changed |= _failures(chance)
        if chance.random() < 0.2:
            changed["expires_after_s"] = chance.choice([0.5, 3.0, 1000.0])
        pullers.append(replace(plan, **changed))
    return replace(
        scenario,
        subscribers=[*scenario.subscribers, *pullers],
        limits=scenario.limits | {"PULL_LEASE_MS": chance.choice([300, 3_000, 60_000])},
    )


def _with_some(chance: random.Random, scenario: Scenario, group: str, share: float) -> Scenario:
    """Lets some scenarios have operations of one more group."""
    if chance.random() >= share:
        return scenario
    return replace(scenario, faults=scenario.faults + _operations(chance, scenario, (group,)))


def _publisher(chance: random.Random, plan: PublisherPlan, *, with_keys: bool) -> PublisherPlan:
    return replace(
        plan,
        keys=chance.choice([1, 3, 8]) if with_keys else 0,
        ids=chance.random() < 0.3,
        transactions=chance.choice([0.0, 0.0, 0.3]),
    )


def _subscriber(chance: random.Random, plan: SubscriberPlan) -> SubscriberPlan:
    if plan.queue == "$presence" or plan.ack == "batches":
        return plan
    chosen: dict[str, Any] = {}
    if chance.random() < 0.4:
        chosen |= _failures(chance)
    if plan.client_id is not None and plan.queue not in ("*", "#") and chance.random() < 0.3:
        chosen |= {"ack": "transaction", "results": _RESULTS}
    return replace(plan, **chosen)


def _with_time(plan: SubscriberPlan, network: NetworkFaults) -> SubscriberPlan:
    """Gives a subscriber more time than the network takes for a transaction, which comes in many chunks.

    Else nearly all of its acks come too late, and it may not come to rest.
    """
    in_transactions = plan.shared or plan.ack == "transaction"  # members agree about their subscription
    too_short = in_transactions and plan.ack_timeout_s <= network.delay_s_max
    return replace(plan, ack_timeout_s=1.0) if too_short else plan


def _failures(chance: random.Random) -> dict[str, Any]:
    return {
        "attempts_max": chance.choice([1, 2, 4, None]),
        "fails": chance.choice([0.0, 0.1, 0.4]),
        "rejects": chance.choice([0.0, 0.05, 0.3]),
    }


def _members(chance: random.Random, queues: list[str], *, with_keys: bool) -> list[SubscriberPlan]:
    """Returns the members of a shared subscription: of one mind about it, each with a way of its own to go about it."""
    common = make_subscriber(chance, 0, queues)
    shared: dict[str, Any] = {
        "queue": chance.choice([*queues, "*"]),
        "event": common.event,
        "subscription": "team",
        "shared": True,
        "start": chance.choice(["latest", "earliest"]),
        "in_flight_max": common.in_flight_max,
        "ack_timeout_s": common.ack_timeout_s,
        "single_active": chance.random() < 0.3,
    }
    if common.queue == "$presence":
        shared["event"] = "#"
    if chance.random() < 0.2:
        shared["expires_after_s"] = chance.choice([3.0, 1000.0])
    if with_keys and chance.random() < 0.3:
        shared["failing_key"] = "key1"
    elif chance.random() < 0.5:
        shared |= _failures(chance)
    members = []
    for letter in "abcd"[: chance.randint(2, 4)]:
        one = make_subscriber(chance, 0, queues)
        # A cumulative ack means what its client was handed; batches fail as a whole, and nothing of them by itself.
        ack = "each" if one.ack in ("batches", "cumulative") else one.ack
        results = _RESULTS if shared["queue"] in queues and chance.random() < 0.2 else ""
        members.append(
            replace(
                one,
                name=f"member{letter}",
                client_id=f"member{letter}",
                concurrency=min(one.concurrency, common.in_flight_max),
                ack="transaction" if results else ack,
                results=results,
                **shared,
            )
        )
    return members


def _scheduler(chance: random.Random, queues: list[str]) -> SchedulerPlan:
    return SchedulerPlan(
        name="scheduler",
        queues=chance.sample(queues, chance.randint(1, len(queues))),
        messages=chance.randint(5, 30),
        delay_s_max=chance.choice([1.0, 10.0, 30.0]),
        pause_s_max=chance.choice([0.0, 0.3, 2.0]),
        recurs=chance.choice([0.0, 0.2]),
        cancels=chance.choice([0.0, 0.4]),
        life_s_max=chance.choice([None, 5.0]),
    )


def _operations(chance: random.Random, scenario: Scenario, groups: tuple[str, ...]) -> list[FaultPlan]:
    kinds = [kind for group in groups for kind in FAULTS[group]]
    plans: list[FaultPlan] = []
    at_s = 0.0
    while kinds:
        at_s += chance.uniform(0, 6.0)
        if at_s > scenario.duration_s:
            break
        number, kind = len(scenario.faults) + len(plans), chance.choice(kinds)
        for_s = chance.choice([0.5, 3.0, 10.0]) * chance.random()
        plans.append(FaultPlan(number=number, kind=kind, at_s=round(at_s, 4), for_s=round(for_s, 4)))
    return plans
