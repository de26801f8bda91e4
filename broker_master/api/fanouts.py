"""`fanout.*`: submit, show, list, wait, cancel."""

import contextlib
import secrets
from hashlib import blake2b
from typing import Final

import msgspec

from broker_master.api.operations import Operations
from broker_master.core.fanout import (
    CANCELLED_BY,
    FORM,
    RUNNING,
    SKIPPED,
    WAITING,
    child_of,
    is_repeated,
    reason_of,
    skip_reason,
)
from broker_master.core.pages import Rows
from broker_master.core.records import command_record
from broker_master.core.rights import check_group, may_see
from broker_master.plane import Plane
from broker_master.services.cancel import Canceller
from broker_master.services.fanout import Fanouts, is_own
from broker_master.services.intake import INPUT_FOR_ONE
from broker_master.services.obstacles import Obstacles
from schemas import codec, limits
from schemas.faults import Refused
from schemas.ids import is_reserved, refuse_reserved
from schemas.listed import RETRY_OF
from schemas.messages.actions import ProcessArgs, decode_args, find_action
from schemas.messages.fanouts import (
    FanoutEntry,
    FanoutList,
    FanoutMember,
    FanoutQuery,
    FanoutRecord,
    FanoutRetry,
    FanoutsAnswer,
    FanoutSubmit,
)
from schemas.messages.registry import AgentEntry, ClientEntry
from schemas.moments import rfc3339, rfc3339_or_none
from schemas.programs import arguments_of, program_of
from schemas.texts import cut_text
from schemas.verbs import (
    FANOUT_CANCEL,
    FANOUT_LIST,
    FANOUT_RETRY,
    FANOUT_SHOW,
    FANOUT_SUBMIT,
    FANOUT_WAIT,
)

# Below the broker's limit, with room for every agent to be noted as skipped.
_ENTRY_BYTES: Final = 300 * 1024
_SKIP_BYTES: Final = 24
# Members of a page: with the longest reasons it may fill an answer, so reasons are cut.
_REASON_SHOWN: Final = 160
_deterministic = msgspec.msgpack.Encoder(order="deterministic")


