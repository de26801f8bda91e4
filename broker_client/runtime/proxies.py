"""Proxies in the environment, which connections to brokers do not use."""

from collections.abc import Mapping
from typing import Final

# `http_proxy` is left out: it is for plain HTTP only, not for a broker's TLS.
NAMES: Final = ("HTTPS_PROXY", "ALL_PROXY")


def unused_proxies(environ: Mapping[str, str]) -> str:
    """Return the names of variables with a proxy, in their own spelling; empty if there are none.

    Values are left out, as they may hold a password.
    """
    spellings = [spelling for name in NAMES for spelling in (name, name.lower())]
    return ", ".join(name for name in spellings if environ.get(name))
