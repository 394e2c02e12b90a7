"""Every promise is kept under faults: many seeds, and those that once failed."""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.simulation.run import Outcome, run
from tests.simulation.scenario import FAULTS

_SEEDS = 500
_PUBLISHED_MIN = 50_000


def regressions() -> list[tuple[int, bool]]:
    """Returns the seeds that once failed, and which of them are those of plain scenarios."""
    lines = (Path(__file__).parent / "seeds" / "regressions.txt").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return [(int(each[each[0] == "plain"]), each[0] == "plain") for each in words]


def run_one(seed: tuple[int, bool]) -> Outcome:
    return run(seed[0], plain=seed[1])


def describe(outcome: Outcome) -> str:
    promise, texts = next(iter(outcome.broken.items()))
    return f"python -m tests.simulation --seed {outcome.seed} -v\n{promise}: " + "\n".join(texts[:5])


@pytest.mark.timeout(1_800)  # minutes on two cores, and others may be at work on them
def test_every_promise_is_kept_under_faults() -> None:
    # A fresh interpreter for each worker: a forked one would inherit the test runner's state.
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        seeds = [*regressions(), *((seed, False) for seed in range(1, _SEEDS + 1))]
        outcomes = list(pool.map(run_one, seeds, chunksize=8))
    broken = [outcome for outcome in outcomes if outcome.broken]
    assert not broken, "\n\n".join(describe(outcome) for outcome in islice(broken, 3))
    # Scenarios in which nothing happens keep every promise, too.
    assert sum(outcome.published for outcome in outcomes) > _PUBLISHED_MIN
    made = Counter[str]()
    for outcome in outcomes:
        made.update(outcome.faults)
    assert {kind: made[kind] for kinds in FAULTS.values() for kind in kinds if made[kind] < 10} == {}


@pytest.mark.parametrize("seed", [1, 29, 40])
def test_a_seed_is_a_replay(seed: int) -> None:
    first, again = run(seed), run(seed)
    assert first.history == again.history
    assert first.virtual_s == again.virtual_s


def test_seeds_differ() -> None:
    assert run(1).history != run(2).history
