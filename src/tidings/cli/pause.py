"""`tidings pause`: a subscription or a queue delivers nothing new."""

from typing import Annotated, Final

from cyclopts import Parameter

from tidings.cli.options import SERVER_DEFAULT, Server, connect, run_async
from tidings.cli.output import printable

SUBSCRIPTION_HELP: Final = "Name of the subscription, or the id of a client that has only one."
QUEUE_HELP: Final = "Instead of a subscription, a queue with all its subscriptions."


def pause(
    subscription: Annotated[str | None, Parameter(help=SUBSCRIPTION_HELP)] = None,
    /,
    *,
    queue: Annotated[str | None, Parameter(metavar="QUEUE", help=QUEUE_HELP)] = None,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Let a subscription get nothing new, or a queue deliver nothing new, until `tidings resume`.

    Nothing is lost: a paused queue takes messages, a paused subscription keeps its place. Restarts change nothing.

    For example:

        tidings pause billing
        tidings pause --queue orders
    """
    run_async(_pause(server, subscription, queue))
    print(f"paused {described(subscription, queue)}")


def described(subscription: str | None, queue: str | None) -> str:
    """Returns what was paused or resumed, in words."""
    return printable(f"subscription {subscription}" if queue is None else f"queue {queue}")


async def _pause(server: str, subscription: str | None, queue: str | None) -> None:
    async with connect(server) as client:
        await client.pause(subscription, queue=queue)
