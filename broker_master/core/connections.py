"""Connections: what they take, their status with its reason, and the profiles of their hosts."""

import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from schemas.faults import Refused
from schemas.kinds import ANY_KIND, KINDS, actions_of
from schemas.messages.actions import ACTIONS
from schemas.messages.facts import Accepted
from schemas.messages.liveness import ProfileStatus
from schemas.messages.registry import ConnectionEntry

# Name of an action of a plug-in: capability and verb.
_PLUGGED: Final = re.compile(r"[a-z][a-z0-9-]{0,30}\.[a-z][a-z0-9_-]{0,30}")


class ConnectionStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    DISABLED = "disabled"


class ProfileState(StrEnum):
    """State of one host's profile for a connection."""

    OK = "ok"
    PROBLEM = "problem"
    MISSING = "missing"
    OTHER_KIND = "other_kind"
    NOT_PINNED = "not_pinned"


class Limits(NamedTuple):
    """Of one call: seconds, and bytes of output. 0: the connection sets none."""

    timeout_s: float
    output_bytes: int


class Host(NamedTuple):
    """An agent of the group. profile: of its host, or None."""

    agent: str
    is_active: bool
    profile: ProfileStatus | None


class Verdict(NamedTuple):
    status: ConnectionStatus
    reason: str
    next: str


def call_limits(accepted: Accepted, entry: ConnectionEntry | None) -> Limits:
    """The limits of a command's calls, by itself or else by its connection."""
    if entry is None:
        return Limits(accepted.timeout_s, accepted.output_bytes)
    return Limits(
        accepted.timeout_s or entry.timeout_s, accepted.output_bytes or entry.output_bytes
    )


# -- at the door


def check_kind(kind: str, *, is_plugged: bool) -> None:
    """Refuse a kind that no connector has. is_plugged: a host has a profile of it."""
    if kind not in KINDS and not is_plugged:
        raise Refused(
            "kind_unknown",
            f"no kind {kind}; there are {', '.join(KINDS)}, and those of plug-ins once a host has"
            " a profile of them",
        )


def check_actions(kind: str, actions: Sequence[str]) -> None:
    """Refuse actions that a connection of this kind never takes."""
    for action in actions:
        _check_kind_takes(kind, action)


def check_call(
    entry: ConnectionEntry, action: str, timeout_s: float | None, output_bytes: int | None
) -> None:
    """Refuse a command that the connection does not take."""
    _check_kind_takes(entry.kind, action)
    known = ACTIONS.get(action)
    is_test = known is not None and known.capability == ANY_KIND
    if not entry.enabled and not is_test:
        raise Refused("connection_disabled", f"connection {entry.name} is disabled")
    if entry.actions and action not in entry.actions and not is_test:
        raise Refused(
            "action_refused", f"connection {entry.name} allows {', '.join(entry.actions)}"
        )
    if timeout_s is not None and timeout_s > entry.timeout_s:
        raise Refused(
            "field_invalid",
            f"timeout_s: connection {entry.name} allows at most {entry.timeout_s:g}",
        )
    if output_bytes is not None and output_bytes > entry.output_bytes:
        raise Refused(
            "field_invalid",
            f"output_bytes: connection {entry.name} allows at most {entry.output_bytes}",
        )


def is_plugged(entry: ConnectionEntry, action: str) -> bool:
    """Whether an action is of a plug-in: its host checks its arguments."""
    return entry.kind not in KINDS and action not in ACTIONS


def _check_kind_takes(kind: str, action: str) -> None:
    if kind in KINDS:
        taken = actions_of(kind)
        if action not in taken:
            shown = ", ".join(taken)
            raise Refused("action_refused", f"{kind} takes {shown}, not {action[:64]!a}")
    elif action in ACTIONS and not ACTIONS[action].capability:
        raise Refused("action_refused", f"{action} needs no connection: run it on a group")
    elif action not in ACTIONS and not _PLUGGED.fullmatch(action):
        raise Refused("action_unknown", f"no action {action[:64]!a}")


# -- status


def profile_state(entry: ConnectionEntry, profile: ProfileStatus | None) -> ProfileState:
    if profile is None:
        return ProfileState.MISSING
    if profile.state != "ok":
        return ProfileState.PROBLEM
    if profile.kind != entry.kind:
        return ProfileState.OTHER_KIND
    if entry.pin and profile.hash != entry.pin:
        return ProfileState.NOT_PINNED
    return ProfileState.OK


def judge(
    entry: ConnectionEntry, hosts: Sequence[Host], group_reason: str, group_next: str
) -> Verdict:
    """Status of a connection: its group's, unless no active agent has a usable profile.

    group_reason: why the group is inactive, or empty for an active one; group_next: the way out.
    """
    name, group = entry.name, entry.group
    if not entry.enabled:
        return Verdict(ConnectionStatus.DISABLED, "disabled", f"mesh connection enable {name}")
    if group_reason:
        return Verdict(
            ConnectionStatus.INACTIVE, f"group {group} is inactive: {group_reason}", group_next
        )
    active = [host for host in hosts if host.is_active]
    states = [profile_state(entry, host.profile) for host in active]
    usable = states.count(ProfileState.OK)
    if usable:
        reason = f"{usable} of {len(hosts)} agents of {group} active with profile {name}"
        return Verdict(ConnectionStatus.ACTIVE, reason, "")
    reason, way_out = _why_unusable(entry, active, states)
    return Verdict(ConnectionStatus.INACTIVE, reason, way_out)


def _why_unusable(
    entry: ConnectionEntry, active: Sequence[Host], states: Sequence[ProfileState]
) -> tuple[str, str]:
    name, group = entry.name, entry.group
    for state, host in zip(states, active, strict=True):
        profile = host.profile
        if profile is None:
            continue
        if state is ProfileState.PROBLEM:
            return (
                f"profile {name} has a problem on {host.agent}: {profile.problem}",
                f"correct it on {host.agent}: broker-agent profile check {name}",
            )
        if state is ProfileState.OTHER_KIND:
            return (
                f"profile {name} on {host.agent} is of kind {profile.kind}, not {entry.kind}",
                f"correct it on {host.agent}: broker-agent profile check {name}",
            )
        if state is ProfileState.NOT_PINNED:
            return (
                f"no active agent of {group} has profile {name} with the pinned hash {entry.pin}",
                f"mesh connection show {name}; to use another: mesh connection pin {name} HASH",
            )
    return (
        f"no active agent of {group} has profile {name}",
        f"put {name}.toml into profiles.d on a host of {group}: broker-agent profile check {name}",
    )


def badges(entry: ConnectionEntry, hosts: Sequence[Host]) -> list[str]:
    """Conditions worth attention, whatever the status: drift, problems, a single agent."""
    marks: list[str] = []
    profiles = [host.profile for host in hosts if host.is_active and host.profile is not None]
    hashes = Counter(each.hash for each in profiles if each.state == "ok")
    if len(hashes) > 1:
        marks.append(f"profile drift: {len(hashes)} hashes")
    # One that is `ok` with a problem is the last good version of a broken file.
    broken = sum(each.state != "ok" or bool(each.problem) for each in profiles)
    if broken:
        marks.append(f"{broken} with a problem")
    without = sum(host.is_active and host.profile is None for host in hosts)
    if profiles and without:
        marks.append(f"{without} without the profile")
    usable = sum(profile_state(entry, each) is ProfileState.OK for each in profiles)
    if usable == 1 and len(hosts) > 1:
        marks.append("single agent")
    return marks
