"""Pulling over HTTP: what is handed out when, how it is settled, and how long a subscription is held."""

import asyncio
from typing import Any

import httpx
import pytest

import tidings
from tests.unit.gateways.http.conftest import DEADLINE_S, http_client, serving
from tidings import limits
from tidings.gateways.http import pullers
from tidings.gateways.http.puller import Puller
from tidings.node import Attachment
from tidings.store.memory import MemoryStore

MESSAGES = "/subscriptions/billing/messages"


async def publish(http: httpx.AsyncClient, *payloads: object, event: str = "created") -> None:
    for payload in payloads:
        (await http.post(f"/queues/orders/events/{event}", json=payload)).raise_for_status()


async def made(http: httpx.AsyncClient, name: str = "billing", **options: Any) -> None:
    answer = await http.put(f"/subscriptions/{name}", json={"queue": "orders", "start": "earliest"} | options)
    assert answer.status_code == 201, answer.text


async def pull(http: httpx.AsyncClient, client_id: str | None = None, **params: Any) -> list[dict[str, Any]]:
    answer = await http.get(MESSAGES, params=params | ({"client_id": client_id} if client_id else {}))
    assert answer.status_code == 200, answer.text
    return answer.json()["messages"]  # type: ignore[no-any-return]


async def settle(http: httpx.AsyncClient, verb: str, messages: list[dict[str, Any]], **more: Any) -> httpx.Response:
    positions = [message["position"] for message in messages]
    return await http.post(f"/subscriptions/billing/{verb}", json={"positions": positions} | more)


async def test_a_pull_makes_the_subscription_and_hands_out_what_comes_afterwards(http: httpx.AsyncClient) -> None:
    assert await pull(http, queue="orders", event="created") == []
    await publish(http, {"id": 7})
    await publish(http, 1, event="other")
    [message] = await pull(http)
    assert message == {
        "queue": "orders",
        "event": "created",
        "sequence": 1,
        "epoch": message["epoch"],
        "position": message["position"],
        "time": message["time"],
        "attempt": 1,
        "payload": {"id": 7},
    }


async def test_what_is_acked_does_not_come_again_and_the_rest_does_when_the_hold_ends(http: httpx.AsyncClient) -> None:
    await made(http)
    await publish(http, *"abcd")
    taken = await pull(http)
    assert [message["payload"] for message in taken] == list("abcd")
    assert await pull(http) == [], "all of it is in flight"
    assert (await settle(http, "ack", [taken[0], taken[2]])).status_code == 204
    assert (await http.delete("/subscriptions/billing/hold")).status_code == 204
    assert [(message["payload"], message["attempt"]) for message in await pull(http)] == [("b", 1), ("d", 1)]


async def test_no_more_is_handed_out_than_was_asked_for_and_nothing_is_fetched_ahead(http: httpx.AsyncClient) -> None:
    await made(http)
    await publish(http, *range(5))
    assert [message["payload"] for message in await pull(http, max=2)] == [0, 1]
    [info] = (await http.get("/subscriptions/billing")).json()["queues"]
    assert info["in_flight"] == 2
    assert [message["payload"] for message in await pull(http, max=2)] == [2, 3]


async def test_a_pull_that_waits_gets_what_comes(http: httpx.AsyncClient) -> None:
    await made(http)
    async with asyncio.timeout(DEADLINE_S):
        waiting = asyncio.create_task(pull(http, wait=30))
        await _asked(http)
        await publish(http, "late")
        assert [message["payload"] for message in await waiting] == ["late"]


async def test_a_pull_that_waits_in_vain_answers_with_nothing(http: httpx.AsyncClient) -> None:
    await made(http)
    assert await pull(http, wait=0.05) == []


async def test_two_clients_that_wait_get_a_message_each(http: httpx.AsyncClient) -> None:
    await made(http)
    async with asyncio.timeout(DEADLINE_S):
        waiting = [asyncio.create_task(pull(http, wait=30, max=1)) for _ in range(2)]
        await _asked(http)
        await publish(http, 1, 2)
        assert sorted([(await each)[0]["payload"] for each in waiting]) == [1, 2]


