"""The shrinker: leaves out of a scenario what is not needed to break the same promise."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from tests.simulation.run import Outcome, run_scenario
from tests.simulation.scenario import Scenario
from tidings.testing.crashing_store import StoreFaults
from tidings.testing.network import NetworkFaults

_PARTS: Final = ("faults", "subscribers", "publishers")
_MESSAGES_MIN: Final = 1


def shrink(
    scenario: Scenario,
    promise: str,
    *,
    time_limit_s: float = 120.0,
    run: Callable[[Scenario], Outcome] = run_scenario,
) -> tuple[Scenario, Outcome]:
    """Returns the smallest scenario found that breaks `promise`, and its outcome.

    Goes through all ways to make it smaller, again from the beginning as long as one of them is left.
    """
    ends_at = time.monotonic() + time_limit_s
    outcome = run(scenario)
    assert promise in outcome.broken, f"the scenario does not break {promise!r}"
    smaller = True
    while smaller and time.monotonic() < ends_at:
        smaller = False
        for candidate in _smaller(scenario):
            found = run(candidate)
            if promise in found.broken:
                scenario, outcome, smaller = candidate, found, True
                break
            if time.monotonic() > ends_at:
                break
    return scenario, outcome


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Yields scenarios with less in them, those with least first."""
    for name in _PARTS:
        parts = getattr(scenario, name)
        size = len(parts)
        while size:
            for start in range(0, len(parts), size):
                yield _with(scenario, **{name: parts[:start] + parts[start + size :]})
            size //= 2
    if scenario.limits:
        yield _with(scenario, limits={})
    for changed in ({"store": StoreFaults()}, {"network": NetworkFaults()}):
        (name,) = changed
        if getattr(scenario, name) != changed[name]:
            yield _with(scenario, **changed)
    for index, plan in enumerate(scenario.publishers):
        if plan.messages > _MESSAGES_MIN:
            less = msgspec.structs.replace(plan, messages=plan.messages // 2)
            yield _with(scenario, publishers=[*scenario.publishers[:index], less, *scenario.publishers[index + 1 :]])
    for name in scenario.limits:
        rest = {key: value for key, value in scenario.limits.items() if key != name}
        yield _with(scenario, limits=rest)
    last_s = max((fault.at_s + fault.for_s for fault in scenario.faults), default=0.0) + 1.0
    if last_s < scenario.duration_s - 1.0:
        yield _with(scenario, duration_s=last_s)


def _with(scenario: Scenario, **changes: Any) -> Scenario:
    return msgspec.structs.replace(scenario, **changes)
