"""The reference as a page: plain HTML made from the OpenAPI document, without scripts and without anything from
elsewhere, so that it works where there is no internet.
"""

import re
from collections.abc import Iterator
from html import escape
from typing import Any, Final

import msgspec

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; text-transform: capitalize }
code, pre { font: 14px/1.45 ui-monospace, monospace } pre { background: #f4f5f7; padding: .7rem; overflow-x: auto }
details { border: 1px solid #d9dce1; border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem }
summary { cursor: pointer } summary b { display: inline-block; width: 4.5rem } summary span { color: #57606a }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .2rem .8rem .2rem 0;
vertical-align: top; border-bottom: 1px solid #eceef1 }
@media (prefers-color-scheme: dark) { body { background: #14171a; color: #dfe3e8 } pre { background: #1e2226 }
details, td, th { border-color: #343a40 } summary span { color: #9aa4ae } a { color: #7cb7ff } }
"""
_METHODS: Final = ("get", "put", "post", "patch", "delete")


def render(document: dict[str, Any]) -> str:
    """Returns the page of an OpenAPI document."""
    info = document["info"]
    schemas = document["components"]["schemas"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(info['title'])} over HTTP</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} over HTTP</h1>",
        f"<p>{escape(info['description'])} For programs: <a href='/openapi.json'>/openapi.json</a>.</p>",
    ]
    for tag, operations in _by_tag(document).items():
        parts.append(f"<h2>{escape(tag)}</h2>")
        parts += [_operation(method, path, operation) for method, path, operation in operations]
    parts.append("<h2>What is sent and answered</h2>")
    parts += [_schema(name, schema) for name, schema in sorted(schemas.items())]
    return "\n".join(parts)


def _by_tag(document: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                tag = (item[method].get("tags") or ["server"])[0]
                found.setdefault(tag, []).append((method, path, item[method]))
    return found


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code><td>{escape(each['in'])}<td>{_type(each.get('schema', {}))}"
        f"<td>{_prose(each.get('description', ''))}{' (required)' if each.get('required') else ''}"
        for each in operation.get("parameters", ())
    ]
    table = f"<table><tr><th>parameter<th>in<th>type<th>{''.join(rows)}</table>" if rows else ""
    body = "".join(
        f"<p>Body <code>{escape(kind)}</code>: {_inside(content.get('schema', {}))}"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    )
    answers = "".join(_answer(status, answer) for status, answer in operation["responses"].items())
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code>"
        f" <span>{escape(operation.get('summary', ''))}</span></summary>"
        f"<p>{_prose(operation.get('description', ''))}</p>{table}{body}{answers}</details>"
    )


def _answer(status: str, answer: dict[str, Any]) -> str:
    kinds = [
        f"<code>{escape(kind)}</code> {_type(content.get('schema', {}))}"
        for kind, content in answer.get("content", {}).items()
    ]
    return f"<p>Answer <b>{escape(status)}</b>: {', '.join(kinds) or _prose(answer.get('description', ''))}</p>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    return (
        f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary>"
        f"<p>{_prose(schema.get('description', ''))}</p>{_fields(schema)}</details>"
    )


def _inside(schema: dict[str, Any]) -> str:
    return _fields(schema) if "properties" in schema else _prose(schema.get("description", "")) or _type(schema)


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(name)}</code><td>{_type(field)}<td>{'' if name in required else _default(field)}"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<table><tr><th>field<th>type<th>if left out{''.join(rows)}</table>" if rows else ""


def _default(field: dict[str, Any]) -> str:
    return f"<code>{escape(msgspec.json.encode(field['default']).decode())}</code>" if "default" in field else "absent"


def _type(schema: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_types(schema)))


def _types(schema: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        yield f"<a href='#{name}'>{name}</a>"
    elif choices := schema.get("anyOf") or schema.get("oneOf"):
        for choice in choices:
            yield from _types(choice)
    elif schema.get("type") == "array":
        yield f"array of {_type(schema.get('items', {}))}"
    elif isinstance(schema.get("type"), list):
        yield from map(escape, schema["type"])
    else:
        yield escape(schema.get("type") or "any JSON")


def _prose(text: str) -> str:
    """Returns a docstring as HTML: paragraphs, and what stands between backquotes as code."""
    paragraphs = escape(re.sub(r"[ \t]+", " ", text)).split("\n\n")
    return "<p>".join(re.sub(r"`([^`]+)`", r"<code>\1</code>", paragraph) for paragraph in paragraphs)
