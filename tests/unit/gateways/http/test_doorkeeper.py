"""The doorkeeper: foreign hosts, origins and sites, preflights, and paths."""

import httpx
import pytest

from tidings.gateways.http.doorkeeper import Doorkeeper


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:7480", True),
        ("[::1]:7480", True),
        ("192.168.1.5", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("a.localhost", True),
        ("queue.example:7480", True),
        ("Queue.Example", True),
        ("rebound.example", False),
        ("127.0.0.1.example", False),
        ("localhost.example", False),
        ("", False),
        ("[::1", False),
        ("user@evil.example", False),
    ],
)
def test_a_host_is_an_address_localhost_or_an_allowed_name(host: str, allowed: bool) -> None:
    async def nobody(scope, receive, send):  # type: ignore[no-untyped-def]
        raise AssertionError

    assert Doorkeeper(nobody, hosts=["queue.example"]).allows_host(host) is allowed


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
async def test_foreign_pages_are_refused_and_change_nothing(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    refused = await http.post("/queues/orders/events/created", content=b"1", headers=headers)
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"
    confirmed = await http.post("/queues/orders/events/created", content=b"1")
    assert confirmed.json()["sequence"] == 1


async def test_pages_of_this_server_and_of_allowed_origins_may_publish(http: httpx.AsyncClient, url: str) -> None:
    for origin in (url, "https://app.example"):
        answer = await http.post("/queues/orders/events/created", content=b"1", headers={"Origin": origin})
        assert answer.status_code == 201
        assert answer.headers["access-control-allow-origin"] == origin


async def test_a_preflight_is_answered_for_allowed_origins_only(http: httpx.AsyncClient) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "tidings-id"}
    answer = await http.options("/queues/a/events/b", headers={"Origin": "https://app.example", **asks})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == "tidings-id"
    assert (await http.options("/queues/a/events/b", headers={"Origin": "https://evil.example", **asks})).is_error


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/queues/..%2f..%2fetc/events/passwd", 400),
        ("/queues/../events/x", 404),
        ("/queues/a%00b/events/x", 400),
        ("/queues/a%0d%0aX:1/events/x", 400),
        ("/queues/%ff/events/x", 400),
        ("/queues/%24presence/events/x", 403),
        ("/queues/a%20b/events/x", 400),
        ("/queues//events/x", 404),
    ],
)
async def test_path_tricks_are_clear_errors(http: httpx.AsyncClient, path: str, status: int) -> None:
    request = http.build_request("POST", "/", content=b"1")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = await http.send(request)
    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert answer.json()["detail"]


async def test_a_client_is_not_where_it_says_it_is(http: httpx.AsyncClient) -> None:
    asked = {"client_id": "billing", "queue": "orders"}
    await http.get("/subscriptions/billing/messages", params=asked, headers={"X-Forwarded-For": "203.0.113.9"})
    [client] = (await http.get("/clients")).json()["clients"]
    assert client["address"].startswith("127.0.0.1:")
