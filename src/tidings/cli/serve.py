"""`tidings serve`: the server in the foreground."""

from typing import Annotated, Final

from cyclopts import Parameter

from tidings.config import HTTP_DEFAULT, LISTEN_DEFAULT, STORE_DEFAULT, ServerConfig

STORE_HELP: Final = "`sqlite:PATH` is a data file, made if it is missing; `memory:` keeps nothing."
LISTEN_HELP: Final = (
    "Address as `tidings://HOST:PORT` or `http://HOST:PORT`; repeatable; given, it replaces the defaults;"
    " port 0 is any free port, shown in the `ready` line."
)
NO_HTTP_HELP: Final = "Leave out the default HTTP address."
ALLOW_HOST_HELP: Final = "Name under which HTTP clients may reach the server, beside its addresses; repeatable."
ALLOW_ORIGIN_HELP: Final = (
    "Origin, as `https://app.example.com`, whose web pages may use the server; `*` for all; repeatable."
)
ALLOW_WEBHOOK_HELP: Final = (
    "Address or network, as `10.0.0.0/8`, that webhooks may reach beside those of the internet; repeatable."
)
INSECURE_HELP: Final = "Allow addresses that other machines can reach, although there are no credentials yet."


def serve(
    *,
    store: Annotated[str, Parameter(help=STORE_HELP, metavar="STORE")] = STORE_DEFAULT,
    listen: Annotated[tuple[str, ...], Parameter(help=LISTEN_HELP, metavar="URL", show_default=" ".join)] = (
        LISTEN_DEFAULT,
        HTTP_DEFAULT,
    ),
    no_http: Annotated[bool, Parameter(help=NO_HTTP_HELP, negative=(), show_default=False)] = False,
    allow_host: Annotated[tuple[str, ...], Parameter(help=ALLOW_HOST_HELP, metavar="NAME", show_default=False)] = (),
    allow_origin: Annotated[
        tuple[str, ...], Parameter(help=ALLOW_ORIGIN_HELP, metavar="ORIGIN", show_default=False)
    ] = (),
    allow_webhook: Annotated[
        tuple[str, ...], Parameter(help=ALLOW_WEBHOOK_HELP, metavar="NETWORK", show_default=False)
    ] = (),
    insecure: Annotated[bool, Parameter(help=INSECURE_HELP, show_default=False)] = False,
) -> int:
    """Run the server. It prints a line starting with `ready` once it accepts connections.

    Ctrl-C or SIGTERM stops it: what is in flight goes to disk, clients are told to connect again later.

    For example:

        tidings serve
        tidings serve --store sqlite:/var/lib/tidings/events.db
        tidings serve --store memory: --listen tidings://127.0.0.1:0
    """
    if no_http:
        listen = tuple(url for url in listen if url != HTTP_DEFAULT)
    config = ServerConfig(
        store=store,
        listen=listen,
        insecure=insecure,
        allow_hosts=allow_host,
        allow_origins=allow_origin,
        allow_webhooks=allow_webhook,
    )
    # Imported after the options are known to be right: the server and its store take a moment to load.
    from tidings.server import main

    return main(config)
