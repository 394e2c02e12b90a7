"""`tidings clients`: who is connected, who is away with messages waiting, and how much each may ask of the server."""

import time
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, parse_limit, run_async
from tidings.cli.output import as_entry, print_entries, print_table, printable, relative_time
from tidings.errors import InvalidOption
from tidings.model import ClientInfo

RATE_HELP: Final = "Messages a second that it may publish, on average; `none` is no limit."
RATE_BYTES_HELP: Final = "Bytes a second that it may publish, on average; `none` is no limit."
IN_FLIGHT_HELP: Final = "Most messages in flight to all its subscriptions together; `none` is no limit."
SUBSCRIPTIONS_HELP: Final = "How many subscriptions it may have; `none` is no limit."

app = App(name=("clients", "client"))


@app.default
def list_clients(*, json: Json = False, server: Server = SERVER_DEFAULT) -> None:
    """List clients: who is connected, to which queues, and what waits for those who are away.

    For example:

        tidings clients
        tidings clients --json | jq 'select(.connected)'
        tidings client set shop --publish-rate 100
    """
    infos = run_async(_fetch(server))
    if json:
        print_entries(as_entry(info, times=("connected_since", "last_seen")) for info in infos)
    else:
        print_clients(infos, now_ms=time.time_ns() // 1_000_000)


@app.command(name="set")
def set_(
    client_id: Annotated[str, Parameter(help="The client id; it is known from then on.")],
    /,
    *,
    publish_rate: Annotated[str | None, Parameter(metavar="N", help=RATE_HELP)] = None,
    publish_rate_bytes: Annotated[str | None, Parameter(metavar="BYTES", help=RATE_BYTES_HELP)] = None,
    in_flight_max: Annotated[str | None, Parameter(metavar="N", help=IN_FLIGHT_HELP)] = None,
    subscriptions_max: Annotated[str | None, Parameter(metavar="N", help=SUBSCRIPTIONS_HELP)] = None,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Change how much a client may ask of the server, connected or not. What is left out stays as it is.

    For example:

        tidings client set shop --publish-rate 100 --in-flight-max none
    """
    given = {
        "publish_rate": publish_rate,
        "publish_rate_bytes": publish_rate_bytes,
        "in_flight_max": in_flight_max,
        "subscriptions_max": subscriptions_max,
    }
    quotas = {option: parse_limit(option, text) for option, text in given.items() if text is not None}
    if not quotas:
        raise InvalidOption("nothing to change; for example --publish-rate 100")
    run_async(_set(server, client_id, quotas))
    print(f"changed client {printable(client_id)}")


async def _set(server: str, client_id: str, quotas: dict[str, Any]) -> None:
    async with connect(server) as client:
        await client.configure_client(client_id, **quotas)


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
