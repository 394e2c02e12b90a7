"""Clients: who comes, who goes, and who takes over."""

import pytest

from tests.unit.broker.harness import Harness, assert_delivered
from tidings.errors import ClientIdInUse, ConnectionLost, InvalidName, TakenOver


def test_a_client_is_welcomed_with_a_token() -> None:
    harness = Harness()
    assert harness.connect("a").token == "token-1"
    assert harness.connect().token == "token-2"


@pytest.mark.parametrize("client_id", ["", "a b", "x" * 256, "a\n"])
def test_malformed_client_ids_are_turned_away(client_id: str) -> None:
    client = Harness().connect(client_id)
    assert isinstance(client.closed, InvalidName)
    assert "client id" in str(client.closed)


def test_a_client_id_in_use_is_refused_with_who_has_it_since_when_and_what_to_do() -> None:
    harness = Harness()
    first = harness.connect("billing")
    harness.advance(42_000)
    second = harness.connect("billing")
    assert isinstance(second.closed, ClientIdInUse)
    for word in ("'billing'", "10.0.0.1:5000", "42 s", "take_over=True", "shared="):
        assert word in str(second.closed)
    assert first.closed is None
    first.publish("orders")
    assert 1 in first.confirms


def test_a_takeover_ends_the_holder_and_redelivers_what_it_held() -> None:
    harness = Harness()
    first = harness.connect("billing")
    first.subscribe("orders")
    first.publish("orders")
    second = harness.connect("billing", take_over=True)
    assert isinstance(first.closed, TakenOver)
    assert "10.0.0.2:5000" in str(first.closed)
    second.subscribe("orders")
    (message,) = assert_delivered(second, "orders", [1])
    assert (message.attempt, message.redelivered) == (2, True)


def test_the_same_process_gets_its_session_back_through_a_connection_that_is_only_half_dead() -> None:
    harness = Harness()
    first = harness.connect("billing")
    second = harness.connect("billing", token=first.token)
    assert second.token == first.token
    assert isinstance(first.closed, ConnectionLost)
    assert harness.broker.state.client_ids["billing"].connection == second.connection


@pytest.mark.parametrize("take_over", [False, True])
def test_a_process_that_was_not_welcomed_yet_gets_the_client_id_from_its_own_dead_connection(take_over: bool) -> None:
    harness = Harness()
    first = harness.connect("billing", producer="one", take_over=take_over)
    second = harness.connect("billing", producer="one", take_over=take_over)
    assert second.closed is None
    assert isinstance(first.closed, ConnectionLost)


def test_an_introduction_that_comes_late_does_not_end_the_client_that_made_it() -> None:
    harness = Harness()
    living = harness.connect("billing", producer="one", take_over=True)
    late = harness.connect("billing", producer="one", take_over=True)
    assert isinstance(living.closed, ConnectionLost)
    assert not isinstance(living.closed, TakenOver)
    again = harness.connect("billing", producer="one", token=living.token)
    assert again.closed is None
    assert isinstance(late.closed, ConnectionLost)


def test_a_token_of_another_client_id_takes_nothing() -> None:
    harness = Harness()
    first, thief = harness.connect("billing"), harness.connect("thief")
    second = harness.connect("billing", token=thief.token)
    assert isinstance(second.closed, ClientIdInUse)
    assert first.closed is None
    assert thief.closed is None


def test_a_token_in_use_is_not_given_twice() -> None:
    harness = Harness()
    first = harness.connect("a")
    second = harness.connect("b", token=first.token)
    assert second.token != first.token


def test_a_client_id_is_free_again_after_its_client_left() -> None:
    harness = Harness()
    harness.connect("billing").disconnect()
    assert harness.connect("billing").closed is None


def test_what_a_closed_connection_still_sends_is_ignored() -> None:
    harness = Harness()
    first = harness.connect("billing")
    harness.connect("billing", take_over=True)
    first.publish("orders")
    assert first.confirms == {}
    assert "orders" not in harness.broker.state.queues


def test_a_token_from_before_a_restart_is_kept() -> None:
    harness = Harness()
    token = harness.connect("billing").token
    harness.restart()
    assert harness.connect("billing", token=token).token == token
