"""Handlers, against a server that does what each test tells it."""

import asyncio
from datetime import timedelta

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
from tidings.wire import Extend, Frame, Nack, Refusal, Subscribe
from tidings.wire.frames import KIND_OF


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
    assert (failures[1].type, failures[1].text) == ("KeyError", "'vat'")
    assert failures[1].place == "bill() in test_handlers.py"
    assert failures[1].traceback.startswith("Traceback")
    assert "tidings/client" not in failures[1].traceback
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
