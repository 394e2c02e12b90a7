"""From a URL to a client."""

import random
import re
from collections.abc import Sequence
from datetime import timedelta
from os import PathLike, fspath
from typing import Final
from urllib.parse import urlsplit

from tidings.client.client import Client
from tidings.client.transport import Dialer, TcpDialer
from tidings.errors import InvalidOption

DEFAULT_URL: Final = "tidings://127.0.0.1:7433"
DEFAULT_PORT: Final = 7433
_HOST_AND_PORT: Final = re.compile(r"([\w.-]+|\[[\w:.]+\]):\d+|tidings:.*")


def connect(
    url: str | PathLike[str] | Sequence[str] = DEFAULT_URL,
    *,
    client_id: str | None = None,
    take_over: bool = False,
    reconnect: bool | int | timedelta = True,
    timeout: float = 30.0,
    randomness: random.Random | None = None,
) -> Client:
    """Returns a client, to be used as `async with tidings.connect(...) as client`.

    Args:
        url: where the broker is, or several places that are tried in turn: "tidings://HOST[:PORT]" (port 7433),
            "memory:" or "memory:NAME" (a broker in this process, as long as it lives), "events.db" or
            "sqlite:events.db" (a broker in this process on a data file, which may be a `Path`, too).
        client_id: a stable name, 1 to 255 bytes without white space; it makes subscriptions durable.
        take_over: take the client id from another living process, which is told.
        reconnect: after a lost connection, connect again: True for ever, False never, an int for so many attempts
            in a row, a timedelta for so long. With False, the first connection is tried once, too.
        timeout: seconds that the first connection may take.
        randomness: where random choices come from; for simulations.

    Raises:
        InvalidOption: the URL is not one of the above.
        InvalidName: the client id breaks the rules for names.
    """
    urls = url if isinstance(url, Sequence) and not isinstance(url, str) else [url]
    return Client(
        [dialer_for(each) for each in urls],
        client_id=client_id,
        take_over=take_over,
        reconnect=reconnect,
        timeout=timeout,
        randomness=randomness,
    )


def dialer_for(url: str | PathLike[str]) -> Dialer:
    """Returns what opens connections to a URL.

    Raises:
        InvalidOption: the URL is not one that `connect` takes.
    """
    if isinstance(url, PathLike):
        url = f"sqlite:{fspath(url)}"
    if not isinstance(url, str):
        raise InvalidOption(f"URL {url!r} is not a string; write one like {DEFAULT_URL!r}, 'memory:' or 'events.db'")
    if not url:
        raise InvalidOption(f"the URL is empty; write one like {DEFAULT_URL!r}, 'memory:' or 'events.db'")
    scheme, separator, _ = url.partition("://")
    if not separator:
        # Both would be a data file of an odd name, and its user would look for the messages somewhere else.
        if _HOST_AND_PORT.fullmatch(url) and not url.startswith(("memory:", "sqlite:")):
            raise InvalidOption(f"URL {url!r} is neither tidings://HOST:PORT nor a file; for a file write './{url}'")
        if url == ":memory:":
            raise InvalidOption("URL ':memory:' is that of another database; write 'memory:'")
        # The broker is imported only where it is used, so that a client alone needs no server.
        from tidings.embedded import EmbeddedDialer

        return EmbeddedDialer(url)
    if scheme == "sqlite":
        raise InvalidOption(f"URL {url!r} is not that of a data file; write 'sqlite:PATH', or the path alone")
    if scheme != "tidings":
        raise InvalidOption(f"URL {url!r} has scheme {scheme!r}; write one like {DEFAULT_URL!r}")
    try:
        parts = urlsplit(url)
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise InvalidOption(f"URL {url!r} is malformed: {error}") from None
    if not parts.hostname or port == 0 or parts.path not in ("", "/") or parts.query or parts.username:
        raise InvalidOption(f"URL {url!r} is not tidings://HOST:PORT")
    return TcpDialer(parts.hostname, port)
