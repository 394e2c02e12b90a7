"""Subscribing, against a server that does what each test tells it."""

import asyncio

import msgspec
import pytest

import tidings
from tests.unit.client.fake_server import (
    FakeConnection,
    FakeServer,
    Order,
    acked,
    delivery,
    handle,
    json_delivery,
    take,
)
from tidings import limits
from tidings.wire import Frame, Gap, Refusal, Subscribe
from tidings.wire.frames import KIND_OF


async def test_messages_arrive_with_all_they_have(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        assert (subscription.name, subscription.durable, subscription.created) == ("me:orders/#", True, True)
        frame, body = json_delivery(handle(server), 5, {"id": 1}, {"id": 2})
        server.latest.send(msgspec.structs.replace(frame, attempts=[(6, 3)]), body)
        first, second = await take(subscription, 2)
    assert (first.queue, first.event, first.sequence, first.epoch) == ("orders", "created", 5, 1)
    assert (first.payload, first.data, first.content_type) == ({"id": 1}, b'{"id":1}', "application/json")
    assert (first.id, first.key, first.headers, first.error) == (None, None, {}, None)
    assert (first.attempt, first.redelivered, second.attempt, second.redelivered) == (1, False, 3, True)
    assert (first.time_ms, first.time.isoformat()) == (1_700_000_000_000, "2023-11-14T22:13:20+00:00")


async def test_acks_of_one_turn_are_one_range(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(*delivery(handle(server), 1, [b"x"] * 500))
        count = 0
        async for message in subscription:
            await message.ack()
            count += 1
            if count == 500:
                break
        await server.until(lambda: acked(server))
    assert acked(server) == [(1, 1, 500)]


async def test_batches_are_acked_whole(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(*json_delivery(handle(server), 3, 1, 2, 3))
        async for batch in subscription.batches():
            assert (len(batch), batch.first_sequence, batch.last_sequence, batch.queue) == (3, 3, 5, "orders")
            assert batch.payloads == [1, 2, 3]
            assert [(message.sequence, message.payload) for message in batch] == [(3, 1), (4, 2), (5, 3)]
            await batch.ack(wait=True)
            break
    assert acked(server) == [(1, 3, 5)]


async def test_ranges_and_cumulative_acks(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        with pytest.raises(tidings.NeverDelivered):
            await subscription.ack(1, 2)
        server.latest.send(*json_delivery(handle(server), 1, 1, 2, 3))
        messages = await take(subscription, 3)
        await subscription.ack(2, 2, wait=True)
        await subscription.ack_to(messages[2], wait=True)
        with pytest.raises(tidings.InvalidOption):
            await subscription.ack(3, 2)
    assert acked(server) == [(1, 2, 2), (1, 1, 3)]


async def test_a_durable_ack_that_comes_too_late_raises(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(*json_delivery(handle(server), 1, 1))
        (message,) = await take(subscription, 1)
    with pytest.raises(tidings.DeliveryTakenAway):
        await message.ack(wait=True)


async def test_an_ack_that_comes_too_late_is_reported(
    server: FakeServer, client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(*json_delivery(handle(server), 1, 1))
        (message,) = await take(subscription, 1)
    await message.ack()
    assert "came after subscription 'me:orders/#' was closed" in caplog.text


async def test_a_reconnect_resumes_the_subscription(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(*json_delivery(handle(server), 1, 1, 2, 3))
        (message,) = await take(subscription, 1)
        await message.ack(wait=True)
        server.cut()
        await server.until(lambda: len(server.connections) == 2 and server.latest.of(Subscribe))
        again = server.latest.of(Subscribe)[0]
        assert isinstance(again, Subscribe)
        assert (again.name, again.resume[0].acked) == ("me:orders/#", [(1, 1)])
        server.latest.send(*json_delivery(again.handle, 2, 2, 3))
        assert [message.payload for message in await take(subscription, 2)] == [2, 3]


async def test_several_tasks_share_the_messages(server: FakeServer, client: tidings.Client) -> None:
    seen: list[int] = []

    async def work(subscription: tidings.Subscription) -> None:
        async for message in subscription:
            seen.append(message.sequence)
            await asyncio.sleep(0)
            if len(seen) == 100:
                await subscription.close()

    async with client.subscribe("orders") as subscription:
        server.latest.send(*delivery(handle(server), 1, [b""] * 60))
        server.latest.send(*delivery(handle(server), 61, [b""] * 40))
        await asyncio.gather(*[work(subscription) for _ in range(5)])
    assert sorted(seen) == list(range(1, 101))


async def test_payloads_are_decoded_as_the_type_that_was_asked_for(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders", type=Order) as subscription:
        server.latest.send(*json_delivery(handle(server), 1, {"id": 1}, {"id": "x"}, {"id": 3}))
        good, bad, after = await take(subscription, 3)
    assert (good.payload, after.payload) == (Order(1), Order(3))
    for _ in range(2):
        with pytest.raises(tidings.InvalidPayload, match=r"message 2 of queue 'orders' .*epoch 1.*'created'.*\$\.id"):
            _ = bad.payload
    assert isinstance(bad.error, tidings.InvalidPayload)
    assert good.error is None


async def test_json_that_is_none_is_reported_with_its_place(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(*delivery(handle(server), 9, [b"{"], content_type="application/json"))
        (message,) = await take(subscription, 1)
        assert message.data == b"{"
        with pytest.raises(tidings.InvalidPayload, match="message 9"):
            _ = message.payload


async def test_bytes_do_not_pass_as_another_type(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders", type=Order) as subscription:
        server.latest.send(*delivery(handle(server), 1, [b'{"id": 1}']))
        async for batch in subscription.batches():
            with pytest.raises(tidings.InvalidPayload):
                _ = batch.payloads
            break


async def test_a_refused_subscription_raises_on_entering(server: FakeServer, client: tidings.Client) -> None:
    def refuse(connection: FakeConnection, frame: Frame) -> None:
        assert isinstance(frame, Subscribe)
        connection.send(Refusal(KIND_OF[Subscribe], frame.request, "subscription_in_use", "taken"))

    server.answers[Subscribe] = refuse
    with pytest.raises(tidings.SubscriptionInUse):
        async with client.subscribe("orders"):
            pass
    with pytest.raises(tidings.SubscriptionInUse):
        await take(client.subscribe("orders"), 1)


async def test_a_subscription_refused_after_a_reconnect_ends_its_iteration(
    server: FakeServer, client: tidings.Client
) -> None:
    async with client.subscribe("orders") as subscription:

        def refuse(connection: FakeConnection, frame: Frame) -> None:
            assert isinstance(frame, Subscribe)
            connection.send(Refusal(KIND_OF[Subscribe], frame.request, "subscription_conflict", "other filter"))

        server.answers[Subscribe] = refuse
        server.cut()
        with pytest.raises(tidings.SubscriptionConflict):
            await take(subscription, 1)


async def test_a_closed_subscription_is_attached_again_only_when_told(
    server: FakeServer, client: tidings.Client
) -> None:
    async with client.subscribe("orders") as subscription:
        pass
    assert await take(subscription, 1) == []
    async with subscription:
        server.latest.send(*json_delivery(handle(server), 1, 1))
        assert len(await take(subscription, 1)) == 1
    assert len(server.latest.of(Subscribe)) == 2


async def test_subscribing_times_out(server: FakeServer, client: tidings.Client) -> None:
    server.mute.add(Subscribe)
    with pytest.raises(tidings.TimedOut, match="subscribing to orders/#"):
        async with client.subscribe("orders", timeout=0.01):
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"start": "middle"},
        {"start": 0},
        {"start": True},
        {"in_flight_max": 0},
        {"in_flight_max": limits.IN_FLIGHT_MAX + 1},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"ack_timeout": 0.01},
        {"ack_timeout": "soon"},
        {"ack_timeout": 25 * 3600},
        {"expires_after": -1},
        {"name": "white space"},
        {"attempts_max": 0},
        {"backoff_min": 0},
        {"backoff_max": 8 * 24 * 3600},
    ],
)
async def test_options_out_of_range_are_refused_at_once(client: tidings.Client, options: dict) -> None:
    with pytest.raises(tidings.InvalidInput):
        client.subscribe("orders", **options)


async def test_an_address_is_queue_and_event(server: FakeServer, client: tidings.Client) -> None:
    for arguments in [("orders",), ("orders/user.*",), ("orders", "created")]:
        async with client.subscribe(*arguments):
            pass
    asked = [(frame.queue, frame.event) for frame in server.received_frames if isinstance(frame, Subscribe)]
    assert asked == [("orders", "#"), ("orders", "user.*"), ("orders", "created")]


async def test_gaps_are_seen_and_logged(
    server: FakeServer, client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(Gap(handle(server), "orders", 1, 1, 4, "trimmed"))
        server.latest.send(*json_delivery(handle(server), 5, 5))
        await take(subscription, 1)
        assert [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in subscription.gaps] == [(1, 4, "trimmed")]
    assert "1 to 4" in caplog.text


async def test_a_subscription_that_nobody_refers_to_is_detached(server: FakeServer, client: tidings.Client) -> None:
    async def look() -> None:
        await take(client.subscribe("orders"), 1)

    task = asyncio.ensure_future(look())
    await server.until(lambda: server.latest.of(Subscribe))
    server.latest.send(*json_delivery(handle(server), 1, 1, 2, 3))
    await task
    await server.until(lambda: any(type(frame).__name__ == "Unsubscribe" for frame in server.received_frames))
