"""`tidings resume`: a subscription or a queue that was paused goes on."""

from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import SERVER_DEFAULT, Server, connect, run_async
from tidings.cli.pause import QUEUE_HELP, SUBSCRIPTION_HELP, described


def resume(
    subscription: Annotated[str | None, Parameter(help=SUBSCRIPTION_HELP)] = None,
    /,
    *,
    queue: Annotated[str | None, Parameter(metavar="QUEUE", help=QUEUE_HELP)] = None,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Let a subscription or a queue that was paused go on where it stopped.

    For example:

        tidings resume billing
        tidings resume --queue orders
    """
    run_async(_resume(server, subscription, queue))
    print(f"resumed {described(subscription, queue)}")


async def _resume(server: str, subscription: str | None, queue: str | None) -> None:
    async with connect(server) as client:
        await client.resume(subscription, queue=queue)
