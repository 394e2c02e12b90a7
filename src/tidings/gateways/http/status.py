"""How the server is: alive, and ready to take requests."""

import msgspec
from litestar import get
from litestar.di import NamedDependency

from tidings.gateways.http.door import Door


class Status(msgspec.Struct, frozen=True):
    """How it is, in a word."""

    status: str


@get("/health", summary="Whether the process is alive")
async def health() -> Status:
    """Answers as long as the process handles anything at all."""
    return Status("alive")


@get("/ready", summary="Whether requests are taken")
async def ready(door: NamedDependency[Door]) -> Status:
    """Answers 200 once the store is open; 503 while the server drains."""
    await door.clerk()
    return Status("ready")


HANDLERS = [health, ready]
