"""The reference of the HTTP door: the OpenAPI document, made from the routes themselves, and a page that shows it."""

from collections.abc import Collection
from typing import Any, Final

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.enums import MediaType
from litestar.openapi import OpenAPIConfig
from litestar.routes import HTTPRoute

from tidings.gateways.http.problems import PROBLEM, Problem
from tidings.gateways.http.reference_page import render
from tidings.model import JSON

_BODY: Final = "request_body"
_NAMED: Final = "request_named"
_STRUCT: Final = "request_struct"
_REFERENCE: Final = "#/components/schemas/{name}"

CONFIG: Final = OpenAPIConfig(
    title="Tidings",
    version="1",  # of what is described, not of the server
    description="Queues over HTTP: publish, pull, and look after what is there.",
    use_handler_docstrings=True,
    render_plugins=(),
)


def takes(media: dict[str, dict[str, Any]], *named: type[msgspec.Struct]) -> dict[str, Any]:
    """Returns `opt` for a handler that reads its body itself: a schema for each media type that it takes.

    The structs that the schemas name are to be in the document, too.
    """
    content = {kind: {"schema": schema} for kind, schema in media.items()}
    return {_BODY: {"content": content, "required": True}, _NAMED: named}


def takes_struct(kind: type[msgspec.Struct], *, without: Collection[str] = (), required: bool = True) -> dict[str, Any]:
    """Returns `opt` for a handler whose body is a struct in JSON, without some of its fields."""
    return {_STRUCT: (kind, frozenset(without), required)}


@get("/openapi.json", include_in_schema=False)
async def openapi_document(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Answers with the OpenAPI document."""
    return Response(msgspec.json.encode(document(request.app)), media_type=MediaType.JSON)


@get("/docs", include_in_schema=False)
async def docs(request: Request[Any, Any, Any]) -> Response[str]:
    """Answers with the reference as a page that needs no scripts and nothing from elsewhere."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(render(document(request.app)), media_type=MediaType.HTML, headers=headers)


def document(application: Litestar) -> dict[str, Any]:
    """Returns the OpenAPI document of an application (made once)."""
    state = application.state
    if "openapi" not in state:
        state["openapi"] = _make(application)
    made: dict[str, Any] = state["openapi"]
    return made


def _make(application: Litestar) -> dict[str, Any]:
    made: dict[str, Any] = application.openapi_schema.to_schema()
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    bodies: list[type[msgspec.Struct]] = [Problem]
    for route in application.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for method, (handler, _) in route.route_handler_map.items():
            operation = made["paths"].get(route.path_format, {}).get(method.lower())
            if operation is None:
                continue
            if _BODY in handler.opt:
                operation["requestBody"] = handler.opt[_BODY]
                bodies += handler.opt[_NAMED]
            if _STRUCT in handler.opt:
                kind, without, required = handler.opt[_STRUCT]
                schema = _schema_of(kind, without, schemas)
                operation["requestBody"] = {"content": {JSON: {"schema": schema}}, "required": required}
            _tell_problems(operation)
    _, components = msgspec.json.schema_components(bodies, ref_template=_REFERENCE)
    schemas.update(components)
    return made


def _schema_of(kind: type[msgspec.Struct], without: Collection[str], schemas: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a body; what it refers to becomes a component."""
    _, components = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    schema: dict[str, Any] = components.pop(kind.__name__)
    schemas.update(components)
    left_out = {*without, kind.__struct_config__.tag_field}
    properties = {name: field for name, field in schema["properties"].items() if name not in left_out}
    required = [name for name in schema["required"] if name not in left_out]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _tell_problems(operation: dict[str, Any]) -> None:
    """Lets all that is not done be told as problem details; the framework's own form of that is not used."""
    responses = operation["responses"]
    responses.pop("400", None)
    schema = {"$ref": _REFERENCE.format(name="Problem")}
    responses["default"] = {"description": "Why it was not done.", "content": {PROBLEM: {"schema": schema}}}


HANDLERS = [openapi_document, docs]
