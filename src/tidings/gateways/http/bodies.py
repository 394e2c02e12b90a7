"""Bodies in JSON that become the structs of the wire: what a request says is its body, and what its path says."""

from collections.abc import Collection
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

from tidings.errors import InvalidOption
from tidings.gateways.messages import is_json
from tidings.model import JSON

AnyRequest: TypeAlias = Request[Any, Any, Any]
T = TypeVar("T", bound=msgspec.Struct)
FORM: Final = "application/x-www-form-urlencoded"
"""What curl calls all that it sends with -d."""


def media_type(request: AnyRequest) -> str:
    """Returns what the body is said to be, without parameters; "" if nothing is said."""
    return str(request.headers.get("content-type", "").partition(";")[0].strip().lower())


async def read_struct(request: AnyRequest, kind: type[T], *, own: Collection[str] = (), **known: object) -> T:
    """Returns the struct that a request describes.

    Args:
        request: its body is a JSON object, or nothing.
        kind: what it becomes.
        own: fields that are not the client's to say.
        known: fields that the path says.

    Raises:
        InvalidOption: it is malformed, says what it does not have a say in, or something that is not known.
    """
    said = media_type(request)
    if said not in ("", JSON, FORM) and not said.endswith("+json"):
        raise HTTPException(status_code=415, detail=f"the body is to be {JSON}, not {said}")
    body = await request.body()
    fields = _fields(body)
    names = [name for name in kind.__struct_encode_fields__ if name not in own and name not in known]
    unknown = [name for name in fields if name not in names]
    if unknown:
        raise InvalidOption(f"{unknown[0]!r} is not known here; there are {', '.join(names)}")
    config = kind.__struct_config__
    tag = {str(config.tag_field): config.tag} if config.tag is not None else {}
    try:
        return msgspec.json.decode(msgspec.json.encode({**fields, **known, **tag}), type=kind)
    except msgspec.ValidationError as error:
        raise InvalidOption(str(error)) from None


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    if not body.strip():
        return {}
    if not is_json(body):
        raise InvalidOption("the body is not JSON in UTF-8")
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise InvalidOption("the body is to be a JSON object") from None
