"""Queues, subscriptions, dead letters and clients over HTTP: made, looked at, changed, deleted."""

from typing import Any

import httpx
import pytest


async def publish(http: httpx.AsyncClient, count: int = 1, queue: str = "orders") -> None:
    answer = await http.post(f"/queues/{queue}/events/created?batch", json=list(range(count)))
    answer.raise_for_status()


async def subscribed(http: httpx.AsyncClient, name: str = "billing", **options: Any) -> httpx.Response:
    return await http.put(f"/subscriptions/{name}", json={"queue": "orders", "start": "earliest"} | options)


async def state(http: httpx.AsyncClient, name: str = "billing") -> dict[str, Any]:
    [info] = (await http.get(f"/subscriptions/{name}")).json()["queues"]
    return info  # type: ignore[no-any-return]


async def pulled(http: httpx.AsyncClient, name: str = "billing") -> list[dict[str, Any]]:
    answer = await http.get(f"/subscriptions/{name}/messages", params={"wait": 10})
    return answer.json()["messages"]  # type: ignore[no-any-return]


# --- queues ---


async def test_a_queue_is_made_configured_listed_and_deleted(http: httpx.AsyncClient) -> None:
    made = await http.put("/queues/orders", json={"history_messages": 5})
    assert (made.status_code, made.json()["settings"]["history_messages"]) == (200, 5)
    changed = await http.patch("/queues/orders", json={"history_messages": None})
    assert "history_messages" not in changed.json()["settings"]
    await publish(http, 3)
    info = (await http.get("/queues/orders")).json()
    assert (info["name"], info["messages"], info["last_sequence"]) == ("orders", 3, 3)
    assert [queue["name"] for queue in (await http.get("/queues")).json()["queues"]] == ["$presence", "orders"]
    assert (await http.delete("/queues/orders")).status_code == 204
    assert (await http.get("/queues/orders")).json()["code"] == "not_found"


@pytest.mark.parametrize("name", ["a", "a.b", "größe", "字", "a%2Fb"])
async def test_a_queue_is_found_by_its_name_among_many(http: httpx.AsyncClient, name: str) -> None:
    path = f"/queues/{name}"
    wanted = await http.put(path)
    if "%2F" in name:
        assert wanted.json()["code"] == "invalid_name"
        return
    for other in ("a-", "a.", "a0", "b", "größf"):
        await http.put(f"/queues/{other}x")
    assert (await http.get(path)).json()["name"] == name


async def test_a_paused_queue_delivers_nothing(http: httpx.AsyncClient) -> None:
    await subscribed(http)
    assert (await http.post("/queues/orders/pause")).status_code == 204
    await publish(http)
    assert (await http.get("/queues/orders")).json()["paused"] is True
    assert (await http.get("/subscriptions/billing/messages")).json()["messages"] == []
    assert (await http.post("/queues/orders/resume")).status_code == 204
    assert len(await pulled(http)) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("PATCH", "/queues/orders", {}, 404, "not_found"),
        ("DELETE", "/queues/orders", None, 404, "not_found"),
        ("DELETE", "/queues/$presence", None, 403, "system_queue"),
        ("PUT", "/queues/$own", {}, 403, "system_queue"),
        ("PUT", "/queues/orders", {"history_messages": -1}, 400, "invalid_option"),
        ("PUT", "/queues/orders", {"history_messages": "many"}, 400, "invalid_option"),
        ("PUT", "/queues/orders", {"colour": "red"}, 400, "invalid_option"),
        ("PUT", "/queues/orders", {"name": "other"}, 400, "invalid_option"),
        ("PUT", "/queues/orders", {"call": "pause"}, 400, "invalid_option"),
        ("PUT", "/queues/orders", [], 400, "invalid_option"),
        ("POST", "/queues/nothing/pause", None, 404, "not_found"),
        ("GET", "/subscriptions/billing", None, 404, "not_found"),
        ("PATCH", "/subscriptions/billing", {}, 404, "not_found"),
        ("DELETE", "/subscriptions/billing", None, 404, "not_found"),
        ("PUT", "/subscriptions/billing", {}, 400, "invalid_option"),
        ("PUT", "/subscriptions/billing", {"queue": "a b"}, 400, "invalid_filter"),
        ("PUT", "/subscriptions/a%20b", {"queue": "orders"}, 400, "invalid_name"),
        ("PUT", "/subscriptions/billing", {"queue": "orders", "ack_timeout_ms": 1}, 400, "invalid_option"),
        ("PUT", "/subscriptions/billing", {"queue": "orders", "start": "never"}, 400, "invalid_option"),
        ("POST", "/subscriptions/billing/seek", {"to": "earliest"}, 404, "not_found"),
        ("GET", "/subscriptions/billing/dead-letters", None, 404, "not_found"),
        ("POST", "/subscriptions/billing/dead-letters/redrive", {}, 404, "not_found"),
        ("DELETE", "/schedules/nonsense", None, 400, "invalid_option"),
    ],
)
async def test_what_is_wrong_or_not_there_is_a_problem(
    http: httpx.AsyncClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = await http.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [(b"{", "application/json", 400), (b'{"a": "\xff"}', "application/json", 400), (b"a=1", "text/plain", 415)],
)
async def test_a_body_that_is_no_json_is_a_problem(
    http: httpx.AsyncClient, content: bytes, content_type: str, status: int
) -> None:
    answer = await http.put("/queues/orders", content=content, headers={"content-type": content_type})
    assert answer.status_code == status
    assert (await http.get("/queues/orders")).status_code == 404


