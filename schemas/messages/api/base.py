"""What requests and answers of several nouns have in common."""

import msgspec

from schemas.messages.fields import Name


class Request(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False
):
    """Unknown fields of a request are ignored, so that newer clients can talk to older masters."""


class NameQuery(Request, frozen=True, kw_only=True):
    """`show`, `enable`, `revoke`, `delete` and the like: one thing by its name."""

    name: Name


class NoQuery(Request, frozen=True, kw_only=True):
    """A request without parameters."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that changed something, or found it as it was to be (`changed` false)."""

    changed: bool = True
    message: str = ""
