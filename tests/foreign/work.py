"""What happens beside a foreign client: messages that it is to get, and the look at what it has settled."""

import tidings
from tests.integration.processes import Server, eventually


async def publish(server: Server, first: int, last: int) -> None:
    """Publishes numbers into orders."""
    async with tidings.connect(server.url) as client:
        await client.publish_many("orders", "created", list(range(first, last + 1)))


async def settled(server: Server, name: str) -> None:
    """Waits until a subscription has nothing left."""

    async def is_settled() -> bool:
        async with tidings.connect(server.url) as client:
            return any(info.name == name and info.lag == 0 for info in await client.subscriptions())

    await eventually(is_settled)
