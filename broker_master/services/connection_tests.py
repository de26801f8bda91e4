"""Tries the way to the system behind a connection from each host: one ordinary command each."""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from broker_master.core.commands import Command
from broker_master.core.connections import Host, ProfileState, profile_state
from broker_master.core.records import command_record, shown_record
from broker_master.plane import Plane
from broker_master.services.connection_views import ConnectionViews
from broker_master.services.intake import Intake, answered
from schemas.faults import MeshError, Refused
from schemas.messages.actions.connection import CONNECTION_TEST
from schemas.messages.api import ConnectionTestAnswer, ConnectionTested
from schemas.messages.facts import Accepted, CommandRecord, Terms
from schemas.messages.registry import ClientEntry, ConnectionEntry
from schemas.states import State
from schemas.texts import cut_text

# Most hosts of one test, all asked at once.
HOSTS_MAX: Final = 100
# Characters of an agent's texts in the answer.
SERVER_LEN: Final = 100
REASON_LEN: Final = 300
_WORD_LEN: Final = 64
# Seconds beside a try's own time: for the way to the agent and back.
AROUND_S: Final = 5.0
# Longest believable time of a step.
_STEP_MOST_S: Final = 3600.0
_STEPS: Final = ("resolve", "connect", "tls", "login", "query")


class ConnectionTests:
    def __init__(self, plane: Plane, intake: Intake, views: ConnectionViews) -> None:
        self._plane = plane
        self._intake = intake
        self._views = views

    async def run(
        self, caller: ClientEntry, entry: ConnectionEntry, agent: str | None, timeout_s: float
    ) -> ConnectionTestAnswer:
        """Test from each active host, or from that of `agent` alone. Raises Refused."""
        hosts = self._views.hosts(entry)
        if agent is not None:
            hosts = [host for host in hosts if host.agent == agent]
            if not hosts:
                raise Refused("agent_unknown", f"group {entry.group} has no agent {agent}")
        hosts = [host for host in hosts if host.is_active]
        if not hosts:
            reason = self._views.record(entry).reason if agent is None else f"{agent} is not active"
            raise Refused("group_inactive", f"connection {entry.name} cannot be tested: {reason}")
        async with asyncio.TaskGroup() as group:
            tries = [
                group.create_task(self._try(caller, entry, host, timeout_s))
                for host in hosts[:HOSTS_MAX]
            ]
        return ConnectionTestAnswer(
            connection=entry.name,
            members=[each.result() for each in tries],
            left_out=max(0, len(hosts) - HOSTS_MAX),
        )

    async def _try(
        self, caller: ClientEntry, entry: ConnectionEntry, host: Host, timeout_s: float
    ) -> ConnectionTested:
        digest = host.profile.hash if host.profile is not None else ""
        if reason := _unusable(entry, host):
            return ConnectionTested(
                agent=host.agent,
                result="failed",
                profile=digest,
                code=reason[0],
                reason=cut_text(reason[1], REASON_LEN),
            )
        try:
            record = await self._outcome(caller, entry, host.agent, timeout_s)
        except MeshError as error:
            return ConnectionTested(
                agent=host.agent,
                result="failed",
                profile=digest,
                code=error.code,
                reason=cut_text(error.message, REASON_LEN),
            )
        return _tested(host.agent, digest, record)

    async def _outcome(
        self, caller: ClientEntry, entry: ConnectionEntry, agent: str, timeout_s: float
    ) -> CommandRecord:
        """The record of the try's command, once it has ended or its time is over."""
        accepted = Accepted(
            id=secrets.token_hex(12),
            client=caller.name,
            group=entry.group,
            agent=agent,
            action=CONNECTION_TEST.name,
            args=msgspec.Raw(b"\x80"),
            submitted_at=self._plane.clock.now(),
            terms=Terms(queue_ttl_s=timeout_s),
            connection=entry.name,
            timeout_s=timeout_s,
        )
        await answered(lambda answer: self._intake.take_in(accepted, answer))
        command = self._plane.book.get(accepted.id)
        if command is not None and not command.is_terminal:
            await self._ended(command, timeout_s + AROUND_S)
        return await self._record(accepted.id)

    async def _ended(self, command: Command, within_s: float) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._plane.waiters.setdefault(command.id, [])
        waiters.append(ended)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended, within_s)
        if ended in waiters:
            waiters.remove(ended)

    async def _record(self, command_id: str) -> CommandRecord:
        command = self._plane.book.get(command_id)
        if command is not None:
            return command_record(command, self._plane.timers)
        history = await self._plane.readmodel.get(command_id)
        if history is None:
            raise MeshError("internal", f"command {command_id} is gone")
        return shown_record(history)


def _unusable(entry: ConnectionEntry, host: Host) -> tuple[str, str] | None:
    """Code and reason why a host's profile cannot be tried; a pinned-out one can."""
    match profile_state(entry, host.profile):
        case ProfileState.MISSING:
            return "profile_unknown", f"its host has no profile {entry.name}"
        case ProfileState.PROBLEM:
            return "profile_problem", host.profile.problem if host.profile is not None else ""
        case ProfileState.OTHER_KIND:
            kind = host.profile.kind if host.profile is not None else ""
            return "profile_problem", f"the profile is of kind {kind}, not {entry.kind}"
    return None


def _tested(agent: str, digest: str, record: CommandRecord) -> ConnectionTested:
    """The row of a try, from the result of its command, which the agent chose."""
    result: Mapping[str, Any] = record.result or {}
    steps = result.get("steps")
    steps = steps if isinstance(steps, dict) else {}
    attempt = record.attempts[-1] if record.attempts else None
    code = attempt.code if attempt is not None else ""
    is_ok = record.state == State.SUCCEEDED
    return ConnectionTested(
        agent=agent,
        result="ok" if is_ok else "failed",
        steps={
            name: round(1000 * steps[name], 3)
            for name in _STEPS
            if isinstance(steps.get(name), float | int) and 0 <= steps[name] <= _STEP_MOST_S
        },
        server=cut_text(str(result.get("server", "")), SERVER_LEN),
        profile=digest,
        code="" if is_ok else (code or record.state)[:_WORD_LEN],
        reason="" if is_ok else cut_text(record.reason or f"it is {record.state}", REASON_LEN),
        command=record.id,
    )
