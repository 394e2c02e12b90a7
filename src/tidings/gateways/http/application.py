"""The application behind the HTTP door: its routes, and how errors are told."""

from litestar import Litestar
from litestar.di import Provide
from litestar.exceptions import HTTPException

from tidings import limits
from tidings.errors import TidingsError
from tidings.gateways.http import (
    clients,
    dead_letters,
    event_streams,
    publishing,
    pulling,
    queues,
    reference,
    schedules,
    settling,
    status,
    stored_messages,
    subscriptions,
)
from tidings.gateways.http.door import Door
from tidings.gateways.http.parameters import check_parameters
from tidings.gateways.http.problems import failed, not_understood, refused

_MODULES = (
    publishing,
    pulling,
    settling,
    event_streams,
    queues,
    stored_messages,
    subscriptions,
    dead_letters,
    schedules,
    clients,
    status,
    reference,
)


def make_application(door: Door) -> Litestar:
    """Returns the application for a node."""
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
