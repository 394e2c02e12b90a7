"""Publishing, against a server that does what each test tells it."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

import tidings
from tests.unit.client.fake_server import FakeConnection, FakeServer, Order
from tidings import limits
from tidings.wire import Frame, Publish, Refusal
from tidings.wire.frames import KIND_OF


async def test_a_publish_returns_its_confirm(client: tidings.Client) -> None:
    confirm = await client.publish("orders", "created", {"id": 7})
    assert confirm == tidings.Confirm("orders", 1, 1, 1, "disk", 1)


async def test_publishes_of_one_turn_travel_together_in_order(server: FakeServer, client: tidings.Client) -> None:
    confirms = await asyncio.gather(*[client.publish("orders", "created", number) for number in range(100)])
    assert [confirm.sequence for confirm in confirms] == list(range(1, 101))
    assert server.stored["orders"] == [(1, 100)]


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
