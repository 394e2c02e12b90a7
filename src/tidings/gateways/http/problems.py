"""Errors as HTTP tells them: problem details (RFC 9457), from the registry of errors."""

import logging
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, ValidationException

from tidings.errors import InternalError, InvalidOption, TidingsError
from tidings.gateways.http.parameters import spelled

_log: Final = logging.getLogger("tidings.gateways.http")
PROBLEM: Final = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457, section 3.1). `code` and `retryable` are those of the error registry."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str | None = None
    retryable: bool = False


def problem(error: TidingsError) -> Problem:
    """Returns an error of the registry as problem details."""
    title = (type(error).__doc__ or error.code).splitlines()[0].rstrip(".")
    return Problem(
        type=f"urn:tidings:error:{error.code}",
        title=title,
        status=error.status,
        detail=error.text,
        code=error.code,
        retryable=error.retryable,
    )


def plain_problem(status: int, detail: str) -> Problem:
    """Returns what HTTP itself has a status for; the type is about:blank then (RFC 9457, section 4.2.1)."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)


def answer(told: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    """Returns a problem as a response."""
    headers = dict(headers or {})
    if told.status == 503:
        headers["Retry-After"] = "1"
    return Response(msgspec.json.encode(told), status_code=told.status, media_type=PROBLEM, headers=headers)


def refused(request: Request[Any, Any, Any], error: TidingsError) -> Response[bytes]:
    """Answers with an error of the registry."""
    return answer(problem(error))


def failed(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answers where we made a mistake: that is told, and not what."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(problem(InternalError("the server made a mistake; its log says which")))


def not_understood(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answers what the framework refused: no such path, wrong verb, a parameter or body that does not fit."""
    detail = error.detail
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        wrong = [
            f"{spelled(request.route_handler, each.get('key', 'body'))}: {each['message']}"
            for each in error.extra
            if isinstance(each, dict)
        ]
        return answer(problem(InvalidOption("; ".join(wrong) or detail)))
    if isinstance(error, MethodNotAllowedException):
        detail = f"{request.method} is not for {request.url.path}; /docs says what is"
    elif error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}; /docs says what is where"
    return answer(plain_problem(error.status_code, detail), error.headers)
