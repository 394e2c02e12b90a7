"""`tidings schedules`: what is to be published later, and how to take it back."""

import time
from typing import Annotated

from cyclopts import App, Parameter

from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, run_async
from tidings.cli.output import as_entry, print_entries, print_table, printable, time_until
from tidings.gateways.messages import iso_time
from tidings.model import ScheduledInfo

app = App(name=("schedules", "schedule"))


@app.default
def list_schedules(*, json: Json = False, server: Server = SERVER_DEFAULT) -> None:
    """List what is to be published later, the next ones first.

    For example:

        tidings publish reports daily --every 86400
        tidings schedules
        tidings schedules cancel 1769846400000-12
    """
    infos = run_async(_fetch(server))
    if json:
        print_entries(as_entry(info, times=("at",)) for info in infos)
    else:
        print_schedules(infos, now_ms=time.time_ns() // 1_000_000)


@app.command
def cancel(
    handle: Annotated[str, Parameter(help="The handle in the confirm, or in the list.")],
    /,
    *,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Take a scheduled message back, or end one that recurs."""
    run_async(_cancel(server, handle))
    print(f"cancelled {printable(handle)}")


def print_schedules(infos: list[ScheduledInfo], *, now_ms: int) -> None:
    """Prints scheduled messages as a table."""
    rows = [
        (
            info.handle,
            info.queue,
            info.event,
            iso_time(info.at),
            time_until(info.at, now_ms),
            "" if info.every_ms is None else f"{info.every_ms / 1000:g} s",
        )
        for info in infos
    ]
    columns = ("handle", "queue", "event", "at", "that is", "every")
    print_table(columns, rows, empty="Nothing is scheduled; for example: tidings publish QUEUE EVENT '{}' --delay 60")


async def _fetch(server: str) -> list[ScheduledInfo]:
    async with connect(server) as client:
        return [info async for info in client.schedules()]


async def _cancel(server: str, handle: str) -> None:
    async with connect(server) as client:
        await client.cancel_schedule(handle)
