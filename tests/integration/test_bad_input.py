"""Bad input: each gets a clear error with a code from the registry, and nobody else is harmed."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

import tidings
from tests.integration.processes import Server, eventually
from tests.integration.raw_connection import RawConnection, publish_frame
from tidings import limits
from tidings.batch import encode_item
from tidings.model import BYTES, Flags, Run
from tidings.wire import (
    Ack,
    Backup,
    Confirmed,
    Delete,
    Deliver,
    Done,
    Goodbye,
    Hello,
    List,
    Listing,
    Publish,
    Refusal,
    Resume,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from tidings.wire.codec import encode
from tidings.wire.frames import VERSION

_MEMORY_GROWTH_BYTES_MAX = 192 * 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of these tests: it must survive every one of them."""
    with Server(tmp_path_factory.mktemp("bad-input")) as server:
        yield server


@pytest.fixture
async def bystander(server: Server) -> AsyncIterator[tidings.Client]:
    """A client whose work must go on, over the same connection, whatever the others do."""
    logged = len(server.log.read_text())
    async with tidings.connect(server.url, client_id="bystander", reconnect=False) as client:
        async with client.subscribe("bystander") as subscription:
            messages = aiter(subscription)
            await client.publish("bystander", "before", 1)
            message = await anext(messages)
            assert message.payload == 1
            await message.ack()
            yield client
            confirm = await client.publish("bystander", "after", 2, timeout=30)
            assert confirm.durability == "disk"
            async with asyncio.timeout(30):
                message = await anext(messages)
            assert message.payload == 2
            await message.ack(wait=True)
    log = server.log.read_text()[logged:]
    assert "Traceback" not in log, log


# --- What is not the protocol: the connection ends with a reason ---


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), "TLS"),
        (b"\xff" * 64, "not the Tidings protocol"),
        (bytes(64), "not the Tidings protocol"),
        (b"\x00\x00\x00\x01\xc8\x00\x00\x01x", "not the Tidings protocol"),
        (b"\x00\x00\x00\x03\x01\x00\x00\x03abc", "malformed"),
        (b"\x00\x00\x00\x03\x01\x00\x00\x04abcd", "exceeds its frame"),
        (b"\x00\x00\x00\x04\x01\x00\x00\x03abcd", "body of 1 bytes"),
    ],
    ids=["http", "tls", "ones", "zeros", "unknown-kind", "garbage-envelope", "envelope-over-frame", "body"],
)
async def test_what_is_not_the_protocol_is_told_so(
    server: Server, bystander: tidings.Client, data: bytes, hint: str
) -> None:
    async with RawConnection(server.port) as raw:
        raw.send_bytes(data)
        goodbye = await raw.closed("protocol_violation")
        assert hint in goodbye.text


async def test_frames_before_a_hello_end_the_connection(server: Server, bystander: tidings.Client) -> None:
    async with RawConnection(server.port) as raw:
        raw.send(List(1, "queues"))
        assert "List" in (await raw.closed("protocol_violation")).text


async def test_a_second_hello_ends_the_connection(server: Server, bystander: tidings.Client) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet()
        raw.send(Hello(VERSION, None, "raw"))
        assert "second Hello" in (await raw.closed("protocol_violation")).text


async def test_another_version_is_told_which_one_is_spoken(server: Server, bystander: tidings.Client) -> None:
    async with RawConnection(server.port) as raw:
        raw.send(Hello(99, None, "raw"))
        assert "99" in (await raw.closed("protocol_violation")).text


@pytest.mark.parametrize("client_id", ["", "with space", "line\nbreak", "x" * 256, "\x00"])
async def test_an_invalid_client_id_is_refused(server: Server, bystander: tidings.Client, client_id: str) -> None:
    async with RawConnection(server.port) as raw:
        raw.send(Hello(VERSION, client_id, "raw"))
        await raw.closed("invalid_name")


@pytest.mark.parametrize("producer", ["", "x" * 256])
async def test_an_invalid_producer_is_refused(server: Server, bystander: tidings.Client, producer: str) -> None:
    async with RawConnection(server.port) as raw:
        raw.send(Hello(VERSION, None, producer))
        await raw.closed("protocol_violation")


async def test_a_frame_of_unknown_kind_ends_the_connection(server: Server, bystander: tidings.Client) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet()
        raw.send_bytes(b"\x00\x00\x00\x01\xc8\x00\x00\x01\x90")
        assert "200" in (await raw.closed("protocol_violation")).text


