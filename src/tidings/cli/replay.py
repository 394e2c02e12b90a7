"""`tidings replay`: messages that a queue still holds, as JSON lines, without moving any subscription."""

import sys
from typing import Annotated, Final

from cyclopts import Parameter

from tidings.cli.options import SERVER_DEFAULT, Server, connect, parse_header_filters, parse_start, run_async
from tidings.cli.streams import write_all
from tidings.cli.subscribe import EVENT_HELP, HEADER_HELP, message_line
from tidings.client.options import From, Headers, To
from tidings.errors import InvalidOption

FROM_HELP: Final = "Where it begins: `earliest`, a sequence, or a time such as `2026-01-31T08:00:00Z`."
TO_HELP: Final = (
    "Where it ends: `latest` (what is stored now), the last sequence, or a time before which it was stored."
)


def replay(
    queue: Annotated[str, Parameter(help="Name of the queue.")],
    event: Annotated[str | None, Parameter(help=EVENT_HELP)] = None,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from", metavar="PLACE", help=FROM_HELP)] = "earliest",
    to: Annotated[str, Parameter(metavar="PLACE", help=TO_HELP)] = "latest",
    rate: Annotated[
        float | None, Parameter(metavar="N", help="Messages a second; as fast as it goes if left out.")
    ] = None,
    header: Annotated[tuple[str, ...], Parameter(help=HEADER_HELP, metavar="FILTER", show_default=False)] = (),
    server: Server = SERVER_DEFAULT,
) -> None:
    """Print messages that a queue still holds as JSON, one per line, and exit. No subscription is moved.

    For example:

        tidings replay orders
        tidings replay orders created --from 1000 --to 2000 --rate 50
        tidings replay orders --from 2026-01-31T08:00:00Z --to 2026-01-31T09:00:00Z
    """
    first, last = parse_start(from_), parse_start(to, "--to")
    if first == "latest" or last == "earliest":
        raise InvalidOption("--from goes up to --to: write --from earliest --to latest for all there is")
    run_async(_print(server, queue, event, from_=first, to=last, rate=rate, headers=parse_header_filters(header)))


async def _print(
    server: str, queue: str, event: str | None, *, from_: From, to: To, rate: float | None, headers: Headers
) -> None:
    output = sys.stdout.fileno()
    async with (
        connect(server) as client,
        client.replay(queue, event, from_=from_, to=to, rate=rate, headers=headers) as messages,
    ):
        async for message in messages:
            await write_all(output, message_line(message))
        for gap in messages.gaps:
            print(
                f"messages {gap.first_sequence:,} to {gap.last_sequence:,} will not come: {gap.reason}", file=sys.stderr
            )
