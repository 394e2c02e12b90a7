"""The asynchronous client against a server that does what each test tells it."""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import msgspec
import pytest

import tidings
from tests.unit.client.fake_server import FakeConnection, FakeServer, delivery, json_delivery
from tidings import calls, limits
from tidings.client.transport import TcpDialer
from tidings.model import DeadLetterInfo, Failure
from tidings.wire import (
    Ack,
    Call,
    Confirmed,
    Extend,
    Frame,
    Gap,
    Goodbye,
    Hello,
    List,
    Listing,
    Nack,
    Publish,
    Refusal,
    Result,
    Subscribe,
)
from tidings.wire.frames import KIND_OF


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer().listening() as server:
        yield server


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[tidings.Client]:
    async with tidings.connect(server.url, client_id="me", randomness=random.Random(1)) as client:
        yield client


def handle(server: FakeServer) -> int:
    """Returns the handle of the subscription that was asked for last."""
    frame = server.latest.of(Subscribe)[-1]
    assert isinstance(frame, Subscribe)
    return frame.handle


def acked(server: FakeServer) -> list[tuple[int, int, int]]:
    return [each for frame in server.received_frames if isinstance(frame, Ack) for each in frame.ranges]


async def take(subscription: tidings.Subscription, count: int) -> list[tidings.Message]:
    messages: list[tidings.Message] = []
    async for message in subscription:
        messages.append(message)
        if len(messages) == count:
            break
    return messages


# --- Publishing ---


async def test_a_publish_returns_its_confirm(client: tidings.Client) -> None:
    confirm = await client.publish("orders", "created", {"id": 7})
    assert confirm == tidings.Confirm("orders", 1, 1, 1, "disk", 1)


async def test_publishes_of_one_turn_travel_together_in_order(server: FakeServer, client: tidings.Client) -> None:
    confirms = await asyncio.gather(*[client.publish("orders", "created", number) for number in range(100)])
    assert [confirm.sequence for confirm in confirms] == list(range(1, 101))
    assert server.stored["orders"] == [(1, 100)]


@dataclass
class Order:
    id: int


class Bill(msgspec.Struct):
    total: float


async def test_payloads_are_bytes_or_json(server: FakeServer, client: tidings.Client) -> None:
    for payload in (b"\x00", bytearray(b"\x01"), memoryview(b"\x02"), {"a": 1}, Order(7), Bill(1.5), None, "text"):
        await client.publish("orders", "created", payload)
    await client.publish("orders", "created", "text", content_type="text/plain")
    await client.publish("orders", "created", b"{}", content_type="application/json")
    kinds = [frame.runs[0].content_type for frame in server.received_frames if isinstance(frame, Publish)]
    assert kinds == ["application/octet-stream"] * 3 + ["application/json"] * 5 + ["text/plain", "application/json"]
    data = [msgspec.msgpack.decode(body)[0] for body in server.bodies]
    assert data == [b"\0", b"\1", b"\2", b'{"a":1}', b'{"id":7}', b'{"total":1.5}', b"null", b'"text"', b"text", b"{}"]


