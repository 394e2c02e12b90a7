"""The fixtures that ship for users, used as users use them."""

import pytest

import tidings


async def test_a_client_publishes_and_receives(tidings_client: tidings.Client) -> None:
    async with tidings_client.subscribe("orders", "created") as orders:
        await tidings_client.publish("orders", "created", {"id": 7})
        async for message in orders:
            assert message.payload == {"id": 7}
            await message.ack(wait=True)
            break


@pytest.mark.parametrize("run", [1, 2])
async def test_each_test_has_a_server_of_its_own(tidings_server: str, run: int) -> None:
    async with tidings.connect(tidings_server) as client:
        confirm = await client.publish("orders", "created", run)
    assert confirm.sequence == 1


async def test_client_and_url_belong_to_one_server(tidings_client: tidings.Client, tidings_server: str) -> None:
    async with tidings.connect(tidings_server) as other:
        connected = [client.client_id for client in await other.clients()]
    assert "test" in connected
