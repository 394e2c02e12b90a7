"""The application behind the HTTP door: its routes, and how errors are told."""

from litestar import Litestar
from litestar.di import Provide
from litestar.exceptions import HTTPException

from tidings import limits
from tidings.errors import TidingsError
from tidings.gateways.http import event_streams, publishing, status
from tidings.gateways.http.door import Door
from tidings.gateways.http.problems import not_understood, refused


def make_application(door: Door) -> Litestar:
    """Returns the application for a node."""
    return Litestar(
        route_handlers=[*publishing.HANDLERS, *event_streams.HANDLERS, *status.HANDLERS],
        dependencies={"door": Provide(lambda: door, sync_to_thread=False)},
        exception_handlers={TidingsError: refused, HTTPException: not_understood},
        request_max_body_size=limits.HTTP_BODY_BYTES_MAX,
        openapi_config=None,
        signature_types=[Door],
        debug=False,
    )
