"""`tidings peek`: messages as a queue holds them, without a subscription."""

from typing import Annotated, Any, Final

from cyclopts import Parameter

from tidings.cli.options import SERVER_DEFAULT, Server, Start, connect, parse_start, run_async
from tidings.cli.output import as_entry, print_entries
from tidings.client import StoredMessage
from tidings.gateways.messages import payload_entry

FROM_HELP: Final = (
    "Where to begin: `earliest`, a sequence, or a time such as `2026-01-31T08:00:00Z`; `latest` is the last ones."
)


def peek(
    queue: Annotated[str, Parameter(help="Name of the queue.")],
    /,
    *,
    from_: Annotated[str, Parameter(name="--from", metavar="PLACE", help=FROM_HELP)] = "latest",
    count: Annotated[int, Parameter(metavar="N", help="At most so many.")] = 10,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Print messages as a queue holds them, one JSON object per line. Looking changes nothing.

    For example:

        tidings peek orders
        tidings peek orders --from 1042 --count 1
        tidings peek orders --from 2026-01-31T08:00:00Z
    """
    print_entries(map(message_entry, run_async(_peek(server, queue, parse_start(from_), count))))


def message_entry(message: StoredMessage) -> dict[str, Any]:
    """Returns a stored message as JSON shows it; its payload as `tidings subscribe` prints one."""
    entry = as_entry(message, times=("published",))
    entry.pop("data")
    return entry | payload_entry(message.data, message.content_type)


async def _peek(server: str, queue: str, start: Start, count: int) -> list[StoredMessage]:
    async with connect(server) as client:
        return await client.peek(queue, start=start, count=count)
