"""Requests and answers shared by several nouns."""

import msgspec

from schemas.messages.fields import Name


class Request(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False
):
    """Base of requests. Unknown fields are ignored, so that newer clients work with old masters."""


class NameQuery(Request, frozen=True, kw_only=True):
    """`show`, `enable`, `revoke`, `delete` and other verbs on one thing, by its name."""

    name: Name


class NoQuery(Request, frozen=True, kw_only=True):
    """A request without parameters."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """Success. changed: false if the thing already was as requested."""

    changed: bool = True
    message: str = ""