async def test_who_waits_makes_nobody_else_wait_longer_than_asked(http: httpx.AsyncClient) -> None:
    await made(http)
    async with asyncio.timeout(DEADLINE_S):
        waiting = asyncio.create_task(pull(http, wait=30))
        await _asked(http)
        assert await pull(http, wait=0) == []
        assert await pull(http, wait=0.05) == []
        assert not waiting.done()
        await publish(http, "late")
        assert [message["payload"] for message in await waiting] == ["late"]


async def test_a_client_that_left_before_it_had_its_turn_is_given_nothing(url: str, http: httpx.AsyncClient) -> None:
    await made(http)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as other, asyncio.timeout(DEADLINE_S):
        first = asyncio.create_task(pull(http, wait=30, max=1))
        await _asked(http)
        gone = asyncio.create_task(other.get(MESSAGES, params={"wait": 30}))
        assert await pull(http, wait=0.05) == [], "meanwhile it has come"
        gone.cancel()
        await asyncio.wait((gone,))
        await http.post("/queues/orders/events/created?batch", json=[1, 2])
        assert [message["payload"] for message in await first] == [1]
        assert [message["payload"] for message in await pull(http, wait=30)] == [2]


async def test_what_came_for_a_client_that_left_waits_for_the_next_one(url: str, http: httpx.AsyncClient) -> None:
    await made(http)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as other:
        gone = asyncio.create_task(other.get(MESSAGES, params={"wait": 30}))
        await _asked(http)
        gone.cancel()
        await asyncio.wait((gone,))
    await publish(http, "kept")
    assert [message["payload"] for message in await pull(http, wait=30)] == ["kept"]


async def test_nacked_messages_come_again_and_rejected_ones_are_dead_letters(http: httpx.AsyncClient) -> None:
    await made(http)
    await publish(http, "again", "never")
    again, never = await pull(http)
    assert (await settle(http, "nack", [again], delay_ms=0)).status_code == 204
    failure = {"type": "KeyError", "text": "'vat'", "place": "bill() in orders.py"}
    assert (await settle(http, "nack", [never], reject=True, failure=failure)).status_code == 204
    [message] = await pull(http, wait=30)
    assert (message["payload"], message["attempt"]) == ("again", 2)
    assert (await settle(http, "extend", [message])).status_code == 204
    [letter] = (await http.get("/subscriptions/billing/dead-letters")).json()["dead_letters"]
    assert (letter["payload"], letter["reason"], letter["failure"]["text"]) == ("never", "rejected", "'vat'")


async def test_a_shared_subscription_is_pulled_by_several_clients(http: httpx.AsyncClient) -> None:
    await made(http, shared=True)
    await publish(http, *range(4))
    first = await pull(http, "one", max=2)
    second = await pull(http, "two", max=2)
    assert [message["payload"] for message in first + second] == [0, 1, 2, 3]
    refused = await http.post(
        "/subscriptions/billing/ack",
        json={"positions": [second[0]["position"]]},
        params={"client_id": "one"},
    )
    assert refused.json()["code"] == "delivery_taken_away"


async def test_settling_what_is_not_held_is_refused(http: httpx.AsyncClient) -> None:
    await made(http)
    await publish(http, 1)
    taken = await pull(http)
    other = await http.post(
        "/subscriptions/billing/ack",
        json={"positions": [taken[0]["position"]]},
        params={"client_id": "somebody"},
    )
    assert (other.status_code, other.json()["code"]) == (409, "delivery_taken_away")
    reading = taken[0]["position"].partition("-")[0]
    never = await http.post("/subscriptions/billing/ack", json={"positions": [f"{reading}-99"]})
    assert (never.status_code, never.json()["code"]) == (409, "never_delivered")
    wrong = await http.post("/subscriptions/billing/ack", json={"positions": ["nonsense"]})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_option")


