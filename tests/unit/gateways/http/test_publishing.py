"""Publishing over HTTP: what becomes of body and headers, and what is refused."""

import asyncio

import httpx
import pytest

from tidings import limits


async def test_a_body_of_any_type_is_confirmed_with_its_place(http: httpx.AsyncClient) -> None:
    first = await http.post("/queues/orders/events/created", json={"id": 7})
    assert first.status_code == 201
    assert first.json() == {
        "queue": "orders",
        "sequence": 1,
        "epoch": first.json()["epoch"],
        "durability": "memory",
        "subscriptions": 0,
    }
    second = await http.post("/queues/orders/events/created", content=b"\0\xff", headers={"content-type": "x/y"})
    assert second.json()["sequence"] == 2


async def test_an_id_is_stored_once(http: httpx.AsyncClient) -> None:
    answers = [await http.post("/queues/q/events/e", content=b"1", headers={"Tidings-Id": "a"}) for _ in range(2)]
    assert [answer.json()["sequence"] for answer in answers] == [1, 1]
    assert [answer.json().get("duplicate_of") for answer in answers] == [None, 1]


@pytest.mark.parametrize(
    ("path", "headers", "size", "status", "code"),
    [
        ("/queues/$x/events/e", {}, 1, 403, "system_queue"),
        ("/queues/a*/events/e", {}, 1, 400, "invalid_name"),
        ("/queues/q/events/e.", {}, 1, 400, "invalid_name"),
        ("/queues/q/events/e", {"Tidings-Id": "x" * 256}, 1, 400, "invalid_option"),
        ("/queues/q/events/e", {"content-type": "x" * 256}, 1, 400, "invalid_option"),
        ("/queues/q/events/e", {}, limits.PAYLOAD_SIZE_BYTES_MAX + 1, 413, "payload_too_large"),
        ("/queues/q/events/e", {}, limits.HTTP_BODY_BYTES_MAX + 1, 413, None),
    ],
)
async def test_a_refusal_is_a_problem_with_the_code_of_the_registry(
    http: httpx.AsyncClient, path: str, headers: dict[str, str], size: int, status: int, code: str | None
) -> None:
    answer = await http.post(path, content=b"x" * size, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().get("code") == code
    assert answer.json()["status"] == status


async def test_what_is_not_there_and_wrong_verbs_are_problems_too(http: httpx.AsyncClient) -> None:
    assert (await http.get("/nothing")).json()["title"] == "Not Found"
    wrong = await http.put("/ready")
    assert wrong.status_code == 405
    assert "GET" in wrong.headers["allow"]
    assert wrong.headers["content-type"] == "application/problem+json"


async def test_a_request_is_answered_with_what_somebody_responds(http: httpx.AsyncClient) -> None:
    await http.put("/subscriptions/rates", json={"queue": "rates"})
    for kind, sent in (("application/json", b'{"price": 108}'), ("image/png", b"\0\xff"), ("text/plain", b"noon")):
        headers = {"Tidings-Reply": "10", "Tidings-Header-Zone": "UTC"}
        asking = asyncio.create_task(http.post("/queues/rates/events/quote", content=b"100", headers=headers))
        pulled = await http.get("/subscriptions/rates/messages", params={"wait": 10})
        [message] = pulled.json()["messages"]
        assert message["headers"]["zone"] == "UTC"
        path = f"/replies/{message['headers']['$reply-to']}"
        told = await http.post(path, content=sent, headers={"content-type": kind})
        assert (told.status_code, told.json()) == (200, {"awaited": True})
        answer = await asking
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, kind, sent)
        assert (await http.post(path, content=sent)).json() == {"awaited": False}


async def test_a_request_that_nobody_answers_is_a_problem(http: httpx.AsyncClient) -> None:
    async def ask(seconds: str, **headers: str) -> tuple[int, str]:
        given = {"Tidings-Reply": seconds, **headers}
        answer = await http.post("/queues/rates/events/quote", content=b"100", headers=given)
        return answer.status_code, answer.json()["code"]

    assert await ask("10") == (503, "unanswered")
    await http.put("/subscriptions/rates", json={"queue": "rates"})
    assert await ask("0.001") == (504, "timed_out")
    for seconds in ("0", "61", "soon"):
        assert await ask(seconds) == (400, "invalid_option")
    assert await ask("1", **{"Tidings-Delay": "1"}) == (400, "invalid_option")


async def test_it_is_alive_and_ready(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).json() == {"status": "alive"}
    assert (await http.get("/ready")).json() == {"status": "ready"}
