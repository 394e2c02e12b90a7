"""What a server is told when it starts: where it keeps messages, where it listens, and what that requires."""

import ipaddress
from dataclasses import dataclass
from typing import Final, NamedTuple

from tidings.errors import InvalidOption

STORE_DEFAULT: Final = "sqlite:tidings.db"
LISTEN_DEFAULT: Final = "tidings://127.0.0.1:7433"
PORT_DEFAULT: Final = 7433

_SCHEME: Final = "tidings://"


class Address(NamedTuple):
    """Where a server listens. Port 0 stands for any free port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The address as clients write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_SCHEME}{host}:{self.port}"

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
        listen: `tidings://HOST:PORT`, one or more; given, they replace the default.
        insecure: allows addresses that other machines can reach, where anybody may publish, read and delete.

    Raises:
        InvalidOption: says which option is wrong and what to write instead.
    """

    store: str = STORE_DEFAULT
    listen: tuple[str, ...] = (LISTEN_DEFAULT,)
    insecure: bool = False

    def __post_init__(self) -> None:
        check_store(self.store)
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


def parse_address(url: str) -> Address:
    """Returns host and port of `tidings://HOST:PORT`; without a port it is 7433.

    Raises:
        InvalidOption: says what is wrong with `url`.
    """
    if not url.startswith(_SCHEME):
        raise InvalidOption(f"--listen {url}: not an address; write tidings://HOST:PORT, for example {LISTEN_DEFAULT}")
    rest = url.removeprefix(_SCHEME).removesuffix("/")
    if rest.startswith("["):
        host, bracket, port_text = rest[1:].partition("]")
        if not bracket or (port_text and not port_text.startswith(":")):
            raise InvalidOption(f"--listen {url}: write an IPv6 address in brackets, for example tidings://[::1]:7433")
        port_text = port_text.removeprefix(":")
    else:
        host, _, port_text = rest.partition(":")
        if ":" in port_text:
            raise InvalidOption(f"--listen {url}: write an IPv6 address in brackets, for example tidings://[::1]:7433")
    if not host:
        raise InvalidOption(f"--listen {url}: the host is missing; write 127.0.0.1 for this machine only")
    if any(character in "/?#@[]" or character.isspace() for character in host):
        raise InvalidOption(f"--listen {url}: {host!r} is not a host; write tidings://HOST:PORT and nothing else")
    return Address(host, _parse_port(url, port_text))


def _parse_port(url: str, text: str) -> int:
    if not text:
        return PORT_DEFAULT
    # int() would also take "+1", "1_000" and digits of other scripts.
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise InvalidOption(f"--listen {url}: port {text!r} is not a number from 0 (any free port) to 65535")
    return int(text)
