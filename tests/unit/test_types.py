"""What a type checker makes of a program that uses Tidings."""

from pathlib import Path

from mypy import api

_PROGRAM = """
from typing import Any, assert_type
import msgspec, tidings, tidings.sync

class Order(msgspec.Struct):
    id: int

client = tidings.connect("memory:")

@client.on("orders", type=Order)
async def bill(message: tidings.Message[Order]) -> None:
    assert_type(message.payload, Order)

@client.on("orders")
async def log(message: tidings.Message) -> None:
    assert_type(message.payload, Any)

async def read() -> None:
    async with client.subscribe("orders", type=Order) as orders:
        async for message in orders:
            assert_type(message.payload, Order)
        async for batch in orders.batches():
            assert_type(batch.payloads, list[Order])
    async for either in client.replay("orders", type=Order | int):  # no checker can tell what that is
        assert_type(either.payload, Any)
    reply = await client.request("orders", "price", 1, type=Order)
    assert_type(reply.payload, Order)
    assert_type((await client.request("orders", "price", 1)).payload, Any)
    gaps: list[tidings.Gap] = client.subscribe("orders").gaps
    moved: list[tidings.MovedInfo] = await client.seek("orders", to="latest")
    webhooks: list[tidings.WebhookInfo] = await client.webhooks()
    async for any in client.subscribe("orders"):
        assert_type(any, tidings.Message)

def read_in_a_thread(client: tidings.sync.Client) -> None:
    with client.subscribe("orders", type=list[Order]) as orders:
        for message in orders:
            assert_type(message.payload, list[Order])
    assert_type(client.request("orders", "price", 1, type=Order).payload, Order)
    for again in client.replay("orders", type=Order):
        assert_type(again.payload, Order)
        again.payload.no_such_field
"""


def test_payloads_have_the_type_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(_PROGRAM)
    found, mistakes, _ = api.run(["--strict", "--no-error-summary", str(path)])
    assert mistakes == ""
    (line,) = found.splitlines()
    assert line.endswith('"Order" has no attribute "no_such_field"  [attr-defined]')
