"""`tidings subscribe`: messages as JSON lines, each acknowledged once it is written."""

import sys
from typing import Annotated, Any, Final

from cyclopts import Parameter

import tidings
from tidings.cli.options import SERVER_DEFAULT, Server, connect, parse_header_filters, parse_start, run_async
from tidings.cli.output import to_json
from tidings.cli.streams import write_all
from tidings.client.options import SubscribeOptions
from tidings.errors import InvalidOption
from tidings.gateways.messages import iso_time, payload_entry

QUEUE_HELP: Final = "Queue, or a filter: `*` is any one token of its name, a last `#` any number of them."
EVENT_HELP: Final = "Event, or a filter as for QUEUE; without it, every event."
AS_HELP: Final = "Name of the client and of its durable subscription."
HEADER_HELP: Final = (
    "Only messages with this header: `NAME=VALUE`, `NAME^=BEGINNING`, or `NAME` for any value. Repeatable: those of one"
    " name are alternatives, else all must hold."
)
SHARED_HELP: Final = "Name of a subscription to share with others who give it: each message goes to one of them."
FROM_HELP: Final = (
    "Where a new subscription begins: `earliest`, `latest`, `last` (the last message of each event, then what follows),"
    " a sequence, or a time such as `2026-01-31T08:00:00Z`."
)


def subscribe(
    queue: Annotated[str, Parameter(help=QUEUE_HELP)],
    event: Annotated[str | None, Parameter(help=EVENT_HELP)] = None,
    /,
    *,
    as_: Annotated[str | None, Parameter(name="--as", metavar="NAME", help=AS_HELP)] = None,
    from_: Annotated[str, Parameter(name="--from", metavar="START", help=FROM_HELP)] = "latest",
    header: Annotated[tuple[str, ...], Parameter(help=HEADER_HELP, metavar="FILTER", show_default=False)] = (),
    shared: Annotated[str | None, Parameter(metavar="NAME", help=SHARED_HELP)] = None,
    count: Annotated[int | None, Parameter(metavar="N", help="Exit after this many messages.")] = None,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Print messages as JSON, one per line, and acknowledge each once it is written.

    Without `--as` the subscription ends with the command. With it, the server keeps it: run the same command
    again and it continues after the last acknowledged message, whatever happened in between.

    For example:

        tidings subscribe orders
        tidings subscribe orders created --as billing --from earliest
        tidings subscribe '#' error --count 1
        tidings subscribe orders --header region=eu --header region=us
        tidings subscribe work --shared team
    """
    if count is not None and count < 1:
        raise InvalidOption(f"--count {count}: write 1 or more, or leave it out to go on until Ctrl-C")
    options: SubscribeOptions = {"name": as_} if shared is None else {"shared": shared}
    options["start"] = "last" if from_ == "last" else parse_start(from_, words="earliest, latest, last")
    if header:
        options["headers"] = parse_header_filters(header)
    run_async(_print_messages(server, queue, event, options, client_id=as_, count=count))


async def _print_messages(
    server: str,
    queue: str,
    event: str | None,
    options: SubscribeOptions,
    *,
    client_id: str | None,
    count: int | None,
) -> None:
    output = sys.stdout.fileno()
    async with (
        connect(server, client_id=client_id) as client,
        client.subscribe(queue, event, **options) as subscription,
    ):
        printed = 0
        async for message in subscription:
            await write_all(output, message_line(message))
            printed += 1
            # Whoever counts wants to know that the last one is done; the others need not wait for their acks.
            await message.ack(wait=printed == count)
            if printed == count:
                return


def message_line(message: tidings.Message) -> bytes:
    """Returns a message as one line of JSON.

    Its payload is shown as the web doors do, see `tidings.gateways.messages`.
    """
    entry: dict[str, Any] = {
        "queue": message.queue,
        "event": message.event,
        "sequence": message.sequence,
        "time": iso_time(message.time_ms),
        "attempt": message.attempt,
        **payload_entry(message.data, message.content_type),
        "headers": message.headers,
    }
    if message.id is not None:
        entry["id"] = message.id
    if message.key is not None:
        entry["key"] = message.key
    return to_json(entry) + b"\n"
