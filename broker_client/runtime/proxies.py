"""Proxies that the environment names, which no connection to a broker goes through."""

from collections.abc import Mapping
from typing import Final

# Of these, `http_proxy` is for plain HTTP alone, and nobody expects it to carry a broker's TLS.
NAMES: Final = ("HTTPS_PROXY", "ALL_PROXY")


def unused_proxies(environ: Mapping[str, str]) -> str:
    """The variables that name a proxy, as they are written; empty if none does.

    Their values are left out: they may hold a password.
    """
    spellings = [spelling for name in NAMES for spelling in (name, name.lower())]
    return ", ".join(name for name in spellings if environ.get(name))
