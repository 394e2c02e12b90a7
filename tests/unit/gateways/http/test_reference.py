"""The OpenAPI document and the page that shows it."""

import re

import httpx

from tidings.gateways.http.application import make_routes
from tidings.gateways.http.door import Door


async def test_every_route_is_in_the_document_with_its_body_and_problems(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    application = make_routes(Door.__new__(Door))
    routes = {
        (route.path_format, method.lower())
        for route in application.routes
        for method, (handler, _) in getattr(route, "route_handler_map", {}).items()
        if handler.resolve_include_in_schema() and method != "OPTIONS"
    }
    told = {(path, method) for path, item in document["paths"].items() for method in item}
    assert told == routes
    for path, method in told:
        operation = document["paths"][path][method]
        assert operation["summary"], path
        assert operation["description"], path
        assert "application/problem+json" in operation["responses"]["default"]["content"], path
        takes_body = method in ("post", "put", "patch") and not path.endswith(("/pause", "/resume", "/purge"))
        assert ("requestBody" in operation) == takes_body, path


async def test_what_the_document_refers_to_is_in_it(http: httpx.AsyncClient) -> None:
    answer = await http.get("/openapi.json")
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
    assert names
    assert names <= set(answer.json()["components"]["schemas"])


async def test_the_page_needs_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    answer = await http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script|<link|<img|src=|@import|https?://", answer.text)
    for path in (await http.get("/openapi.json")).json()["paths"]:
        assert path in answer.text