async def test_a_hold_ends_by_itself_and_what_was_in_flight_goes_back(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PULL_LEASE_MS", 50)
    await made(http, ack_timeout_ms=100)
    await publish(http, 1)
    await pull(http)
    await _until(http, connected=False)
    assert [message["payload"] for message in await pull(http, wait=30)] == [1]


@pytest.mark.parametrize("lease_ms", [10_000, 50_000])
async def test_a_hold_lasts_for_an_ack_timeout_while_there_is_something_to_ack(lease_ms: int) -> None:
    class Held:
        ack_timeout_ms = 30_000
        error = None

        def __init__(self) -> None:
            self.items = [object(), object()]

        def take(self) -> object:
            return self.items.pop() if self.items else None

    puller = Puller(Held())  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PULL_LEASE_MS", lease_ms)
        assert puller.lease_ms == lease_ms
        await puller.pull(2, 0, lambda: asyncio.sleep(30))
        assert puller.lease_ms == max(lease_ms, 30_000)
        puller.settled([(1, 1, 1)], acked=True)
        assert puller.lease_ms == max(lease_ms, 30_000)
        puller.settled([(1, 1, 1)], acked=True)
        assert puller.lease_ms == lease_ms


async def test_a_gap_is_told_until_its_position_is_acked(http: httpx.AsyncClient) -> None:
    await made(http)
    await publish(http, 1, 2, 3)
    await http.delete("/queues/orders")
    for _ in range(2):
        answer = (await http.get(MESSAGES)).json()
        [gap] = answer["gaps"]
        assert (answer["messages"], gap["first_sequence"], gap["last_sequence"]) == ([], 1, 3)
        await http.delete("/subscriptions/billing/hold")
    await http.get(MESSAGES)
    assert (await settle(http, "ack", [gap])).status_code == 204
    await http.delete("/subscriptions/billing/hold")
    assert (await http.get(MESSAGES)).json()["gaps"] == []


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({}, 404, "not_found"),
        ({"queue": "a b"}, 400, "invalid_filter"),
        ({"queue": "orders", "from": "never"}, 400, "invalid_option"),
        ({"queue": "orders", "max": 0}, 400, "invalid_option"),
        ({"queue": "orders", "max": limits.PULL_COUNT_MAX + 1}, 400, "invalid_option"),
        ({"queue": "orders", "wait": "long"}, 400, "invalid_option"),
        ({"queue": "orders", "wait": limits.PULL_WAIT_MS_MAX / 1000 + 1}, 400, "invalid_option"),
    ],
)
async def test_what_cannot_be_pulled_is_a_problem(
    http: httpx.AsyncClient, params: dict[str, Any], status: int, code: str | None
) -> None:
    answer = await http.get(MESSAGES, params=params)
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text


async def test_a_problem_names_a_parameter_as_requests_spell_it(http: httpx.AsyncClient) -> None:
    answer = await http.get(MESSAGES, params={"queue": "orders", "max": 0})
    assert answer.json()["detail"].startswith("max: "), answer.text


async def test_another_filter_is_refused_while_it_is_held_and_when_it_is_not(http: httpx.AsyncClient) -> None:
    await made(http)
    for _ in range(2):
        answer = await http.get(MESSAGES, params={"queue": "orders", "event": "paid"})
        assert (answer.status_code, answer.json()["code"]) == (409, "subscription_conflict")
        await pull(http, queue="orders")


async def _asked(http: httpx.AsyncClient) -> None:
    """Waits until somebody is attached to pull."""
    await _until(http, connected=True)


async def _until(http: httpx.AsyncClient, *, connected: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await http.get("/subscriptions/billing")).json()["queues"][0]["connected"] != connected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # over HTTP there is only asking again


async def test_one_that_begins_with_the_last_of_each_event_gets_those_first(http: httpx.AsyncClient) -> None:
    for event in ("a", "b", "a"):
        await http.post(f"/queues/orders/events/{event}", json=1)
    answer = await http.get("/subscriptions/state/messages", params={"queue": "orders", "from": "last", "wait": 10})
    assert [message["sequence"] for message in answer.json()["messages"]] == [2, 3]
    refused = await http.get("/queues/orders/messages", params={"from": "last"})
    assert (refused.status_code, "earliest, latest, a sequence" in refused.json()["detail"]) == (400, True)