@pytest.mark.parametrize(
    "header",
    [b"\xff\xff\xff\xff\x03\x00\x00\x10", b"\x00\xff\xff\xff\x0b\x00\x00\x10", b"\x00\xff\xff\xff\x03\xff\xff\xff"],
    ids=["size", "body-of-a-kind-without", "envelope"],
)
async def test_an_oversized_frame_ends_the_connection_before_it_is_read(
    server: Server, bystander: tidings.Client, header: bytes
) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet()
        raw.send_bytes(header)
        assert "limit" in (await raw.closed("protocol_violation")).text


@pytest.mark.parametrize(
    "envelope",
    [b"\xc1", b"\x94", b"\x93\x01\x00\xa1q", b"\x94\xa1x\x00\xa1q\x90", b"\x94\x01\x00\xa1\xff\x90", b"\x91" * 2_000],
    ids=["reserved-byte", "truncated", "too-few-fields", "wrong-type", "not-utf8", "nested"],
)
async def test_a_malformed_envelope_ends_the_connection(
    server: Server, bystander: tidings.Client, envelope: bytes
) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet()
        raw.send_bytes(len(envelope).to_bytes(4, "big") + b"\x03" + len(envelope).to_bytes(3, "big") + envelope)
        await raw.closed("protocol_violation")


async def test_a_frame_cut_short_by_the_end_of_the_connection_stores_nothing(
    server: Server, bystander: tidings.Client
) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet()
        frame, body = publish_frame(1, "cut", b"x" * 1000)
        raw.send_bytes((encode(frame, len(body)) + body)[:-1])
        raw.writer.write_eof()
        assert await raw.next() is None
    assert "cut" not in [queue.name for queue in await bystander.queues()]


# --- Requests that are refused; the connection goes on ---


@pytest.fixture
async def raw(server: Server, bystander: tidings.Client) -> AsyncIterator[RawConnection]:
    """A connection that must be as good after the test as before it."""
    async with RawConnection(server.port) as raw:
        await raw.greet()
        yield raw
        raw.send(*publish_frame(1_000_000, "goes.on", b"x"))
        assert (await raw.receive(Confirmed)).number == 1_000_000


def _item(payload: bytes = b"x", id: str | None = None, headers: dict[str, str] | None = None) -> bytes:
    return encode_item(payload, id, None, headers)


@pytest.mark.parametrize(
    ("runs", "body", "code"),
    [
        ([], b"", "protocol_violation"),
        ([Run("e", 2, len(_item()), BYTES)], _item(), "protocol_violation"),
        ([Run("e", 1, 2 * len(_item()), BYTES)], _item() * 2, "protocol_violation"),
        ([Run("e", 0, len(_item()), BYTES)], _item(), "protocol_violation"),
        ([Run("e", -1, len(_item()), BYTES)], _item(), "protocol_violation"),
        ([Run("e", 1, 0, BYTES)], b"", "protocol_violation"),
        ([Run("e", 2**40, len(_item()), BYTES)], _item(), "protocol_violation"),
        ([Run("e", 1, len(_item()) + 1, BYTES)], _item(), "protocol_violation"),
        ([Run("e", 1, len(_item()) - 1, BYTES)], _item(), "protocol_violation"),
        ([Run("e", 1, len(_item()), BYTES)], _item() + b"\x00", "protocol_violation"),
        ([Run("e", 1, 3, BYTES)] * 2, _item() * 2, "protocol_violation"),
        ([Run("e", 1, 3, BYTES)], b"abc", "protocol_violation"),
        ([Run("e", 1, 4, BYTES)], msgspec.msgpack.encode(["text", None]), "protocol_violation"),
        ([Run("e", 1, len(_item(id="i")), BYTES)], _item(id="i"), "protocol_violation"),
        ([Run("e", 1, len(_item()), BYTES, 8)], _item(), "protocol_violation"),
        ([Run("e", 1, len(_item()), BYTES, -1)], _item(), "protocol_violation"),
        ([Run(None, 1, len(_item()), BYTES)], _item(), "protocol_violation"),
        ([Run("e", 1, len(_item()), "c" * 256)], _item(), "protocol_violation"),
        ([Run("e", 1, len(_item()), "ü" * 200)], _item(), "protocol_violation"),
        ([Run("e", 1, 5, BYTES)] * 1_025, _item() * 1_025, "protocol_violation"),
        ([Run("e", 16_385, 16_385 * len(_item()), BYTES)], _item() * 16_385, "protocol_violation"),
        (
            [Run("e", 1, len(_item(bytes(limits.PAYLOAD_SIZE_BYTES_MAX + 1))), BYTES)],
            _item(bytes(limits.PAYLOAD_SIZE_BYTES_MAX + 1)),
            "payload_too_large",
        ),
        (
            [Run("e", 1, len(_item(headers={"h": "x" * 9_000})), BYTES, Flags.HEADERS)],
            _item(headers={"h": "x" * 9_000}),
            "payload_too_large",
        ),
    ],
    ids=[
        "no-runs", "count-too-high", "count-too-low", "count-zero", "count-negative", "size-zero", "count-huge",
        "size-too-high", "size-too-low", "more-body", "sizes-split-a-message", "not-messagepack", "not-a-message",
        "flag-missing", "unknown-flag", "negative-flag", "hole", "content-type", "content-type-in-bytes",
        "too-many-runs", "too-many-messages", "payload", "headers",
    ],
)  # fmt: skip
async def test_a_body_that_is_not_what_it_claims_is_refused(
    raw: RawConnection, runs: list[Run], body: bytes, code: str
) -> None:
    raw.send(Publish(7, 0, "refused", runs), body)
    assert (await raw.refused(code)).request == 7
    await _no_queue(raw, "refused")


