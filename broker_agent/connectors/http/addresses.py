"""Addresses that a request may go to: resolved once, and checked before the connection.

A name may resolve to the host itself, or to a service that trusts whoever is near it. Private
ranges are allowed, as the host's owner wrote the base URL.
"""

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from broker_agent.connectors.api import CallFailed

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Metadata services outside the link-local ranges: AWS (IPv6), Alibaba, Azure, Oracle.
_METADATA: Final = tuple(
    ipaddress.ip_network(each)
    for each in ("fd00:ec2::254/128", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")
)
# IPv4 addresses inside IPv6 ones. Source: RFC 6052 (NAT64), RFC 8215 (its local prefix).
_NAT64: Final = tuple(ipaddress.IPv6Network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48"))
# Addresses in the old form `::a.b.c.d`. Source: RFC 4291, 2.5.5.1.
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


def networks_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks; ValueError for a text that is none."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def why_refused(address: Address, networks: Sequence[Network]) -> str:
    """Return the reason why no request may go to `address`, or empty."""
    for each in _forms(address):
        reason = _reason(each)
        if reason and not any(form in network for form in _forms(address) for network in networks):
            return reason
    return ""


def _forms(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 addresses that are written inside it."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if any(address in network for network in _NAT64) or address in _COMPATIBLE:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _reason(address: Address) -> str:
    for is_so, reason in (
        (address.is_unspecified, "no address"),
        (address.is_loopback, "the host itself"),
        (address.is_link_local, "link-local, as metadata services are"),
        (address.is_multicast, "multicast"),
        (any(address in network for network in _METADATA), "a metadata service"),
        (address == ipaddress.ip_address("255.255.255.255"), "broadcast"),
    ):
        if is_so:
            return reason
    return ""


def resolve(host: str, port: int, networks: Sequence[Network]) -> str:
    """Return the first address of `host` that may be used.

    Raises CallFailed with effect none: `target_unreachable` if the name has none,
    `address_refused` if one of them is refused, so that a name with two faces is not used at all.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise CallFailed(
            "target_unreachable", f"{host} has no address: {error}", effect="none"
        ) from error
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    for address in addresses:
        reason = why_refused(address, networks)
        if reason:
            raise CallFailed(
                "address_refused",
                f"{host} is {address}: {reason}; `networks` of the profile does not allow it",
                effect="none",
            )
    return str(addresses[0])
