"""`tidings seek`: a subscription is moved forward or back."""

from typing import Annotated, Final

from cyclopts import Parameter

from tidings.cli.options import SERVER_DEFAULT, Json, Server, Start, connect, parse_start, run_async
from tidings.cli.output import as_entry, print_entries, printable
from tidings.cli.pause import SUBSCRIPTION_HELP
from tidings.model import MovedInfo

TO_HELP: Final = (
    "What it gets next: `earliest`, `latest` (what is published from now on), a sequence, or a time such as"
    " `2026-01-31T08:00:00Z`."
)


def seek(
    subscription: Annotated[str, Parameter(help=SUBSCRIPTION_HELP)],
    /,
    *,
    to: Annotated[str, Parameter(metavar="PLACE", help=TO_HELP)],
    queue: Annotated[str | None, Parameter(metavar="QUEUE", help="In which of its queues; without it, in all.")] = None,
    json: Json = False,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Move a subscription forward or back, whether or not somebody is attached.

    It gets again what the queue still holds from there on, or not what it was moved past. Dead letters stay.

    For example:

        tidings seek billing --to earliest
        tidings seek billing --to 2026-01-31T08:00:00Z
        tidings seek audit --queue orders --to 1042
    """
    moved = run_async(_seek(server, subscription, queue, parse_start(to, "--to")))
    if json:
        print_entries(as_entry(info) for info in moved)
        return
    for info in moved:
        skipped = f", {info.skipped:,} skipped" if info.skipped else ""
        print(printable(f"moved {subscription} in {info.queue} from {info.before:,} to {info.cursor:,}{skipped}"))
    if not moved:
        print(printable(f"subscription {subscription} reads no queue yet"))


async def _seek(server: str, subscription: str, queue: str | None, to: Start) -> list[MovedInfo]:
    async with connect(server) as client:
        return await client.seek(subscription, to=to, queue=queue)