# --- subscriptions ---


async def test_a_subscription_holds_what_it_is_to_get_from_when_it_was_made(http: httpx.AsyncClient) -> None:
    await publish(http, 2)
    made = await http.put("/subscriptions/billing", json={"queue": "orders", "event": "created", "attempts_max": 3})
    assert (made.status_code, made.json()["name"]) == (201, "billing")
    await publish(http, 2)
    info = await state(http)
    assert (info["filter"], info["lag"], info["connected"], info["attempts_max"]) == ("orders/created", 2, False, 3)
    assert [each["name"] for each in (await http.get("/subscriptions")).json()["subscriptions"]] == ["billing"]


async def test_made_again_it_gets_the_settings_and_another_filter_is_refused(http: httpx.AsyncClient) -> None:
    assert (await subscribed(http)).status_code == 201
    again = await subscribed(http, in_flight_max=7)
    assert (again.status_code, (await state(http))["in_flight_max"]) == (200, 7)
    for other in ({"event": "paid"}, {"shared": True}, {"headers": ["region=eu"]}):
        refused = await subscribed(http, **other)
        assert (refused.status_code, refused.json()["code"]) == (409, "subscription_conflict")


async def test_it_belongs_to_the_client_that_it_is_made_for(http: httpx.AsyncClient) -> None:
    as_shop = {"client_id": "shop"}
    made = await http.put("/subscriptions/mine", json={"queue": "orders"}, params=as_shop)
    assert made.json()["queues"][0]["client_id"] == "shop"
    assert (await http.get("/subscriptions/mine/messages")).json()["code"] == "subscription_conflict"
    assert (await http.get("/subscriptions/mine/messages", params=as_shop)).status_code == 200
    [client] = (await http.get("/clients")).json()["clients"]
    assert (client["client_id"], client["protocol"], client["connected"]) == ("shop", "http", True)
    assert client["subscriptions"] == ["mine"]


async def test_headers_choose_messages(http: httpx.AsyncClient) -> None:
    await subscribed(http, headers=["region=eu"])
    for region in ("eu", "us"):
        await http.post("/queues/orders/events/created", json=region, headers={"Tidings-Header-Region": region})
    assert [message["payload"] for message in await pulled(http)] == ["eu"]


async def test_it_is_configured_moved_paused_and_deleted(http: httpx.AsyncClient) -> None:
    await publish(http, 3)
    await subscribed(http, start="latest")
    changed = await http.patch("/subscriptions/billing", json={"ack_timeout_ms": 5000, "expires_after_ms": None})
    assert changed.json()["queues"][0]["ack_timeout_ms"] == 5000
    moved = await http.post("/subscriptions/billing/seek", json={"to": "sequence", "value": 2})
    assert [(each["before"], each["cursor"]) for each in moved.json()["queues"]] == [(3, 1)]
    assert (await http.post("/subscriptions/billing/pause")).status_code == 204
    assert (await http.get("/subscriptions/billing/messages")).json()["messages"] == []
    assert (await http.post("/subscriptions/billing/resume")).status_code == 204
    assert [message["sequence"] for message in await pulled(http)] == [2, 3]
    assert (await http.delete("/subscriptions/billing")).json()["code"] == "subscription_in_use"
    await http.delete("/subscriptions/billing/hold")
    assert (await http.delete("/subscriptions/billing")).status_code == 204


async def test_slashes_in_names_are_written_with_percent(http: httpx.AsyncClient) -> None:
    await http.put("/subscriptions/shop:orders%2Fcreated", json={"queue": "orders"})
    [listed] = (await http.get("/subscriptions")).json()["subscriptions"]
    assert listed["name"] == "shop:orders/created"
    assert (await http.get("/subscriptions/shop:orders%2Fcreated")).json()["name"] == "shop:orders/created"


