"""Who may publish and subscribe to what, as data.

The broker enforces these as templates of scoped signing keys: it fills `{{name()}}` and
`{{tag(group)}}` from the user's token, so that a stolen scoped key can make nothing wider.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from schemas import limits
from schemas.subjects import PREFIX

NAME: Final = "{{name()}}"
GROUP: Final = "{{tag(group)}}"

_READ: Final = {
    "command": ("show", "list", "wait", "logs"),
    "deadletter": ("list", "show"),
    "fanout": ("show", "list", "wait"),
    "agent": ("show", "list"),
    "group": ("show", "list"),
    "client": ("renew",),
    "certificate": ("list", "trust"),
    "mesh": ("status",),
}
_OPERATE: Final = {
    "command": ("submit", "cancel", "decide"),
    "deadletter": ("retry",),
    "fanout": ("submit", "cancel"),
    "agent": ("enable", "disable", "pause"),
}


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What one role may do at the broker; `subscriptions` is how many it may hold at once."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    subscriptions: int = 20
    payload_bytes: int = limits.PAYLOAD_BYTES


def _api(verbs: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(
        f"{PREFIX}.api.{NAME}.{noun}.{verb}" for noun, names in verbs.items() for verb in names
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
    publish=_api(_READ) + _DISCOVER, subscribe=_CLIENT_SUBSCRIBE, subscriptions=100
)
OPERATOR: Final = Scope(
    publish=_api(_READ) + _api(_OPERATE) + _DISCOVER,
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
CLIENT_ROLES: Final = ("viewer", "operator", "admin")


# What such a verb does is look: it changes nothing, so it needs no entry in the audit trail.
_LOOKING: Final = frozenset({"show", "list", "wait", "logs", "status", "trust"})


def is_audited(noun: str, verb: str) -> bool:
    """Whether a call changes something that history does not record anyway."""
    return verb not in _LOOKING and (noun, verb) != ("command", "submit")


def may_call(role: str, noun: str, verb: str) -> bool:
    """Whether a client of `role` may call `noun.verb`: the master's own check of the same data."""
    scope = SCOPES.get(role)
    if scope is None or role not in CLIENT_ROLES:
        return False
    wanted = f"{PREFIX}.api.{NAME}.{noun}.{verb}"
    return wanted in scope.publish or f"{PREFIX}.api.{NAME}.>" in scope.publish