@pytest.mark.parametrize("name", ["", ".", "a..b", "a.", "with space", "a/b", "a*", "#", "x" * 256, "tab\t", "\x7f"])
async def test_an_invalid_name_is_refused(raw: RawConnection, name: str) -> None:
    raw.send(*publish_frame(1, name, b"x"))
    assert (await raw.refused("invalid_name")).request == 1
    raw.send(*publish_frame(2, "refused", b"x", event=name))
    assert (await raw.refused("invalid_name")).request == 2
    await _no_queue(raw, "refused")


@pytest.mark.parametrize("queue", ["$presence", "$", "$anything.else"])
async def test_a_publish_into_a_system_queue_is_refused(raw: RawConnection, queue: str) -> None:
    raw.send(*publish_frame(1, queue, b"x"))
    await raw.refused("system_queue")


@pytest.mark.parametrize("pattern", ["", "a.#.b", "a*", "#.a", "a..b", "$other", "x" * 256, "a b"])
async def test_an_invalid_filter_is_refused(raw: RawConnection, pattern: str) -> None:
    raw.send(Subscribe(request=1, handle=1, queue=pattern, event="#"))
    assert (await raw.refused("invalid_filter")).request == 1
    if pattern != "$other":
        raw.send(Subscribe(request=2, handle=1, queue="q", event=pattern))
        assert (await raw.refused("invalid_filter")).request == 2


@pytest.mark.parametrize(
    "options",
    [
        {"in_flight_max": -1},
        {"in_flight_max": limits.IN_FLIGHT_MAX + 1},
        {"concurrency": 0},
        {"concurrency": 2**63},
        {"ack_timeout_ms": 1},
        {"ack_timeout_ms": 2**63},
        {"expires_after_ms": -1},
        {"expires_after_ms": 2**64 - 1},
        {"start": "middle"},
        {"start": "sequence", "start_value": 0},
        {"start": "sequence", "start_value": -(2**63)},
        {"start": "sequence", "start_value": 2**64 - 1},
        {"start": "sequence", "start_value": 99},
    ],
    ids=str,
)
async def test_an_invalid_option_is_refused(raw: RawConnection, options: dict[str, object]) -> None:
    raw.send(Subscribe(request=1, handle=1, queue="options", event="#", **options))  # type: ignore[arg-type]
    assert (await raw.refused("invalid_option")).request == 1


@pytest.mark.parametrize("time_ms", [-(2**63), -1, 0, 2**63, 2**64 - 1])
async def test_a_start_at_an_impossible_time_is_an_end_of_the_queue(raw: RawConnection, time_ms: int) -> None:
    raw.send(*publish_frame(1, "times", b"x"))
    await raw.receive(Confirmed)
    raw.send(Subscribe(request=2, handle=1, queue="times", event="#", start="time", start_value=time_ms))
    await raw.receive(Subscribed)
    if time_ms <= 0:
        assert (await raw.receive(Deliver)).parts[0].first_sequence == 1


