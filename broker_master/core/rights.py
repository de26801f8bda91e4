"""Decides on a client's right at each use.

A client has a role, for the verbs, and groups, for the targets; no groups mean every group. A
stored request (a waiting command, a fan-out) is checked again when it is carried out, since the
client may have been revoked, or its target moved, in the meantime.
"""

from collections.abc import Collection

from schemas.faults import Refused
from schemas.messages.registry import ClientEntry
from schemas.permissions import CLIENT_ROLES, may_call

# Faults of a forbidden attempt: each is worth an entry in the audit trail.
ATTEMPTS = frozenset({"forbidden", "client_disabled", "reply_forbidden"})
_SUBMITTERS = frozenset(role for role in CLIENT_ROLES if may_call(role, "command", "submit"))


def check_right(caller: ClientEntry, noun: str, verb: str) -> None:
    """The master's own check of what the broker enforces by subject."""
    _check_admitted(caller)
    if not may_call(caller.role, noun, verb):
        raise Refused("forbidden", f"a {caller.role} may not call {noun}.{verb}")


def may_see(caller: ClientEntry, group: str) -> bool:
    return not caller.groups or group in caller.groups


def may_see_all(caller: ClientEntry, groups: Collection[str]) -> bool:
    return not caller.groups or all(group in caller.groups for group in groups)


def check_group(caller: ClientEntry, group: str) -> None:
    if not may_see(caller, group):
        raise Refused("forbidden", f"client {caller.name} may not use group {group}")


def check_unlimited(caller: ClientEntry) -> None:
    """Check that the client has no limit of groups: for operations on the whole mesh."""
    if caller.groups:
        raise Refused("forbidden", f"client {caller.name} is limited to groups")


# -- clients among each other


def may_see_client(caller: ClientEntry, client: ClientEntry) -> bool:
    """Itself, and clients without a group that it lacks."""
    return client.name == caller.name or is_no_wider(caller, client.groups)


def check_client(caller: ClientEntry, client: ClientEntry) -> None:
    if not may_see_client(caller, client):
        raise Refused("forbidden", f"client {client.name} has groups that {caller.name} has not")


def is_no_wider(caller: ClientEntry, groups: Collection[str]) -> bool:
    """Whether a client of these groups has no right that `caller` lacks."""
    return not caller.groups or (bool(groups) and set(groups) <= set(caller.groups))


def check_no_wider(caller: ClientEntry, groups: Collection[str]) -> None:
    if not is_no_wider(caller, groups):
        raise Refused("forbidden", "name the groups of the new client, out of your own")


# -- stored requests


def check_use(client: ClientEntry | None, name: str, group: str) -> None:
    """Check that a stored request of client `name` may run in `group` now.

    client: its present entry, None if there is none. Raises Refused.
    """
    if client is None:
        raise Refused("client_disabled", f"there is no client {name}")
    _check_admitted(client)
    if client.role not in _SUBMITTERS:
        raise Refused("forbidden", f"client {name} may not submit any more: it is a {client.role}")
    check_group(client, group)


def _check_admitted(client: ClientEntry) -> None:
    if client.revoked:
        raise Refused("client_disabled", f"client {client.name} is revoked")
