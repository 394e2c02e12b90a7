"""Server-Sent Events: places that are kept and handed back, gaps, acks, and what is refused."""

import asyncio

import httpx
import pytest

import tidings
from tests.integration.processes import eventually
from tests.unit.gateways.http.conftest import http_client, serving
from tests.unit.gateways.http.event_source import event_source
from tidings import limits
from tidings.gateways.http import event_streams
from tidings.gateways.messages import parse_position, spell_position

DEADLINE_S = 10


async def publish(http: httpx.AsyncClient, queue: str, event: str, *payloads: int) -> None:
    for payload in payloads:
        answer = await http.post(f"/queues/{queue}/events/{event}", json=payload)
        assert answer.status_code == 201


async def test_a_message_is_an_event_of_its_name_with_the_position_as_id(http: httpx.AsyncClient) -> None:
    async with event_source(http, "/queues/orders/events") as source:
        assert source.retry == event_streams.RETRY_MS
        await publish(http, "orders", "created", 7)
        event = await source.next()
    assert event.type == "created"
    assert event.id == event.data["position"]
    assert (event.data["queue"], event.data["sequence"], event.data["payload"]) == ("orders", 1, 7)


async def test_a_catch_all_stream_has_messages_only(http: httpx.AsyncClient) -> None:
    async with event_source(http, "/queues/orders/events?catch_all=true") as source:
        await publish(http, "orders", "created", 7)
        event = await source.next()
    assert (event.type, event.data["event"]) == ("message", "created")


async def test_filters_select_events_and_queues(http: httpx.AsyncClient) -> None:
    async with event_source(http, "/queues/orders.*/events?event=paid.%23&from=earliest") as source:
        await publish(http, "orders.eu", "created", 1)
        await publish(http, "orders.us", "paid.card", 2)
        await publish(http, "orders", "paid", 3)
        await publish(http, "orders.eu", "paid", 4)
        found = [(event.data["queue"], event.data["payload"]) for event in await source.take(2)]
    assert sorted(found) == [("orders.eu", 4), ("orders.us", 2)]


async def test_filters_select_by_headers_and_last_begins_with_the_last_of_each_event(http: httpx.AsyncClient) -> None:
    for event, region in (("a", "eu"), ("b", "eu"), ("a", "us"), ("a", "eu")):
        headers = {"Tidings-Header-Region": region}
        await http.post(f"/queues/orders/events/{event}", json=region, headers=headers)
    for path in ("/queues/orders/events?", "/subscriptions/s/events?queue=orders&"):
        async with event_source(http, f"{path}header=region%3Deu&from=earliest") as source:
            assert [event.data["sequence"] for event in await source.take(3)] == [1, 2, 4]
    async with event_source(http, "/queues/orders/events?from=last") as source:
        assert [event.data["sequence"] for event in await source.take(2)] == [2, 4]


@pytest.mark.parametrize("received", range(6))
async def test_who_comes_back_goes_on_exactly_there(http: httpx.AsyncClient, received: int) -> None:
    async with event_source(http, "/queues/orders/events") as source:
        await publish(http, "orders", "created", *range(5))
        await source.take(received)
    await publish(http, "orders", "created", 5)
    async with event_source(http, "/queues/orders/events", source.last_event_id) as again:
        assert [event.data["payload"] for event in await again.take(6 - received)] == list(range(received, 6))


@pytest.mark.parametrize("path", ["/queues/orders.*/events", "/subscriptions/s/events?queue=orders.*&ack=write"])
async def test_who_comes_back_from_nowhere_missed_nothing(http: httpx.AsyncClient, path: str) -> None:
    async with event_source(http, path) as source:
        pass
    await http.delete("/subscriptions/s")
    await publish(http, "orders.eu", "created", 1)
    async with event_source(http, path, source.last_event_id) as again:
        event = await again.next()
        assert (event.type, event.data["payload"]) == ("created", 1), "no gap"
        assert again.last_event_id.endswith(event.data["position"])


async def test_a_position_may_stand_in_the_address_and_the_header_goes_before_it(http: httpx.AsyncClient) -> None:
    async with event_source(http, "/queues/orders/events") as source:
        await publish(http, "orders", "created", 1, 2, 3)
        ids = [event.id for event in await source.take(3)]
    async with event_source(http, f"/queues/orders/events?position={ids[0]}") as again:
        assert (await again.next()).data["payload"] == 2
    async with event_source(http, f"/queues/orders/events?position={ids[0]}", ids[1]) as again:
        assert (await again.next()).data["payload"] == 3


