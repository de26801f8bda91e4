"""Accepts commands: checked, made durable, then answered."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Final

import msgspec
import structlog

from broker_client.runtime import failpoints, tracing
from broker_master.core import attempts
from broker_master.core.book import heavy_bytes
from broker_master.core.commands import Command
from broker_master.core.dispatch import LANES_MAX, Choice, needs_of, tags_of
from broker_master.core.fold import fold
from broker_master.core.phases import Phase
from broker_master.core.rights import check_group
from broker_master.core.room import StoreRoom
from broker_master.plane import Plane
from broker_master.services import calls
from broker_master.services.assign import Assigner
from broker_master.services.inputs import Inputs
from broker_master.services.obstacles import Obstacles
from broker_master.store.facts import Conflict
from broker_master.store.readmodel import KnownCommand
from schemas import subjects
from schemas.faults import MeshError, Refused, Unreachable
from schemas.ids import is_reserved, refuse_reserved
from schemas.messages.actions import ProcessArgs, decode_args
from schemas.messages.api import SubmitAnswer, SubmitRequest
from schemas.messages.facts import DEFAULT_TERMS, Accepted, Terms
from schemas.messages.fanouts import LABEL
from schemas.messages.registry import ClientEntry
from schemas.messages.work import INPUT_ABILITY
from schemas.moments import rfc3339
from schemas.states import BARRED, State

log = structlog.get_logger()

Answer = Callable[[SubmitAnswer | MeshError], None]


async def answered(ask: Callable[[Answer], None]) -> SubmitAnswer:
    """Return what `ask` is answered with, at once or later; raises the fault that it is refused."""
    future: asyncio.Future[SubmitAnswer] = asyncio.get_running_loop().create_future()

    def answer(result: SubmitAnswer | MeshError) -> None:
        if future.done():
            return
        if isinstance(result, MeshError):
            future.set_exception(result)
        else:
            future.set_result(result)

    ask(answer)
    return await future


# Source of commands that a fan-out submits in the name of its client.
FANOUT: Final = "fanout"
INPUT_FOR_ONE: Final = "args.input is for one command: many agents take what args.stdin holds"

# History may lag by at most this part of the time for which the stream itself refuses a reused id.
_LAG_PART = 0.1
_CLIENT_PART = 4
_deterministic = msgspec.msgpack.Encoder(order="deterministic")


class Intake:
    """`command.submit`. Nothing is stored for a refused request.

    stalled_since: monotonic clock reading since when the broker has answered no write, if so.
    is_crowded: the rest of the queue to the store is reserved for ends and cancels. inputs: staged
    before; that of a refused or a known command is removed.
    """

    def __init__(
        self,
        plane: Plane,
        assigner: Assigner,
        room: StoreRoom,
        *,
        history_lag_s: Callable[[], float],
        stalled_since: Callable[[], float | None],
        is_crowded: Callable[[], bool],
        inputs: Inputs,
    ) -> None:
        self._plane = plane
        self._room = room
        self._assigner = assigner
        self._history_lag_s = history_lag_s
        self._stalled_since = stalled_since
        self._is_crowded = is_crowded
        self._inputs = inputs
        self._storing: dict[str, list[Answer]] = {}

    def submit(
        self,
        caller: ClientEntry,
        request: SubmitRequest,
        answer: Answer,
        source: str,
        trace: str = "",
    ) -> None:
        """Answer once the command is durable, or at once with a fault.

        source: the transport, such as `nats`. trace: a checked trace context. Raises Refused for an
        invalid request; later faults go to `answer`.
        """
        try:
            self.take_in(self._accepted(caller, request, source, trace), answer)
        except Refused:
            self._drop_staged(caller, request)
            raise

    def _drop_staged(self, caller: ClientEntry, request: SubmitRequest) -> None:
        """Remove the input of a refused request."""
        with contextlib.suppress(Refused):
            args = decode_args(request.action, request.args)
            if isinstance(args, ProcessArgs) and args.input is not None:
                self._inputs.drop(caller.name, args.input.id)

    def take(self, caller: ClientEntry, request: SubmitRequest, answer: Answer) -> None:
        """As `submit`, for a request of the master itself in the name of `caller`."""
        self.take_in(self._accepted(caller, request, FANOUT, ""), answer)

    def take_again(
        self, caller: ClientEntry, before: Accepted, new_id: str | None, answer: Answer
    ) -> None:
        """As `submit`, for a new command of `caller` with the content of an earlier one."""
        self._check_id(new_id)
        group = self._group_of(caller, _asked_again(before, new_id), before.digest)
        labels = {name: value for name, value in before.labels.items() if name != LABEL}
        again = msgspec.structs.replace(
            before,
            id=new_id or secrets.token_hex(12),
            client=caller.name,
            group=group,
            submitted_at=self._plane.clock.now(),
            first=None,
            key=(before.key or before.id) if before.connection else "",
            labels={**labels, "retry-of": before.id},
            source="nats",
        )
        self.take_in(again, answer)

    def take_in(self, accepted: Accepted, answer: Answer) -> None:
        """As `submit`, for a command that has been checked before."""
        known = self._known(accepted)
        if known is not None:
            self._inputs.drop(accepted.client, accepted.input)  # of an earlier try it is claimed
            if accepted.id in self._storing:
                if self._stalled_since() is not None:
                    raise _unsure(accepted.id)
                self._storing[accepted.id].append(answer)
            else:
                answer(SubmitAnswer(id=accepted.id, state=known, duplicate=True))
            return
        self._check_room(accepted)
        if accepted.input:
            self._check_staged(accepted)
        self._store(accepted, answer)

    # -- checks

    def _accepted(
        self, caller: ClientEntry, request: SubmitRequest, source: str, trace: str
    ) -> Accepted:
        if source != FANOUT:
            self._check_id(request.id)
        typed = calls.checked_args(self._plane, request)
        args = msgspec.Raw(_deterministic.encode(typed))
        staged = typed.input if isinstance(typed, ProcessArgs) else None
        if staged is not None and source == FANOUT:
            raise Refused("field_invalid", INPUT_FOR_ONE)
        group = self._group_of(caller, request)
        if staged is not None:
            self._check_able(request.agent)
        return Accepted(
            id=request.id or secrets.token_hex(12),
            client=caller.name,
            group=group,
            agent=request.agent or "",
            action=request.action,
            args=args,
            digest=_digest(request, _content(typed)),
            input="" if staged is None else staged.id,
            submitted_at=self._plane.clock.now(),
            terms=self._terms(request),
            labels={**request.labels, tracing.HEADER: trace} if trace else request.labels,
            with_output=request.with_output,
            source=source,
            connection=request.connection or "",
            timeout_s=request.timeout_s or 0.0,
            output_bytes=request.output_bytes or 0,
        )

    def _args(self, request: SubmitRequest) -> msgspec.Raw:
        """Its arguments in canonical form, as its digest has them."""
        return _content(calls.checked_args(self._plane, request))

    def _group_of(
        self, caller: ClientEntry, request: SubmitRequest, digest: bytes | None = None
    ) -> str:
        """The group of the target, or Refused. digest: of the request, if it is known already."""
        deadline = request.deadline
        if deadline is not None and deadline <= self._plane.clock.now():
            before = self._before(request.id or "")
            if before is None or before.client != caller.name:
                raise Refused("deadline_passed", "the deadline of the request has passed")
        try:
            return self._target_group(caller, request)
        except Refused:
            # A stored command is answered as it is: a refusal would deny it. But only to its
            # client: a refusal must not reveal others' ids.
            if request.id is None or not self._is_same(caller, request, digest):
                raise
            return request.group or ""

    def _is_same(self, caller: ClientEntry, request: SubmitRequest, digest: bytes | None) -> bool:
        before = self._before(request.id or "")
        if before is None or before.client != caller.name:
            return False
        if digest is None:
            try:
                args = self._args(request)
            except Refused:
                return False
            digest = _digest(request, args)
        return before.digest == digest

    def _before(self, command_id: str) -> KnownCommand | None:
        """The command that already has this id."""
        command = self._plane.book.get(command_id)
        if command is None:
            return self._plane.readmodel.known(command_id)
        accepted = command.accepted
        return KnownCommand(accepted.client, accepted.digest, str(command.state))

    def _terms(self, request: SubmitRequest) -> Terms:
        ttl_s = request.queue_ttl_s
        terms = Terms(
            queue_ttl_s=self._plane.timers.queue_ttl_s if ttl_s is None else ttl_s,
            on_lost=request.on_lost,
            kill_after_s=self._kill_after_s(request),
            priority=request.priority,
            tags=request.tags,
        )
        # Facts leave out this very object.
        return DEFAULT_TERMS if terms == DEFAULT_TERMS else terms

    def _kill_after_s(self, request: SubmitRequest) -> float:
        """Seconds that the task may outlive its master's silence; 0 for the default."""
        if request.loss == "hold":
            if request.hold_s is None:
                raise Refused("field_invalid", "hold_s is missing: for how long may it go on?")
            return request.hold_s
        return self._plane.timers.continue_s if request.loss == "continue" else 0.0

    def _check_tags(self, group: str, agent: str | None, tags: dict[str, str]) -> None:
        wanted = tags_of(tags)
        text = ", ".join(f"{name}={value}" for name, value in wanted)
        if agent is not None:
            own = self._plane.registry.agent(agent).traits.tags
            if any(own.get(name) != value for name, value in wanted):
                raise Refused("tags_unmatched", f"agent {agent} has not {text}")
        elif not self._plane.dispatcher.has_member(group, wanted):
            raise Refused("tags_unmatched", f"no agent of group {group} has {text}")
        elif self._plane.dispatcher.is_crowded(group, wanted):
            raise Refused(
                "queue_full", f"commands of group {group} wait for {LANES_MAX} sets of tags already"
            )

    def _target_group(self, caller: ClientEntry, request: SubmitRequest) -> str:
        registry = self._plane.registry
        named = (request.group, request.agent, request.connection)
        if sum(each is not None for each in named) != 1:
            raise Refused("field_invalid", "name one of group, agent and connection")
        if request.connection is not None:
            return calls.target_of(self._plane, caller, request).group
        if request.agent is not None:
            agent = registry.agent(request.agent)
            group = agent.group
            check_group(caller, group)
            if agent.admin in BARRED:
                raise Refused("agent_revoked", f"agent {agent.name} is {agent.admin}")
        else:
            group = registry.group(request.group or "").name
            check_group(caller, group)
            if not registry.has_agents(group):
                raise Refused("group_empty", f"group {group} has no agents")
        if request.tags:
            self._check_tags(group, request.agent, request.tags)
        if request.on_inactive == "refuse":
            target = (group, request.agent or "", needs_of(request.tags, request.action))
            obstacles = Obstacles(self._plane)
            if not (obstacles.is_ready(*target) or obstacles.is_passing(*target)):
                raise Refused("group_inactive", obstacles.obstacle(*target).text)
        return group

    def _check_id(self, command_id: str | None) -> None:
        """Ids that the mesh makes are reserved; earlier commands with such ids are still found."""
        if command_id is not None and is_reserved(command_id) and self._before(command_id) is None:
            raise refuse_reserved(command_id)

    def _known(self, accepted: Accepted) -> str | None:
        """The state of the command that already has this id; Refused if its content differs."""
        before = self._before(accepted.id)
        if before is None:
            if accepted.id in self._plane.fanouts.ids and accepted.source != FANOUT:
                raise Refused("id_conflict", f"id {accepted.id} belongs to a fan-out")
            return None
        if before.client != accepted.client or before.digest != accepted.digest:
            raise Refused("id_conflict", f"id {accepted.id} belongs to another command")
        is_open = self._plane.book.get(accepted.id) is not None
        self._plane.count("duplicate", "master", "suppressed" if is_open else "replayed")
        return before.state

    def _check_able(self, agent: str | None) -> None:
        """Refuse a staged input for one agent that is known to be unable to fetch it.

        One of a group that cannot is never chosen; one that has not been heard of refuses it.
        """
        presence = self._plane.roster.get(agent) if agent else None
        if presence is not None and presence.greeted and INPUT_ABILITY not in presence.actions:
            raise Refused(
                "input_unsupported",
                f"agent {agent} of release {presence.details.version or 'unknown'} cannot fetch"
                " input of this size",
            )

    def _check_staged(self, accepted: Accepted) -> None:
        args = decode_args(accepted.action, accepted.args)
        if isinstance(args, ProcessArgs) and args.input is not None:
            self._inputs.check(accepted.client, args.input)

    def _check_room(self, accepted: Accepted) -> None:
        group = accepted.group
        stalled_since = self._stalled_since()
        if stalled_since is not None:
            stalled_s = self._plane.clock.elapsed() - stalled_since
            raise Refused(
                "store_unavailable", f"the broker has stored nothing for {stalled_s:.0f} s"
            )
        limit = self._plane.settings.limits.open_commands_per_group
        if self._plane.book.open_in(group) >= limit:
            raise Refused("queue_full", f"group {group} has {limit} open commands, its limit")
        waiting = self._plane.dispatcher.pool(group).policy.queue_limit
        if waiting and self._plane.dispatcher.waiting(group) >= waiting:
            raise Refused(
                "queue_full", f"{waiting} commands wait in group {group}, its queue_limit"
            )
        lag_s, window_s = self._history_lag_s(), self._plane.settings.retention.facts_s
        if lag_s > window_s * _LAG_PART:
            raise Refused("master_lagging", f"history is {lag_s:.0f} s behind")
        self._check_share(accepted)
        if self._is_crowded():
            raise Refused("queue_full", "half of what may wait to be stored is there already")
        if not self._room.has(memoryview(accepted.args).nbytes):
            raise Refused(
                "store_full", "what is left of limits.event_bytes is for ends of open commands"
            )

    def _check_share(self, accepted: Accepted) -> None:
        """Large arguments are held until their command has ended, so each client has a share."""
        size, heavy = heavy_bytes(accepted), self._plane.book.heavy
        total = self._plane.settings.limits.open_argument_bytes
        if not size:
            return
        if heavy[accepted.client] + size > total // _CLIENT_PART:
            self._plane.count("shed", "share")
            raise Refused(
                "queue_full",
                f"open commands of {accepted.client} hold {heavy[accepted.client]} bytes of large"
                f" arguments; its share of limits.open_argument_bytes is {total // _CLIENT_PART}",
            )
        if sum(heavy.values()) + size > total:
            raise Refused("queue_full", f"open commands hold {total} bytes of large arguments")

    # -- storing

    def on_stalled(self) -> None:
        """The broker does not answer writes: waiting clients get a fault and may retry.

        A pending write may still be stored, and is retried: the same id finds it.
        """
        for command_id, answers in self._storing.items():
            waiting, answers[:] = answers[:], []
            for answer in waiting:
                answer(_unsure(command_id))

    def _store(self, accepted: Accepted, answer: Answer) -> None:
        choice = self._assigner.reserve(accepted)
        if choice is not None:
            # One fact and one flush to disk instead of two.
            first = self._assigner.assigned(choice)
            accepted = msgspec.structs.replace(accepted, first=first)
        self._inputs.claim(accepted)
        command = self._plane.book.open(accepted)
        fact = subjects.Fact(accepted.id, 0, "accepted")
        fold(command, fact, accepted)
        self._storing[accepted.id] = [answer]
        stored = self._plane.facts.append(fact, accepted)
        stored.add_done_callback(partial(self._on_stored, command, choice))

    def _on_stored(
        self, command: Command, choice: Choice | None, stored: "asyncio.Future[int]"
    ) -> None:
        answers = self._storing.pop(command.id, [])
        if stored.cancelled():
            return
        error = stored.exception()
        if error is not None:
            self._on_refused(command, choice, error, answers)
            return
        self._plane.telemetry.measures.on_submitted(command.accepted, self._plane.clock.now())
        self._plane.tell_command(command, "submitted")
        command.keep_place(subjects.fact(command.id, 0, "accepted"), stored.result())
        failpoints.reach("master.stored_not_answered")
        said = self._answer(command, choice)
        for index, answer in enumerate(answers):
            answer(said if not index else msgspec.structs.replace(said, duplicate=True))
        if choice is not None:
            self._assigner.perform(command, attempts.on_ready(command, self._plane.clock.now()))
        elif command.phase is Phase.WAITING:
            self._assigner.wait(command)

    def _answer(self, command: Command, choice: Choice | None) -> SubmitAnswer:
        if choice is not None:
            return SubmitAnswer(id=command.id, state=State.QUEUED, duplicate=False)
        accepted, obstacles = command.accepted, Obstacles(self._plane)
        target = (accepted.group, accepted.agent, self._plane.dispatcher.needs(accepted))
        if obstacles.is_ready(*target):
            return SubmitAnswer(id=command.id, state=State.QUEUED, duplicate=False)
        return SubmitAnswer(
            id=command.id,
            state=State.QUEUED,
            duplicate=False,
            target="active" if obstacles.obstacle(*target).is_active else "inactive",
            next=f"{obstacles.waits_for(accepted)}; expires at {rfc3339(command.expires_at)}",
        )

    def _on_refused(
        self, command: Command, choice: Choice | None, error: BaseException, answers: list[Answer]
    ) -> None:
        self._plane.book.forget(command.id)
        self._inputs.release(command.accepted)
        if choice is not None:
            self._plane.dispatcher.give_back(choice.agent, command.accepted.connection)
            self._assigner.fill(choice.agent)
        if isinstance(error, Conflict):
            fault: MeshError = Refused("id_conflict", f"id {command.id} is in use already")
        elif isinstance(error, MeshError):
            fault = error
        else:
            log.error("submit_failed", command_id=command.id, error=repr(error))
            fault = MeshError("internal", "the command could not be stored")
        for answer in answers:
            answer(fault)


