"""The application behind the HTTP door: its routes, and how errors are told."""

import re
from time import perf_counter
from typing import Final

from litestar import Litestar
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from litestar.utils import normalize_path

from tidings import limits
from tidings.errors import TidingsError
from tidings.gateways.http import (
    clients,
    dead_letters,
    event_streams,
    metrics,
    publishing,
    pulling,
    queues,
    reference,
    replies,
    schedules,
    settling,
    status,
    stored_messages,
    subscriptions,
    webhooks,
)
from tidings.gateways.http.door import Door
from tidings.gateways.http.parameters import check_parameters
from tidings.gateways.http.problems import failed, not_understood, refused

_MODULES = (
    publishing,
    replies,
    pulling,
    settling,
    event_streams,
    queues,
    stored_messages,
    subscriptions,
    dead_letters,
    schedules,
    webhooks,
    clients,
    status,
    metrics,
    reference,
)
_DELIVERING: Final = re.compile(r"/queues/[^/]+/events|/subscriptions/[^/]+/(events|messages)")
"""Where a GET does more than look: it is delivered messages."""


def make_application(door: Door) -> ASGIApp:
    """Returns the application for a node."""
    return _noted(door, _with_heads(make_routes(door)))


def _with_heads(application: ASGIApp) -> ASGIApp:
    """Returns an application that answers HEAD as GET, whose body is left out below it (RFC 9110, section 9.3.2)."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["method"] == "HEAD":
            path = normalize_path(scope["path"])  # as the routes are found by
            if not _DELIVERING.fullmatch(path):
                scope = {**scope, "method": "GET"}
        await application(scope, receive, send)

    return answer


def _noted(door: Door, application: ASGIApp) -> ASGIApp:
    """Returns an application of whose answers the door takes note."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await application(scope, receive, send)
            return
        began_s = perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await application(scope, receive, noted)
        finally:
            door.note(scope["method"], status, perf_counter() - began_s)

    return answer


def make_routes(door: Door) -> Litestar:
    """Returns the routes of a node."""
    return Litestar(
        route_handlers=[handler for module in _MODULES for handler in module.HANDLERS],
        dependencies={"door": Provide(lambda: door, sync_to_thread=False)},
        exception_handlers={TidingsError: refused, HTTPException: not_understood, Exception: failed},
        before_request=check_parameters,
        request_max_body_size=limits.HTTP_BODY_BYTES_MAX,
        openapi_config=reference.CONFIG,
        signature_types=[Door],
        debug=False,
    )