async def test_a_subscription_name_is_checked_like_a_label(raw: RawConnection) -> None:
    raw.send(Subscribe(request=1, handle=1, queue="q", event="#", name="with space"))
    await raw.refused("invalid_name")


async def test_a_handle_that_is_taken_is_refused(raw: RawConnection) -> None:
    raw.send(Subscribe(request=1, handle=1, queue="a", event="#"))
    await raw.receive(Subscribed)
    raw.send(Subscribe(request=2, handle=1, queue="b", event="#"))
    assert (await raw.refused("invalid_option")).request == 2


async def test_acks_for_what_was_never_delivered_are_refused_and_settle_nothing(raw: RawConnection) -> None:
    raw.send(Ack(5, [(1, 1, 1)], 1))
    assert (await raw.refused("delivery_taken_away")).request == 1
    raw.send(*publish_frame(1, "acks", b"a", b"b"))
    confirmed = await raw.receive(Confirmed)
    raw.send(Subscribe(request=2, handle=1, queue="acks", event="#", name="acks", start="earliest", in_flight_max=1))
    await raw.receive(Subscribed)
    assert (await raw.receive(Deliver)).parts[0].first_sequence == 1
    epoch = confirmed.epoch
    for number, (ranges, code) in enumerate(
        [
            ([(epoch, 2, 2)], "never_delivered"),
            ([(epoch, 1, 2**64 - 1)], "never_delivered"),
            ([(epoch, 1, 0)], "invalid_option"),
            ([(epoch, -5, -(2**63))], "invalid_option"),
        ],
        start=3,
    ):
        raw.send(Ack(1, ranges, number))
        assert (await raw.refused(code)).request == number
    raw.send(Ack(1, [(epoch + 77, 1, 1)], 50))
    await raw.receive(Done)
    raw.send(List(51, "subscriptions"))
    listing = await raw.receive(Listing)
    [info] = [item for item in _entries(listing) if item["name"] == "acks"]
    assert (info["cursor"], info["lag"], info["in_flight"]) == (0, 2, 1)
    raw.send(Ack(1, [(epoch, 1, 1)], 52))
    assert [type(await raw.next()) for _ in range(2)].count(Done) == 1


async def test_an_ack_of_very_many_ranges_is_taken_without_holding_up_others(
    server: Server, bystander: tidings.Client
) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet()
        raw.send(*publish_frame(1, "ranges", *[b"x"] * 10_000))
        epoch = (await raw.receive(Confirmed)).epoch
        raw.send(
            Subscribe(
                request=1, handle=1, queue="ranges", event="#", start="earliest", concurrency=limits.CONCURRENCY_MAX
            )
        )
        await raw.receive(Subscribed)
        await raw.receive(Deliver)
        raw.send(Ack(1, [(epoch, sequence, sequence) for sequence in range(1, 10_001)] * 8, 2))
        await raw.receive(Done)


async def test_unknown_listings_deletions_and_handles_are_refused(raw: RawConnection) -> None:
    raw.send(List(1, "everything"))
    await raw.refused("invalid_option")
    raw.send(List(2, "queues", "\U0010ffff" * 1000))
    assert (await raw.receive(Listing)).after == ""
    raw.send(Delete(3, "queue", "nothing"))
    await raw.refused("not_found")
    raw.send(Delete(4, "queue", "$presence"))
    await raw.refused("system_queue")
    raw.send(Delete(5, "subscription", "nothing"))
    await raw.refused("not_found")
    raw.send(Delete(6, "everything", "nothing"))
    await raw.refused("invalid_option")
    raw.send(Unsubscribe(7, 3))
    await raw.refused("not_found")


@pytest.mark.parametrize("path", ["", "/", "/proc/nothing/here", "nul\x00byte", "x" * 5_000])
async def test_a_backup_that_cannot_be_written_is_refused(raw: RawConnection, path: str) -> None:
    raw.send(Backup(1, path))
    assert (await raw.refused("invalid_option")).request == 1


