"""From a URL to the way it leads."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tidings.client.transport import TcpDialer
from tidings.connect import connect, dialer_for
from tidings.embedded import EmbeddedDialer
from tidings.errors import InvalidName, InvalidOption


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tidings://localhost", "tidings://localhost:7433"),
        ("tidings://localhost/", "tidings://localhost:7433"),
        ("tidings://10.0.0.1:99", "tidings://10.0.0.1:99"),
        ("tidings://[::1]:99", "tidings://[::1]:99"),
    ],
)
def test_servers_are_reached_over_tcp(url: str, address: str) -> None:
    dialer = dialer_for(url)
    assert isinstance(dialer, TcpDialer)
    assert dialer.address == address


@pytest.mark.parametrize(
    "url",
    [
        "memory:",
        "memory:other",
        "memory:1",
        "events.db",
        "sqlite:events.db",
        "sqlite:1",
        "./a/b.db",
        "./localhost:7433",
        Path("events.db"),
    ],
)
def test_brokers_in_this_process_are_embedded(url: str | Path) -> None:
    assert isinstance(dialer_for(url), EmbeddedDialer)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://localhost",
        "sqlite:///events.db",
        "tidings://",
        "tidings://h:0",
        "tidings://h:99999",
        "tidings://h:x",
        "tidings://h/path",
        "a\0b.db",
        "localhost:7433",
        "[::1]:7433",
        "tidings:localhost",
        ":memory:",
        None,
        b"memory:",
        7433,
    ],
)
def test_other_urls_are_refused_with_an_example(url: Any) -> None:
    with pytest.raises(InvalidOption, match=r"URL|names no"):
        connect(url)


@pytest.mark.parametrize("reconnect", [None, "for ever", 1.5, -1, timedelta(-1)])
def test_what_says_nothing_of_reconnecting_is_refused(reconnect: Any) -> None:
    with pytest.raises(InvalidOption, match="True for ever"):
        connect(reconnect=reconnect)


@pytest.mark.parametrize("take_over", [None, 1, "yes", object()])
def test_to_take_over_is_said_or_not(take_over: Any) -> None:
    with pytest.raises(InvalidOption, match="True or False"):
        connect(take_over=take_over)


def test_there_must_be_an_address() -> None:
    with pytest.raises(InvalidOption):
        connect([])


@pytest.mark.parametrize("client_id", ["white space", "", "\ud800", 5])
def test_a_client_id_is_a_name(client_id: Any) -> None:
    with pytest.raises(InvalidName):
        connect(client_id=client_id)
