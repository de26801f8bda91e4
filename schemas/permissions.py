"""Permissions to publish and to subscribe by role, as data.

The broker enforces them as templates of scoped signing keys: it fills `{{name()}}` and
`{{tag(group)}}` from the user's token, so that a stolen scoped key gives no wider permission.
"""

from typing import Final

import msgspec

from schemas import limits
from schemas.subjects import PREFIX
from schemas.verbs import ROLES, VERBS, Role

NAME: Final = "{{name()}}"
GROUP: Final = "{{tag(group)}}"


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Permissions of one role at the broker. subscriptions: how many a connection may hold."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    subscriptions: int = 20
    payload_bytes: int = limits.PAYLOAD_BYTES


def _api(*roles: Role) -> tuple[str, ...]:
    """Return the subjects of verbs whose weakest role is one of `roles`."""
    return tuple(
        f"{PREFIX}.api.{NAME}.{each.name}"
        for role in roles
        for each in VERBS.values()
        if each.role == role
    )


_DISCOVER: Final = tuple(
    subject for verb in ("PING", "INFO", "STATS") for subject in (f"$SRV.{verb}", f"$SRV.{verb}.>")
)
_CLIENT_SUBSCRIBE: Final = (f"_INBOX_{NAME}.>", f"{PREFIX}.result.{NAME}.>")

AGENT: Final = Scope(
    publish=(f"{PREFIX}.up.{GROUP}.{NAME}.>",),
    subscribe=(f"{PREFIX}.down.{GROUP}.{NAME}.>", f"_INBOX_{NAME}.>"),
)
ENROL: Final = Scope(
    publish=(f"{PREFIX}.enrol.{NAME}",),
    subscribe=(f"_INBOX_ENROL_{NAME}.>",),
    subscriptions=4,
)
VIEWER: Final = Scope(
    publish=_api("viewer") + _DISCOVER, subscribe=_CLIENT_SUBSCRIBE, subscriptions=100
)
OPERATOR: Final = Scope(
    publish=_api("viewer", "operator") + _DISCOVER,
    subscribe=_CLIENT_SUBSCRIBE,
    subscriptions=1000,
)
ADMIN: Final = Scope(
    publish=(f"{PREFIX}.api.{NAME}.>", *_DISCOVER),
    subscribe=_CLIENT_SUBSCRIBE,
    subscriptions=1000,
)

SCOPES: Final[dict[str, Scope]] = {
    "agent": AGENT,
    "enrol": ENROL,
    "viewer": VIEWER,
    "operator": OPERATOR,
    "admin": ADMIN,
}
CLIENT_ROLES: Final = ROLES


def may_call(role: str, noun: str, verb: str) -> bool:
    """Whether a client of `role` may call `noun.verb`: the master's own check of the same data."""
    scope = SCOPES.get(role)
    if scope is None or role not in CLIENT_ROLES:
        return False
    wanted = f"{PREFIX}.api.{NAME}.{noun}.{verb}"
    return wanted in scope.publish or f"{PREFIX}.api.{NAME}.>" in scope.publish
