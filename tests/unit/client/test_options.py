"""What the application asks of a subscription: how headers are spelled, and what is refused before anything is sent."""

from typing import Any

import pytest

from tidings import Prefix
from tidings.client.options import header_filters, subscription_options
from tidings.errors import InvalidOption
from tidings.model import HeaderFilter


def test_each_way_to_spell_a_header_is_told_to_the_server() -> None:
    headers = {
        "region": "eu",
        "tier": ["gold", "silver"],
        "path": Prefix("/api/"),
        "host": {"a.example", Prefix("b.")},
        "trace": True,
    }
    region, tier, path, host, trace = subscription_options("orders", None, {"headers": headers}).headers
    assert region == HeaderFilter("region", ("eu",))
    assert tier == HeaderFilter("tier", ("gold", "silver"))
    assert path == HeaderFilter("path", (), ("/api/",))
    assert host == HeaderFilter("host", ("a.example",), ("b.",))
    assert trace == HeaderFilter("trace", (), ("",))


def test_no_headers_are_no_filter() -> None:
    assert subscription_options("orders", None, {"headers": None}).headers == ()
    assert subscription_options("orders", None, {"headers": {}}).headers == ()


@pytest.mark.parametrize("headers", [{"a": 1}, {"a": None}, {"a": False}, {"a": [1]}, {1: "a"}, {"a": b"x"}, "a=b"])
def test_what_is_no_header_filter_says_what_one_is(headers: Any) -> None:
    with pytest.raises(InvalidOption, match=r"headers=|tidings\.Prefix"):
        header_filters(headers)