def _unsure(command_id: str) -> Unreachable:
    message = f"command {command_id} may be stored or not: the broker does not answer"
    return Unreachable("store_unavailable", message)


def _content(typed: msgspec.Struct | dict[str, object]) -> msgspec.Raw:
    """Arguments without the id of a staged input, which is another one in each try."""
    if isinstance(typed, ProcessArgs) and typed.input is not None:
        staged = msgspec.structs.replace(typed.input, id="-")
        typed = msgspec.structs.replace(typed, input=staged)
    return msgspec.Raw(_deterministic.encode(typed))


def _digest(request: SubmitRequest, args: msgspec.Raw) -> bytes:
    """Content by which two requests are equal, whatever their id. args: in canonical form."""
    limits = (request.on_lost, request.loss, request.hold_s, request.queue_ttl_s)
    body: tuple[object, ...] = (request.group, request.agent, request.action, args, *limits)
    body = (*body, request.labels)
    if request.connection is not None:
        body = (*body, request.connection, request.timeout_s, request.output_bytes)
    if request.tags or request.priority != DEFAULT_TERMS.priority:
        body = (*body, request.priority, request.tags)
    return blake2b(_deterministic.encode(body), digest_size=16).digest()


def _asked_again(before: Accepted, new_id: str | None) -> SubmitRequest:
    """The request of a command again, with the target that its client named."""
    return SubmitRequest(
        id=new_id,
        group=None if before.agent or before.connection else before.group,
        agent=None if before.connection else before.agent or None,
        connection=before.connection or None,
        action=before.action,
        timeout_s=before.timeout_s or None,
        output_bytes=before.output_bytes or None,
        tags=before.terms.tags,
    )
