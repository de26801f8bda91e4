"""Addresses to connect to and to listen on: validation, with the reason why one cannot work."""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from schemas.faults import Refused

SCHEMES: Final = ("tls", "nats")
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
_PLACE: Final = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]/@?#]*))(?::([0-9]{1,5}))?/?")
_NAME: Final = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)
_NUMBERS: Final = re.compile(r"[0-9.]+")
_PORT_MAX: Final = 65535
LOOPBACK: Final = "127.0.0.1"


def host_fault(host: str) -> str:
    """Return why no other host can reach `host`, and what to give instead; empty if one can."""
    bare, percent, _ = host.partition("%")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        if _NUMBERS.fullmatch(host):
            return "it is no IPv4 address: four numbers of 0 to 255"
        return "" if _NAME.fullmatch(host) else "it is neither a host name nor an address"
    if percent:
        return "an address with a zone (%) means something on one host only: give a name"
    if address.is_unspecified:
        return "it is an address to listen on, not to connect to: give the host's name or address"
    if address.is_multicast or bare == "255.255.255.255":
        return "it is no address of one host: give the host's name or address"
    if address.version == 6 and address.is_link_local:
        return "an address that holds on one link only: give a name"
    return ""


def url_fault(url: str) -> str:
    """Return why `url` cannot be a broker's address, and what to give instead; empty if it can."""
    found = _URL.fullmatch(url)
    if found is None:
        return "it is not tls://HOST:PORT"
    if found[1] not in SCHEMES:
        return f"{found[1]}:// is not spoken here: give the broker's tls://HOST:PORT"
    place = _PLACE.fullmatch(found[2])
    if place is None or int(place[3] or "4222") not in range(1, _PORT_MAX + 1):
        return "it is not tls://HOST:PORT"
    return host_fault(place[1] or place[2] or "")


def usable(urls: Sequence[str]) -> tuple[str, ...]:
    """Return the valid `urls`; all of them if none is valid, so that connecting gives the fault."""
    return tuple(url for url in urls if not url_fault(url)) or tuple(urls)


def place_to_listen(setting: str, text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; a port alone, or `:PORT`, means localhost.

    All interfaces must be given explicitly, as `0.0.0.0:PORT` or `[::]:PORT`. Raises Refused
    (`settings_invalid`) that names the setting.
    """
    host, _, port = text.strip().rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) < 6 and int(port) <= _PORT_MAX
    if not is_port:
        example = "give 8080 or 127.0.0.1:8080 for this machine alone, 0.0.0.0:8080 for all"
        raise Refused("settings_invalid", f"{setting} {text[:80]!a} is not HOST:PORT; {example}")
    if why := listener_fault(host or LOOPBACK):
        raise Refused("settings_invalid", f"{setting} {text[:80]!a}: {why}")
    return host or LOOPBACK, int(port)


def listener_fault(host: str) -> str:
    """Return why nothing can listen on `host`, or empty. Systems read `0` as all addresses."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if _NUMBERS.fullmatch(host):
            return f"{host} is no address: give 127.0.0.1 for this machine, 0.0.0.0 for all"
        return "" if _NAME.fullmatch(host) else "it is neither a host name nor an address"
    return ""


def digest(urls: Sequence[str]) -> str:
    """Return a digest of the addresses, equal for any order of them; empty for none."""
    from hashlib import sha256  # imported here, so that a command line's help starts faster

    return sha256("\n".join(sorted(set(urls))).encode()).hexdigest()[:16] if urls else ""


def learned(offered: Sequence[str], present: Sequence[str], working: str = "") -> tuple[str, ...]:
    """Return the addresses to use after a master has offered some.

    working: the connected one of `present`. It stays, as the first, since it is known to work. The
    valid ones of `offered` follow in their order; one without TLS is skipped if all of `present`
    have TLS. Returns `present` if none is left.
    """
    has_tls = all(_is_tls(url) for url in present)
    fit = [url for url in offered if not url_fault(url) and (_is_tls(url) or not has_tls)]
    if not fit:
        return tuple(present)
    kept = [working] if working in present else []
    return tuple(dict.fromkeys([*kept, *fit]))


def _is_tls(url: str) -> bool:
    return url.lower().startswith("tls://")
