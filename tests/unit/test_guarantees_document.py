"""docs/guarantees.md against the code: the limits it states, and the tests it names."""

import re
from pathlib import Path

from tidings import limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_every_limit_on_the_page_is_the_one_in_the_code() -> None:
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 10
    for names, values in rows:
        found = [float(value.replace(",", "")) for value in values.split(", ")]
        assert found == [getattr(limits, name) for name in re.findall(r"`(\w+)`", names)], names


def test_every_limit_in_the_text_is_in_the_table() -> None:
    text, _, table = PAGE.partition("## All limits of this page")
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", text))
    assert named
    assert named <= set(re.findall(r"`([A-Z]+_[A-Z_]+)`", table)) | {"F_FULLFSYNC"}


def test_every_test_that_the_page_names_exists() -> None:
    integration = re.findall(r"`(test_\w+\.py)`", PAGE)
    elsewhere = re.findall(r"`(tests/[\w./]+)`", PAGE)
    assert integration
    assert elsewhere
    missing = [name for name in integration if not (ROOT / "tests" / "integration" / name).exists()]
    missing += [name for name in elsewhere if not (ROOT / name).exists()]
    assert missing == []


def test_every_checker_that_the_page_names_exists() -> None:
    named = set(
        re.findall(r"\*([a-z ]+)\*", " ".join(re.findall(r"simulation (\*.+?)(?:;|\.$|\. )", PAGE, re.MULTILINE)))
    )
    place = ROOT / "tests" / "simulation"
    source = "".join((place / name).read_text(encoding="utf-8") for name in ("checkers.py", "work_checkers.py"))
    checkers = set(re.findall(r'^    "([a-z ]+)":', source, re.MULTILINE))
    # Stated as one promise on the page: what is told in place, and nothing without reason.
    assert named
    assert named - checkers == set()
