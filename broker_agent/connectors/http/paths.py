"""Paths of requests: below the base URL, and allowed by the profile."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import quote, unquote

# Decodings after which a path must no longer change: deeper nesting is an attack.
_DECODINGS: Final = 3
_SAFE: Final = "/%:!$&'()*+,;=~-._"


def why_refused(path: str) -> str:
    """Return the reason why `path` may not be sent, or empty.

    Servers decode a path once or more, so each form of it is checked.
    """
    form = path
    for _ in range(_DECODINGS):
        reason = _reason(form)
        if reason:
            return reason
        decoded = unquote(form, errors="replace")
        if decoded == form:
            return "" if "@" not in path else "it has an '@'"
        form = decoded
    return "it is encoded too often"


def _reason(path: str) -> str:
    if not path.startswith("/"):
        return "it does not begin with '/'"
    if "\\" in path:
        return "it has a backslash"
    if "//" in path:
        return "it has an empty segment"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in path):
        return "it has a control character"
    # Some servers cut parameters such as `;x` off before they follow a `..`.
    if any(segment.partition(";")[0] in (".", "..") for segment in path.split("/")):
        return "it has a segment '.' or '..'"
    return ""


def is_below(path: str, prefix: str) -> bool:
    """Whether `path` is that of a base URL, without its final `/`, or below it."""
    return path == prefix or path.startswith(f"{prefix}/")


def encoded(path: str) -> str:
    """Return `path` as it is sent: what may not stand in a request line is percent-encoded."""
    return quote(path, safe=_SAFE)


def is_allowed(method: str, path: str, allow: Sequence[str]) -> bool:
    """Whether a pattern such as `GET /v1/*` allows the request; without patterns all are.

    `*` matches any characters, also `/`; patterns are compared with the decoded path.
    """
    if not allow:
        return True
    decoded = unquote(path)
    for pattern in allow:
        methods, _, wanted = pattern.partition(" ")
        if method in methods.split("|") and fnmatchcase(decoded, wanted):
            return True
    return False
