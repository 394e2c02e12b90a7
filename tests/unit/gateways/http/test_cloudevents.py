"""CloudEvents over HTTP, made and read by their own SDK, in all modes of the binding."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_binary_event,
    from_structured_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent

from tidings import limits

BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents+json"


def event(data: Any = None, **attributes: Any) -> CloudEvent:
    given = {
        "id": "A234-1234",
        "source": "/shop/berlin",
        "type": "order.created",
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "time": datetime(2026, 1, 31, 8, 0, tzinfo=UTC),
    }
    return CloudEvent(given | attributes, data)


async def publish(http: httpx.AsyncClient, message: HTTPMessage, path: str = "/queues/orders/events") -> httpx.Response:
    await http.put("/subscriptions/all", json={"queue": "orders", "start": "earliest"})
    return await http.post(path, content=message.body, headers=message.headers)


async def pulled(http: httpx.AsyncClient, accept: str = "application/json") -> httpx.Response:
    return await http.get("/subscriptions/all/messages", headers={"Accept": accept}, params={"wait": 10})


@pytest.mark.parametrize("write", [to_binary_event, to_structured_event])
async def test_an_event_becomes_a_message(http: httpx.AsyncClient, write: Any) -> None:
    sent = event({"id": 7}, subject='Größe 5 % "', partitionkey="customer 7", traceparent="00-1-2-03")
    answer = await publish(http, write(sent))
    assert answer.status_code == 201, answer.text
    [message] = (await pulled(http)).json()["messages"]
    assert (message["event"], message["payload"], message["key"]) == ("order.created", {"id": 7}, "customer 7")
    assert message["id"] == "/shop/berlin A234-1234"
    headers = message["headers"]
    assert headers["ce-subject"] == 'Größe 5 % "'
    assert (headers["ce-id"], headers["ce-source"], headers["ce-traceparent"]) == (
        "A234-1234",
        "/shop/berlin",
        "00-1-2-03",
    )
    assert datetime.fromisoformat(headers["ce-time"]) == datetime(2026, 1, 31, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize("write", [to_binary_event, to_structured_event])
@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        ({"id": 7, "big": 12345678901234567890}, "application/json"),
        ({"list": [1, "größer", None]}, "application/json"),
        ("plain, größer", "text/plain"),
        (b"\0\xff", "image/png"),
    ],
)
async def test_what_comes_out_is_what_went_in(
    http: httpx.AsyncClient, write: Any, data: Any, content_type: str
) -> None:
    sent = event(data, datacontenttype=content_type, subject="s", myextension="x")
    assert (await publish(http, write(sent))).status_code == 201
    answer = await pulled(http, STRUCTURED)
    assert answer.headers["content-type"] == STRUCTURED
    got = from_structured_event(HTTPMessage(dict(answer.headers), answer.content))
    attributes = got.get_attributes()
    assert {name: value for name, value in attributes.items() if not name.startswith("tidings")} == (
        sent.get_attributes()
    )
    assert got.get_data() == data
    assert attributes["tidingsattempt"] == 1
    acked = await http.post("/subscriptions/all/ack", json={"positions": [attributes["tidingsposition"]]})
    assert acked.status_code == 204
    assert (await http.get("/subscriptions/all/messages", headers={"Accept": STRUCTURED})).status_code == 204


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        ({"list": [1, "größer", None], "big": 12345678901234567890}, "application/json"),
        ("plain, größer", "text/plain"),
        (b"\0\xff", "image/png"),
    ],
)
async def test_in_binary_mode_the_payload_is_the_body_as_it_went_in(
    http: httpx.AsyncClient, data: Any, content_type: str
) -> None:
    sent = event(data, datacontenttype=content_type, subject='Größe 5 % "', myextension="a\tb", partitionkey="k 7")
    written = to_binary_event(sent)
    assert (await publish(http, to_structured_event(sent))).status_code == 201
    answer = await http.get("/subscriptions/all/messages", params={"binary": "true", "wait": 10})
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
    assert answer.content == written.body
    assert answer.headers["ce-subject"] == written.headers["ce-subject"] == "Gr%C3%B6%C3%9Fe%205%20%25%20%22"
    got = from_binary_event(HTTPMessage(dict(answer.headers), answer.content))
    attributes = got.get_attributes()
    assert {name: value for name, value in attributes.items() if not name.startswith("tidings")} == (
        sent.get_attributes()
    )
    assert (got.get_data(), attributes["tidingsattempt"]) == (data, "1")
    acked = await http.post("/subscriptions/all/ack", json={"positions": [attributes["tidingsposition"]]})
    assert acked.status_code == 204
    assert (await http.get("/subscriptions/all/messages", params={"binary": "true"})).status_code == 204


async def test_in_binary_mode_a_gap_is_an_event_and_odd_content_types_are_one_header(http: httpx.AsyncClient) -> None:
    await http.put("/subscriptions/all", json={"queue": "orders", "start": "earliest"})
    await http.post("/queues/orders/events/created", content=b"1")
    await http.post("/queues/orders/purge")
    gap = await http.get("/subscriptions/all/messages", params={"binary": "true", "wait": 10})
    got = from_binary_event(HTTPMessage(dict(gap.headers), gap.content))
    assert (got.get_type(), got.get_data()["count"], got.get_source()) == ("tidings.gap", 1, "/queues/orders")
    assert got.get_data()["position"] == got.get_attributes()["tidingsposition"]
    odd = {"event": "created", "payload_base64": "AA==", "content_type": "image/png\r\nX-Injected: 1"}
    assert (await http.post("/queues/orders/events", json=[odd])).status_code == 201
    answer = await http.get("/subscriptions/all/messages", params={"binary": "true", "wait": 10})
    assert (answer.headers["content-type"], answer.content) == ("application/octet-stream", b"\0")
    assert "x-injected" not in answer.headers


async def test_a_batch_goes_in_and_out(http: httpx.AsyncClient) -> None:
    bodies = [to_structured_event(event(number, id=str(number))).body for number in range(3)]
    message = HTTPMessage({"content-type": f"{BATCH}; charset=utf-8"}, b"[" + b",".join(bodies) + b"]")
    assert (await publish(http, message)).json()["sequences"] == [1, 2, 3]
    answer = await pulled(http, BATCH)
    assert answer.headers["content-type"] == BATCH
    assert [each["data"] for each in answer.json()] == [0, 1, 2]
    assert (await http.get("/subscriptions/all/messages", headers={"Accept": BATCH})).json() == []


async def test_an_empty_batch_is_one(http: httpx.AsyncClient) -> None:
    answer = await publish(http, HTTPMessage({"content-type": BATCH}, b"[]"))
    assert (answer.status_code, answer.json()["count"]) == (201, 0)


async def test_an_event_sent_again_is_stored_once_and_another_source_is_another_event(http: httpx.AsyncClient) -> None:
    for source in ("/a", "/a", "/b"):
        answer = await publish(http, to_structured_event(event(1, source=source)))
    assert answer.json()["sequence"] == 2
    long = "/" + "x" * limits.ID_LENGTH_MAX
    for _ in range(2):
        answer = await publish(http, to_structured_event(event(1, source=long)))
    assert answer.json()["duplicate_of"] == 3


async def test_a_path_with_an_event_names_it_and_the_type_is_kept(http: httpx.AsyncClient) -> None:
    sent = event(1, type="com.example/not a name")
    refused = await publish(http, to_structured_event(sent))
    assert refused.json()["code"] == "invalid_name"
    assert (await publish(http, to_structured_event(sent), "/queues/orders/events/odd")).status_code == 201
    [message] = (await pulled(http)).json()["messages"]
    assert message["event"] == "odd"
    await http.delete("/subscriptions/all/hold")
    assert (await pulled(http, STRUCTURED)).json()["type"] == "com.example/not a name"


async def test_a_message_that_never_was_an_event_is_read_as_one(http: httpx.AsyncClient) -> None:
    await http.put("/subscriptions/all", json={"queue": "orders/eu".replace("/", ".")})
    headers = {
        "Tidings-Key": "k",
        "Tidings-Header-traceparent": "00-1",
        "Tidings-Header-X-Odd": "o",
        "Tidings-Header-data": "no",
    }
    await http.post("/queues/orders.eu/events/created", json={"id": 7}, headers=headers)
    answer = await pulled(http, STRUCTURED)
    got = from_structured_event(HTTPMessage(dict(answer.headers), answer.content))
    attributes = got.get_attributes()
    assert (got.get_source(), got.get_type(), got.get_data()) == ("/queues/orders.eu", "created", {"id": 7})
    assert got.get_id().endswith("-1")
    assert (attributes["partitionkey"], attributes["traceparent"]) == ("k", "00-1")


async def test_data_that_is_missing_is_no_data_and_null_is_null(http: httpx.AsyncClient) -> None:
    for body in (b"", b', "data": null'):
        raw = b'{"specversion": "1.0", "id": "%d", "source": "s", "type": "t", "subject": null%b}' % (len(body), body)
        assert (await publish(http, HTTPMessage({"content-type": STRUCTURED}, raw))).status_code == 201
    first, second = (await pulled(http, BATCH)).json()
    assert "data" not in first
    assert "data_base64" not in first
    assert "subject" not in first
    assert second["data"] is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        b'{"specversion": "1.0", "id": "1", "source": "s"}',
        b'{"specversion": "1.0", "id": "", "source": "s", "type": "t"}',
        b'{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}',
        b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "Upper": "x"}',
        b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "list": []}',
        b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "x": 1.5}',
        b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 1, "data_base64": "AA=="}',
        b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data_base64": "?"}',
        b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data_base64": 1}',
        b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "datacontenttype": "text/plain", "data": 1}',
        b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": "\xff"}',
    ],
)
async def test_what_is_no_event_is_a_problem(http: httpx.AsyncClient, body: bytes) -> None:
    for kind, sent in ((STRUCTURED, body), (BATCH, b"[" + body + b", 1]")):
        answer = await http.post("/queues/orders/events", content=sent, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_payload"), answer.text


async def test_a_binary_event_that_is_none_is_a_problem(http: httpx.AsyncClient) -> None:
    headers = {"ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-specversion": "1.0"}
    for wrong in ({"ce-specversion": "2"}, {"ce-id": "%C0%A0"}, {"ce-bad_name": "x"}):
        answer = await http.post("/queues/orders/events", content=b"1", headers=headers | wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_payload"), wrong


async def test_quoted_values_of_older_senders_are_understood(http: httpx.AsyncClient) -> None:
    headers = {"ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-specversion": "1.0", "ce-subject": r'"a \"b\""'}
    await publish(http, HTTPMessage(headers | {"content-type": "application/json"}, b"1"))
    assert (await pulled(http, STRUCTURED)).json()["subject"] == 'a "b"'


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/*;q=0.5, application/cloudevents+json", STRUCTURED),
        ("application/cloudevents-batch+json;q=0.9, application/json;q=0.2", BATCH),
        ("text/html, application/json;q=0", None),
        ("text/html", None),
        ("application/json;q=high", None),
    ],
)
async def test_the_client_says_what_it_accepts(http: httpx.AsyncClient, accept: str, kind: str | None) -> None:
    await publish(http, to_structured_event(event(1)))
    answer = await pulled(http, accept)
    assert (answer.status_code, answer.headers["content-type"]) == (
        (200, kind) if kind else (406, "application/problem+json")
    )
