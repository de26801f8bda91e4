"""Whether a stored command may run now: checks its present client and target."""

from broker_master.core import rights
from broker_master.core.commands import Command
from broker_master.plane import Plane
from schemas.faults import Refused
from schemas.messages.facts import Accepted


def group_now(plane: Plane, accepted: Accepted) -> str:
    """The group in which it would run: the present one of its agent."""
    agent = plane.registry.agents.get(accepted.agent) if accepted.agent else None
    return accepted.group if agent is None else agent.group


def check_run(plane: Plane, accepted: Accepted) -> None:
    """Raise Refused if it may not run.

    Codes: `forbidden`, `client_disabled`, `group_unknown`, `connection_unknown`.
    """
    if accepted.connection:
        _ = plane.registry.connection(accepted.connection)
    group = group_now(plane, accepted)
    rights.check_use(plane.registry.clients.get(accepted.client), accepted.client, group)
    _ = plane.registry.group(group)


def objection(plane: Plane, command: Command) -> Refused | None:
    """Reason why it may not run, as a value."""
    try:
        check_run(plane, command.accepted)
    except Refused as refused:
        return refused
    return None


def note_objection(plane: Plane, command: Command, refused: Refused) -> str:
    """Put the refusal into the audit trail; returns the reason with which the command ends."""
    plane.note(
        "command.reject",
        command.id,
        by=command.accepted.client,
        actor="client",
        result="refused",
        code=refused.code,
        detail=refused.message,
    )
    return f"{refused.code}: it may not be run any more: {refused.message}"
