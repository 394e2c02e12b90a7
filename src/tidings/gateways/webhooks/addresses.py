"""Which addresses webhooks may reach: those of the internet, and networks that were allowed.

A name is looked up for each connection, and the connection is made to the very address that was judged: a name that
points elsewhere a moment later (DNS rebinding) gains nothing by it.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: leads to the IPv4 address in its last four bytes


class Unreachable(Exception):
    """A host has no address that may be reached; the text says why."""


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether a webhook may connect to an address."""
    if any(address.version == network.version and address in network for network in networks):
        return True
    inner = _inner(address)
    if inner is not None:
        return is_allowed(inner, networks)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """Returns the IPv4 address to which an IPv6 address leads, if it is one of those."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour


async def look_up(host: str, port: int, networks: Sequence[Network]) -> list[str]:
    """Returns the addresses of a host that may be connected to, the one to try first at first.

    Raises:
        Unreachable: it has none, or none that is allowed.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{host} cannot be looked up: {error}") from None
    addresses = [str(entry[4][0]) for entry in found]
    # A link-local address may carry its interface; none of those is allowed without it.
    allowed = [each for each in addresses if is_allowed(ipaddress.ip_address(each.partition("%")[0]), networks)]
    if allowed:
        return allowed
    raise Unreachable(
        f"{host} is {', '.join(addresses[:3])}: private addresses are refused; start the server with"
        f" --allow-webhook {addresses[0]} if webhooks should go there"
    )