# --- dead letters ---


async def with_dead_letters(http: httpx.AsyncClient) -> None:
    await subscribed(http)
    await publish(http, 3)
    for message in await pulled(http):
        failure = {"type": "KeyError", "text": str(message["payload"] > 0), "place": f"bill{message['payload'] > 0}()"}
        body = {"positions": [message["position"]], "reject": True, "failure": failure}
        (await http.post("/subscriptions/billing/nack", json=body)).raise_for_status()


async def test_dead_letters_are_listed_grouped_corrected_and_redriven(http: httpx.AsyncClient) -> None:
    await with_dead_letters(http)
    dead = "/subscriptions/billing/dead-letters"
    letters = (await http.get(dead)).json()["dead_letters"]
    assert [(letter["number"], letter["payload"], letter["reason"]) for letter in letters] == [
        (1, 0, "rejected"),
        (2, 1, "rejected"),
        (3, 2, "rejected"),
    ]
    groups = (await http.get(f"{dead}/groups")).json()["groups"]
    assert [group["count"] for group in groups] == [2, 1]
    of_one = {"fingerprint": groups[1]["fingerprint"]}
    assert [letter["number"] for letter in (await http.get(dead, params=of_one)).json()["dead_letters"]] == [1]
    assert [
        each["number"] for each in (await http.get(dead, params={"after": 1, "max": 1})).json()["dead_letters"]
    ] == [2]
    corrected = await http.patch(f"{dead}/2", json={"payload": {"vat": 19}, "headers": {"by": "hand"}})
    assert (corrected.json()["payload"], corrected.json()["edited"]) == ({"vat": 19}, True)
    assert (await http.get(f"{dead}/2")).json()["headers"] == {"by": "hand"}
    redriven = await http.post(f"{dead}/redrive", json={"number": 2})
    assert (redriven.status_code, redriven.json()) == (202, {"count": 1})
    [message] = await pulled(http)
    assert (message["payload"], message["redriven"]) == ({"vat": 19}, True)
    assert (await http.delete(f"{dead}/3")).status_code == 204
    assert (await http.delete(dead)).json() == {"count": 1}


async def test_a_dead_letter_takes_bytes_and_text(http: httpx.AsyncClient) -> None:
    await with_dead_letters(http)
    letter = "/subscriptions/billing/dead-letters/1"
    changed = await http.patch(letter, json={"payload_base64": "AP8=", "content_type": "image/png"})
    assert (changed.json()["payload_base64"], changed.json()["content_type"]) == ("AP8=", "image/png")
    changed = await http.patch(letter, json={"payload": "größer", "content_type": "text/plain"})
    assert changed.json()["payload"] == "größer"
    for wrong in ({"payload": 1}, {"payload": "x", "payload_base64": "AA=="}, {"payload_base64": "?"}, {"sequence": 2}):
        assert (await http.patch(letter, json=wrong)).json()["code"] in ("invalid_payload", "invalid_option")
    assert (await http.get("/subscriptions/billing/dead-letters/99")).json()["code"] == "not_found"


# --- messages ---


async def test_messages_are_peeked_at_deleted_and_purged(http: httpx.AsyncClient) -> None:
    await publish(http, 3)
    await http.post("/queues/orders/events/scanned", content=b"\xff", headers={"content-type": "image/png"})
    messages = (await http.get("/queues/orders/messages")).json()["messages"]
    assert [message.get("payload", message.get("payload_base64")) for message in messages] == [0, 1, 2, "/w=="]
    of_two = {"from": "2", "max": 2}
    peeked = (await http.get("/queues/orders/messages", params=of_two)).json()["messages"]
    assert [message["sequence"] for message in peeked] == [2, 3]
    assert (await http.delete("/queues/orders/messages/2")).status_code == 204
    left = (await http.get("/queues/orders/messages")).json()["messages"]
    assert [message["sequence"] for message in left] == [1, 3, 4]
    assert (await http.post("/queues/orders/purge")).status_code == 200
    assert (await http.get("/queues/orders/messages")).json()["messages"] == []
    assert (await http.get("/queues/nothing/messages")).json()["code"] == "not_found"


# --- what is misspelled ---