async def test_the_id_of_a_reader_of_several_queues_is_its_place_in_all_of_them(http: httpx.AsyncClient) -> None:
    await publish(http, "orders.eu", "created", 1)
    await publish(http, "orders.us", "created", 2)
    async with event_source(http, "/queues/orders.*/events") as source:
        await publish(http, "orders.us", "created", 3)
        await source.next()
    await publish(http, "orders.eu", "created", 4)
    await publish(http, "orders.us", "created", 5)
    await publish(http, "orders.jp", "created", 6)
    async with event_source(http, "/queues/orders.*/events", source.last_event_id) as again:
        assert sorted(event.data["payload"] for event in await again.take(3)) == [4, 5, 6]


async def test_a_reader_of_queues_of_which_there_were_none_may_read_as_many(http: httpx.AsyncClient) -> None:
    async with event_source(http, "/queues/q.*/events") as source:
        for number in range(limits.POSITION_QUEUES_MAX):
            await publish(http, f"q.{number}", "e", number)
        assert len(await source.take(limits.POSITION_QUEUES_MAX)) == limits.POSITION_QUEUES_MAX
    await publish(http, "q.0", "e", "again")
    async with event_source(http, "/queues/q.*/events", source.last_event_id) as again:
        assert (await again.next()).data["payload"] == "again"


async def test_more_queues_than_a_position_holds_are_refused_or_end_the_stream(http: httpx.AsyncClient) -> None:
    for number in range(limits.POSITION_QUEUES_MAX):
        await publish(http, f"q.{number}", "e", number)
    async with event_source(http, "/queues/q.*/events?from=earliest") as source:
        await source.take(limits.POSITION_QUEUES_MAX)
        await publish(http, "q.more", "e", 1)
        event = await source.next()
        assert (event.type, event.data["code"]) == ("$error", "limit_reached")
        with pytest.raises(StopAsyncIteration):
            await source.next()
    refused = await http.get("/queues/q.*/events", headers={"Last-Event-ID": source.last_event_id})
    assert refused.status_code == 429
    assert "subscription" in refused.json()["detail"]


async def test_a_position_from_a_queue_that_was_deleted_is_a_gap_and_nothing_is_skipped(
    http: httpx.AsyncClient, native: str
) -> None:
    async with event_source(http, "/queues/orders/events") as source:
        await publish(http, "orders", "created", 1, 2, 3)
        await source.take(3)
    async with tidings.connect(native) as client:
        await client.delete_queue("orders")
    await publish(http, "orders", "created", 4)
    async with event_source(http, "/queues/orders/events", source.last_event_id) as again:
        gap, message = await again.take(2)
    assert (gap.type, gap.data["first_sequence"], gap.data["count"]) == ("$gap", 4, None)
    assert (message.data["sequence"], message.data["payload"]) == (1, 4)
    async with event_source(http, "/queues/orders/events", message.id) as after:
        await publish(http, "orders", "created", 5)
        assert (await after.next()).data["payload"] == 5


@pytest.mark.parametrize("path", ["/queues/orders/events", "/subscriptions/b/events?queue=orders"])
async def test_a_position_from_a_server_that_kept_nothing_is_a_gap_and_nothing_is_skipped(path: str) -> None:
    last_event_id = ""
    for life in (1, 2):
        async with serving() as (url, _), http_client(url) as http:
            await publish(http, "orders", "created", *range(5) if life == 1 else range(10, 13))
            place = last_event_id if life == 2 else None
            start = "&from=earliest" if "?" in path else "?from=earliest"
            async with event_source(http, path + start, place) as source:
                if life == 2:
                    gap = await source.next()
                    assert (gap.type, gap.data["first_sequence"]) == ("$gap", 6)
                events = await source.take(5 if life == 1 else 3)
                assert [event.data["payload"] for event in events] == [*range(5)] if life == 1 else [10, 11, 12]
                last_event_id = source.last_event_id


