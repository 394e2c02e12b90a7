"""`tidings receipt`: what became of one message at each subscription."""

import time
from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, run_async
from tidings.cli.output import as_entry, print_entries, print_table, relative_time, time_until
from tidings.model import Receipt


def receipt(
    queue: Annotated[str, Parameter(help="Name of the queue.")],
    sequence: Annotated[int, Parameter(help="Sequence of the message: the confirm of its publish has it.")],
    /,
    *,
    json: Json = False,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Show what became of a message at each subscription that it is meant for.

    It is waiting, in flight (and at whom), retrying, acked, or dead. Of what is acked only ranges are kept: `acked?` is
    told where a message may also have been moved past, or redriven as a dead letter.

    For example:

        tidings receipt orders 42
    """
    receipts = run_async(_fetch(server, queue, sequence))
    if json:
        print_entries(as_entry(each, times=("at",)) for each in receipts)
    else:
        print_receipts(receipts, now_ms=time.time_ns() // 1_000_000)


def print_receipts(receipts: list[Receipt], *, now_ms: int) -> None:
    """Prints receipts as a table."""
    rows = [
        (
            each.subscription,
            each.state if each.exact else f"{each.state}?",
            "" if each.attempts is None else str(each.attempts),
            each.client_id or each.address,
            _when(each, now_ms),
            each.reason if each.dead_letter is None else f"dead letter {each.dead_letter}: {each.reason}",
        )
        for each in receipts
    ]
    columns = ("subscription", "state", "attempts", "at", "when", "why")
    print_table(columns, rows, empty="The message is meant for no subscription.")


def _when(told: Receipt, now_ms: int) -> str:
    if told.at is None:
        return ""
    return time_until(told.at, now_ms) if told.state == "retrying" else relative_time(told.at, now_ms)


async def _fetch(server: str, queue: str, sequence: int) -> list[Receipt]:
    async with connect(server) as client:
        return await client.receipts(queue, sequence)