@pytest.mark.parametrize(
    ("method", "path", "headers", "says"),
    [
        ("GET", "/queues?affter=x", {}, "did you mean 'after'"),
        ("GET", "/subscriptions/x/messages?maximum=1", {}, "'maximum' is not known"),
        ("GET", "/health?x", {}, "'x' is not known"),
        ("POST", "/queues/q/events/e", {"Tidings-Dealy": "5"}, "did you mean 'tidings-delay'"),
        ("PUT", "/queues/q", {"Tidings-Header-x": "5"}, "'tidings-header-x' is not known"),
    ],
)
async def test_what_is_misspelled_is_refused_and_nothing_is_done(
    http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], says: str
) -> None:
    answer = await http.request(method, path, headers=headers, content=b"1" if method == "POST" else b"")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_option")
    assert says in answer.json()["detail"]
    assert (await http.get("/queues/q")).status_code == 404


# --- changes that are guarded ---


@pytest.mark.parametrize(
    ("path", "change", "other"),
    [
        ("/queues/orders", {"history_messages": 1}, {"history_messages": 2}),
        ("/subscriptions/billing", {"attempts_max": 1}, {"attempts_max": 2}),
        ("/subscriptions/billing/dead-letters/1", {"payload": 1}, {"payload": 2}),
    ],
)
async def test_a_change_holds_only_for_what_was_seen(
    http: httpx.AsyncClient, path: str, change: dict[str, Any], other: dict[str, Any]
) -> None:
    await with_dead_letters(http)
    seen = (await http.get(path)).headers["etag"]
    assert (await http.get(path)).headers["etag"] == seen
    changed = await http.patch(path, json=change, headers={"If-Match": seen})
    assert changed.status_code == 200
    assert changed.headers["etag"] != seen
    late = await http.patch(path, json=other, headers={"If-Match": seen})
    assert (late.status_code, late.json()["code"]) == (412, "changed")
    assert (await http.get(path)).headers["etag"] == changed.headers["etag"]
    for tag, status in ((changed.headers["etag"], 200), ("*", 200), ("unquoted", 400), ('W/"weak"', 400)):
        answer = await http.patch(path, json=other, headers={"If-Match": tag})
        assert answer.status_code == status, tag


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/queues/orders", {"history_messages": 1}),
        ("/subscriptions/billing", {"attempts_max": 1}),
        ("/subscriptions/billing/dead-letters/1", {"payload": 1}),
    ],
)
async def test_only_what_was_seen_is_deleted(http: httpx.AsyncClient, path: str, change: dict[str, Any]) -> None:
    await with_dead_letters(http)
    await http.delete("/subscriptions/billing/hold")
    seen = (await http.get(path)).headers["etag"]
    changed = await http.patch(path, json=change)
    late = await http.delete(path, headers={"If-Match": seen})
    assert (late.status_code, late.json()["code"]) == (412, "changed")
    assert (await http.get(path)).status_code == 200
    assert (await http.delete(path, headers={"If-Match": "unquoted"})).status_code == 400
    assert (await http.delete(path, headers={"If-Match": changed.headers["etag"]})).status_code == 204
    assert (await http.get(path)).status_code == 404
    assert (await http.delete(path, headers={"If-Match": seen})).status_code == 404


async def test_what_is_not_there_matches_no_tag(http: httpx.AsyncClient) -> None:
    answer = await http.put("/queues/orders", json={}, headers={"If-Match": '"any"'})
    assert (answer.status_code, answer.json()["code"]) == (412, "changed")
    assert (await http.get("/queues/orders")).status_code == 404


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
async def test_a_body_that_is_encoded_is_refused_and_not_taken_for_another(
    http: httpx.AsyncClient, encoding: str
) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    answer = await http.post("/queues/orders/events/created", content=b"\x1f\x8b...", headers=headers)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert "as it is" in answer.json()["detail"]
    assert (await http.get("/queues/orders")).status_code == 404
    headers["content-encoding"] = "identity"
    assert (await http.post("/queues/orders/events/created", content=b"1", headers=headers)).status_code == 201


# --- looking ---


@pytest.mark.parametrize(
    "path", ["/health", "/queues", "/queues/orders", "/queues/nobodys", "/openapi.json", "/nothing"]
)
async def test_a_head_is_answered_as_a_get_without_its_body(http: httpx.AsyncClient, path: str) -> None:
    await http.put("/queues/orders")
    got, looked = await http.get(path), await http.head(path)
    assert (looked.status_code, looked.headers, looked.content) == (got.status_code, got.headers, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/subscriptions/billing/messages",
        "/subscriptions/billing/messages/",
        "/subscriptions//billing/messages",
        "/subscriptions/billing/events",
        "/queues/orders/events",
    ],
)
async def test_a_head_is_delivered_nothing(http: httpx.AsyncClient, path: str) -> None:
    await subscribed(http)
    await publish(http)
    assert (await http.head(path)).status_code == 405
    assert len(await pulled(http)) == 1
