"""`tidings purge`: a queue is emptied, or one message taken out of it."""

from typing import Annotated, Final

from cyclopts import Parameter

from tidings.cli.options import SERVER_DEFAULT, Server, connect, run_async
from tidings.cli.output import count, printable

SEQUENCE_HELP: Final = "Only the message that has this sequence."


def purge(
    queue: Annotated[str, Parameter(help="Name of the queue.")],
    /,
    *,
    sequence: Annotated[int | None, Parameter(metavar="N", help=SEQUENCE_HELP)] = None,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Empty a queue, or take one message out of it. The queue stays, with its settings and subscriptions.

    Subscriptions that waited for what is removed are told of a gap.

    For example:

        tidings purge orders
        tidings purge orders --sequence 1042
    """
    if sequence is None:
        removed = count(run_async(_purge(server, queue)), "message")
        print(f"purged queue {printable(queue)}: {removed}")
    else:
        run_async(_delete(server, queue, sequence))
        print(f"deleted message {sequence} of queue {printable(queue)}")


async def _purge(server: str, queue: str) -> int:
    async with connect(server) as client:
        return await client.purge(queue)


async def _delete(server: str, queue: str, sequence: int) -> None:
    async with connect(server) as client:
        await client.delete_message(queue, sequence)
