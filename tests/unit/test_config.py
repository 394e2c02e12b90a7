"""A server's options: what is taken, what is refused, and whether the refusal says what to write."""

import pytest

from tidings.config import Address, ServerConfig, parse_address
from tidings.errors import InvalidOption


def test_the_default_is_a_data_file_here_and_the_loopback_address():
    config = ServerConfig()
    assert config.store_path == "tidings.db"
    assert config.addresses == (Address("127.0.0.1", 7433), Address("127.0.0.1", 7480, "http"))
    assert not config.insecure


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tidings://127.0.0.1:7433", Address("127.0.0.1", 7433)),
        ("tidings://localhost", Address("localhost", 7433)),
        ("tidings://localhost/", Address("localhost", 7433)),
        ("tidings://127.0.0.1:0", Address("127.0.0.1", 0)),
        ("tidings://[::1]:65535", Address("::1", 65535)),
        ("tidings://[::1]", Address("::1", 7433)),
        ("http://localhost", Address("localhost", 7480, "http")),
        ("http://[::1]:0/", Address("::1", 0, "http")),
    ],
)
def test_an_address_is_parsed(url, address):
    assert parse_address(url) == address
    assert parse_address(address.url) == address


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("127.0.0.1:7433", "tidings://HOST:PORT"),
        ("https://127.0.0.1:7433", "http://HOST:PORT"),
        ("http://::1", "http://[::1]:7480"),
        ("", "tidings://HOST:PORT"),
        ("tidings://", "127.0.0.1 for this machine only"),
        ("tidings://:7433", "127.0.0.1 for this machine only"),
        ("tidings://::1:7433", "in brackets"),
        ("tidings://[::1", "in brackets"),
        ("tidings://[::1]7433", "in brackets"),
        ("tidings://[[::1]", "not a host"),
        ("tidings://local]host", "not a host"),
        ("tidings://localhost:65536", "from 0"),
        ("tidings://localhost:-1", "from 0"),
        ("tidings://localhost:+1", "from 0"),
        ("tidings://localhost:1_0", "from 0"),
        ("tidings://localhost:\u0661", "from 0"),
        ("tidings://localhost:http", "from 0"),
        ("tidings://a b:1", "not a host"),
        ("tidings://user@localhost:1", "not a host"),
        ("tidings://local/host:1", "not a host"),
    ],
)
def test_a_wrong_address_is_refused_with_advice(url, advice):
    with pytest.raises(InvalidOption) as refusal:
        ServerConfig(listen=(url,))
    assert advice in refusal.value.text


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.5", "example.com", "127.0.0.1.example.com"])
def test_an_address_that_others_can_reach_needs_insecure(host):
    url = f"tidings://{host}:7433"
    with pytest.raises(InvalidOption) as refusal:
        ServerConfig(listen=("tidings://127.0.0.1:7433", url))
    assert url in refusal.value.text
    assert "--insecure" in refusal.value.text
    assert "no credentials" in refusal.value.text
    assert ServerConfig(listen=(url,), insecure=True).addresses[0].port == 7433


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_nothing(host):
    assert ServerConfig(listen=(f"tidings://{host}:1",)).addresses[0].loopback


def test_an_address_given_twice_is_refused_but_free_ports_are_not():
    with pytest.raises(InvalidOption, match="twice"):
        ServerConfig(listen=("tidings://localhost:7433", "tidings://localhost"))
    assert len(ServerConfig(listen=("tidings://localhost:0", "tidings://localhost:0")).addresses) == 2


def test_the_same_port_of_both_protocols_is_not_an_address_given_twice_but_fails_when_it_is_bound():
    assert len(ServerConfig(listen=("tidings://localhost:7433", "http://localhost:7433")).addresses) == 2


@pytest.mark.parametrize("host", ["https://queue.example", "queue.example/", "*", "a b", ""])
def test_a_host_is_a_name(host):
    with pytest.raises(InvalidOption, match="not a host"):
        ServerConfig(allow_hosts=(host,))
    assert ServerConfig(allow_hosts=("queue.example", "b:8080")).allow_hosts == ("queue.example", "b:8080")


@pytest.mark.parametrize("origin", ["example.com", "https://a/b", "ftp://a", "https://", "https://a b"])
def test_an_origin_is_a_scheme_and_a_host(origin):
    with pytest.raises(InvalidOption, match="not an origin"):
        ServerConfig(allow_origins=(origin,))
    assert ServerConfig(allow_origins=("*", "https://a:1")).allow_origins == ("*", "https://a:1")


def test_no_address_is_refused():
    with pytest.raises(InvalidOption, match="no address"):
        ServerConfig(listen=())


@pytest.mark.parametrize(
    ("store", "path"),
    [("memory:", None), ("sqlite:a.db", "a.db"), ("sqlite:/x/y z.db", "/x/y z.db"), ("sqlite:sqlite:", "sqlite:")],
)
def test_a_store_is_taken(store, path):
    assert ServerConfig(store=store).store_path == path


@pytest.mark.parametrize(
    ("store", "advice"),
    [
        ("events.db", "sqlite:PATH"),
        ("", "sqlite:PATH"),
        ("sqlite:", "path is missing"),
        ("memory:x", "write memory:"),
        ("postgres://x", "sqlite:PATH"),
    ],
)
def test_a_wrong_store_is_refused_with_advice(store, advice):
    with pytest.raises(InvalidOption) as refusal:
        ServerConfig(store=store)
    assert advice in refusal.value.text
