"""Request and reply: a reply comes back to who asked, or is told to be missing in time."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
from dataclasses import dataclass
from threading import Thread

import pytest

import tidings
import tidings.sync
from tests.integration.processes import Server, eventually


@dataclass
class Quote:
    price: float


async def attached(client: tidings.Client, name: str) -> bool:
    return any(info.connected and info.name == name for info in await client.subscriptions())


async def test_a_handler_answers_with_what_it_returns(server: Server) -> None:
    async with tidings.connect(server.url, client_id="rates") as rates, tidings.connect(server.url) as client:

        @rates.on("rates", "quote", concurrency=16)
        async def quote(message: tidings.Message) -> Quote:
            return Quote(message.payload["amount"] * 2.0)

        async with rates.subscribe("rates", "quote", name="log"):  # gets requests, too, and answers nothing
            running = asyncio.create_task(rates.run())
            await eventually(lambda: attached(client, "rates:rates/quote"))
            requests = [client.request("rates", "quote", {"amount": n}, type=Quote, timeout=30) for n in range(200)]
            replies = await asyncio.gather(*requests)
            assert [reply.payload for reply in replies] == [Quote(2.0 * n) for n in range(200)]
            assert replies[0].client_id == "rates"
            running.cancel()
        [queue] = [info for info in await client.queues() if info.name == "rates"]
        assert queue.messages == 200
        assert [info.name for info in await client.queues() if info.name != "rates"] == ["$presence"], "no litter"


async def test_without_a_reply_in_time_the_request_fails_and_a_late_one_harms_nobody(server: Server) -> None:
    async with tidings.connect(server.url, client_id="rates") as rates, tidings.connect(server.url) as client:
        async with rates.subscribe("rates") as subscription:
            with pytest.raises(tidings.TimedOut, match=r"no reply to message 1 of queue 'rates' within 0\.2 s"):
                await client.request("rates", "quote", 1, timeout=0.2)
            await client.queues()  # the server has heard by now that nobody waits any more
            messages = aiter(subscription)
            late = await anext(messages)
            assert late.is_request
            assert await late.respond("too late") is False
            await late.ack()
            asking = asyncio.create_task(client.request("rates", "quote", 2, headers={"a": "b"}, timeout=30))
            message = await anext(messages)
            assert (message.payload, message.headers["a"]) == (2, "b")
            assert await message.respond(b"bytes", headers={"c": "d"})
            reply = await asking
            assert (reply.payload, reply.content_type, reply.headers) == (
                b"bytes",
                "application/octet-stream",
                {"c": "d"},
            )
            await message.ack()
            await client.publish("rates", "note", 3)
            message = await anext(messages)
            assert not message.is_request
            with pytest.raises(tidings.InvalidOption, match="is no request"):
                await message.respond("?")


async def test_a_request_that_nobody_wants_fails_at_once(server: Server) -> None:
    async with tidings.connect(server.url) as client:
        with pytest.raises(tidings.Unanswered, match="no subscription wants rates/quote"):
            await client.request("rates", "quote", 1, timeout=30)


async def test_a_request_outlives_the_server_and_is_answered(server: Server) -> None:
    async with tidings.connect(server.url, client_id="rates") as rates, tidings.connect(server.url) as client:
        async with rates.subscribe("rates") as subscription:
            asking = asyncio.create_task(client.request("rates", "quote", 1, timeout=60))
            messages = aiter(subscription)
            await anext(messages)
            server.kill()
            server.start()
            message = await anext(messages)
            answered = False
            while not answered and not asking.done():  # until the requester is back
                answered = await message.respond("done")
            assert (await asking).payload == "done"


def test_the_sync_client_asks_and_answers(server: Server) -> None:
    with tidings.sync.connect(server.url, client_id="rates") as rates, tidings.sync.connect(server.url) as client:

        @rates.on("rates", "quote")
        def quote(message: tidings.sync.Message) -> int:
            return int(message.payload) + 1

        with rates.subscribe("rates", "other", name="other") as other:
            working = Thread(target=rates.run, daemon=True)
            asked: list[object] = []

            def ask() -> None:
                asked.append(client.request("rates", "other", 1, timeout=30).payload)

            asking = Thread(target=ask)
            asking.start()
            message = next(iter(other))
            assert message.respond("yes") is True
            asking.join(30)
            assert asked == ["yes"]
            working.start()
            while not any(info.name == "rates:rates/quote" and info.connected for info in client.subscriptions()):
                assert working.is_alive()
            assert client.request("rates", "quote", 41, timeout=30).payload == 42