@pytest.mark.parametrize("last_event_id", ["7", "x", "1-", "1 -1", "-1", "1-1.2", "9" * 4000, "é"])
@pytest.mark.parametrize("path", ["/queues/orders/events", "/subscriptions/b/events?queue=orders"])
async def test_an_invalid_position_is_refused_and_makes_nothing(
    http: httpx.AsyncClient, native: str, path: str, last_event_id: str
) -> None:
    refused = await http.get(path, headers={"Last-Event-ID": last_event_id.encode("latin-1")})  # type: ignore[dict-item]
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_option")
    assert "position" in refused.json()["detail"]
    async with tidings.connect(native) as client:
        assert "orders" not in [queue.name for queue in await client.queues()]
        assert await client.subscriptions() == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/queues/orders/events?form=earliest", 400, "invalid_option"),
        ("/queues/orders/events?from=yesterday", 400, "invalid_option"),
        ("/queues/orders/events?from=0", 400, "invalid_option"),
        ("/queues/orders/events?from=5", 400, "invalid_option"),
        ("/queues/orders/events?from=2026-01-31T08:00:00", 400, "invalid_option"),
        ("/queues/orders/events?event=a..b", 400, "invalid_filter"),
        ("/queues/orders/events?catch_all=maybe", 400, "invalid_option"),
        ("/queues/a%20b/events", 400, "invalid_filter"),
        ("/subscriptions/nobody/events", 404, "not_found"),
        ("/subscriptions/nobody/events?event=a", 400, "invalid_option"),
        ("/subscriptions/b/events?queue=orders&ack=never", 400, "invalid_option"),
        ("/subscriptions/b/events?queue=orders&in_flight_max=-1", 400, "invalid_option"),
        ("/subscriptions/a%20b/events?queue=orders", 400, "invalid_name"),
        ("/subscriptions/b/events?queue=orders&client_id=a%20b", 400, "invalid_name"),
    ],
)
async def test_what_cannot_be_streamed_is_a_problem(
    http: httpx.AsyncClient, path: str, status: int, code: str | None
) -> None:
    refused = await http.get(path)
    assert (refused.status_code, refused.json().get("code")) == (status, code)
    assert refused.headers["content-type"] == "application/problem+json"


# --- subscriptions ---


async def test_what_is_not_acked_comes_again(http: httpx.AsyncClient, native: str) -> None:
    path = "/subscriptions/billing/events?queue=orders"
    async with event_source(http, path) as source:
        await publish(http, "orders", "created", 1, 2)
        events = await source.take(2)
    async with event_source(http, path, events[-1].id) as again:
        assert [event.data["payload"] for event in await again.take(2)] == [1, 2]
    await subscriber_gone(native)
    async with tidings.connect(native) as client, client.subscribe("orders", name="billing") as subscription:
        message = await anext(aiter(subscription))
        assert message.payload == 1


async def test_what_was_written_is_acked_if_that_was_asked_for(http: httpx.AsyncClient, native: str) -> None:
    async with event_source(http, "/subscriptions/billing/events?queue=orders&ack=write") as source:
        await publish(http, "orders", "created", 1, 2)
        await source.take(2)
        await all_settled(native)


@pytest.mark.parametrize("received", range(4))
async def test_what_was_acked_on_write_and_not_received_comes_again(
    http: httpx.AsyncClient, native: str, received: int
) -> None:
    path = "/subscriptions/billing/events?queue=orders&ack=write"
    async with event_source(http, path) as source:
        await publish(http, "orders", "created", *range(4))
        await source.take(received)
        last_event_id = source.last_event_id
        await source.take(4 - received)
        await all_settled(native)
    async with event_source(http, path, last_event_id) as again:
        await publish(http, "orders", "created", 4)
        assert [event.data["payload"] for event in await again.take(5 - received)] == list(range(received, 5))


@pytest.mark.parametrize("before", [0, 1])
async def test_what_was_acked_on_write_of_a_queue_that_is_new_comes_again(
    http: httpx.AsyncClient, native: str, before: int
) -> None:
    path = "/subscriptions/billing/events?queue=orders.*&ack=write"
    for number in range(before):
        await publish(http, f"orders.{number}", "created", "before")
    async with event_source(http, path) as source:
        last_event_id = source.last_event_id
        await publish(http, "orders.new", "created", 1)
        await source.take(1)
        await all_settled(native)
    async with event_source(http, path, last_event_id) as again:
        assert (await again.next()).data["payload"] == 1


