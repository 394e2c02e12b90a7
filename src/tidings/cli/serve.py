"""`tidings serve`: the server in the foreground."""

from typing import Annotated, Final

from cyclopts import Parameter

from tidings.config import LISTEN_DEFAULT, STORE_DEFAULT, ServerConfig

STORE_HELP: Final = "`sqlite:PATH` is a data file, made if it is missing; `memory:` keeps nothing."
LISTEN_HELP: Final = "Address as `tidings://HOST:PORT`; repeatable; port 0 is any free port, shown in the `ready` line."
INSECURE_HELP: Final = "Allow addresses that other machines can reach, although there are no credentials yet."


def serve(
    *,
    store: Annotated[str, Parameter(help=STORE_HELP, metavar="STORE")] = STORE_DEFAULT,
    listen: Annotated[tuple[str, ...], Parameter(help=LISTEN_HELP, metavar="URL", show_default=" ".join)] = (
        LISTEN_DEFAULT,
    ),
    insecure: Annotated[bool, Parameter(help=INSECURE_HELP, show_default=False)] = False,
) -> int:
    """Run the server. It prints a line starting with `ready` once it accepts connections.

    Ctrl-C or SIGTERM stops it: what is in flight goes to disk, clients are told to connect again later.

    For example:

        tidings serve
        tidings serve --store sqlite:/var/lib/tidings/events.db
        tidings serve --store memory: --listen tidings://127.0.0.1:0
    """
    config = ServerConfig(store=store, listen=listen, insecure=insecure)
    # Imported after the options are known to be right: the server and its store take a moment to load.
    from tidings.server import main

    return main(config)
