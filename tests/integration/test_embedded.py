"""Embedded: the same broker inside the process, shared by its clients, alone on its file; and code without asyncio."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tidings
import tidings.embedded
import tidings.sync
from tests.integration.processes import Process, Server, environment
from tidings.server import make_store


@pytest.fixture(params=["memory", "file", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every kind of broker."""
    if request.param == "memory":
        return f"memory:{tmp_path.name}"
    if request.param == "file":
        return str(tmp_path / "embedded.db")
    server: Server = request.getfixturevalue("server")
    return server.url


async def test_two_clients_share_one_broker(url: str) -> None:
    async with tidings.connect(url, client_id="reader") as reader, tidings.connect(url) as publisher:
        async with reader.subscribe("orders", "created") as subscription, asyncio.timeout(30):
            confirm = await publisher.publish("orders", "created", {"id": 7})
            message = await anext(aiter(subscription))
            assert (message.payload, message.sequence) == ({"id": 7}, confirm.sequence)
            assert confirm.durability == ("memory" if url.startswith("memory:") else "disk")
            assert confirm.subscriptions == 1
            await message.ack(wait=True)
            assert {info.client_id for info in await publisher.clients()} == {"reader", None}
        with pytest.raises(tidings.ClientIdInUse):
            async with tidings.connect(url, client_id="reader"):
                pass


async def test_a_subscription_survives_its_client(url: str) -> None:
    async with tidings.connect(url) as keeper:  # a broker on a file ends with its last client; this one stays
        async with tidings.connect(url, client_id="reader") as reader, reader.subscribe("orders"):
            pass
        await keeper.publish_many("orders", "created", range(3_000))
        async with tidings.connect(url, client_id="reader") as reader, reader.subscribe("orders") as subscription:
            payloads = []
            async with asyncio.timeout(30):
                async for batch in subscription.batches():
                    payloads += batch.payloads
                    await batch.ack()
                    if len(payloads) == 3_000:
                        break
            assert payloads == list(range(3_000))


def test_code_without_asyncio_has_the_same_verbs(url: str) -> None:
    with tidings.sync.connect(url, client_id="reader") as client:
        with client.subscribe("orders", "created") as subscription:
            assert client.publish("orders", "created", {"id": 1}).sequence == 1
            assert sum(confirm.count for confirm in client.publish_many("orders", "created", range(10))) == 10
            seen = []
            for message in subscription:
                seen.append(message.payload)
                message.ack(wait=True)
                if len(seen) == 11:
                    break
            assert seen == [{"id": 1}, *range(10)]
            assert [info.client_id for info in client.clients()] == ["reader"]
            [info] = client.subscriptions()
            assert (info.cursor, info.lag) == (11, 0)
            assert "orders" in [info.name for info in client.queues()]
        client.delete_subscription("reader")
        client.delete_queue("orders")
        with pytest.raises(tidings.NotFound):
            client.delete_queue("orders")