async def test_a_reader_of_several_queues_has_its_place_in_all_of_them_from_the_beginning(
    http: httpx.AsyncClient, native: str
) -> None:
    path = "/subscriptions/billing/events?queue=orders.*&ack=write"
    queues = [f"orders.{number:02}" for number in range(40)]
    for queue in queues[:2]:
        await publish(http, queue, "created", "before")
    async with event_source(http, path) as source:
        for payload, queue in enumerate(queues[:2]):
            await publish(http, queue, "created", payload)
        [event, _] = await source.take(2)
        await all_settled(native)
    async with event_source(http, path, event.id) as again:
        assert [event.data["payload"] for event in await again.take(1)] == [1], "of a queue that it got nothing of"
    for queue in queues[2:]:
        await publish(http, queue, "created", 2)
    async with event_source(http, path, again.last_event_id) as again:
        await again.take(38)
    async with event_source(http, path, again.last_event_id) as last:
        assert last.last_event_id.count("-") == 32
        await publish(http, "orders.39", "created", 3)
        assert (await last.next()).data["payload"] == 3


async def test_a_reader_that_comes_back_replaces_its_own_stream_and_no_other(
    http: httpx.AsyncClient, native: str
) -> None:
    path = "/subscriptions/billing/events?queue=orders"
    async with event_source(http, path) as former:
        second = await http.get(path)
        assert (second.status_code, second.json()["code"]) == (409, "subscription_in_use")
        async with event_source(http, path, former.last_event_id) as again:
            with pytest.raises(StopAsyncIteration):
                await former.next()
            await publish(http, "orders", "created", 1)
            assert (await again.next()).data["payload"] == 1
    await subscriber_gone(native)
    async with tidings.connect(native) as client, client.subscribe("orders", name="billing"):
        other = await http.get(path, headers={"Last-Event-ID": former.last_event_id})
        assert (other.status_code, other.json()["code"]) == (409, "subscription_in_use")


async def test_a_client_id_is_known_and_comes_back(http: httpx.AsyncClient, native: str) -> None:
    path = "/subscriptions/billing/events?queue=orders&client_id=page"
    async with event_source(http, path) as former, tidings.connect(native) as client:
        [info] = [info for info in await client.clients() if info.client_id == "page"]
        assert (info.protocol, info.subscriptions) == ("sse", ["billing"])
        async with event_source(http, path, former.last_event_id):
            [info] = [info for info in await client.clients() if info.client_id == "page"]
            assert info.connected
            refused = await http.get(path)
            assert (refused.status_code, refused.json()["code"]) == (409, "client_id_in_use")


async def test_a_subscription_is_read_as_it_is_without_its_queue(http: httpx.AsyncClient, native: str) -> None:
    async with (
        tidings.connect(native) as client,
        client.subscribe("orders", "created", shared="team"),
        event_source(http, "/subscriptions/team/events") as source,
    ):
        assert source.last_event_id == spell_position({0: 0})
        await client.publish("orders", "other", 1)
        for number in range(2):
            await client.publish("orders", "created", number)
        event = await source.next()
        assert event.type == "created"
        assert len(parse_position(event.id)) == 1


async def test_the_subscription_is_free_when_its_reader_is_gone(http: httpx.AsyncClient, native: str) -> None:
    async with event_source(http, "/subscriptions/billing/events?queue=orders") as source:
        await publish(http, "orders", "created", 1)
        await source.next()
    await subscriber_gone(native)


async def all_settled(native: str) -> None:
    async with tidings.connect(native) as client:

        async def no_lag() -> bool:
            return {info.lag for info in await client.subscriptions() if info.name == "billing"} == {0}

        await eventually(no_lag, what="all is settled")


async def subscriber_gone(native: str) -> None:
    async with tidings.connect(native) as client:

        async def free() -> bool:
            return not any(info.connected for info in await client.subscriptions() if info.name == "billing")

        await eventually(free, what="the subscription is free")


async def test_silence_is_filled_with_comments(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_MS", 10)
    async with event_source(http, "/queues/orders/events") as source:
        async with asyncio.timeout(DEADLINE_S):
            while source.comments < 3:
                assert await source._dispatch() is None
        await publish(http, "orders", "created", 1)
        assert (await source.next()).data["payload"] == 1
