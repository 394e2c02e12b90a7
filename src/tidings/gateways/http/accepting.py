"""What a client accepts (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence
from typing import Any

from litestar import Request
from litestar.exceptions import HTTPException


def accepted(request: Request[Any, Any, Any], kinds: Sequence[str]) -> str:
    """Returns the media type that the client wants most; of equals the first one.

    Raises:
        HTTPException: it wants none of them.
    """
    ranges = [_parse(text) for text in request.headers.get("accept", "*/*").split(",")]
    best, quality = "", 0.0
    for kind in kinds:
        # Of several ranges that match, the most specific one counts.
        found = max((_specific(wanted, kind), weight) for wanted, weight in [("*/*", 0.0), *ranges])
        if found[0] >= 0 and found[1] > quality:
            best, quality = kind, found[1]
    if not best:
        raise HTTPException(status_code=406, detail=f"the answer can be {', '.join(kinds)}")
    return best


def _parse(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return kind, float(parameter[2:])
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def _specific(wanted: str, kind: str) -> int:
    if wanted == kind:
        return 2
    if wanted.endswith("/*") and kind.startswith(wanted[:-1]):
        return 1
    return 0 if wanted == "*/*" else -1