class FanoutOperations:
    def __init__(self, plane: Plane, fanouts: Fanouts, canceller: Canceller) -> None:
        self._plane = plane
        self._fanouts = fanouts
        self._canceller = canceller

    def register(self, operations: Operations) -> None:
        operations.add(FANOUT_SUBMIT, self.submit)
        operations.add(FANOUT_SHOW, self.show)
        operations.add(FANOUT_LIST, self.list)
        operations.add(FANOUT_WAIT, self.wait)
        operations.add(FANOUT_CANCEL, self.cancel)
        operations.add(FANOUT_RETRY, self.retry)

    async def submit(self, caller: ClientEntry, request: FanoutSubmit) -> FanoutRecord:
        """Submit a fan-out; it is durable, with its chosen agents, when the answer is given."""
        fanout = request.id or secrets.token_hex(12)
        digest = blake2b(_body(request), digest_size=16).digest()
        known = self._fanouts.known(fanout)
        if known is not None:
            if (known.client, known.digest) == (caller.name, digest):
                return msgspec.structs.replace(self._record(known), duplicate=True)
        elif is_reserved(fanout):
            raise refuse_reserved(fanout)
        # A forbidden request is refused under any id, also under one in use.
        agents = self._chosen(caller, request)
        if known is not None:
            raise Refused("id_conflict", f"id {fanout} belongs to another fan-out")
        if self._plane.book.get(fanout) or self._plane.readmodel.known(fanout):
            raise Refused("id_conflict", f"id {fanout} belongs to a command")
        entry = FanoutEntry(
            id=fanout,
            client=caller.name,
            digest=digest,
            submitted_at=self._plane.clock.now(),
            groups=sorted({agent.group for agent in agents}),
            agents=sorted(agent.name for agent in agents),
            command=request.command,
            at_once=request.at_once,
            max_failures=request.max_failures,
            batch_sleep_s=request.batch_sleep_s,
            form=FORM,
        )
        _check_size(entry)
        await self._fanouts.begin(entry)
        return self._record(entry)

    async def retry(self, caller: ClientEntry, request: FanoutRetry) -> FanoutRecord:
        """Submit the body of an ended fan-out again; the rights of a submission are checked."""
        entry = await self._whole(caller, request.id)
        if entry.state == RUNNING:
            raise Refused("command_open", f"fan-out {entry.id} is running")
        chosen = []
        for agent in entry.agents:
            if agent not in self._plane.registry.agents:
                continue
            state = (await self._member(entry, agent)).state
            if is_repeated(state, failed=request.failed, silent=request.silent):
                chosen.append(agent)
        if not chosen:
            raise Refused("nothing_to_retry", _nothing_to_retry(request))
        labels = {**entry.command.labels, RETRY_OF: entry.id}
        if len(labels) > limits.LABELS:
            raise Refused("field_invalid", f"its {limits.LABELS} labels leave no room for retry-of")
        again = FanoutSubmit(
            id=request.new_id,
            agents=chosen,
            command=msgspec.structs.replace(entry.command, labels=labels),
            at_once=entry.at_once,
            max_failures=entry.max_failures,
            batch_sleep_s=entry.batch_sleep_s,
        )
        return await self.submit(caller, again)

    def _chosen(self, caller: ClientEntry, request: FanoutSubmit) -> list[AgentEntry]:
        command, registry = request.command, self._plane.registry
        if command.id or command.group or command.agent or command.tags:
            raise Refused("field_invalid", "command: the fan-out names its agents, not the command")
        if command.connection is not None:
            raise Refused("field_invalid", "command: a connection chooses its agent by itself")
        if find_action(command.action).capability:
            raise Refused("connection_needed", f"{command.action} works through a connection")
        args = decode_args(command.action, command.args)
        if isinstance(args, ProcessArgs) and args.input is not None:
            raise Refused("field_invalid", INPUT_FOR_ONE)
        if request.batch_sleep_s and not request.at_once:
            raise Refused("field_invalid", "batch_sleep_s is between batches: say at_once as well")
        if request.group is None and not request.agents and not request.tags:
            raise Refused("field_invalid", "name a group, agents or tags")
        if request.group is not None:
            check_group(caller, registry.group(request.group).name)
        names = set(request.agents)
        for name in sorted(names):
            check_group(caller, registry.agent(name).group)
        found = [
            agent
            for agent in registry.agents.values()
            if request.group in (None, agent.group)
            and (not names or agent.name in names)
            and request.tags.items() <= agent.traits.tags.items()
            and may_see(caller, agent.group)
        ]
        if not found and not names and not request.tags:
            raise Refused("group_empty", f"group {request.group} has no agents")
        if not found:
            raise Refused("tags_unmatched", "no agent is in the group, on the list and so tagged")
        return found

    async def show(self, caller: ClientEntry, query: FanoutQuery) -> FanoutRecord:
        entry = await self._whole(caller, query.id)
        left = [name for name in entry.agents if query.cursor is None or name > query.cursor]
        rows, cursor = Rows[FanoutMember](query.limit), None
        for agent in left:
            if not rows.add(await self._member(entry, agent)):
                cursor = rows.taken[-1].agent
                break
        return msgspec.structs.replace(self._record(entry), members=rows.taken, cursor=cursor)

    async def list(self, caller: ClientEntry, wanted: FanoutList) -> FanoutsAnswer:
        entries = [fanout.entry for fanout in self._fanouts.all_running()]
        entries += self._fanouts.summaries.values()
        seen = [entry for entry in entries if all(may_see(caller, each) for each in entry.groups)]
        seen.sort(key=lambda entry: entry.submitted_at, reverse=True)
        rows = Rows[FanoutRecord](wanted.limit)
        for entry in seen:
            if not rows.add(self._record(entry)):
                break
        return FanoutsAnswer(fanouts=rows.taken)

    async def wait(self, caller: ClientEntry, query: FanoutQuery) -> FanoutRecord:
        """Return the record, without members, once it has ended, or as it is after `timeout_s`."""
        entry = self._visible(caller, query.id)
        await self._fanouts.wait_ended(entry.id, query.timeout_s)
        return self._record(self._visible(caller, query.id))

    async def cancel(self, caller: ClientEntry, query: FanoutQuery) -> FanoutRecord:
        entry = self._visible(caller, query.id)
        fanout = self._fanouts.running(entry.id)
        if fanout is None:
            raise Refused("command_ended", f"fan-out {entry.id} has {entry.state}")
        for command in await self._fanouts.stop(fanout, f"{CANCELLED_BY}{caller.name}"):
            with contextlib.suppress(Refused):  # ended meanwhile
                await self._canceller.cancel(command, caller.name)
        return self._record(fanout.entry)

    # -- records

    def _visible(self, caller: ClientEntry, id: str) -> FanoutEntry:
        entry = self._fanouts.known(id)
        if entry is None:
            raise Refused("fanout_unknown", f"no fan-out {id}")
        for group in entry.groups:
            check_group(caller, group)
        return entry

    async def _whole(self, caller: ClientEntry, id: str) -> FanoutEntry:
        self._visible(caller, id)
        entry = await self._fanouts.entry(id)
        if entry is None:
            raise Refused("fanout_unknown", f"no fan-out {id} any more")
        return entry

    def _record(self, entry: FanoutEntry) -> FanoutRecord:
        counts, fanout = entry.counts, self._fanouts.running(entry.id)
        command = entry.command
        if fanout is not None:
            counts = fanout.counts(self._fanouts.open_states(fanout))
        elif entry.state == RUNNING:
            counts = {WAITING: len(entry.agents)}
        return FanoutRecord(
            id=entry.id,
            client=entry.client,
            state=entry.state,
            reason=reason_of(entry),
            submitted_at=rfc3339(entry.submitted_at),
            ended_at=rfc3339_or_none(entry.ended_at),
            agents=sum(counts.values()),
            counts=counts,
            at_once=entry.at_once,
            max_failures=entry.max_failures,
            batch_sleep_s=entry.batch_sleep_s,
            retry_of=command.labels.get(RETRY_OF, ""),
            program=program_of(
                command.action, command.args, arguments_of(command.action, command.args)
            ),
        )

    async def _member(self, entry: FanoutEntry, agent: str) -> FanoutMember:
        child = child_of(entry, agent)
        if agent in entry.skipped:
            reason = skip_reason(entry, agent)
            return FanoutMember(agent=agent, command=child, state=SKIPPED, reason=reason)
        command = self._plane.book.get(child)
        if command is not None and is_own(entry, agent, command.accepted):
            waits_for = Obstacles(self._plane).waits_for
            record = command_record(command, self._plane.timers, waits_for=waits_for)
        else:
            history = await self._plane.readmodel.get(child)
            if history is None or not is_own(entry, agent, history.record):
                state = SKIPPED if entry.stopped else WAITING
                reason = skip_reason(entry, agent) if entry.stopped else "waits for its turn"
                return FanoutMember(agent=agent, command=child, state=state, reason=reason)
            record = history.record
        codes = [each.exit_code for each in record.attempts if each.exit_code is not None]
        return FanoutMember(
            agent=agent,
            command=child,
            state=record.state,
            exit_code=codes[-1] if codes else None,
            reason=cut_text(record.reason, _REASON_SHOWN),
            ended_at=record.ended_at,
        )


def _body(request: FanoutSubmit) -> bytes:
    """Content by which two requests are equal, whatever their id."""
    plain = msgspec.structs.replace(request, id=None, agents=sorted(set(request.agents)))
    return _deterministic.encode(plain)


def _nothing_to_retry(request: FanoutRetry) -> str:
    """Say of which agents there is none; those that were deleted since are left out."""
    asked = {
        (True, False): "on which it did not succeed",
        (False, True): "that was not asked",
        (True, True): "on which it did not succeed, or that was not asked",
        (False, False): "that is left",
    }
    return f"fan-out {request.id} has no agent {asked[request.failed, request.silent]}"


def _check_size(entry: FanoutEntry) -> None:
    skips = sum(len(agent) + _SKIP_BYTES for agent in entry.agents)
    if len(codec.encode(entry)) + skips > _ENTRY_BYTES:
        raise Refused("too_large", f"{len(entry.agents)} agents and these arguments are too much")
