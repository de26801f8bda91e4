"""Commands through connections, at the door: their group, their arguments, their limits."""

import msgspec

from broker_master.core import connections
from broker_master.core.connections import ProfileState
from broker_master.core.dispatch import LANES_MAX, needs_of
from broker_master.core.rights import check_group
from broker_master.plane import Plane
from broker_master.services.obstacles import Obstacles
from schemas import codec
from schemas.faults import Refused
from schemas.kinds import KINDS
from schemas.messages.actions import decode_args, find_action
from schemas.messages.api import SubmitRequest
from schemas.messages.liveness import ProfileStatus
from schemas.messages.registry import ClientEntry, ConnectionEntry


def checked_args(plane: Plane, request: SubmitRequest) -> msgspec.Struct | dict[str, object]:
    """The arguments of a request, decoded and checked; those of a plug-in's action as a map."""
    entry = plane.registry.connections.get(request.connection or "")
    if entry is not None and connections.is_plugged(entry, request.action):
        return codec.decode_trusted(dict[str, object], bytes(request.args))
    args = decode_args(request.action, request.args)
    if request.connection is None and find_action(request.action).capability:
        raise Refused("connection_needed", f"{request.action} works through a connection")
    return args


def target_of(plane: Plane, caller: ClientEntry, request: SubmitRequest) -> ConnectionEntry:
    """The connection of a request, which takes its action now. Raises Refused."""
    entry = plane.registry.connection(request.connection or "")
    check_group(caller, entry.group)
    connections.check_call(entry, request.action, request.timeout_s, request.output_bytes)
    _check_hosts_allow(plane, entry, request.action)
    needs = needs_for(plane, entry, request)
    if plane.dispatcher.is_crowded(entry.group, needs):
        raise Refused(
            "queue_full", f"commands of group {entry.group} wait for {LANES_MAX} sets already"
        )
    if request.on_inactive != "queue":
        obstacles = Obstacles(plane)
        target = (entry.group, "", needs)
        if not (obstacles.is_ready(*target) or obstacles.is_passing(*target)):
            text = obstacles.obstacle(*target).text
            raise Refused("group_inactive", f"connection {entry.name} is inactive: {text}")
    return entry


def _check_hosts_allow(plane: Plane, entry: ConnectionEntry, action: str) -> None:
    """Refuse an action that the profile of every host refuses; unknown hosts may allow it."""
    if entry.kind not in KINDS:
        return
    refusing: list[ProfileStatus] = []
    for agent in plane.dispatcher.pool(entry.group).members:
        found = plane.profiles.find(plane.roster.get(agent), entry.name)
        if found is None or connections.profile_state(entry, found) != ProfileState.OK:
            continue
        if not found.actions or action in found.actions:
            return
        refusing.append(found)
    if refusing:
        allowed = ", ".join(refusing[0].actions)
        raise Refused(
            "action_refused", f"profile {entry.name} of its hosts allows {allowed}, not {action}"
        )


def needs_for(
    plane: Plane, entry: ConnectionEntry, request: SubmitRequest
) -> tuple[tuple[str, str], ...]:
    """Tags required of the agent that carries a request out."""
    needed = needs_of(request.tags, request.action)
    return (*needed, *plane.dispatcher.ways.needs(entry.name, request.action))
