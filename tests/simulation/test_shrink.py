"""The shrinker leaves what is needed to break the same promise, and nothing that is not."""

import msgspec

from tests.simulation.run import Outcome, run_scenario
from tests.simulation.scenario import Scenario
from tests.simulation.shrink import shrink
from tests.simulation.work import make

BIG = next(scenario for scenario in map(make, range(1, 100)) if len(scenario.faults) > 8 and scenario.limits)


def outcome(scenario: Scenario, *broken: str) -> Outcome:
    return Outcome(
        seed=scenario.seed,
        broken={promise: ["so"] for promise in broken},
        history=[],
        virtual_s=0,
        real_s=0,
        published=0,
        handed=0,
        faults={},
    )


def test_one_fault_and_one_subscriber_are_left_where_they_are_what_breaks_it() -> None:
    fault, subscriber = BIG.faults[5], BIG.subscribers[-1]

    def run(scenario: Scenario) -> Outcome:
        needed = fault in scenario.faults and subscriber in scenario.subscribers
        return outcome(scenario, "order" if needed else "window")

    small, found = shrink(BIG, "order", run=run)
    assert (small.faults, small.subscribers, small.publishers, small.limits) == ([fault], [subscriber], [], {})
    assert "order" in found.broken


def test_a_scenario_without_parts_runs_and_comes_back_from_a_file() -> None:
    for left_out in ({"faults": []}, {"subscribers": []}, {"publishers": []}):
        scenario = msgspec.structs.replace(make(3), **left_out)
        again = msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario)
        assert again == scenario
        first, second = run_scenario(scenario), run_scenario(again)
        assert first.broken == {}
        assert first.history == second.history
