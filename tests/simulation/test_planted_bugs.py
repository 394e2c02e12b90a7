"""Each checker catches bugs planted for it, under the faults that docs/proof.md says: that page is run here."""

import importlib
import re
from pathlib import Path

import pytest

from tests.simulation.checkers import CHECKERS
from tests.simulation.plants.registry import PLANTS
from tests.simulation.run import run
from tests.simulation.scenario import FAULTS

for module in sorted((Path(__file__).parent / "plants").glob("*.py")):
    importlib.import_module(f"tests.simulation.plants.{module.stem}")

_SEEDS = range(1, 41)
PAGE = (Path(__file__).parents[2] / "docs" / "proof.md").read_text(encoding="utf-8")
ROWS: list[tuple[str, str, str]] = re.findall(r"^\| ([a-z ]+) \| ([a-z +-]+) \| `(\w+)` \|$", PAGE, re.MULTILINE)
"""Promise, group of faults, planted bug."""


@pytest.mark.parametrize(("promise", "group", "name"), ROWS, ids=[" / ".join(row) for row in ROWS])
def test_a_planted_bug_is_caught(promise: str, group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, invariants = PLANTS[name]
    plant(monkeypatch)
    others: dict[int, list[str]] = {}
    for seed in _SEEDS:
        outcome = run(seed, group, invariants=invariants)
        if promise in outcome.broken and all(
            any(outcome.faults.get(kind) for kind in FAULTS[part]) for part in group.split(" + ")
        ):
            return
        if outcome.broken:
            others[seed] = sorted(outcome.broken)
    pytest.fail(f"{name} was not caught by {promise!r} within {len(_SEEDS)} seeds; by others: {others}")


def test_the_table_has_every_checker_every_group_of_faults_and_every_planted_bug() -> None:
    promises, groups, names = ({row[index] for row in ROWS} for index in range(3))
    assert promises - {"no mistakes", "comes to rest"} == set(CHECKERS)
    assert {part for group in groups for part in group.split(" + ")} == set(FAULTS)
    assert names == set(PLANTS)


def test_the_page_names_every_kind_of_fault() -> None:
    rows = re.findall(r"^\| ([a-z -]+) \| ([^|`]+) \|$", PAGE, re.MULTILINE)
    assert [row for row in rows if row[0] != "group"] == [(group, "; ".join(kinds)) for group, kinds in FAULTS.items()]
