"""Webhooks: what was confirmed is posted, whatever is killed meanwhile."""

import asyncio
from pathlib import Path

import tidings
from tests.integration.processes import DEADLINE_S, Server, eventually
from tests.unit.gateways.webhooks.receiver import Receiver

COUNT = 200


async def test_a_killed_server_goes_on_posting_where_it_stopped(tmp_path: Path) -> None:
    async with Receiver() as receiver, asyncio.timeout(DEADLINE_S):
        with Server(tmp_path, http=True, options=["--allow-webhook", "127.0.0.1"]) as server:
            async with tidings.connect(server.url) as client:
                await client.put_webhook("shop", receiver.url, "orders", concurrency=4)
                for number in range(COUNT // 2):
                    await client.publish("orders", "created", number)
                first = [(await receiver.requests.get()).json["payload"] for _ in range(20)]
                receiver.gate.clear()
                await client.publish_many("orders", "created", list(range(COUNT // 2, COUNT)))
            server.kill()
            receiver.gate.set()
            receiver.hang_up()
            server.start()
            found = set(first)
            while len(found) < COUNT:
                found.add((await receiver.requests.get()).json["payload"])
            assert found == set(range(COUNT))
            async with tidings.connect(server.url) as client:

                async def all_is_settled() -> bool:
                    while not receiver.requests.empty():
                        receiver.requests.get_nowait()
                    return [info.lag for info in await client.subscriptions() if info.name == "shop"] == [0]

                await eventually(all_is_settled)
                [info] = [info for info in await client.subscriptions() if info.name == "shop"]
                assert info.dead == 0
