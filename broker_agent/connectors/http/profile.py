"""Settings of the kind `http`."""

import re
from collections.abc import Iterator
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import Meta

from broker_agent.connectors.api import Profile, Secret
from broker_agent.connectors.http.addresses import networks_of

_PATTERN: Final = re.compile(r"^[A-Z]+(\|[A-Z]+)* /\S*$")
_PORTS: Final = {"http": 80, "https": 443}
Seconds = Annotated[float, Meta(gt=0, le=300)]


class HttpProfile(Profile, frozen=True, kw_only=True):
    """An HTTP service.

    base_url: `https://HOST[:PORT][/PATH]`. user, password: for basic authentication; token: for
    `Authorization: Bearer`. headers, secret_headers: sent with each request. ca: file of the
    authorities, None for those of the system. allow: patterns `METHOD[|METHOD] PATH`; empty: all.
    networks: address ranges beyond the usual ones, such as 127.0.0.0/8. redirects: number of
    redirects below `base_url` that are followed.
    """

    base_url: str
    user: str = ""
    password: Secret | None = None
    token: Secret | None = None
    headers: dict[str, str] = {}
    secret_headers: dict[str, Secret] = {}
    ca: str | None = None
    allow: list[str] = []
    networks: list[str] = []
    redirects: Annotated[int, Meta(ge=0, le=5)] = 0
    connect_s: Seconds = 10.0
    test_path: str = "/"


class Origin(NamedTuple):
    """Parts of a base URL. prefix: its path, without a final `/`."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def authority(self) -> str:
        """Value of the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def origin_of(base_url: str) -> Origin:
    """Return the parts of a base URL; ValueError says what is wrong with it."""
    parts = urlsplit(base_url)
    if parts.scheme not in _PORTS:
        raise ValueError("base_url begins with https:// or http://")
    if not parts.hostname:
        raise ValueError("base_url has no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url has no user: name it as `user`, its secret as `password`")
    if parts.query or parts.fragment:
        raise ValueError("base_url has no query and no fragment")
    if not base_url.isprintable() or any(each in base_url for each in " \\@"):
        raise ValueError("base_url has a character that no URL may have")
    port = parts.port or _PORTS[parts.scheme]
    return Origin(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))


def problems(profile: HttpProfile) -> Iterator[str]:
    """Sentences about settings that cannot work."""
    try:
        origin_of(profile.base_url)
    except ValueError as error:
        yield str(error)
    try:
        networks_of(profile.networks)
    except ValueError as error:
        yield f"networks: {error}"
    for pattern in profile.allow:
        if not _PATTERN.match(pattern):
            yield f"allow: {pattern!r} is not METHOD PATH, as in 'GET /v1/*'"
    if profile.token is not None and (profile.user or profile.password is not None):
        yield "name either token, or user and password"
    if (profile.password is not None) != bool(profile.user):
        yield "user and password belong together"
    for name, value in profile.headers.items():
        if not (name.isascii() and name.isprintable() and value.isprintable()):
            yield f"headers: {name!r} has a character that no header may have"