async def test_places_that_cannot_be_are_ignored_when_a_subscriber_comes_back(raw: RawConnection) -> None:
    raw.send(*publish_frame(1, "places", b"a", b"b", b"c"))
    epoch = (await raw.receive(Confirmed)).epoch
    places = [
        Resume(epoch, 2**64 - 1, [(1, 1), (3, 2), (-4, 0), (9, 2**64 - 1)]),
        Resume(12_345, -(2**63), [(1, 2**64 - 1)]),
    ]
    subscribe = Subscribe(
        request=2, handle=1, queue="places", event="#", name="places", start="earliest", resume=places
    )
    raw.send(subscribe)
    await raw.receive(Subscribed)
    # Nothing was delivered before, so that there is nothing that could have been acked.
    assert runs_of(await raw.receive(Deliver)) == [(1, [3])]
    raw.send(Unsubscribe(3, 1))
    await raw.receive(Done)
    raw.send(subscribe)
    await raw.receive(Subscribed)
    assert runs_of(await raw.receive(Deliver)) == [(1, [1, 2])]


def runs_of(delivery: Deliver) -> list[tuple[int, list[int]]]:
    """Returns the first sequence of each part, and how many messages are in its runs."""
    return [(part.first_sequence, [run.count for run in part.runs]) for part in delivery.parts]


async def test_extreme_numbers_are_only_numbers(raw: RawConnection) -> None:
    for number in (0, -1, -(2**63), 2**64 - 1):
        frame, body = publish_frame(number, "numbers", b"x")
        raw.send(msgspec.structs.replace(frame, answered=0), body)
        answer = await raw.next()
        assert getattr(answer, "number", number) == number
    raw.send(List(2**64 - 1, "queues"))
    assert (await raw.receive(Listing)).request == 2**64 - 1


# --- Much of it ---


async def test_the_longest_names_and_the_most_runs_are_delivered(server: Server, bystander: tidings.Client) -> None:
    # Many runs with long events, joined into rows and pages, must still fit the frames that deliver them.
    async with RawConnection(server.port) as raw:
        await raw.greet()
        item = _item()
        content_types = ("c" * 255, "d" * 255)
        batches, runs_each = 6, 1_023
        for number in range(1, batches + 1):
            runs = [
                Run(f"{index:04}".ljust(255, "e"), 1, len(item), content_types[index % 2]) for index in range(runs_each)
            ]
            raw.send(Publish(number, 0, "q" * 255, runs), item * runs_each)
        for _ in range(batches):
            await raw.receive(Confirmed)
        raw.send(Subscribe(request=1, handle=1, queue="q" * 255, event="#", start="earliest"))
        await raw.receive(Subscribed)
        received = 0
        while received < batches * runs_each:
            delivery = await raw.receive(Deliver)
            received += sum(run.count for part in delivery.parts for run in part.runs)


async def test_listings_of_very_many_entries_come_in_pages(server: Server, bystander: tidings.Client) -> None:
    # One subscription over thousands of queues, and a client that publishes into them all.
    count = 6_000
    async with tidings.connect(server.url, client_id="wide") as client:
        await asyncio.gather(
            *(client.publish(f"wide.{number:05}.{'n' * 180}", "made", 1, timeout=60) for number in range(count))
        )
        async with client.subscribe("wide.#", start="earliest", name="wide"):
            subscriptions = [info for info in await client.subscriptions() if info.name == "wide"]
            assert len(subscriptions) == count
            assert len({info.queue for info in subscriptions}) == count
            assert len([info for info in await client.queues() if info.name.startswith("wide.")]) == count
            [info] = [info for info in await client.clients() if info.client_id == "wide"]
            assert info.subscriptions == ["wide"]
            assert len(info.queues) > 0


async def test_a_client_that_never_reads_costs_bounded_memory(server: Server, bystander: tidings.Client) -> None:
    payload = bytes(100_000)
    async with RawConnection(server.port) as silent:
        await silent.greet("silent")
        silent.send(Subscribe(request=1, handle=1, queue="much", event="#"))
        await silent.receive(Subscribed)
        await _publish_much(bystander, payload)  # caches and the allocator have what they will ever have
        before = server.process.resident_bytes()
        await _publish_much(bystander, payload)
        await eventually(lambda: _is_paused(bystander, "silent:much/#"))
        assert server.process.resident_bytes() - before < _MEMORY_GROWTH_BYTES_MAX


async def _publish_much(client: tidings.Client, payload: bytes) -> None:
    for _ in range(20):
        await asyncio.gather(*(client.publish("much", "made", payload) for _ in range(100)))


async def _is_paused(client: tidings.Client, name: str) -> bool:
    [info] = [info for info in await client.subscriptions() if info.name == name]
    return info.paused != "" and info.lag > 0


