"""Settings of a subscription are changed live, kept across restarts, and refused whole when one is out of range."""

from typing import Any

import pytest

from tests.unit.broker.harness import Harness, assert_refused
from tidings import limits
from tidings.calls import ConfigureSubscription
from tidings.errors import InvalidOption, NotFound

NAME = "reader:orders/#"


@pytest.mark.parametrize(
    ("setting", "values", "least", "most"),
    [
        ("in_flight_max", [0, limits.IN_FLIGHT_MAX + 1], 1, limits.IN_FLIGHT_MAX),
        (
            "ack_timeout_ms",
            [limits.ACK_TIMEOUT_MS_MIN - 1, limits.ACK_TIMEOUT_MS_MAX + 1],
            limits.ACK_TIMEOUT_MS_MIN,
            limits.ACK_TIMEOUT_MS_MAX,
        ),
        ("attempts_max", [0, limits.ATTEMPTS_MAX_MAX + 1], 1, limits.ATTEMPTS_MAX_MAX),
        ("backoff_min_ms", [0, limits.RETRY_DELAY_MS_MAX + 1], 1, limits.RETRY_DELAY_MS_MAX),
        ("backoff_max_ms", [0, limits.RETRY_DELAY_MS_MAX + 1], 1, limits.RETRY_DELAY_MS_MAX),
    ],
)
def test_a_setting_out_of_range_is_refused_with_the_range_and_nothing_is_changed(
    setting: str, values: list[int], least: int, most: int
) -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", attempts_max=7, ack_timeout_ms=5000)
    for value in values:
        others: dict[str, Any] = {"attempts_max": 3, "ack_timeout_ms": 9000} | {setting: value}
        client.call(ConfigureSubscription(name=NAME, **others))
        assert_refused(client, InvalidOption, str(value), f"{least} to {most}")
    subscription = harness.broker.state.subscriptions[NAME]
    assert (subscription.attempts_max, subscription.ack_timeout_ms) == (7, 5000)


def test_a_subscription_that_is_not_there_cannot_be_configured() -> None:
    client = Harness().connect("reader")
    client.call(ConfigureSubscription(name="nobody", attempts_max=3))
    assert_refused(client, NotFound, "nobody")


def test_settings_outlive_the_server() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    client.call(
        ConfigureSubscription(name=NAME, attempts_max=3, ack_timeout_ms=9000, backoff_min_ms=20, backoff_max_ms=40)
    )
    harness.restart()
    subscription = harness.broker.state.subscriptions[NAME]
    assert (subscription.attempts_max, subscription.ack_timeout_ms) == (3, 9000)
    assert (subscription.backoff_min_ms, subscription.backoff_max_ms) == (20, 40)


@pytest.mark.parametrize(("given", "expected"), [({"backoff_min_ms": 90}, (90, 90)), ({"backoff_max_ms": 5}, (5, 5))])
def test_a_bound_of_the_backoff_given_alone_moves_the_other(given: dict[str, Any], expected: tuple[int, int]) -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", backoff_min_ms=10, backoff_max_ms=50)
    client.call(ConfigureSubscription(name=NAME, **given))
    subscription = harness.broker.state.subscriptions[NAME]
    assert (subscription.backoff_min_ms, subscription.backoff_max_ms) == expected
