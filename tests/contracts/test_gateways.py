"""Every door keeps the gateway contract, and so does what doors are made on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

import tidings
from tests.contracts.doors import (
    ConversationClient,
    EventStreamClient,
    NativeClient,
    PullClient,
    SocketIoClient,
    WebSocketClient,
)
from tidings.testing.gateway_contract import Bench, GatewayClient, GatewayContract, Received


class TestNative(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return await NativeClient.connect(bench.urls.native)


class TestConversation(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return await ConversationClient.connect(bench.server.node)


class TestEventStreams(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return EventStreamClient(bench.urls.http)


class TestWebSocket(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return await WebSocketClient.connect(bench.urls.http)


class TestSocketIo(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return await SocketIoClient.connect(bench.urls.http)


class TestPull(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return PullClient(bench.urls.http)

    async def test_what_waits_for_its_ack_is_bounded_by_the_window(self) -> None:
        """As of other doors, but nothing is in flight before it is asked for."""
        async with self.bench() as bench:
            client = await bench.client()
            await client.subscribe("orders", "#", name="s", start="latest", in_flight_max=5)
            for number in range(40):
                await bench.beside.publish("orders", "created", number)
            assert (await bench.info("s")).in_flight == 0
            received = [await client.receive() for _ in range(5)]
            async with httpx.AsyncClient(base_url=bench.urls.http, trust_env=False) as http:
                assert (await http.get("/subscriptions/s/messages")).json() == {"messages": [], "gaps": []}
            for number in range(40):
                message = received.pop(0) if received else await client.receive()
                assert isinstance(message, Received)
                assert message.payload == number
                await client.ack(message)
                assert (await bench.info("s")).in_flight <= 5

    @asynccontextmanager
    async def _held(self, bench: Bench, name: str) -> AsyncIterator[None]:
        # Two that pull as the same client are one subscriber, so somebody else is in their way.
        async with tidings.connect(bench.urls.native) as other, other.subscribe("orders", name=name):
            yield
        await bench.free(name)