def test_a_synchronous_client_is_used_from_several_threads(url: str) -> None:
    sequences: list[int] = []
    with tidings.sync.connect(url) as client:

        def publish() -> None:
            for number in range(20):
                sequences.append(client.publish("orders", "created", number).sequence)

        threads = [threading.Thread(target=publish) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(sequences) == list(range(1, 101))


async def test_names_in_memory_are_brokers_of_their_own(tmp_path: Path) -> None:
    one, other = f"memory:{tmp_path.name}-one", f"memory:{tmp_path.name}-other"
    async with tidings.connect(one) as first, tidings.connect(other) as second:
        await first.publish("orders", "created", 1)
        assert "orders" not in [info.name for info in await second.queues()]


async def test_a_file_keeps_its_messages_between_brokers_and_servers(tmp_path: Path) -> None:
    directory = tmp_path
    data_file = directory / "events.db"
    async with tidings.connect(f"sqlite:{data_file}", client_id="reader") as client:
        async with client.subscribe("orders"):
            await client.publish("orders", "created", "embedded")
    with Server(directory) as server:
        assert server.data_file == data_file
        async with tidings.connect(server.url) as client:
            await client.publish("orders", "created", "served")
        assert server.terminate() == 0
    async with tidings.connect(str(data_file), client_id="reader") as client:
        async with client.subscribe("orders") as subscription, asyncio.timeout(30):
            messages = aiter(subscription)
            assert [(await anext(messages)).payload for _ in range(2)] == ["embedded", "served"]


async def test_a_file_that_a_server_has_open_is_refused_with_its_process_id(server: Server) -> None:
    with pytest.raises(tidings.StoreLocked) as refused:
        async with tidings.connect(str(server.data_file), reconnect=False):
            pass
    assert str(server.process.pid) in refused.value.text
    assert "tidings serve" in refused.value.text


_OPEN = """
import asyncio, sys, tidings
async def main():
    async with tidings.connect(sys.argv[1]) as client:
        await client.publish("orders", "created", "from a process that is killed")
        print("open", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_second_process_gets_the_file_once_the_first_is_killed(tmp_path: Path) -> None:
    data_file = tmp_path / "events.db"
    script = tmp_path / "open.py"
    script.write_text(_OPEN)
    with Process(script, data_file, log=tmp_path / "open.log") as holder:
        assert holder.read_line() == "open"
        with pytest.raises(tidings.StoreLocked, match=str(holder.pid)):
            async with tidings.connect(str(data_file)):
                pass
        holder.kill()
    async with tidings.connect(str(data_file)) as client:
        async with client.subscribe("orders", start="earliest") as subscription, asyncio.timeout(30):
            assert (await anext(aiter(subscription))).payload == "from a process that is killed"


async def is_free(data_file: Path) -> bool:
    """Whether a broker of another process could open a data file."""
    store = make_store(str(data_file))
    try:
        await store.open()
    except tidings.StoreLocked:
        return False
    await store.close()
    return True


@pytest.mark.parametrize("ends", ["its time is over", "it is cancelled"])
async def test_a_client_that_is_given_up_while_its_broker_starts_leaves_the_file_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    data_file = tmp_path / "events.db"
    starting, started, go_on = asyncio.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    acquire = tidings.embedded._acquire

    def acquire_slowly(url: str, path: str | None) -> tidings.embedded._Broker:
        loop.call_soon_threadsafe(starting.set)
        assert go_on.wait(30)
        broker = acquire(url, path)
        loop.call_soon_threadsafe(started.set)
        return broker

    monkeypatch.setattr(tidings.embedded, "_acquire", acquire_slowly)
    client = tidings.connect(str(data_file), timeout=0.001 if ends == "its time is over" else 30)
    opening = asyncio.create_task(client.open())
    async with asyncio.timeout(30):
        await starting.wait()
        if ends == "it is cancelled":
            opening.cancel()
        loop.call_later(0.01, go_on.set)
        with pytest.raises((tidings.Unavailable, asyncio.CancelledError)):
            await opening
        await started.wait()
    assert await is_free(data_file)


@pytest.mark.parametrize("kind", ["asynchronous", "blocking", "handling"])
async def test_a_program_that_does_not_close_its_client_ends_quietly(tmp_path: Path, kind: str) -> None:
    data_file = tmp_path / "events.db"
    command = [sys.executable, "-c", _UNCLOSED[kind], str(data_file)]
    program = await asyncio.to_thread(
        subprocess.run, command, env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert program.stdout == "published\n"
    assert "Traceback" not in program.stderr
    assert await is_free(data_file)


_UNCLOSED = {
    "asynchronous": """
import asyncio, sys, tidings
async def main():
    client = tidings.connect(sys.argv[1])
    await client.open()
    await client.publish("orders", "created", 1)
    print("published", flush=True)
asyncio.run(main())
""",
    "blocking": """
import sys, tidings.sync
client = tidings.sync.connect(sys.argv[1])
client.open()
client.publish("orders", "created", 1)
print("published", flush=True)
""",
    "handling": """
import sys, threading, tidings.sync
client = tidings.sync.connect(sys.argv[1], client_id="me")
client.open()
handled = threading.Event()
client.on("orders", start="earliest")(lambda message: handled.set())
threading.Thread(target=client.run, daemon=True).start()
client.publish("orders", "created", 1)
assert handled.wait(20)
print("published", flush=True)
""",
}
