"""`tidings backup`: a consistent copy of a running server's data file."""

import os
from typing import Annotated, Final

from cyclopts import Parameter

from tidings.cli.options import SERVER_DEFAULT, Server, connect, run_async
from tidings.cli.output import printable

PATH_HELP: Final = "New file on the server's machine; a relative path starts at the directory this command runs in."


def backup(path: Annotated[str, Parameter(help=PATH_HELP)], /, *, server: Server = SERVER_DEFAULT) -> None:
    """Write a consistent copy of a running server's messages and cursors to a new data file.

    The server goes on meanwhile. To use the copy: `tidings serve --store sqlite:PATH`.

    For example:

        tidings backup /backups/events-monday.db
    """
    absolute = os.path.abspath(path)
    run_async(_backup(server, absolute))
    print(f"backed up to {printable(absolute)}")


async def _backup(server: str, path: str) -> None:
    async with connect(server) as client:
        await client.backup(path)
