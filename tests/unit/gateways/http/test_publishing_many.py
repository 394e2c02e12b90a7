"""Publishing many messages in one body, and messages for later."""

from typing import Any

import httpx
import pytest

NDJSON = {"content-type": "application/x-ndjson"}


async def pulled(http: httpx.AsyncClient, **options: Any) -> list[dict[str, Any]]:
    await http.put("/subscriptions/all", json={"queue": "orders", "start": "earliest"})
    return (await http.get("/subscriptions/all/messages")).json()["messages"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("flag", ["batch", "batch=true", "batch=1"])
async def test_an_array_is_a_message_for_each_of_its_values(http: httpx.AsyncClient, flag: str) -> None:
    answer = await http.post(f"/queues/orders/events/created?{flag}", json=[{"id": 1}, "two", None])
    assert answer.status_code == 201
    assert answer.json()["sequences"] == [1, 2, 3]
    assert [message["payload"] for message in await pulled(http)] == [{"id": 1}, "two", None]


async def test_without_batch_an_array_is_one_message(http: httpx.AsyncClient) -> None:
    assert (await http.post("/queues/orders/events/created?batch=false", json=[1, 2])).json()["sequence"] == 1
    assert [message["payload"] for message in await pulled(http)] == [[1, 2]]


async def test_each_line_of_ndjson_is_a_message(http: httpx.AsyncClient) -> None:
    body = b'{"id":1}\n\n {"id": 2}\r\n3'
    answer = await http.post("/queues/orders/events/created?batch", content=body, headers=NDJSON)
    assert answer.json()["count"] == 3
    assert [message["payload"] for message in await pulled(http)] == [{"id": 1}, {"id": 2}, 3]


async def test_whole_messages_name_their_events_and_are_stored_once_by_id(http: httpx.AsyncClient) -> None:
    messages = [
        {"event": "created", "payload": {"id": 7}, "id": "a", "key": "7", "headers": {"region": "eu"}},
        {"event": "noted", "payload": "text", "content_type": "text/plain"},
        {"event": "scanned", "payload_base64": "AP8=", "content_type": "image/png"},
        {"event": "created", "payload": 1, "id": "a"},
    ]
    answer = (await http.post("/queues/orders/events", json=messages)).json()
    assert (answer["sequences"], answer["duplicates"]) == ([1, 2, 3, 1], [3])
    created, noted, scanned = await pulled(http)
    assert (created["payload"], created["id"], created["key"]) == ({"id": 7}, "a", "7")
    assert created["headers"] == {"region": "eu"}
    assert (noted["event"], noted["payload"], noted["content_type"]) == ("noted", "text", "text/plain")
    assert (scanned["payload_base64"], scanned["content_type"]) == ("AP8=", "image/png")


async def test_more_than_one_batch_is_stored_in_order(http: httpx.AsyncClient) -> None:
    values = ["x" * 1000 + str(number) for number in range(1000)]
    answer = await http.post("/queues/orders/events/created?batch", json=values)
    assert answer.json()["sequences"] == list(range(1, 1001))
    assert [message["payload"] for message in await pulled(http)] == values[:100]


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/queues/q/events/e?batch", b"[1, 2", {}),
        ("/queues/q/events/e?batch", b'{"id": 1}', {}),
        ("/queues/q/events/e?batch", b'["\xff"]', {}),
        ("/queues/q/events/e?batch", b"1\n{", NDJSON),
        ("/queues/q/events/e?batch", b"[1]", {"content-type": "text/csv"}),
        ("/queues/q/events/e?batch", b"[1]", {"Tidings-Id": "a"}),
        ("/queues/q/events/e?batch", b"[1]", {"Tidings-Header-x": "a"}),
        ("/queues/q/events/e?batch=perhaps", b"[1]", {}),
        ("/queues/q/events", b'[{"event": "e"}]', {}),
        ("/queues/q/events", b'[{"payload": 1}]', {}),
        ("/queues/q/events", b'[{"event": "e", "payload": 1, "sequence": 1}]', {}),
        ("/queues/q/events", b'[{"event": "e", "payload": 1, "payload_base64": "AA=="}]', {}),
        ("/queues/q/events", b'[{"event": "e", "payload_base64": "?"}]', {}),
        ("/queues/q/events", b'[{"event": "e", "payload": 1, "content_type": "text/plain"}]', {}),
        ("/queues/q/events", b'[{"event": "a b", "payload": 1}]', {}),
        ("/queues/q/events", b"[" * 100_000, {}),
    ],
)
async def test_what_is_no_batch_is_a_problem_and_nothing_is_stored(
    http: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str]
) -> None:
    answer = await http.post(path, content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await http.get("/queues/q")).status_code == 404


