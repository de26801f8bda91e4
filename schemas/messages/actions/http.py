"""The action `http.request`, through a connection to an HTTP service."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.actions.base import Action, Arguments, invalid
from schemas.messages.fields import Text

HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$(?!\n)")]
Pairs = Annotated[dict[Text, Text | list[Text]], Meta(max_length=limits.LABELS)]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
HttpStatus = Annotated[int, Meta(ge=100, le=599)]


class HttpRequestArgs(Arguments, frozen=True, kw_only=True):
    """Send one request; the body of the answer goes to stdout.

    path: below the base URL of the profile, begins with one `/`. At most one of json (any
    msgpack value), text and body. expect: statuses of a success; without any, 200 to 299.
    """

    method: Method = "GET"
    path: Text
    query: Pairs = {}
    headers: Annotated[dict[HeaderName, Text], Meta(max_length=limits.LABELS)] = {}
    json: msgspec.Raw = msgspec.Raw(b"")
    text: str | None = None
    body: bytes | None = None
    expect: Annotated[list[HttpStatus], Meta(max_length=limits.LABELS)] = []


def _check(args: HttpRequestArgs) -> None:
    action = "http.request"
    bodies = [bool(bytes(args.json)), args.text is not None, args.body is not None]
    if sum(bodies) > 1:
        raise invalid(action, "name at most one of json, text and body")
    if not args.path.startswith("/") or args.path.startswith("//"):
        raise invalid(action, "path begins with one '/': the host is the profile's")
    if any(character in args.path for character in "\\@#?") or not args.path.isprintable():
        raise invalid(action, "path has a character that no path may have; use query for '?'")
    if any(not value.isprintable() for value in args.headers.values()):
        raise invalid(action, "a header's value has a control character")


HTTP_REQUEST: Final = Action(
    name="http.request",
    args=HttpRequestArgs,
    does="sends one HTTP request; the answer's body goes to stdout",
    check=_check,
    summary=lambda args: f"{args.method} {args.path}",
    capability="http",
)
