"""What an ASGI server says of a connection, whichever door it came through."""

from collections.abc import Mapping
from typing import Any


def address_of(scope: Mapping[str, Any]) -> str:
    """Returns where a client is, as "HOST:PORT"; "unknown" where the server does not know (ASGI, `client`)."""
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "unknown"
