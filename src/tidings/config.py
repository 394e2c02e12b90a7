"""What a server is told when it starts: where it keeps messages, where it listens, and what that requires."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from tidings.errors import InvalidOption

STORE_DEFAULT: Final = "sqlite:tidings.db"
LISTEN_DEFAULT: Final = "tidings://127.0.0.1:7433"
HTTP_DEFAULT: Final = "http://127.0.0.1:7480"
PORT_DEFAULT: Final = 7433
HTTP_PORT_DEFAULT: Final = 7480

_PORTS: Final = {"tidings": PORT_DEFAULT, "http": HTTP_PORT_DEFAULT}


Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """Where a server listens, and for which protocol. Port 0 stands for any free port."""

    host: str
    port: int
    scheme: str = "tidings"

    @property
    def url(self) -> str:
        """The address as clients write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than `localhost` is not looked up and counts as no."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a host name, which may point anywhere by the time it is bound


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The validated configuration of one server process.

    Args:
        store: `sqlite:PATH` for a data file, `memory:` to keep nothing.
        listen: `tidings://HOST:PORT` or `http://HOST:PORT`, one or more; given, they replace the defaults.
        insecure: allows addresses that other machines can reach, where anybody may publish, read and delete.
        allow_hosts: names, beside addresses and localhost, under which HTTP clients may reach the server.
        allow_origins: origins, as `https://app.example.com`, whose pages may use it; "*" for all.
        allow_webhooks: addresses or networks, as `10.0.0.0/8`, that webhooks may reach beside those of the internet.

    Raises:
        InvalidOption: says which option is wrong and what to write instead.
    """

    store: str = STORE_DEFAULT
    listen: tuple[str, ...] = (LISTEN_DEFAULT, HTTP_DEFAULT)
    insecure: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    allow_webhooks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_store(self.store)
        for host in self.allow_hosts:
            _check_host(host)
        for origin in self.allow_origins:
            _check_origin(origin)
        for network in self.allow_webhooks:
            parse_network(network)
        if not self.listen:
            raise InvalidOption(f"--listen: no address; leave the option out for {LISTEN_DEFAULT}")
        addresses = self.addresses
        for address in addresses:
            if not self.insecure and not address.loopback:
                raise InvalidOption(
                    f"--listen {address.url}: other machines could reach this address, and there are no credentials"
                    " yet: anybody who connects may publish, read and delete. Listen on 127.0.0.1, ::1 or"
                    " localhost, or add --insecure if the network keeps strangers out"
                )
        fixed = [address for address in addresses if address.port]
        for index, address in enumerate(fixed):
            if address in fixed[:index]:
                raise InvalidOption(f"--listen {address.url}: given twice; name each address once")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where to listen, parsed."""
        return tuple(parse_address(url) for url in self.listen)

    @property
    def webhook_networks(self) -> tuple[Network, ...]:
        """Which networks webhooks may reach, parsed."""
        return tuple(parse_network(text) for text in self.allow_webhooks)

    @property
    def store_path(self) -> str | None:
        """The path of the data file, None for a store in memory."""
        return None if self.store == "memory:" else self.store.removeprefix("sqlite:")


def check_store(store: str) -> str:
    """Returns a store's address as it is.

    Raises:
        InvalidOption: it is neither `sqlite:PATH` nor `memory:`.
    """
    if store == "memory:" or (store.startswith("sqlite:") and len(store) > len("sqlite:")):
        return store
    if store.startswith("memory:"):
        raise InvalidOption(f"--store {store}: a store in memory has no name here; write memory:")
    if store == "sqlite:":
        raise InvalidOption(f"--store {store}: the path is missing; write for example {STORE_DEFAULT}")
    raise InvalidOption(f"--store {store}: not a store; write sqlite:PATH for a data file, or memory:")


def _check_host(host: str) -> None:
    if not re.fullmatch(r"[^/?#@*\s]+", host):
        raise InvalidOption(f"--allow-host {host}: not a host; write its name only, such as queue.example.com")


def _check_origin(origin: str) -> None:
    if origin != "*" and not re.fullmatch(r"https?://[^/?#@\s]+", origin):
        raise InvalidOption(
            f"--allow-origin {origin}: not an origin; write https://HOST or http://HOST:PORT without a path, or *"
        )


def parse_network(text: str) -> Network:
    """Returns an address or a network that webhooks may reach.

    Raises:
        InvalidOption: it is neither.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidOption(
            f"--allow-webhook {text}: {error}; write an address such as 127.0.0.1, or a network such as 10.0.0.0/8"
        ) from None


def parse_address(url: str) -> Address:
    """Returns scheme, host and port of an address; without a port it is 7433, or 7480 for HTTP.

    Raises:
        InvalidOption: says what is wrong with `url`.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _PORTS:
        raise InvalidOption(
            f"--listen {url}: not an address; write tidings://HOST:PORT or http://HOST:PORT,"
            f" for example {LISTEN_DEFAULT}"
        )
    rest = rest.removesuffix("/")
    if rest.startswith("["):
        host, bracket, port_text = rest[1:].partition("]")
        if not bracket or (port_text and not port_text.startswith(":")):
            raise InvalidOption(
                f"--listen {url}: write an IPv6 address in brackets, for example {scheme}://[::1]:{_PORTS[scheme]}"
            )
        port_text = port_text.removeprefix(":")
    else:
        host, _, port_text = rest.partition(":")
        if ":" in port_text:
            raise InvalidOption(
                f"--listen {url}: write an IPv6 address in brackets, for example {scheme}://[::1]:{_PORTS[scheme]}"
            )
    if not host:
        raise InvalidOption(f"--listen {url}: the host is missing; write 127.0.0.1 for this machine only")
    if any(character in "/?#@[]" or character.isspace() for character in host):
        raise InvalidOption(f"--listen {url}: {host!r} is not a host; write {scheme}://HOST:PORT and nothing else")
    return Address(host, _parse_port(url, port_text, _PORTS[scheme]), scheme)


def _parse_port(url: str, text: str, default: int) -> int:
    if not text:
        return default
    # int() would also take "+1", "1_000" and digits of other scripts.
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise InvalidOption(f"--listen {url}: port {text!r} is not a number from 0 (any free port) to 65535")
    return int(text)
