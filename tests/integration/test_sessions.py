"""Sessions: a client id belongs to one living process; the same process always gets its session back."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

import tidings
from tests.integration.in_process import server_in_process
from tests.integration.processes import Server, eventually
from tests.integration.raw_connection import RawConnection
from tidings import limits
from tidings.wire import List, Listing


async def test_another_process_with_the_same_client_id_is_refused_and_told_who_has_it(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as first:
        [info] = await first.clients()
        with pytest.raises(tidings.ClientIdInUse) as refused:
            async with tidings.connect(server.url, client_id="billing"):
                pass
        assert info.address in refused.value.text, "who"
        assert " s ago" in refused.value.text, "since when"
        assert "take_over" in refused.value.text, "what to do"
        assert (await first.publish("orders", "made", 1)).sequence == 1, "the first is not harmed"


async def test_another_process_takes_over_if_it_asks_to(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as first:
        async with first.subscribe("orders") as subscription:
            await first.publish("orders", "made", 1)
            held = await anext(aiter(subscription))
            async with tidings.connect(server.url, client_id="billing", take_over=True) as second:
                await eventually(lambda: not first.connected)
                with pytest.raises(tidings.TakenOver) as told:
                    await first.publish("orders", "made", 2)
                assert "took over" in told.value.text
                await held.ack()
                async with second.subscribe("orders") as taken, asyncio.timeout(30):
                    message = await anext(aiter(taken))
                    assert (message.sequence, message.redelivered) == (1, True)


async def test_a_client_id_is_free_again_after_a_farewell(server: Server) -> None:
    for _ in range(3):
        async with tidings.connect(server.url, client_id="billing") as client:
            await client.publish("orders", "made", 1)


class Relay:
    """A relay between clients and a server, whose connections can be cut on the clients' side alone."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: list[asyncio.StreamWriter] = []
        self._half_dead: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"tidings://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in (*self._clients, *self._half_dead):
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        self._clients.append(writer)
        self._half_dead.append(to_server)
        self._tasks += [
            asyncio.ensure_future(self._pass_on(reader, to_server)),
            asyncio.ensure_future(self._pass_on(from_server, writer)),
        ]

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The other side never learns that this one has ended.
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()

    def cut(self) -> None:
        """Resets the clients' connections; the server's side of them stays open and says nothing more."""
        for task in self._tasks:
            task.cancel()
        for writer in self._clients:
            writer.transport.abort()
        self._clients = []


async def test_the_same_process_comes_back_while_the_server_still_sees_its_old_connection(server: Server) -> None:
    async with (
        Relay(server.port) as relay,
        tidings.connect(relay.url, client_id="billing") as client,
        tidings.connect(server.url) as publisher,
    ):
        async with client.subscribe("orders") as subscription, asyncio.timeout(30):
            messages = aiter(subscription)
            for number in range(3):
                await publisher.publish("orders", "made", number)
                message = await anext(messages)
                assert message.payload == number
                await message.ack(wait=True)
                relay.cut()
            await publisher.publish("orders", "made", "after")
            assert (await anext(messages)).payload == "after"
            [info] = [info for info in await publisher.clients() if info.client_id == "billing"]
            assert info.connected


async def test_a_stranger_cannot_use_a_half_dead_clients_id_but_its_owner_can(server: Server) -> None:
    async with RawConnection(server.port) as old, RawConnection(server.port) as new:
        welcome = await old.greet("billing")
        with pytest.raises(tidings.ClientIdInUse):
            async with tidings.connect(server.url, client_id="billing"):
                pass
        await new.greet("billing", token=welcome.token)
        await old.closed("connection_lost")
        new.send(List(1, "clients"))
        await new.receive(Listing)


async def test_a_client_that_falls_silent_is_noticed_and_its_client_id_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server's heartbeats are 10 s; a tenth of that is as much silence as it bears here.
    monkeypatch.setattr(limits, "HEARTBEATS_MISSED_MAX", 0.1)
    async with server_in_process(tmp_path / "events.db") as url:
        port = int(url.rpartition(":")[2])
        async with RawConnection(port) as silent, RawConnection(port) as talking:
            await silent.greet("silent")
            await talking.greet("talking")
            numbers = iter(range(1, 1_000_000))

            async def away() -> bool:
                talking.send(List(next(numbers), "clients"))
                listing = await talking.receive(Listing)
                infos = msgspec.msgpack.decode(listing.entries, type=list[tidings.ClientInfo])
                return {info.client_id: info.connected for info in infos} == {"silent": False, "talking": True}

            await eventually(away)


async def test_a_server_that_falls_silent_is_noticed(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "HEARTBEATS_MISSED_MAX", 0.1)
    held: list[asyncio.StreamWriter] = []
    frozen = False

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        if frozen:
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", server.port)
        held.append(to_server)
        writer.write(await _first_answer(reader, to_server, from_server))

    listening = await asyncio.start_server(relay, "127.0.0.1", 0)
    url = f"tidings://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        with caplog.at_level(logging.INFO, logger="tidings"):
            async with tidings.connect([url, server.url]) as client:
                frozen = True
                await eventually(lambda: "silent for" in caplog.text)
                await client.close()
    finally:
        for writer in held:
            writer.close()
        listening.close()


async def _first_answer(
    reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, from_server: asyncio.StreamReader
) -> bytes:
    to_server.write(await reader.read(65_536))
    return await from_server.read(65_536)


async def test_publishes_and_requests_keep_their_time_limits(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        await client.publish("orders", "made", 1, timeout=30)
        server.kill()
        await eventually(lambda: not client.connected)
        with pytest.raises(tidings.TimedOut) as told:
            await client.publish("orders", "made", 2, timeout=0.2)
        assert "never sent" in told.value.text
        with pytest.raises(tidings.TimedOut):
            await client.queues(timeout=0.2)
        with pytest.raises(tidings.TimedOut):
            await client.subscribe("orders", timeout=0.2).attach()
        server.start()
        assert (await client.publish("orders", "made", 3, timeout=30)).sequence == 2


async def test_a_subscription_has_one_subscriber_and_one_filter(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        async with client.subscribe("orders", name="mine"):
            with pytest.raises(tidings.SubscriptionInUse):
                await client.subscribe("orders", name="mine").attach()
        with pytest.raises(tidings.SubscriptionConflict, match="orders/#"):
            await client.subscribe("orders", "created", name="mine").attach()
        async with tidings.connect(server.url, client_id="other") as other:
            with pytest.raises(tidings.SubscriptionConflict, match="shared="):
                await other.subscribe("orders", name="mine").attach()