async def test_id_key_and_headers_travel_with_the_message(server: FakeServer, client: tidings.Client) -> None:
    await client.publish("orders", "created", b"", id="i", key="k", headers={"a": "b"})
    assert msgspec.msgpack.decode(server.bodies[0]) == [b"", "i", "k", {"a": "b"}]
    (frame,) = [frame for frame in server.received_frames if isinstance(frame, Publish)]
    assert frame.runs[0].flags == 7


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("or ders", "created", 1), {}, tidings.InvalidName),
        (("orders", "cre*ated", 1), {}, tidings.InvalidName),
        (("orders", "", 1), {}, tidings.InvalidName),
        ((7, "created", 1), {}, tidings.InvalidOption),
        (("orders", ["created"], 1), {}, tidings.InvalidOption),
        (("orders", "created", object()), {}, tidings.InvalidPayload),
        (("orders", "created", "\ud800"), {}, tidings.InvalidPayload),
        (("orders", "created", {"a": 1}), {"content_type": "text/plain"}, tidings.InvalidPayload),
        (("orders", "created", b"x" * (limits.PAYLOAD_SIZE_BYTES_MAX + 1)), {}, tidings.PayloadTooLarge),
        (("orders", "created", "x" * limits.PAYLOAD_SIZE_BYTES_MAX), {}, tidings.PayloadTooLarge),
        (("orders", "created", 1), {"headers": {"a": 1}}, tidings.InvalidOption),
        (("orders", "created", 1), {"headers": {"a": "\ud800"}}, tidings.InvalidOption),
        (("orders", "created", 1), {"headers": {"a": "b" * 9000}}, tidings.PayloadTooLarge),
        (("orders", "created", 1), {"headers": {str(n): "" for n in range(65)}}, tidings.InvalidOption),
        (("orders", "created", 1), {"id": ""}, tidings.InvalidOption),
        (("orders", "created", 1), {"key": "x" * 256}, tidings.InvalidOption),
        (("orders", "created", 1), {"content_type": ""}, tidings.InvalidOption),
    ],
)
async def test_what_can_never_work_is_not_sent(
    server: FakeServer, client: tidings.Client, arguments: tuple, options: dict, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await client.publish(*arguments, **options)
    await client.publish("orders", "good", 1)
    assert server.stored == {"orders": [(1, 1)]}


async def test_many_are_published_in_order_with_a_confirm_for_each_batch(
    server: FakeServer, client: tidings.Client
) -> None:
    payloads = [b"%d" % number * (number % 300) for number in range(5000)]
    confirms = await client.publish_many("orders", "created", payloads)
    assert sum(confirm.count for confirm in confirms) == 5000
    assert len(confirms) == len(server.stored["orders"])
    following = 1
    for confirm in confirms:
        assert confirm.sequence == following
        following += confirm.count
    stored = [payload for body in server.bodies for payload in decode_body(body)]
    assert stored == payloads


def decode_body(body: bytes) -> list[bytes]:
    payloads: list[bytes] = []
    unpacked = msgspec.msgpack.Decoder(list[msgspec.Raw])
    low, high = 0, 100_000
    while low < high:  # the count is not in the body: find the one that fits
        middle = (low + high) // 2
        try:
            payloads = [
                msgspec.msgpack.decode(raw)[0] for raw in unpacked.decode(b"\xdd%b" % middle.to_bytes(4) + body)
            ]
        except msgspec.MsgspecError as error:
            low, high = (middle + 1, high) if "trailing" in str(error) else (low, middle)
        else:
            return payloads
    raise AssertionError("the body is not messages")


async def test_many_may_come_from_an_asynchronous_source_and_be_of_mixed_kinds(
    server: FakeServer, client: tidings.Client
) -> None:
    async def source() -> AsyncIterator[object]:
        for number in range(3):
            yield {"n": number}
            yield b"raw"
            await asyncio.sleep(0)

    confirms = await client.publish_many("orders", "created", source())
    assert sum(confirm.count for confirm in confirms) == 6


async def test_publishing_nothing_confirms_nothing(client: tidings.Client) -> None:
    assert await client.publish_many("orders", "created", []) == []


async def test_a_bad_payload_among_many_stops_them_and_says_how_far_they_came(client: tidings.Client) -> None:
    payloads = [b"good"] * limits.PUBLISH_CHUNK_COUNT + [object()]
    with pytest.raises(tidings.InvalidPayload) as caught:
        await client.publish_many("orders", "created", payloads)
    assert "were confirmed before" in caught.value.__notes__[0]
    await client.publish("orders", "created", 1)


@pytest.mark.parametrize("timeout", [None, 60])
async def test_a_time_limit_of_the_source_is_not_taken_for_that_of_the_publish(
    client: tidings.Client, timeout: float | None
) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise TimeoutError("the source is slow")

    with pytest.raises(TimeoutError, match="the source is slow"):
        await client.publish_many("orders", "created", source(), timeout=timeout)


async def test_a_refused_batch_of_many_is_raised(server: FakeServer, client: tidings.Client) -> None:
    def refuse(connection: FakeConnection, frame: Frame) -> None:
        assert isinstance(frame, Publish)
        connection.send(Refusal(KIND_OF[Publish], frame.number, "disk_full", "no space"))

    server.answers[Publish] = refuse
    with pytest.raises(tidings.DiskFull):
        await client.publish_many("orders", "created", (b"x" * 1000 for _ in range(10_000)))
    with pytest.raises(tidings.DiskFull):
        await client.publish("orders", "created", 1)


async def test_more_than_the_buffer_waits_for_room(
    server: FakeServer, client: tidings.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISH_BUFFER_BYTES_MAX", 10_000)
    session = client._session
    fullest = 0

    def payloads() -> list[bytes]:
        nonlocal fullest
        fullest = max(fullest, session._publisher.buffered_bytes)
        return [b"x" * 1000]

    many = client.publish_many("orders", "many", (each for _ in range(600) for each in payloads()))
    confirms, *singles = await asyncio.gather(many, *[client.publish("orders", "single", n) for n in range(50)])
    assert sum(confirm.count for confirm in confirms) == 600
    assert [confirm.sequence for confirm in singles] == sorted(confirm.sequence for confirm in singles)
    assert fullest < 10_000 + 300 * 1100


async def test_a_publish_waits_through_an_outage_and_is_stored_once(server: FakeServer, client: tidings.Client) -> None:
    server.mute.add(Publish)
    first = asyncio.ensure_future(client.publish("orders", "a", 1, timeout=10))
    await server.until(lambda: server.latest.of(Publish))
    server.mute.clear()
    server.cut()
    second = asyncio.ensure_future(client.publish("orders", "b", 2, timeout=10))
    assert (await first).sequence == 1
    assert (await second).sequence == 2
    assert server.stored["orders"] == [(1, 1), (2, 1)]


async def test_a_publish_that_was_never_sent_times_out_and_is_withdrawn() -> None:
    server = FakeServer()
    async with server.listening():
        client = tidings.connect(server.url)
        await client.open()
        port = int(server.url.rpartition(":")[2])
    async with asyncio.timeout(10):
        while client.connected:  # noqa: ASYNC110 # the client has no condition to wait for
            await asyncio.sleep(0)
    with pytest.raises(tidings.TimedOut, match=r"never sent.*not connected"):
        await client.publish("orders", "a", 1, timeout=0.01)
    with pytest.raises(tidings.TimedOut, match="never sent"):
        await client.publish_many("orders", "a", [1, 2], timeout=0.01)
    async with server.listening(port):
        await client.publish("orders", "b", 2)
        await client.close()
    assert server.stored["orders"] == [(1, 1)]


async def test_a_publish_that_was_sent_and_timed_out_may_be_stored(server: FakeServer, client: tidings.Client) -> None:
    server.mute.add(Publish)
    with pytest.raises(tidings.TimedOut, match="may still be stored"):
        await client.publish("orders", "a", 1, timeout=0.05)
    with pytest.raises(tidings.TimedOut, match="may still be stored"):
        await client.publish_many("orders", "a", [1], timeout=0.05)


async def test_a_publish_cancelled_in_the_turn_it_was_made_is_not_sent(
    server: FakeServer, client: tidings.Client
) -> None:
    task = asyncio.ensure_future(client.publish("orders", "a", 1))
    kept = asyncio.ensure_future(client.publish("orders", "b", 1))
    asyncio.get_running_loop().call_soon(task.cancel)
    await kept
    assert task.cancelled() or server.stored["orders"] == [(1, 2)]


# --- Subscribing ---


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


# --- Handlers ---


async def test_handlers_ack_when_they_return_and_report_when_they_raise(
    server: FakeServer, client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[object] = []

    @client.on("orders", type=Order)
    async def handle_order(message: tidings.Message) -> None:
        seen.append(message.payload.id)
        if message.payload.id == 2:
            raise ValueError("no second order")

    @client.on("users")
    def handle_user(message: tidings.Message) -> None:
        seen.append(message.payload)

    running = asyncio.ensure_future(client.run())
    await server.until(lambda: len(server.latest.of(Subscribe)) == 2)
    handles = {frame.queue: frame.handle for frame in server.latest.of(Subscribe) if isinstance(frame, Subscribe)}
    server.latest.send(*json_delivery(handles["orders"], 1, {"id": 1}, {"id": 2}, {"wrong": 3}, {"id": 4}))
    server.latest.send(*delivery(handles["users"], 1, [b"u"], queue="users", epoch=2))
    await server.until(lambda: len(acked(server)) == 3)
    assert sorted(acked(server)) == [(1, 1, 1), (1, 4, 4), (2, 1, 1)]
    assert sorted(map(str, seen)) == ["1", "2", "4", "b'u'"]
    assert "message 2 of queue 'orders' (event 'created') failed in its handler" in caplog.text
    assert "no second order" in caplog.text
    assert "message 3 of queue 'orders' (event 'created') was rejected" in caplog.text
    await client.close()
    await running


async def test_as_many_handlers_run_at_once_as_asked_for(server: FakeServer, client: tidings.Client) -> None:
    running_now = 0
    all_there = asyncio.Event()

    @client.on("orders", concurrency=3)
    async def handle_order(message: tidings.Message) -> None:
        nonlocal running_now
        running_now += 1
        if running_now == 3:
            all_there.set()
        await all_there.wait()

    running = asyncio.ensure_future(client.run())
    await server.until(lambda: server.latest.of(Subscribe))
    server.latest.send(*json_delivery(handle(server), 1, 1, 2, 3))
    await server.until(lambda: sum(last - first + 1 for _, first, last in acked(server)) == 3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_handler_that_waits_for_something_cancelled_goes_on_with_the_next_message(
    server: FakeServer, client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    @client.on("orders")
    async def handle_order(message: tidings.Message) -> None:
        if message.payload == 1:
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other

    running = asyncio.ensure_future(client.run())
    await server.until(lambda: server.latest.of(Subscribe))
    server.latest.send(*json_delivery(handle(server), 1, 1, 2))
    await server.until(lambda: acked(server))
    assert acked(server) == [(1, 2, 2)]
    assert "message 1 of queue 'orders' (event 'created') failed in its handler" in caplog.text
    await client.close()
    await running


async def test_a_refused_handler_ends_run_with_its_error(server: FakeServer, client: tidings.Client) -> None:
    server.answers[Subscribe] = lambda connection, frame: connection.send(
        Refusal(KIND_OF[Subscribe], frame.request, "invalid_filter", "bad")  # type: ignore[union-attr]
    )

    @client.on("orders")
    async def handle_order(message: tidings.Message) -> None: ...

    with pytest.raises(tidings.InvalidFilter):
        await client.run()


def given_back(server: FakeServer) -> list[Nack]:
    return [frame for frame in server.received_frames if isinstance(frame, Nack)]


async def test_messages_are_nacked_rejected_and_extended(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(*json_delivery(handle(server), 1, 1, 2, 3))
        first, second, third = await take(subscription, 3)
        await first.nack(delay=timedelta(minutes=1), error=KeyError("vat"))
        await second.reject("not an order")
        await third.extend()
        await third.extend(wait=True)
        await third.nack(wait=True)
        with pytest.raises(tidings.InvalidOption, match="delay"):
            await first.nack(delay=timedelta(days=8))
    told = [
        (frame.ranges, frame.delay_ms, frame.reject, frame.failure and (frame.failure.type, frame.failure.text))
        for frame in given_back(server)
    ]
    assert sorted(told, key=lambda each: each[0]) == [
        ([(1, 1, 1)], 60_000, False, ("KeyError", "'vat'")),
        ([(1, 2, 2)], None, True, ("tidings.Reject", "not an order")),
        ([(1, 3, 3)], None, False, None),
    ]
    assert len(server.latest.of(Extend)) == 2


async def test_a_range_is_of_the_queue_and_not_of_what_was_redriven(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(*json_delivery(handle(server), 1, 1, 2, 3))
        frame, body = delivery(handle(server), 1, [b"x"], epoch=9)
        server.latest.send(msgspec.structs.replace(frame, redriven=True), body)
        *_, redriven = await take(subscription, 4)
        assert redriven.redriven
        await subscription.ack(1, 3, wait=True)
        await redriven.ack(wait=True)
    assert acked(server) == [(1, 1, 3), (9, 1, 1)]


async def test_a_failing_handler_says_why_and_what_follows(
    server: FakeServer, client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    @client.on("orders", type=Order, attempts_max=3)
    async def bill(message: tidings.Message) -> None:
        match message.payload.id:
            case 1:
                raise KeyError("vat")
            case 2:
                raise tidings.Reject("no such customer")
            case 3:
                await message.nack(delay=60)
            case 4:
                await message.nack(delay=60)
                raise KeyError("vat")

    running = asyncio.ensure_future(client.run())
    await server.until(lambda: server.latest.of(Subscribe))
    orders = [{"id": number} for number in range(1, 6)]
    frame, body = json_delivery(handle(server), 1, *orders, "no order")
    server.latest.send(msgspec.structs.replace(frame, attempts=[(1, 2)]), body)
    frame, body = json_delivery(handle(server), 7, {"id": 1}, {"id": 6})
    server.latest.send(msgspec.structs.replace(frame, attempts=[(7, 3)]), body)
    await server.until(lambda: (1, 8, 8) in acked(server))
    assert sorted(acked(server)) == [(1, 5, 5), (1, 8, 8)]
    told = {frame.ranges[0][1]: frame for frame in given_back(server)}
    assert len(told) == len(given_back(server))
    assert [(sequence, told[sequence].reject, told[sequence].delay_ms) for sequence in sorted(told)] == [
        (1, False, None), (2, True, None), (3, False, 60_000), (4, False, 60_000), (6, True, None), (7, False, None),
    ]  # fmt: skip
    failures = {sequence: frame.failure for sequence, frame in told.items() if frame.failure}
    assert (failures[1].type, failures[1].text, failures[1].place) == ("KeyError", "'vat'", "bill() in test_client.py")
    assert failures[1].traceback.startswith("Traceback")
    assert "handlers.py" not in failures[1].traceback
    assert (failures[2].type, failures[2].text) == ("tidings.Reject", "no such customer")
    assert failures[6].type == "tidings.errors.InvalidPayload"
    log = caplog.text
    assert "message 1 of queue 'orders' (event 'created') failed in its handler, attempt 2 of at most 3" in log
    assert "attempt 2 of at most 3: 'vat'; it is delivered again later" in log
    assert "attempt 3 of at most 3: 'vat'; it becomes a dead letter" in log
    assert "was rejected, attempt 1 of at most 3: no such customer; it becomes a dead letter" in log
    assert "'vat'; the handler itself had said what becomes of it" in log
    await client.close()
    await running


async def test_the_time_of_a_running_handler_is_extended_until_it_returns(
    server: FakeServer, client: tidings.Client
) -> None:
    finish = asyncio.Event()

    @client.on("orders", ack_timeout=0.1)
    async def handle_order(message: tidings.Message) -> None:
        if message.sequence == 1:
            await finish.wait()

    running = asyncio.ensure_future(client.run())
    await server.until(lambda: server.latest.of(Subscribe))
    server.latest.send(*json_delivery(handle(server), 1, 1, 2))

    def extended() -> list[Extend]:
        return [frame for frame in server.received_frames if isinstance(frame, Extend)]

    await server.until(lambda: len(extended()) >= 3)
    server.cut()  # what it holds from the lost connection is extended on the next one
    await server.until(lambda: len(server.connections) == 2 and server.latest.of(Extend))
    finish.set()
    await server.until(lambda: acked(server))
    assert {frame.ranges[0] for frame in extended()} == {(1, 1, 1)}
    await client.close()
    await running


async def test_a_handler_that_takes_too_long_is_not_extended_any_more_and_that_is_told(
    server: FakeServer, client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    told = asyncio.Event()
    caplog.handler.addFilter(lambda record: told.set() or True if "handling_max" in record.msg else True)

    @client.on("orders", ack_timeout=0.1, handling_max=0)
    async def handle_order(message: tidings.Message) -> None:
        await told.wait()

    running = asyncio.ensure_future(client.run())
    await server.until(lambda: server.latest.of(Subscribe))
    server.latest.send(*json_delivery(handle(server), 1, 1))
    await server.until(lambda: acked(server))
    assert server.latest.of(Extend) == []
    assert caplog.text.count("handling_max") == 1
    await client.close()
    await running


async def test_an_extension_that_comes_too_late_is_told_once(
    server: FakeServer, client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    finish = asyncio.Event()

    def refuse(connection: FakeConnection, frame: Frame) -> None:
        assert isinstance(frame, Extend)
        connection.send(Refusal(KIND_OF[Extend], frame.request, "delivery_taken_away", "its time had run out"))

    server.answers[Extend] = refuse

    @client.on("orders", ack_timeout=0.1)
    async def handle_order(message: tidings.Message) -> None:
        await finish.wait()

    running = asyncio.ensure_future(client.run())
    await server.until(lambda: server.latest.of(Subscribe))
    server.latest.send(*json_delivery(handle(server), 1, 1))
    await server.until(lambda: len(server.latest.of(Extend)) >= 3)
    finish.set()
    await server.until(lambda: acked(server))
    assert caplog.text.count("its time had run out") == 1
    await client.close()
    await running


# --- Dead letters and settings ---


def answering(server: FakeServer, answer: Callable[[calls.Call], object]) -> list[calls.Call]:
    """Lets the server answer calls; returns those that it is asked."""
    asked: list[calls.Call] = []

    def call(connection: FakeConnection, frame: Frame, body: bytes) -> None:
        assert isinstance(frame, Call)
        asked.append(calls.decode_call(body))
        connection.send(Result(frame.request), msgspec.msgpack.encode(answer(asked[-1])))

    server.call = call
    return asked


def dead(number: int) -> DeadLetterInfo:
    return DeadLetterInfo(
        number=number, queue="orders", epoch=1, sequence=number, event="created", payload=b'{"id": 7}',
        content_type="application/json" if number != 2 else "application/octet-stream", id=None, key=None, headers={},
        published=1, died=2, reason="rejected", attempts=1, client_id="me", fingerprint="f",
        failure=Failure("KeyError", "'vat'"), edited=False,
    )  # fmt: skip


async def test_dead_letters_come_page_by_page_and_decoded(server: FakeServer, client: tidings.Client) -> None:
    def page(call: calls.Call) -> object:
        assert isinstance(call, calls.ListDeadLetters)
        following = range(call.after + 1, min(call.after + 2, call.after + call.count_max) + 1)
        return [dead(number) for number in following if number <= 3]

    asked = answering(server, page)
    letters = [letter async for letter in client.dead_letters("billing", fingerprint="f")]
    assert [letter.number for letter in letters] == [1, 2, 3]
    assert [letter.payload for letter in letters] == [{"id": 7}, b'{"id": 7}', {"id": 7}]
    assert letters[0].failure == tidings.Failure("KeyError", "'vat'")
    assert {call.fingerprint for call in asked if isinstance(call, calls.ListDeadLetters)} == {"f"}
    assert [letter.number async for letter in client.dead_letters("billing", limit=1)] == [1]
    assert [letter.number async for letter in client.dead_letters("billing", limit=3)] == [1, 2, 3]
    assert [letter.number async for letter in client.dead_letters("billing", after=2)] == [3]


async def test_what_is_asked_of_dead_letters_is_what_was_said(server: FakeServer, client: tidings.Client) -> None:
    asked = answering(server, lambda call: 5 if isinstance(call, calls.DeleteDeadLetters | calls.Redrive) else None)
    await client.edit_dead_letter("billing", 3, payload={"id": 8}, headers={})
    await client.edit_dead_letter("billing", 3, payload=None, event="paid")
    assert await client.delete_dead_letters("billing", number=3) == 5
    assert await client.redrive("billing", fingerprint="f", rate=10) == 5
    await client.configure_subscription("billing", attempts_max=3, backoff_max=timedelta(minutes=1), expires_after=0)
    assert asked == [
        calls.EditDeadLetter(
            subscription="billing", number=3, payload=b'{"id":8}', content_type="application/json", headers={}
        ),
        calls.EditDeadLetter(
            subscription="billing", number=3, payload=b"null", content_type="application/json", event="paid"
        ),
        calls.DeleteDeadLetters(subscription="billing", number=3),
        calls.Redrive(subscription="billing", fingerprint="f", rate=10.0),
        calls.ConfigureSubscription(name="billing", attempts_max=3, backoff_max_ms=60_000, expires_after_ms=None),
    ]


async def test_what_is_asked_of_a_queue_is_what_was_said(server: FakeServer, client: tidings.Client) -> None:
    asked = answering(server, lambda _: None)
    await client.configure_queue("orders", history_age=timedelta(hours=1), history_bytes=math.inf, history_messages=0)
    await client.configure_queue("orders", history_age=math.inf, ttl=1.5)
    await client.configure_queue("orders", waiting_messages=9, when_full="drop-oldest")
    await client.configure_queue("orders", waiting_bytes=math.inf, waiting_age=timedelta(minutes=1))
    assert asked == [
        calls.ConfigureQueue(name="orders", history_age_ms=3_600_000, history_bytes=None, history_messages=0),
        calls.ConfigureQueue(name="orders", history_age_ms=None, ttl_ms=1_500),
        calls.ConfigureQueue(name="orders", waiting_messages=9, when_full="drop-oldest"),
        calls.ConfigureQueue(name="orders", waiting_bytes=None, waiting_age_ms=60_000),
    ]
    for settings in (
        {"history_bytes": -1},
        {"history_messages": 1.5},
        {"history_age": -1},
        {"history_bytes": "much"},
        {"when_full": "drop"},
    ):
        with pytest.raises(tidings.InvalidOption, match=next(iter(settings))):
            await client.configure_queue("orders", **settings)  # type: ignore[arg-type]


async def test_dead_letters_and_settings_that_cannot_be_are_refused_at_once(client: tidings.Client) -> None:
    with pytest.raises(tidings.InvalidOption, match="number and fingerprint"):
        await client.redrive("billing", number=1, fingerprint="f")
    with pytest.raises(tidings.InvalidOption, match="attempts_max"):
        await client.configure_subscription("billing", attempts_max=0)
    with pytest.raises(tidings.InvalidOption, match="new payload"):
        await client.edit_dead_letter("billing", 1, content_type="text/plain")
    with pytest.raises(tidings.InvalidOption, match="strings"):
        await client.edit_dead_letter("billing", 1, headers={"a": 1})  # type: ignore[dict-item]
    for handling_max in (-1, 13 * 3600, None):
        with pytest.raises(tidings.InvalidOption, match="handling_max"):
            client.on("orders", handling_max=handling_max)  # type: ignore[arg-type]


# --- Requests and the connection ---


async def test_a_listing_is_read_page_by_page(server: FakeServer, client: tidings.Client) -> None:
    queue = {"name": "a", "epoch": 1, "first_sequence": 1, "last_sequence": 0, "messages": 0, "bytes": 0}
    queue |= {"subscriptions": 0, "held_by": None, "created": 0}

    def page(connection: FakeConnection, frame: Frame) -> None:
        assert isinstance(frame, List)
        name, after = ("b", "") if frame.after else ("a", "a")
        entries = msgspec.Raw(msgspec.msgpack.encode([queue | {"name": name}]))
        connection.send(Listing(frame.request, entries, after))

    server.answers[List] = page
    assert [each.name for each in await client.queues()] == ["a", "b"]


async def test_nobody_there_is_a_clear_error() -> None:
    async with FakeServer().listening() as server:
        url = server.url
    with pytest.raises(tidings.Unavailable, match=f"{url}.*tidings serve"):
        await tidings.connect(url, reconnect=False).open()
    with pytest.raises(tidings.Unavailable, match=f"{url} within 0.1 s.*tidings serve"):
        await tidings.connect(url, timeout=0.1).open()


async def test_the_first_address_that_answers_is_taken(server: FakeServer) -> None:
    async with FakeServer().listening() as other:
        dead = other.url
    async with tidings.connect([dead, server.url], reconnect=False) as client:
        assert client.connected


async def test_a_client_id_in_use_is_raised_from_open(server: FakeServer) -> None:
    server.answers[Hello] = lambda connection, frame: connection.send(Goodbye("client_id_in_use", "since noon"))
    with pytest.raises(tidings.ClientIdInUse, match="since noon"):
        await tidings.connect(server.url, client_id="me").open()


async def test_who_does_not_speak_the_protocol_is_named() -> None:
    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_http, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(tidings.ProtocolViolation, match="not the Tidings protocol"):
            await tidings.connect(f"tidings://127.0.0.1:{port}").open()


async def test_a_takeover_ends_the_client_and_its_iterations(server: FakeServer, client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        server.latest.send(Goodbye("taken_over", "by another process"))
        with pytest.raises(tidings.TakenOver):
            await take(subscription, 1)
    with pytest.raises(tidings.TakenOver):
        await client.publish("orders", "a", 1)


async def test_without_reconnect_a_lost_connection_ends_the_client(server: FakeServer) -> None:
    async with tidings.connect(server.url, reconnect=False) as client:
        server.mute.add(Publish)
        publish = asyncio.ensure_future(client.publish("orders", "a", 1))
        await server.until(lambda: server.latest.of(Publish))
        server.cut()
        with pytest.raises(tidings.ConnectionLost, match="may have been stored"):
            await publish


async def test_so_many_attempts_and_no_more() -> None:
    server = FakeServer()
    async with server.listening():
        client = tidings.connect(server.url, reconnect=2)
        await client.open()
    with pytest.raises(tidings.ConnectionLost):
        await client.publish("orders", "a", 1)
    await client.close()


async def test_a_draining_server_is_left_and_found_again(server: FakeServer, client: tidings.Client) -> None:
    server.latest.connection.close(tidings.Draining("about to stop"))
    server.latest.flush()
    await server.until(lambda: len(server.connections) == 2)
    await client.publish("orders", "a", 1)


async def test_closing_finishes_publishes_and_sends_acks(server: FakeServer) -> None:
    client = tidings.connect(server.url)
    await client.open()
    subscription = client.subscribe("orders")
    await subscription.attach()
    server.latest.send(*json_delivery(handle(server), 1, 1, 2))
    for message in await take(subscription, 2):
        await message.ack()
    publish = asyncio.ensure_future(client.publish("orders", "a", 1))
    iteration = asyncio.ensure_future(take(subscription, 1))
    await asyncio.sleep(0)
    await client.close()
    assert (await publish).sequence == 1
    assert acked(server) == [(1, 1, 2)]
    assert isinstance(server.latest.frames[-1], Goodbye)
    assert await iteration == [], "a closed client ends iterations quietly"
    with pytest.raises(tidings.ConnectionLost, match="closed"):
        await client.publish("orders", "a", 2)
    await client.close()


async def test_closing_during_an_outage_sends_acks_on_the_next_connection(server: FakeServer) -> None:
    client = tidings.connect(server.url, client_id="me")
    await client.open()
    subscription = client.subscribe("orders")
    await subscription.attach()
    server.latest.send(*json_delivery(handle(server), 1, 1, 2))
    messages = await take(subscription, 2)
    server.cut()
    async with asyncio.timeout(10):
        while client.connected:  # noqa: ASYNC110 # the client announces it to nobody
            await asyncio.sleep(0)
    await messages[0].ack()
    publish = asyncio.ensure_future(client.publish("orders", "a", 1))
    await asyncio.sleep(0)
    await client.close()
    assert (await publish).sequence == 1
    assert len(server.connections) == 2
    assert acked(server) == [(1, 1, 1)]
    assert isinstance(server.latest.frames[-1], Goodbye)


async def test_closing_does_not_wait_for_a_publish_that_was_cancelled(server: FakeServer) -> None:
    server.mute.add(Publish)
    client = tidings.connect(server.url)
    await client.open()
    publish = asyncio.ensure_future(client.publish("orders", "a", 1))
    await server.until(lambda: server.latest.of(Publish))
    closing = asyncio.ensure_future(client.close(timeout=60))
    for _ in range(10):  # turns of the loop, so that nothing but the cancelling wakes it
        await asyncio.sleep(0)
    publish.cancel()
    async with asyncio.timeout(5):
        await closing


async def test_two_may_close_at_once(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    server.mute.add(Publish)
    client = tidings.connect(server.url)
    await client.open()
    publish = asyncio.ensure_future(client.publish("orders", "a", 1))
    await server.until(lambda: server.latest.of(Publish))
    closing = asyncio.gather(client.close(), client.close())
    await asyncio.sleep(0)
    server.latest.send(Confirmed(1, 1, 1, "disk", [1]))
    await closing
    assert (await publish).sequence == 1
    assert "longer than" not in caplog.text


async def test_a_bug_of_a_dialer_is_an_internal_error_from_open(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenDialer(TcpDialer):
        closed = False

        async def dial(self, protocol_factory: object) -> NoReturn:
            raise ZeroDivisionError("broken")

        async def close(self) -> None:
            self.closed = True

    dialer = BrokenDialer("127.0.0.1", 1)
    with pytest.raises(tidings.InternalError, match="broken"):
        await tidings.Client([dialer]).open()
    assert dialer.closed
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("host", [f"{'a' * 64}.example", "a\0b"])
async def test_a_host_that_cannot_be_a_name_is_refused(host: str) -> None:
    with pytest.raises(tidings.InvalidOption, match="not a name"):
        await tidings.connect(f"tidings://{host}").open()


async def test_closing_gives_up_what_is_not_answered_in_time(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.mute.add(Publish)
    client = tidings.connect(server.url)
    await client.open()
    publish = asyncio.ensure_future(client.publish("orders", "a", 1))
    await server.until(lambda: server.latest.of(Publish))
    await client.close(timeout=0.05)
    with pytest.raises(tidings.ConnectionLost, match="may have been stored"):
        await publish
    assert "longer than 0.05 s" in caplog.text


async def test_a_client_that_is_not_open_says_so() -> None:
    client = tidings.connect()
    with pytest.raises(tidings.InvalidOption, match="not open"):
        await client.publish("orders", "a", 1)
    await client.close()


async def test_the_producer_comes_from_the_given_randomness(server: FakeServer) -> None:
    producers = []
    for _ in range(2):
        async with tidings.connect(server.url, randomness=random.Random(7)):
            hello = server.latest.frames[0]
            assert isinstance(hello, Hello)
            producers.append(hello.producer)
    assert producers[0] == producers[1]
    async with tidings.connect(server.url):
        hello = server.latest.frames[0]
        assert isinstance(hello, Hello)
        assert hello.producer != producers[0]


async def test_a_confirm_that_never_fits_ends_the_client_with_a_violation(
    server: FakeServer, client: tidings.Client
) -> None:
    server.answers[Publish] = lambda connection, frame: connection.send(Confirmed(1, 1, 1, "disk", []))
    with pytest.raises(tidings.ProtocolViolation):
        await client.publish("orders", "a", 1)


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tidings")
