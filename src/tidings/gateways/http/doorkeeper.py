"""Who may come in over HTTP, for all that shares the port: checked before any application sees the request.

A browser takes every page that its user looks at to this machine's loopback address. Therefore:

    Host     an address, `localhost`, or a name that was allowed: a name that somebody else's DNS points here is not
    Origin   the page's own origin must be ours, or one that was allowed; so for WebSocket, which has no CORS
    fetched from another site without telling its origin (images, scripts, forms): never

Programs send no Origin, and are not asked for one.
"""

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from tidings import limits
from tidings.errors import Draining
from tidings.gateways.http.problems import PROBLEM, Problem, plain_problem, problem

_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_ENCODED_SLASH: Final = b"%2F", b"%2f"
SLASH: Final = "\x1f"
"""Stands in a path for a slash that was written as %2F, and so does not part segments: see `decode_segment`."""


class Doorkeeper:
    """The outermost application.

    Args:
        application: who answers what is let in.
        mounts: other applications by the beginning of their paths.
        hosts: names, beside addresses and localhost, that may stand in Host.
        origins: origins, as `https://app.example.com`, whose pages may come; "*" for all.
    """

    def __init__(
        self,
        application: ASGIApp,
        *,
        mounts: Mapping[str, Any] | None = None,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
    ) -> None:
        self.draining = False
        """Whether everybody is sent away, to come back to the next server."""
        self._application = application
        self._mounts = dict(mounts or {})
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers it."""
        headers = dict(scope["headers"])
        told = self._refusal(scope, headers)
        if told:
            await _refuse(scope, receive, send, told)
            return
        origin = headers.get(b"origin")
        if origin is not None and scope["type"] == ScopeType.HTTP:
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await _answer_preflight(send, origin, headers)
                return
            send = _with_origin(send, origin)
        mounted = self._mounted(scope)
        if mounted is not None:
            await mounted(scope, receive, send)
        elif scope["type"] == ScopeType.HTTP:
            await self._application(scope, _in_time(receive), send)
        else:
            await self._application(scope, receive, send)

    def _mounted(self, scope: Scope) -> Any:
        for prefix, application in self._mounts.items():
            if scope["path"] == prefix or scope["path"].startswith(prefix + "/"):
                return application
        return None

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Problem | None:
        if self.draining:
            return problem(Draining("the server is about to stop; try again in a moment"))
        host = headers.get(b"host", b"").decode("latin-1")
        if not self.allows_host(host):
            return plain_problem(
                403, f"host {host!r} is not this server's; use its address, or start it with --allow-host"
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not self.allows_origin(origin, host):
            return plain_problem(
                403,
                f"pages of {origin!r} may not use this server; start it with --allow-origin {origin} if they should",
            )
        site = headers.get(b"sec-fetch-site", b"none")
        if not origin and site not in (b"none", b"same-origin") and not _is_visit(scope, headers):
            return plain_problem(403, "another site may not fetch from this server without telling its origin")
        return _mend_path(scope)

    def allows_host(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = host.lower()
        if name in self._hosts:
            return True
        try:
            name = urlsplit(f"//{name}").hostname or ""
            if name in self._hosts or name == "localhost" or name.endswith(".localhost"):
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may use the server."""
        origin = origin.lower()
        return origin in (f"http://{host.lower()}", f"https://{host.lower()}") or not self._origins.isdisjoint(
            (origin, "*")
        )


def decode_segment(segment: str) -> str:
    """Returns a segment of a path as its client meant it."""
    return segment.replace(SLASH, "/")


def _mend_path(scope: Scope) -> Problem | None:
    """Keeps the slashes that belong to names apart from those that part segments (RFC 3986, section 2.2)."""
    path = scope["path"]
    if not path.isprintable() or "\ufffd" in path:
        return plain_problem(400, "the path has control characters, or is not UTF-8")
    raw = scope.get("raw_path") or b""
    if any(slash in raw for slash in _ENCODED_SLASH):
        pieces = raw.replace(b"%2f", b"%2F").split(b"%2F")
        scope["path"] = SLASH.join(unquote(piece.decode("ascii")) for piece in pieces)
    return None


def _in_time(receive: Receive) -> Receive:
    """Returns `receive`, with an end for a body that takes too long."""
    deadline_s = asyncio.get_running_loop().time() + limits.HTTP_BODY_TIMEOUT_MS / 1000
    complete = False

    async def receive_in_time() -> Any:
        nonlocal complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline_s):
                message = await receive()
        except TimeoutError:
            detail = f"the body did not come within {limits.HTTP_BODY_TIMEOUT_MS // 1000} s"
            raise HTTPException(status_code=408, detail=detail, headers={"Connection": "close"}) from None
        complete = message["type"] != "http.request" or not message.get("more_body")
        return message

    return receive_in_time


def _is_visit(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Whether somebody follows a link to something that is only looked at."""
    return (
        scope["type"] == ScopeType.HTTP
        and scope["method"] in ("GET", "HEAD")
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and scope["path"] in ("/", "/docs", "/openapi.json")
    )


async def _refuse(scope: Scope, receive: Receive, send: Send, told: Problem) -> None:
    if scope["type"] == ScopeType.WEBSOCKET:
        # Before it is accepted, closing answers the handshake with 403.
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": told.title})
        return
    headers = [(b"content-type", PROBLEM.encode())]
    if told.retryable:
        headers += [(b"retry-after", b"1"), (b"connection", b"close")]
    body = msgspec.json.encode(told)
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": told.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _answer_preflight(send: Send, origin: bytes, headers: dict[bytes, bytes]) -> None:
    allowed = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", headers.get(b"access-control-request-headers", b"content-type")),
        (b"access-control-max-age", b"600"),
        (b"vary", b"origin"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": allowed})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _with_origin(send: Send, origin: bytes) -> Send:
    async def send_with_origin(message: Message) -> None:
        if message["type"] == "http.response.start":
            allowed = [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", b"*"),
                (b"vary", b"origin"),
            ]
            message["headers"] = [*message.get("headers", []), *allowed]
        await send(message)

    return send_with_origin
