"""What all tests of the broker share."""

import pytest

from tidings import limits


@pytest.fixture(autouse=True)
def _short_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a day pass within half an hour, since the harness goes through it from second to second."""
    for name in ("HISTORY_AGE_MS", "PRODUCER_AGE_MS"):
        monkeypatch.setattr(limits, name, 1_800_000)
