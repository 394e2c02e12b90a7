"""Parameters: what is misspelled is refused, since what was meant would not be done."""

from difflib import get_close_matches
from functools import lru_cache

from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.params import HeaderParameter, QueryParameter

from tidings.errors import InvalidOption
from tidings.gateways.http.bodies import AnyRequest

_OURS = "tidings-"
_MESSAGE_HEADER = "tidings-header-"


def check_parameters(request: AnyRequest) -> None:
    """Refuses a query parameter, or a header `Tidings-*`, that the handler of a request does not know.

    A body that is encoded is refused, too (RFC 9110, section 8.4): it would be taken for what it stands for.

    Raises:
        InvalidOption: says which, and what there is.
        HTTPException: the body is encoded.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        detail = f"content-encoding {encoding} is not understood here; send the body as it is"
        raise HTTPException(status_code=415, detail=detail, headers={"Accept-Encoding": "identity"})
    queries, headers = _known(request.route_handler)
    if request.scope["query_string"]:
        for name in request.query_params:
            if name not in queries:
                raise InvalidOption(f"parameter {name!r} is not known here{_instead(name, queries)}")
    is_message = "tidings-id" in headers
    for name in request.headers:
        if not name.startswith(_OURS) or name in headers or (is_message and name.startswith(_MESSAGE_HEADER)):
            continue
        raise InvalidOption(f"header {name!r} is not known here{_instead(name, headers)}")


@lru_cache(maxsize=1_000)
def _known(handler: BaseRouteHandler) -> tuple[frozenset[str], frozenset[str]]:
    """Returns the names of the query parameters and of the headers that a handler takes."""
    found: dict[type, set[str]] = {QueryParameter: set(), HeaderParameter: set()}
    for argument, field in handler.parsed_fn_signature.parameters.items():
        for kind, names in found.items():
            if isinstance(field.kwarg_definition, kind):
                name = spelled(handler, argument)
                names.add(name.lower() if kind is HeaderParameter else name)
    return frozenset(found[QueryParameter]), frozenset(found[HeaderParameter])


def spelled(handler: BaseRouteHandler, argument: str) -> str:
    """Returns how a request spells what its handler has as an argument."""
    field = handler.parsed_fn_signature.parameters.get(argument)
    return getattr(field and field.kwarg_definition, "name", None) or argument


def _instead(name: str, known: frozenset[str]) -> str:
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(sorted(known))}" if known else ""
