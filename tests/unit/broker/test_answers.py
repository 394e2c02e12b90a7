"""Answers to calls: only once what they changed is durable, in order, and the truth when it could not be."""

import pytest

from tests.unit.broker.harness import Client, Harness, assert_refused
from tidings.calls import ConfigureSubscription
from tidings.errors import DiskFull, StoreUnavailable

NAME = "reader:orders/#"


def with_store_held() -> tuple[Harness, Client]:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    harness.flush()
    harness.store_is_held = True
    return harness, client


def configure(client: Client, attempts_max: int) -> None:
    client.call(ConfigureSubscription(name=NAME, attempts_max=attempts_max))


def test_a_call_is_answered_once_its_change_is_durable() -> None:
    harness, client = with_store_held()
    configure(client, 3)
    assert client.answers == {}, "it is under way"
    harness.commit()
    assert list(client.answers.values()) == [None]


def test_answers_come_in_the_order_of_the_calls() -> None:
    harness, client = with_store_held()
    for attempts in (3, 4, 5):
        configure(client, attempts)
    harness.commit()
    assert len(client.answers) == 1, "the others came while the first was under way"
    harness.commit()
    assert list(client.answers) == sorted(client.answers)
    assert len(client.answers) == 3


@pytest.mark.parametrize(("full", "error"), [(True, DiskFull), (False, StoreUnavailable)])
def test_a_call_whose_change_is_not_stored_is_refused_with_the_reason(
    full: bool, error: type[DiskFull] | type[StoreUnavailable]
) -> None:
    harness, client = with_store_held()
    configure(client, 3)
    harness.refuse("the disk says no", full=full)
    assert client.answers == {}
    assert_refused(client, error, "the disk says no")


def test_who_left_before_the_answer_disturbs_nobody() -> None:
    harness, client = with_store_held()
    configure(client, 3)
    client.disconnect()
    other = harness.connect("other")
    configure(other, 4)
    harness.commit()
    harness.commit()
    assert list(other.answers.values()) == [None]
