"""Settings of a queue are changed live, kept across restarts, and refused whole when one is out of range."""

from typing import Any

import pytest

from tests.unit.broker.harness import Harness, assert_refused
from tidings import limits
from tidings.calls import ConfigureQueue
from tidings.errors import InvalidName, InvalidOption, SystemQueue
from tidings.model import QueueSettings

STEP_MS = 20_000  # long enough that every queue is looked at


def first(harness: Harness, queue: str = "orders") -> int:
    return harness.connect().queues()[queue].first_sequence


def test_a_queue_has_the_defaults_until_it_is_configured() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders")
    settings = client.queues()["orders"].settings
    assert settings == QueueSettings()
    assert (settings.history_age_ms, settings.history_bytes) == (limits.HISTORY_AGE_MS, limits.HISTORY_BYTES)


def test_what_is_left_out_stays_and_nil_is_no_limit() -> None:
    client = Harness().connect()
    client.call(ConfigureQueue(name="orders", history_messages=5, history_bytes=None))
    client.call(ConfigureQueue(name="orders", history_age_ms=7))
    expected = QueueSettings(history_age_ms=7, history_bytes=None, history_messages=5)
    assert client.queues()["orders"].settings == expected


def test_settings_are_there_before_the_first_message_outlive_the_server_and_end_with_the_queue() -> None:
    harness = Harness()
    client = harness.connect()
    client.call(ConfigureQueue(name="orders", history_messages=5))
    harness.restart()
    client = harness.connect()
    client.publish("orders")
    assert client.queues()["orders"].settings.history_messages == 5
    client.delete("queue", "orders")
    client.publish("orders")
    assert client.queues()["orders"].settings.history_messages is None


@pytest.mark.parametrize("setting", ["history_age_ms", "history_bytes", "history_messages"])
@pytest.mark.parametrize("value", [-1, 2**53 + 1])
def test_a_setting_out_of_range_is_refused_with_the_range_and_nothing_is_changed(setting: str, value: int) -> None:
    client = Harness().connect()
    client.publish("orders")
    others: dict[str, Any] = {"history_bytes": 9, "history_messages": 9} | {setting: value}
    client.call(ConfigureQueue(name="orders", **others))
    assert_refused(client, InvalidOption, setting, str(value), f"0 to {2**53}")
    assert client.queues()["orders"].settings == QueueSettings()


def test_a_refused_setting_makes_no_queue() -> None:
    client = Harness().connect()
    client.call(ConfigureQueue(name="orders", history_bytes=-1))
    assert_refused(client, InvalidOption)
    assert "orders" not in client.queues()


def test_the_servers_own_queues_and_bad_names_are_refused() -> None:
    client = Harness().connect()
    client.call(ConfigureQueue(name="$presence", history_bytes=1))
    assert_refused(client, SystemQueue, "$presence")
    client.call(ConfigureQueue(name="a b", history_bytes=1))
    assert_refused(client, InvalidName, "a b")


def test_history_is_bounded_in_messages() -> None:
    harness = Harness()
    client = harness.connect()
    client.call(ConfigureQueue(name="orders", history_messages=3))
    for _ in range(10):
        client.publish("orders")
    harness.advance(STEP_MS)
    assert first(harness) == 8


@pytest.mark.parametrize(
    ("setting", "value"), [("history_messages", 0), ("history_bytes", 0), ("history_age_ms", 1_000)]
)
def test_a_live_queue_is_trimmed_to_what_it_is_configured_to_but_never_what_is_unsettled(
    setting: str, value: int
) -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", attempts_max=1_000)
    for _ in range(4):
        client.publish("orders")
    client.ack(1, 1, 2)
    harness.advance(STEP_MS)
    assert first(harness) == 1
    given: dict[str, Any] = {setting: value}
    client.call(ConfigureQueue(name="orders", **given))
    harness.advance(STEP_MS)
    assert first(harness) == 3
    client.ack(1, 3, 4)
    harness.advance(STEP_MS)
    assert first(harness) == 5


def test_no_limit_keeps_history_for_ever() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders")
    client.publish("bills")
    client.call(ConfigureQueue(name="orders", history_age_ms=None, history_bytes=None))
    harness.advance(limits.HISTORY_AGE_MS + STEP_MS)
    assert (first(harness, "orders"), first(harness, "bills")) == (1, 2)


def test_a_refused_transaction_leaves_the_settings_for_the_next_one() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders")
    harness.store_is_held = True
    client.call(ConfigureQueue(name="orders", history_messages=5))
    harness.store_is_held = False
    harness.refuse()
    assert client.error().code == "store_unavailable"
    harness.flush()
    harness.restart()
    assert harness.connect().queues()["orders"].settings.history_messages == 5
