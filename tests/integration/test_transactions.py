"""Transactions: consume, transform and publish leave no half states, whoever is killed meanwhile."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

import tidings
import tidings.sync
from tests.integration.processes import HERE, Process, Server, eventually

COUNT = 2_000


def transformer(directory: Path, url: str) -> Process:
    """Starts a process that squares; returns once it is attached."""
    process = Process(HERE / "transformer_process.py", url, "squarer", log=directory / "transformer.log")
    process.read_line()
    return process


async def read(client: tidings.Client, queue: str, count: int) -> list[int]:
    """Returns the payloads of a queue from its beginning."""
    payloads: list[int] = []
    async with client.subscribe(queue, start="earliest") as subscription:
        async for message in subscription:
            payloads.append(message.payload)
            if len(payloads) == count:
                return payloads
    raise AssertionError("the subscription ended")


async def last_sequence(client: tidings.Client, queue: str) -> int:
    """Returns how many messages a queue got."""
    return next((info.last_sequence for info in await client.queues() if info.name == queue), 0)


async def publish_and_ack(
    client: tidings.Client, *queues: str, ack: tidings.Message | None = None, error: Exception | None = None
) -> None:
    """Publishes into each queue in one transaction; with an error the block fails at its end."""
    async with client.transaction() as transaction:
        for queue in queues:
            transaction.publish(queue, "created", 1)
        if ack is not None:
            await transaction.ack(ack)
        if error is not None:
            raise error


@pytest.mark.parametrize("whom", ["server", "worker", "both"])
async def test_each_input_has_its_output_exactly_once_whoever_is_killed(
    whom: str, server: Server, tmp_path: Path
) -> None:
    async with tidings.connect(server.url) as client:
        await client.publish_many("numbers", "added", range(COUNT))
        process = transformer(tmp_path, server.url)
        try:
            for part in range(1, 4):
                await eventually(lambda part=part: _reached(client, COUNT * part // 5), what="squares were stored")
                if whom != "worker":
                    server.kill()
                if whom != "server":
                    process.kill()
                if whom != "worker":
                    server.start()
                if whom != "server":
                    process = transformer(tmp_path, server.url)
            await eventually(lambda: _settled(client), deadline_s=60, what="all numbers were acked")
        finally:
            process.end()
        assert await last_sequence(client, "squares") == COUNT
        squares, log = await read(client, "squares", COUNT), await read(client, "log", COUNT)
        assert Counter(squares) == Counter(number**2 for number in range(COUNT))
        assert Counter(log) == Counter(range(COUNT))


async def _reached(client: tidings.Client, count: int) -> bool:
    return await last_sequence(client, "squares") >= count


async def _settled(client: tidings.Client) -> bool:
    infos = await client.subscriptions()
    return any(info.name == "squaring" and info.lag == 0 for info in infos)


async def test_all_is_stored_or_nothing(server: Server) -> None:
    async with tidings.connect(server.url, client_id="shop") as client:
        with pytest.raises(RuntimeError):
            await publish_and_ack(client, "orders", error=RuntimeError())
        with pytest.raises(tidings.InvalidName):
            await publish_and_ack(client, "orders", "no good")
        with pytest.raises(tidings.SystemQueue):
            await publish_and_ack(client, "orders", "$presence")
        assert await last_sequence(client, "orders") == 0

        await client.publish("orders", "created", 0)
        async with client.transaction() as transaction:
            transaction.publish("orders", "created", 1, id="one")
            transaction.publish("bills", "sent", 2, headers={"to": "you"})
            transaction.publish("orders", "paid", 3)
            transaction.publish("orders", "created", 4, id="one")
        assert [(confirm.queue, confirm.sequence) for confirm in transaction.confirms] == [
            ("orders", 2),
            ("bills", 1),
            ("orders", 3),
            ("orders", 2),
        ]
        assert transaction.confirms[3].duplicate_of == 2
        with pytest.raises(tidings.InvalidOption, match="has ended"):
            transaction.publish("orders", "created", 5)


async def test_an_ack_that_comes_too_late_refuses_the_transaction(server: Server) -> None:
    async with (
        tidings.connect(server.url, client_id="worker") as client,
        client.subscribe("orders", ack_timeout=0.1, backoff_min=60, attempts_max=2) as orders,
    ):
        await client.publish("orders", "created", 1)
        message = await anext(aiter(orders))
        await eventually(lambda: _retrying(client), what="its time is over")
        with pytest.raises(tidings.DeliveryTakenAway):
            await publish_and_ack(client, "bills", ack=message)
        assert await last_sequence(client, "bills") == 0


async def _retrying(client: tidings.Client) -> bool:
    return any(info.retrying for info in await client.subscriptions())


async def test_a_handler_may_ack_in_a_transaction_and_fails_with_it(server: Server) -> None:
    async with tidings.connect(server.url, client_id="worker") as client:
        attempts: list[int] = []
        done = asyncio.Event()

        @client.on("orders", start="earliest", backoff_min=0.01, backoff_max=0.01)
        async def bill(message: tidings.Message) -> None:
            attempts.append(message.attempt)
            async with client.transaction() as transaction:
                transaction.publish("bills" if message.attempt > 1 else "$bills", "sent", message.payload)
                await transaction.ack(message)
            done.set()

        await client.publish("orders", "created", 7)
        async with asyncio.timeout(30):
            running = asyncio.ensure_future(client.run())
            await done.wait()
        assert attempts == [1, 2]
        assert await last_sequence(client, "bills") == 1
        [info] = [info for info in await client.subscriptions() if info.name == "worker:orders/#"]
        assert (info.lag, info.retrying, info.dead) == (0, 0, 0)
        running.cancel()


async def test_a_batch_of_messages_is_acked_in_one_transaction(server: Server) -> None:
    async with (
        tidings.connect(server.url, client_id="worker") as client,
        client.subscribe("orders") as orders,
    ):
        await client.publish_many("orders", "created", range(100))
        total = 0
        async for batch in orders.batches():
            async with client.transaction() as transaction:
                transaction.publish("sums", "added", sum(batch.payloads))
                await transaction.ack(batch)
            total += len(batch)
            if total == 100:
                break
        assert all(info.lag == 0 for info in await client.subscriptions() if info.queue == "orders")


def test_the_sync_client_has_the_same_transactions(server: Server) -> None:
    with tidings.sync.connect(server.url, client_id="worker") as client, client.subscribe("orders") as orders:
        client.publish("orders", "created", 20)
        message = next(iter(orders))
        with client.transaction() as transaction:
            transaction.publish("bills", "sent", message.payload * 2)
            transaction.ack(message)
        assert [confirm.queue for confirm in transaction.confirms] == ["bills"]
        again = client.transaction()
        again.publish("bills", "sent", 1)
        again.ack(message)
        with pytest.raises(tidings.DeliveryTakenAway):
            again.commit()
        assert next(info for info in client.queues() if info.name == "bills").last_sequence == 1
