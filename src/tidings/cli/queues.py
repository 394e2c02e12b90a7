"""`tidings queues`: what each queue holds, and how to delete one."""

from typing import Annotated

from cyclopts import App, Parameter

from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, run_async
from tidings.cli.output import as_entry, print_entries, print_table, printable, readable_size
from tidings.model import QueueInfo

app = App(name="queues")


@app.default
def list_queues(*, json: Json = False, server: Server = SERVER_DEFAULT) -> None:
    """List queues: what each holds, how many subscribe, and which subscription keeps the oldest message.

    For example:

        tidings queues
        tidings queues delete orders
    """
    infos = run_async(_fetch(server))
    if json:
        print_entries(as_entry(info, times=("created",)) for info in infos)
    else:
        print_queues(infos)


@app.command
def delete(name: Annotated[str, Parameter(help="Name of the queue.")], /, *, server: Server = SERVER_DEFAULT) -> None:
    """Delete a queue with all its messages. Its subscriptions stay, and follow a later queue of this name."""
    run_async(_delete(server, name))
    print(f"deleted queue {printable(name)}")


async def _fetch(server: str) -> list[QueueInfo]:
    async with connect(server) as client:
        return await client.queues()


async def _delete(server: str, name: str) -> None:
    async with connect(server) as client:
        await client.delete_queue(name)


def print_queues(infos: list[QueueInfo]) -> None:
    """Prints queues as a table."""
    columns = ("name", "first", "last", "messages", "size", "subscriptions", "held by")
    rows = [
        (
            f"{info.name} (paused)" if info.paused else info.name,
            info.first_sequence,
            info.last_sequence,
            info.messages,
            readable_size(info.bytes),
            info.subscriptions,
            info.held_by or "",
        )
        for info in infos
    ]
    print_table(columns, rows, empty="No queue yet; the first message makes one: tidings publish QUEUE EVENT '{}'")
