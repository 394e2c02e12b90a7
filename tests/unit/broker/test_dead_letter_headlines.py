"""Dead letters: how they are told in a line, and that this outlives a restart."""

import pytest

from tests.unit.broker.harness import Client, Harness
from tidings import limits
from tidings.calls import DeadLetterGroups
from tidings.model import Failure


def failing(*failures: Failure | None) -> tuple[Harness, Client]:
    """Returns a harness whose subscription gave up one message for each failure."""
    harness = Harness()
    client = harness.connect("billing")
    handle = client.subscribe("orders", name="billing")
    for sequence, failure in enumerate(failures, 1):
        client.publish("orders")
        client.nack(handle, sequence, reject=True, failure=failure)
    return harness, client


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Failure("KeyError", "'vat'", "bill() in orders.py"), "KeyError: 'vat' in bill() in orders.py"),
        (Failure("KeyError", "", "bill() in orders.py"), "KeyError in bill() in orders.py"),
        (Failure("KeyError", "first\nsecond", ""), "KeyError: first"),
        (None, "rejected"),
    ],
)
def test_a_group_tells_error_and_place_in_a_line(failure: Failure | None, told: str) -> None:
    _, client = failing(failure)
    (group,) = client.call(DeadLetterGroups(subscription="billing"))
    assert group.text == told


def test_a_group_tells_the_latest_error_also_after_a_restart() -> None:
    place = "bill() in orders.py"
    harness, _ = failing(Failure("KeyError", "'vat'", place), Failure("KeyError", "x" * 500, place))
    harness.flush()
    harness.restart()
    (group,) = harness.connect().call(DeadLetterGroups(subscription="billing"))
    assert group.count == 2
    assert group.text == f"KeyError: {'x' * limits.FAILURE_HEADLINE_LENGTH_MAX} in {place}"