async def test_an_ack_counts_after_the_hold_has_ended_unless_somebody_else_has_the_message(
    http: httpx.AsyncClient, native: str
) -> None:
    await made(http)
    await publish(http, *range(4))
    taken = await pull(http)
    await http.delete("/subscriptions/billing/hold")
    async with asyncio.timeout(DEADLINE_S):
        acking = [asyncio.create_task(settle(http, "ack", [taken[place]])) for place in (2, 0)]
        assert [(await each).status_code for each in acking] == [204, 204]
    state = (await http.get("/subscriptions/billing")).json()["queues"][0]
    assert state["connected"] is False, "a late ack holds nothing"
    assert [(each["sequence"], each["attempt"]) for each in await pull(http)] == [(2, 1), (4, 1)]
    await http.delete("/subscriptions/billing/hold")
    async with tidings.connect(native) as client, client.subscribe("orders", name="billing") as subscription:
        await anext(aiter(subscription))
        refused = await settle(http, "ack", [taken[1]])
        assert (refused.status_code, refused.json()["code"]) == (409, "delivery_taken_away")
    nobody = await http.post("/subscriptions/nobody/ack", json={"positions": [taken[0]["position"]]})
    assert nobody.status_code == 404


async def test_an_ack_counts_after_the_server_was_started_again() -> None:
    store = MemoryStore()
    async with serving(store) as (url, _), http_client(url) as http:
        await made(http)
        await publish(http, *range(6))
        taken = await pull(http, max=4)
    async with serving(store) as (url, _), http_client(url) as http:
        assert (await settle(http, "ack", [taken[1]])).status_code == 204
        await publish(http, 6)
        reading = taken[0]["position"].partition("-")[0]
        never = await http.post("/subscriptions/billing/ack", json={"positions": [f"{reading}-7"]})
        assert (never.status_code, never.json()["code"]) == (409, "never_delivered")
        assert [each["sequence"] for each in await pull(http, max=1)] == [1]
        assert (await settle(http, "ack", [taken[0], taken[3]])).status_code == 204
        assert [each["sequence"] for each in await pull(http)] == [3, 5, 6, 7]


async def test_an_ack_of_what_was_never_delivered_costs_nothing_else(http: httpx.AsyncClient) -> None:
    await made(http)
    await publish(http, 1)
    [taken] = await pull(http)
    async with asyncio.timeout(DEADLINE_S):
        waiting = asyncio.create_task(pull(http, wait=30))
        await _asked(http)
        reading = taken["position"].partition("-")[0]
        never = await http.post("/subscriptions/billing/ack", json={"positions": [f"{reading}-9"]})
        assert (never.status_code, never.json()["code"]) == (409, "never_delivered")
        await publish(http, 2)
        assert [message["payload"] for message in await waiting] == [2], "what is in flight does not come again"


async def test_what_a_client_gives_back_ends_nothing_that_it_begins_meanwhile(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, given_back = asyncio.Event(), asyncio.Event()
    attach = pullers._attach

    async def slowly(*wanted: Any) -> Attachment:
        began.set()
        await given_back.wait()
        return await attach(*wanted)

    async with asyncio.timeout(DEADLINE_S):
        await pull(http, "shop", queue="orders")
        monkeypatch.setattr(pullers, "_attach", slowly)
        wanted = {"client_id": "shop", "queue": "orders"}
        beginning = asyncio.create_task(http.get("/subscriptions/other/messages", params=wanted))
        await began.wait()
        await http.delete("/subscriptions/billing/hold", params={"client_id": "shop"})
        given_back.set()
        assert (await beginning).status_code == 200


async def test_a_late_ack_ends_no_hold_that_began_meanwhile(url: str, http: httpx.AsyncClient) -> None:
    await made(http)
    await publish(http, 1)
    [taken] = await pull(http)
    await http.delete("/subscriptions/billing/hold")
    async with asyncio.timeout(DEADLINE_S):
        acking = [asyncio.create_task(settle(http, "ack", [taken])) for _ in range(5)]
        waiting = asyncio.create_task(pull(http, wait=30))
        assert {(await each).status_code for each in acking} == {204}
        await publish(http, 2)
        assert [message["payload"] for message in await waiting] == [2]
