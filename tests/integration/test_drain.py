"""Drain: SIGTERM finishes what is in flight to disk, tells clients to connect again, and exits 0."""

import asyncio
from pathlib import Path

import tidings
from tests.integration.processes import Publisher, Server, Subscriber, all_go_on, eventually, first_deliveries
from tests.integration.raw_connection import RawConnection, publish_frame
from tidings.wire import Goodbye, Subscribe, Subscribed


async def test_a_server_that_is_stopped_under_load_loses_nothing_and_its_clients_go_on(
    server: Server, tmp_path: Path
) -> None:
    with (
        Subscriber(tmp_path, server.url, "load", "reader", way="messages") as reader,
        Publisher(tmp_path, server.url, "load", "many", way="many") as many,
        Publisher(tmp_path, server.url, "load", "single", way="single") as single,
    ):
        reader.read_line()
        for _ in range(3):
            await all_go_on(reader, many, single)
            assert server.terminate() == 0, server.log.read_text()
            server.start()
        for publisher in (many, single):
            assert publisher.terminate() == 0, publisher.log.read_text()
        confirmed = many.confirmed() | single.confirmed()
        await eventually(lambda: reader.deliveries() and reader.deliveries()[-1].sequence >= max(confirmed))
        assert reader.terminate() == 0, reader.log.read_text()
    first = {delivery.sequence: delivery.payload for delivery in first_deliveries(reader.deliveries())}
    assert list(first) == list(range(1, len(first) + 1))
    assert {sequence: first[sequence] for sequence in confirmed} == confirmed
    assert len(set(first.values())) == len(first), "something was stored twice"


async def test_clients_are_told_why(server: Server) -> None:
    async with RawConnection(server.port) as raw:
        await raw.greet("reader")
        raw.send(Subscribe(request=1, handle=1, queue="orders", event="#"))
        await raw.receive(Subscribed)
        assert server.terminate() == 0
        assert (await raw.receive(Goodbye)).code == "draining"
        assert await raw.next() is None


async def test_a_long_backlog_that_is_being_read_does_not_hold_up_the_stop(server: Server, tmp_path: Path) -> None:
    # The reader acks all the time, so that there is always something to write.
    async with tidings.connect(server.url) as client:
        for _ in range(40):
            await client.publish_many("load", "made", ["x" * 500] * 5_000)
    with Subscriber(tmp_path, server.url, "load", "reader", way="messages") as reader:
        reader.read_line()
        await eventually(lambda: reader.progress > 0)
        assert server.process.terminate(deadline_s=10) == 0, server.log.read_text()
        assert len(reader.deliveries()) < 40 * 5_000, "the stop waited until all was read"


async def test_requests_without_end_do_not_hold_up_the_stop(server: Server) -> None:
    # Each of these acks waits until it is durable, so that there is always an answer that is owed.
    async def ack_durably(client: tidings.Client, number: int) -> None:
        async with client.subscribe("load", name=f"reader-{number}", start="earliest") as subscription:
            async for message in subscription:
                await message.ack(wait=True)

    async with tidings.connect(server.url, client_id="restless") as client, asyncio.TaskGroup() as tasks:
        await client.publish_many("load", "made", range(100_000))
        acking = [tasks.create_task(ack_durably(client, number)) for number in range(30)]
        await eventually(lambda: _attached(client, len(acking)))
        await eventually(lambda: _moving(client))
        code = await asyncio.to_thread(server.process.terminate, 10)
        for task in acking:
            task.cancel()
        assert code == 0
        server.start()


async def _attached(client: tidings.Client, count: int) -> bool:
    return len(await client.subscriptions()) == count


async def _moving(client: tidings.Client) -> bool:
    return all(info.cursor > 0 for info in await client.subscriptions())


async def test_a_client_that_never_reads_does_not_hold_up_the_stop(server: Server) -> None:
    async with RawConnection(server.port) as silent, tidings.connect(server.url) as client:
        await silent.greet("silent")
        silent.send(Subscribe(request=1, handle=1, queue="much", event="#"))
        await silent.receive(Subscribed)
        await client.publish_many("much", "made", [bytes(100_000)] * 200)
        frame, body = publish_frame(1, "much", b"x")
        silent.send(frame, body)
        code = await asyncio.to_thread(server.process.terminate, 10)
        assert code == 0, server.log.read_text()
