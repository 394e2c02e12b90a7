"""Opening, closing and asking, against a server that does what each test tells it."""

import asyncio
import logging
import random
from typing import NoReturn

import msgspec
import pytest

import tidings
from tests.unit.client.fake_server import FakeConnection, FakeServer, acked, handle, json_delivery, take
from tidings.client.transport import TcpDialer
from tidings.wire import Confirmed, Frame, Goodbye, Hello, List, Listing, Publish


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