async def test_the_place_of_what_is_wrong_is_told(http: httpx.AsyncClient) -> None:
    answer = await http.post("/queues/q/events", json=[{"event": "e", "payload": 1}, {"event": "e"}])
    assert "message 1" in answer.json()["detail"]
    answer = await http.post("/queues/q/events/e?batch", content=b"1\n2\n{", headers=NDJSON)
    assert "line 3" in answer.json()["detail"]


async def test_json_that_curl_calls_a_form_is_json_and_a_form_is_a_form(http: httpx.AsyncClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    await http.post("/queues/orders/events/created", content=b'{"id": 7}', headers=form)
    await http.post("/queues/orders/events/created", content=b"id=7", headers=form)
    await http.post("/queues/orders/events/created", content=b"[1]")
    first, second, third = await pulled(http)
    assert (first["payload"], third["payload"]) == ({"id": 7}, [1])
    assert (second["payload_base64"], second["content_type"]) == ("aWQ9Nw==", form["content-type"])


# --- later ---


@pytest.mark.parametrize(
    "headers",
    [{"Tidings-Delay": "3600"}, {"Tidings-At": "2199-01-31T08:00:00+01:00"}, {"Tidings-Every": "60"}],
)
async def test_a_message_for_later_is_listed_and_can_be_taken_back(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await http.post("/queues/orders/events/due", json={"id": 7}, headers=headers | {"Tidings-Key": "k"})
    if "Tidings-Every" in headers:
        assert answer.json()["every_ms"] == 60_000
    assert answer.status_code == 202
    scheduled = answer.json()
    assert answer.headers["location"] == f"/schedules/{scheduled['handle']}"
    listed = (await http.get("/schedules")).json()["schedules"]
    assert [each["queue"] for each in listed] == ["orders"]
    assert (await http.delete(answer.headers["location"])).status_code == 204
    assert (await http.get("/schedules")).json()["schedules"] == []
    assert (await http.delete(answer.headers["location"])).json()["code"] == "not_found"


async def test_a_time_that_is_past_means_at_once(http: httpx.AsyncClient) -> None:
    await http.put("/subscriptions/all", json={"queue": "orders"})
    past = {"Tidings-At": "2001-01-31T08:00:00.5Z", "Tidings-Header-Region": "eu"}
    assert (await http.post("/queues/orders/events/due", json=7, headers=past)).status_code == 202
    [message] = (await http.get("/subscriptions/all/messages", params={"wait": 10})).json()["messages"]
    assert (message["payload"], message["headers"]) == (7, {"region": "eu"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Tidings-Delay": "soon"},
        {"Tidings-Delay": "-1"},
        {"Tidings-Delay": "1e3"},
        {"Tidings-At": "tomorrow"},
        {"Tidings-At": "2199-01-31T08:00:00"},
        {"Tidings-Every": "0.5"},
        {"Tidings-Delay": "1", "Tidings-At": "2199-01-31T08:00:00Z"},
    ],
)
async def test_what_is_no_time_is_a_problem(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await http.post("/queues/orders/events/due", json=1, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_option")


# --- for a time ---


async def test_a_message_whose_time_is_over_is_a_gap(http: httpx.AsyncClient) -> None:
    await http.put("/subscriptions/all", json={"queue": "orders"})
    path = "/queues/orders/events/created"
    assert (await http.post(path, json=1, headers={"Tidings-Ttl": "0.001"})).status_code == 201
    await http.post("/queues/orders/events", json=[{"event": "created", "payload": 2, "ttl_ms": 1}])
    assert (await http.post(path, json=3, headers={"Tidings-Ttl": "3600"})).status_code == 201
    answer = (await http.get("/subscriptions/all/messages", params={"wait": 10})).json()
    gone = sum(gap["count"] for gap in answer["gaps"])
    while not answer["messages"]:
        answer = (await http.get("/subscriptions/all/messages", params={"wait": 10})).json()
        gone += sum(gap["count"] for gap in answer["gaps"])
    assert [message["payload"] for message in answer["messages"]] == [3]
    assert gone == 2


@pytest.mark.parametrize("ttl", ["0", "-1", "soon", "999999999999"])
async def test_what_is_no_ttl_is_a_problem(http: httpx.AsyncClient, ttl: str) -> None:
    answer = await http.post("/queues/orders/events/created", json=1, headers={"Tidings-Ttl": ttl})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_option")
