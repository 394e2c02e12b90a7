"""From a URL to the way it leads."""

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


@pytest.mark.parametrize("url", ["memory:", "memory:other", "events.db", "sqlite:events.db", "./a/b.db"])
def test_brokers_in_this_process_are_embedded(url: str) -> None:
    assert isinstance(dialer_for(url), EmbeddedDialer)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://localhost",
        "tidings://",
        "tidings://h:0",
        "tidings://h:99999",
        "tidings://h:x",
        "tidings://h/path",
        "a\0b.db",
    ],
)
def test_other_urls_are_refused_with_an_example(url: str) -> None:
    with pytest.raises(InvalidOption, match=r"URL|names no"):
        dialer_for(url)


def test_there_must_be_an_address() -> None:
    with pytest.raises(InvalidOption):
        connect([])


def test_a_client_id_is_a_name() -> None:
    with pytest.raises(InvalidName):
        connect(client_id="white space")
