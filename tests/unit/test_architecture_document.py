"""docs/ARCHITECTURE.md against the code: every file has its place, every name that it gives exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tidings"
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
DESCRIBED_AS_A_WHOLE = (
    "cli",
    "testing",
    "store/sqlite",
    "gateways/native",
    "gateways/http",
    "gateways/socketio",
    "gateways/webhooks",
)


def test_every_file_has_its_place_in_the_reading_order() -> None:
    missing = []
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if path.name.startswith("__") or name.startswith(DESCRIBED_AS_A_WHOLE):
            continue
        if f"`{name}`" not in PAGE:
            missing.append(name)
    assert missing == []


def test_every_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", PAGE))
    assert len(named) > 30
    assert [name for name in named if not ((SOURCE / name).exists() or (ROOT / name).exists())] == []


def test_every_method_that_the_page_names_exists() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    named = set(re.findall(r"`([A-Z]\w+)\.(_?[a-z]\w+)(?:\([^`]*\))?`", PAGE))
    assert len(named) > 25
    missing = [
        f"{owner}.{method}"
        for owner, method in named
        if f"class {owner}" not in code or not re.search(rf"\b(def {method}\b|{method}\b.* = )", code)
    ]
    assert missing == []