async def test_a_client_that_asks_and_never_reads_the_answers_costs_bounded_memory(
    server: Server, bystander: tidings.Client
) -> None:
    await asyncio.gather(*(bystander.publish(f"listed.{number}", "made", 1) for number in range(500)))
    before = server.process.resident_bytes()
    async with RawConnection(server.port) as rude:
        await rude.greet()
        question = encode(List(1, "queues")) * 200
        # Tens of gigabytes of answers, if they were all made: the socket must cease to take questions.
        await _send_until_it_is_not_taken(rude, question)
        assert server.process.resident_bytes() - before < _MEMORY_GROWTH_BYTES_MAX
        rude.writer.transport.abort()


async def _send_until_it_is_not_taken(raw: RawConnection, data: bytes) -> None:
    try:
        async with asyncio.timeout(2):
            while True:
                raw.send_bytes(data)
                await raw.writer.drain()
    except TimeoutError:
        return


async def test_listings_that_nobody_waits_for_are_bounded(server: Server, bystander: tidings.Client) -> None:
    count = 2_000
    async with RawConnection(server.port) as raw:
        await raw.greet()
        raw.send_bytes(b"".join(encode(List(number, "queues")) for number in range(1, count + 1)))
        answers = [await raw.next() for _ in range(count)]
    assert all(isinstance(answer, Listing | Refusal) for answer in answers)
    assert {answer.request for answer in answers} == set(range(1, count + 1)), "each is answered, once"  # type: ignore[union-attr]
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"limit_reached"}
    assert any(isinstance(answer, Listing) for answer in answers)


async def test_a_client_that_sends_faster_than_the_disk_costs_bounded_memory(
    server: Server, bystander: tidings.Client
) -> None:
    # It never reads its confirms and keeps as much on the wire as the socket takes.
    before = server.process.resident_bytes()
    highest = 0
    body_size = 1_000_000
    async with RawConnection(server.port) as fast:
        await fast.greet()
        for number in range(1, 301):
            frame, body = publish_frame(number, "fast", bytes(body_size))
            fast.send(msgspec.structs.replace(frame, answered=max(0, number - 100)), body)
            await fast.writer.drain()
            highest = max(highest, server.process.resident_bytes())
        for _ in range(300):
            await fast.receive(Confirmed)
    assert highest - before < _MEMORY_GROWTH_BYTES_MAX
    [queue] = [queue for queue in await bystander.queues() if queue.name == "fast"]
    assert queue.last_sequence == 300, "more than history keeps: the oldest may be trimmed by now"


async def test_a_client_that_never_acks_is_paused_by_its_window_and_harms_nobody(
    server: Server, bystander: tidings.Client
) -> None:
    async with tidings.connect(server.url, client_id="idle") as idle:
        async with idle.subscribe("window", in_flight_max=10) as subscription:
            await bystander.publish_many("window", "made", range(1_000))
            messages = aiter(subscription)
            assert [(await anext(messages)).sequence for _ in range(10)] == list(range(1, 11))
            [info] = [info for info in await bystander.subscriptions() if info.name == "idle:window/#"]
            assert (info.in_flight, info.lag, info.cursor) == (10, 1_000, 0)
            assert "window" in info.paused


async def test_batches_that_are_not_told_to_be_answered_are_bounded(server: Server, bystander: tidings.Client) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet()
        refused = None
        for number in range(1, 8 * limits.UNCONFIRMED_BATCHES_MAX):
            raw.send(*publish_frame(number, "forgetful", b"x"))
            answer = await raw.next()
            if not isinstance(answer, Confirmed):
                refused = answer
                break
        assert getattr(refused, "code", None) == "limit_reached", refused


# --- A broken data file is told by its name: tests/unit/store, and tests/integration/test_command_line.py ---


async def test_garbage_after_good_frames_keeps_what_was_confirmed(server: Server, bystander: tidings.Client) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet()
        raw.send(*publish_frame(1, "good", b"x"))
        await raw.receive(Confirmed)
        raw.send_bytes(b"\xff" * 100)
        await raw.receive(Goodbye)
    [queue] = [queue for queue in await bystander.queues() if queue.name == "good"]
    assert queue.messages == 1


async def _no_queue(raw: RawConnection, name: str) -> None:
    raw.send(List(99, "queues"))
    assert name not in [entry["name"] for entry in _entries(await raw.receive(Listing))]


def _entries(listing: Listing) -> list[dict[str, object]]:
    return msgspec.msgpack.decode(listing.entries, type=list[dict[str, object]])
