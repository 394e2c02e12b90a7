"""Every door keeps the gateway contract, and so does what doors are made on."""

from tests.contracts.doors import ConversationClient, NativeClient, SocketIoClient, WebSocketClient
from tidings.testing.gateway_contract import Bench, GatewayClient, GatewayContract


class TestNative(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return await NativeClient.connect(bench.urls.native)


class TestConversation(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return await ConversationClient.connect(bench.server.node)


class TestWebSocket(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return await WebSocketClient.connect(bench.urls.http)


class TestSocketIo(GatewayContract):
    async def connect(self, bench: Bench) -> GatewayClient:
        return await SocketIoClient.connect(bench.urls.http)
