"""`tidings queues`: what each queue holds, how to change its settings, and how to delete one."""

from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, parse_limit, run_async
from tidings.cli.output import as_entry, print_entries, print_table, printable, readable_size
from tidings.errors import InvalidOption
from tidings.model import QueueInfo

HISTORY_AGE_HELP: Final = "How long messages stay that all durable subscriptions have settled; `none` is for ever."
HISTORY_BYTES_HELP: Final = "How many bytes of them stay at most; `none` is no limit."
HISTORY_MESSAGES_HELP: Final = "How many of them stay at most; `none` is no limit."
WAITING_HELP: Final = "How many may wait for a durable subscription; `none` is no limit."
WAITING_BYTES_HELP: Final = "How many bytes of messages may wait for one; `none` is no limit."
WAITING_AGE_HELP: Final = "How long a message may wait for one; `none` is no limit."
WHEN_FULL_HELP: Final = "When so much waits: refuse what is published, or cut the oldest of it."
TTL_HELP: Final = "After which age a message is not delivered any more; `none` is never."
RATE_HELP: Final = "Messages a second that are taken, on average; `none` is no limit."
RATE_BYTES_HELP: Final = "Bytes a second that are taken, on average; `none` is no limit."
IN_FLIGHT_HELP: Final = "How many of its messages may be in flight, to all subscriptions; `none` is no limit."
SUBSCRIPTIONS_HELP: Final = "How many subscriptions may read it; `none` is no limit."

app = App(name=("queues", "queue"))


@app.default
def list_queues(*, json: Json = False, server: Server = SERVER_DEFAULT) -> None:
    """List queues: what each holds, how many subscribe, and which subscription keeps the oldest message.

    For example:

        tidings queues
        tidings queue set orders --history-age 3600
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


@app.command(name="set")
def set_(
    name: Annotated[str, Parameter(help="Name of the queue; it exists from then on.")],
    /,
    *,
    history_age: Annotated[str | None, Parameter(metavar="SECONDS", help=HISTORY_AGE_HELP)] = None,
    history_bytes: Annotated[str | None, Parameter(metavar="BYTES", help=HISTORY_BYTES_HELP)] = None,
    history_messages: Annotated[str | None, Parameter(metavar="N", help=HISTORY_MESSAGES_HELP)] = None,
    ttl: Annotated[str | None, Parameter(metavar="SECONDS", help=TTL_HELP)] = None,
    waiting_messages: Annotated[str | None, Parameter(metavar="N", help=WAITING_HELP)] = None,
    waiting_bytes: Annotated[str | None, Parameter(metavar="BYTES", help=WAITING_BYTES_HELP)] = None,
    waiting_age: Annotated[str | None, Parameter(metavar="SECONDS", help=WAITING_AGE_HELP)] = None,
    when_full: Annotated[Literal["refuse-new", "drop-oldest"] | None, Parameter(help=WHEN_FULL_HELP)] = None,
    publish_rate: Annotated[str | None, Parameter(metavar="N", help=RATE_HELP)] = None,
    publish_rate_bytes: Annotated[str | None, Parameter(metavar="BYTES", help=RATE_BYTES_HELP)] = None,
    in_flight_max: Annotated[str | None, Parameter(metavar="N", help=IN_FLIGHT_HELP)] = None,
    subscriptions_max: Annotated[str | None, Parameter(metavar="N", help=SUBSCRIPTIONS_HELP)] = None,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Change the settings of a queue, for what it holds and for what comes. What is left out stays as it is.

    For example:

        tidings queue set orders --history-age 604800 --history-bytes none
    """
    given = {
        "history_age": history_age,
        "history_bytes": history_bytes,
        "history_messages": history_messages,
        "ttl": ttl,
        "waiting_messages": waiting_messages,
        "waiting_bytes": waiting_bytes,
        "waiting_age": waiting_age,
        "publish_rate": publish_rate,
        "publish_rate_bytes": publish_rate_bytes,
        "in_flight_max": in_flight_max,
        "subscriptions_max": subscriptions_max,
    }
    settings: dict[str, Any] = {option: parse_limit(option, text) for option, text in given.items() if text is not None}
    if when_full is not None:
        settings["when_full"] = when_full
    if not settings:
        raise InvalidOption("nothing to change; for example --history-age 3600")
    run_async(_set(server, name, settings))
    print(f"changed queue {printable(name)}")


async def _set(server: str, name: str, settings: dict[str, Any]) -> None:
    async with connect(server) as client:
        await client.configure_queue(name, **settings)


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
