"""`tidings clients`: who is connected, and who is away with messages waiting."""

import time

from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, run_async
from tidings.cli.output import as_entry, print_entries, print_table, relative_time
from tidings.model import ClientInfo


def clients(*, json: Json = False, server: Server = SERVER_DEFAULT) -> None:
    """List clients: who is connected, to which queues, and what waits for those who are away.

    For example:

        tidings clients
        tidings clients --json | jq 'select(.connected)'
    """
    infos = run_async(_fetch(server))
    if json:
        print_entries(as_entry(info, times=("connected_since", "last_seen")) for info in infos)
    else:
        print_clients(infos, now_ms=time.time_ns() // 1_000_000)


async def _fetch(server: str) -> list[ClientInfo]:
    async with connect(server) as client:
        return await client.clients()


def print_clients(infos: list[ClientInfo], *, now_ms: int) -> None:
    """Prints clients as a table."""
    columns = ("client id", "address", "protocol", "connected", "queues", "subscriptions", "waiting")
    rows = [
        (
            info.client_id or "(anonymous)",
            info.address,
            info.protocol,
            _connected(info, now_ms),
            ", ".join(info.queues),
            ", ".join(info.subscriptions),
            info.waiting,
        )
        for info in infos
    ]
    print_table(columns, rows, empty="No client is known.")


def _connected(info: ClientInfo, now_ms: int) -> str:
    if info.connected:
        return f"since {relative_time(info.connected_since, now_ms)}".replace("since now", "just now")
    return f"away, seen {relative_time(info.last_seen, now_ms)}"
