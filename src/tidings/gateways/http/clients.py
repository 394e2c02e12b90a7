"""Clients over HTTP: who is connected, and who was."""

from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from tidings.gateways.http.door import Door
from tidings.model import ClientInfo

ClientId = Annotated[str | None, QueryParameter(name="client_id", description="As whom; anonymously without.")]
After = Annotated[str, QueryParameter(description="Continues a listing: `after` of the page before.")]


class ClientPage(msgspec.Struct, frozen=True):
    """A page of clients; `after` continues it, "" ends it."""

    clients: list[ClientInfo]
    after: str


@get("/clients", tags=["clients"], summary="List clients, connected and away")
async def list_clients(door: NamedDependency[Door], after: After = "") -> ClientPage:
    """A client that pulls counts as connected as long as it holds a subscription."""
    page = await (await door.clerk()).list("clients", after)
    return ClientPage([info for info in page.entries if isinstance(info, ClientInfo)], page.after)


HANDLERS = [list_clients]
