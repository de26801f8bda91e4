"""Runs fan-outs: submits to agents in turn, survives restarts, and records the end of each."""

import asyncio
import contextlib
from functools import partial
from typing import Final

import msgspec
import structlog

from broker_client.runtime.kv import Bucket, BucketEntry
from broker_client.runtime.stream_answers import SequenceConflict
from broker_client.runtime.supervise import TaskSet
from broker_master.core.commands import Command
from broker_master.core.fanout import (
    HELD,
    RESTORED,
    RUNNING,
    SILENT,
    Decision,
    Fanout,
    child_of,
    is_child,
    verdict,
)
from broker_master.core.rights import ATTEMPTS, check_use
from broker_master.plane import Plane
from broker_master.services.intake import Intake
from broker_master.services.views import Views
from broker_master.store.restored import Restored
from schemas import codec
from schemas.faults import MeshError, Refused, Unreachable
from schemas.listed import RETRY_OF
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import SubmitAnswer, SubmitRequest
from schemas.messages.facts import Accepted, CommandRecord
from schemas.messages.fanouts import LABEL, FanoutEntry
from schemas.messages.registry import ClientEntry
from schemas.programs import arguments_of, shortened
from schemas.spans import DAY_S
from schemas.states import STATES, TERMINAL, AgentStatus, State

log = structlog.get_logger()

OPEN_MAX: Final = 256
OPEN_PER_CLIENT: Final = OPEN_MAX // 4
# Between two tries of a temporarily refused submission.
_RETRY_S: Final = 1.0
# Between two looks at agents whose turn is deferred.
_HELD_S: Final = 0.25
_OBSTACLES: Final = {
    AgentStatus.AWAITING_SETUP: "awaiting_setup",
    AgentStatus.NO_RESPONSE: SILENT,
    AgentStatus.DISABLED: "disabled",
}


class Fanouts:
    """The durable entry has the chosen agents; the progress of each is in its command.

    So each agent gets one command, however often a master is restarted: the id is the same.
    restored: of a restored state; fan-outs of that time submit no further commands.
    """

    name = "fanouts"

    def __init__(
        self,
        plane: Plane,
        bucket: Bucket,
        intake: Intake,
        views: Views,
        restored: Restored | None,
    ) -> None:
        self._plane = plane
        self._bucket = bucket
        self._intake = intake
        self._views = views
        self._tasks = TaskSet("fanouts", limit=OPEN_MAX)
        self._revisions: dict[str, int] = {}
        self._restored = restored
        self._running = plane.fanouts.running
        self._wakes: dict[str, asyncio.Event] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._beginning: dict[str, str] = {}
        # Reason to stop a fan-out, until the stop is durable.
        self._stops: dict[str, tuple[str, asyncio.Event]] = {}
        # Ended ones without their agents and their command; the bucket has these.
        self.summaries = plane.fanouts.summaries

    async def load(self) -> None:
        """Read the bucket; call it once the book and the read model are complete."""
        settings = self._plane.settings
        await self._bucket.ensure(
            replicas=settings.broker.replicas, max_age_s=settings.retention.history_days * DAY_S
        )
        for key, (entry, revision) in (await self._bucket.read_all(_decode, self._skip)).items():
            if entry is None:
                continue
            self._revisions[key] = revision
            if entry.state == RUNNING:
                states = {agent: self._state(entry, agent) for agent in entry.agents}
                # Includes ids chosen before they were reserved for the mesh.
                self._plane.fanouts.ids.update(child_of(entry, agent) for agent in entry.agents)
                self._enter(Fanout(entry, states, now_s=self._plane.clock.elapsed()))
                if self._restored is not None and entry.submitted_at <= self._restored.at:
                    # Agents without a command in this state may have got one since the backup.
                    self._stops[key] = (RESTORED, asyncio.Event())
            else:
                self.summaries[key] = summary(entry)
            self._plane.fanouts.ids.add(key)

    async def run(self, ready: asyncio.Event) -> None:
        for fanout in self._running.values():
            for agent in fanout.open:
                self._watch(fanout, agent)
            _ = self._tasks.spawn(self._drive(fanout))
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self._tasks.aclose(0)

    # -- for the API

    def known(self, id: str) -> FanoutEntry | None:
        """A running fan-out, whole, or the summary of an ended one."""
        return self._plane.fanouts.known(id)

    def running(self, id: str) -> Fanout | None:
        return self._running.get(id)

    def all_running(self) -> list[Fanout]:
        return [*self._running.values()]

    async def entry(self, id: str) -> FanoutEntry | None:
        """A whole fan-out, read from the bucket if it has ended."""
        fanout = self._running.get(id)
        if fanout is not None:
            return fanout.entry
        found = await self._bucket.get(id) if id in self.summaries else None
        return (self._read(found) or self.summaries[id]) if found is not None else None

    def _read(self, found: BucketEntry) -> FanoutEntry | None:
        """None for an entry that cannot be read."""
        try:
            return _decode(found.key, found.value)
        except MeshError as error:
            self._skip(found.key, found.revision, error)
            return None

    def _skip(self, key: str, revision: int, error: MeshError) -> None:
        self._plane.telemetry.strays.note(self._bucket.stream, revision, key, error)

    async def begin(self, entry: FanoutEntry) -> None:
        """Start a fan-out: durable when this returns. Raises `queue_full` or `id_conflict`."""
        if len(self._running) + len(self._beginning) >= OPEN_MAX:
            raise Refused("queue_full", f"{OPEN_MAX} fan-outs are running, the limit")
        running = (each.entry.client for each in self._running.values())
        mine = [each for each in (*running, *self._beginning.values()) if each == entry.client]
        if len(mine) >= OPEN_PER_CLIENT:
            self._plane.count("shed", "share")
            raise Refused(
                "queue_full", f"{OPEN_PER_CLIENT} fan-outs of {entry.client} are running, its share"
            )
        if entry.id in self._beginning:
            raise Unreachable("store_unavailable", f"fan-out {entry.id} is being stored")
        self._beginning[entry.id] = entry.client
        try:
            entry = await self._store(entry)
        finally:
            self._beginning.pop(entry.id, None)
        self._plane.fanouts.ids.add(entry.id)
        fanout = Fanout(entry, {})
        self._enter(fanout)
        _ = self._tasks.spawn(self._drive(fanout))
        log.info("fanout_accepted", fanout=entry.id, client=entry.client, agents=len(entry.agents))

    async def _store(self, entry: FanoutEntry) -> FanoutEntry:
        """The stored entry: this one, or an equal one of an earlier try."""
        try:
            self._revisions[entry.id] = await self._bucket.create(entry.id, codec.encode(entry))
        except SequenceConflict as error:
            found = await self._bucket.get(entry.id)
            before = None if found is None else self._read(found)
            if found is not None and before is None:
                # The stored entry is unreadable, so no fan-out has this id.
                self._revisions[entry.id] = await self._bucket.update(
                    entry.id, codec.encode(entry), found.revision
                )
                return entry
            if found is None or before is None or before.digest != entry.digest:
                raise Refused("id_conflict", f"id {entry.id} is in use already") from error
            self._revisions[entry.id] = found.revision
            return before
        return entry

    async def stop(self, fanout: Fanout, why: str) -> list[Command]:
        """Stop a fan-out: durable when this returns; returns its open commands.

        The fan-out's own task writes the stop, so that no concurrent change is lost.
        """
        name = fanout.entry.id
        if not fanout.entry.stopped:
            noted = self._stops.setdefault(name, (why, asyncio.Event()))[1]
            self._wakes[name].set()
            try:
                await asyncio.wait_for(noted.wait(), self._plane.settings.broker.request_s)
            except TimeoutError as error:
                message = f"fan-out {name} may be cancelled or not: the broker does not answer"
                raise Unreachable("store_unavailable", message) from error
        found = (self._command(fanout.entry, agent) for agent in sorted(fanout.open))
        return [command for command in found if command is not None]

    async def wait_ended(self, id: str, timeout_s: float) -> None:
        ended = self._ended.get(id)
        if ended is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), timeout_s)

    def open_states(self, fanout: Fanout) -> dict[str, State]:
        found = {agent: self._command(fanout.entry, agent) for agent in fanout.open}
        return {agent: command.state for agent, command in found.items() if command is not None}

    # -- one fan-out

    def _enter(self, fanout: Fanout) -> None:
        name = fanout.entry.id
        self._running[name] = fanout
        self._wakes[name], self._ended[name] = asyncio.Event(), asyncio.Event()

    async def _drive(self, fanout: Fanout) -> None:
        wake = self._wakes[fanout.entry.id]
        wait_s: float | None
        while True:
            wake.clear()
            try:
                decision = await self._step(fanout)
            except MeshError as error:
                log.warning("fanout_delayed", fanout=fanout.entry.id, error=str(error))
                wait_s = _RETRY_S
            else:
                if decision.done:
                    return
                wait_s = _HELD_S if decision.held else decision.rest_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), wait_s)

    async def _step(self, fanout: Fanout) -> Decision:
        """Take the next step. Raises temporary faults."""
        await self._note_stop(fanout)
        decision = fanout.decide(
            lambda agent: self._obstacle(fanout.entry, agent), now_s=self._plane.clock.elapsed()
        )
        await self._note(fanout, decision)
        for agent in decision.start:
            fanout.on_started(agent)
        refusals = await asyncio.gather(*(self._ask(fanout, agent) for agent in decision.start))
        passing: MeshError | None = None
        skip = {}
        for agent, refusal in zip(decision.start, refusals, strict=True):
            if refusal is None:
                continue
            if refusal.retry == "never":
                skip[agent] = refusal.code
            else:
                passing = refusal
                fanout.on_put_back(agent)
        if skip:
            kept = {**fanout.entry.skipped, **skip}
            await self._save(fanout, msgspec.structs.replace(fanout.entry, skipped=kept))
            self._wakes[fanout.entry.id].set()
        if passing is not None:
            raise passing
        if decision.done:
            await self._finish(fanout)
        return decision

    async def _note_stop(self, fanout: Fanout) -> None:
        entry = fanout.entry
        wish = self._stops.get(entry.id)
        if wish is not None:
            if not entry.stopped:
                await self._save(fanout, msgspec.structs.replace(entry, stopped=wish[0]))
            del self._stops[entry.id]
            wish[1].set()

    async def _note(self, fanout: Fanout, decision: Decision) -> None:
        entry = fanout.entry
        if decision.skip or decision.stop != entry.stopped:
            skipped = {**entry.skipped, **decision.skip}
            stopped = decision.stop
            await self._save(
                fanout, msgspec.structs.replace(entry, skipped=skipped, stopped=stopped)
            )

    def _obstacle(self, entry: FanoutEntry, agent: str) -> str:
        found = self._plane.registry.agents.get(agent)
        if found is None:
            return "deleted"
        if found.group not in entry.groups:
            return "moved"
        status = self._views.status_of(found)
        if status is AgentStatus.NO_RESPONSE and entry.command.queue_ttl_s is not None:
            return ""  # its submitter has set the wait
        presence = self._plane.roster.get(agent)
        if status is AgentStatus.NO_RESPONSE and presence is not None:
            now_s = self._plane.clock.elapsed()
            return HELD if self._plane.roster.is_undecided(presence, now_s=now_s) else SILENT
        return _OBSTACLES.get(status, "")

    async def _ask(self, fanout: Fanout, agent: str) -> MeshError | None:
        """Submit the agent's command in the client's name; returns the fault if it was refused."""
        entry = fanout.entry
        answered: asyncio.Future[SubmitAnswer | MeshError]
        answered = asyncio.get_running_loop().create_future()
        self._watch(fanout, agent)
        try:
            request = child_request(entry, agent)
            self._intake.take(self._caller(entry, agent), request, partial(_answer, answered))
            answer = await answered
        except MeshError as error:
            answer = error
        if isinstance(answer, MeshError):
            self._note_refusal(entry, agent, answer)
            return answer
        state = STATES.get(answer.state, State.QUEUED)
        if state in TERMINAL:
            fanout.on_ended(agent, state, now_s=self._plane.clock.elapsed())
            self._wakes[entry.id].set()
        return None

    def _caller(self, entry: FanoutEntry, agent: str) -> ClientEntry:
        """The fan-out's client, if it still has the right to run the command."""
        registry = self._plane.registry
        caller = registry.clients.get(entry.client)
        check_use(caller, entry.client, registry.agent(agent).group)
        assert caller is not None  # noqa: S101 - checked just before
        return caller

    def _note_refusal(self, entry: FanoutEntry, agent: str, error: MeshError) -> None:
        if error.code in ATTEMPTS:
            self._plane.note(
                "fanout.submit",
                entry.id,
                by=entry.client,
                actor="client",
                result="refused",
                code=error.code,
                detail=f"agent {agent}: {error.message}",
            )

    def _watch(self, fanout: Fanout, agent: str) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        child = child_of(fanout.entry, agent)
        self._plane.waiters.setdefault(child, []).append(ended)
        ended.add_done_callback(partial(self._on_ended, fanout, agent))

    def _on_ended(self, fanout: Fanout, agent: str, ended: "asyncio.Future[None]") -> None:
        state = self._state(fanout.entry, agent)
        if not ended.cancelled() and state is not None and state in TERMINAL:
            fanout.on_ended(agent, state, now_s=self._plane.clock.elapsed())
            self._wakes[fanout.entry.id].set()

    def _command(self, entry: FanoutEntry, agent: str) -> Command | None:
        """The open command of `agent` that belongs to this fan-out."""
        command = self._plane.book.get(child_of(entry, agent))
        return command if command is not None and is_own(entry, agent, command.accepted) else None

    def _state(self, entry: FanoutEntry, agent: str) -> State | None:
        child = child_of(entry, agent)
        command = self._plane.book.get(child)
        if command is not None:
            return command.state if is_own(entry, agent, command.accepted) else None
        history = self._plane.readmodel.look_up(child)
        if history is None or not is_own(entry, agent, history.record):
            return None
        return STATES.get(history.record.state)

    async def _finish(self, fanout: Fanout) -> None:
        entry, counts = fanout.entry, fanout.counts({})
        ended = msgspec.structs.replace(
            entry,
            state=verdict(entry, counts),
            ended_at=self._plane.clock.now(),
            counts=counts,
        )
        await self._save(fanout, ended)
        self._plane.count("fanout", ended.state)
        self.summaries[entry.id] = summary(ended)
        del self._running[entry.id], self._wakes[entry.id], self._revisions[entry.id]
        wish = self._stops.pop(entry.id, None)
        if wish is not None:
            wish[1].set()
        self._ended.pop(entry.id).set()
        log.info("fanout_ended", fanout=entry.id, state=ended.state, counts=counts)

    async def _save(self, fanout: Fanout, entry: FanoutEntry) -> None:
        """Write the entry, then update the memory."""
        revision = self._revisions[entry.id]
        try:
            revision = await self._bucket.update(entry.id, codec.encode(entry), revision)
        except SequenceConflict:
            # This task is the only writer. An unreadable entry is overwritten with the next try.
            found = await self._bucket.get(entry.id)
            if found is not None and self._read(found) is None:
                self._revisions[entry.id] = found.revision
            raise
        self._revisions[entry.id] = revision
        fanout.on_changed(entry)


def _decode(key: str, value: bytes) -> FanoutEntry:
    entry = codec.decode_trusted(FanoutEntry, value)
    if entry.id != key:
        raise Refused("malformed", "the entry of another id")
    return entry


def _answer(
    answered: "asyncio.Future[SubmitAnswer | MeshError]", result: SubmitAnswer | MeshError
) -> None:
    if not answered.done():  # expected while the master stops
        answered.set_result(result)


def is_own(entry: FanoutEntry, agent: str, found: Accepted | CommandRecord) -> bool:
    """Whether a command with the id of a child belongs to this fan-out and this agent."""
    return is_child(
        entry,
        agent,
        client=found.client,
        group=found.group,
        target=found.agent,
        labels=found.labels,
    )


def child_request(entry: FanoutEntry, agent: str) -> SubmitRequest:
    return msgspec.structs.replace(
        entry.command,
        id=child_of(entry, agent),
        group=None,
        agent=agent,
        deadline=None,
        labels={**entry.command.labels, LABEL: entry.id},
    )


def summary(entry: FanoutEntry) -> FanoutEntry:
    """The part kept in memory: no agents, and of its command the fields of a list."""
    kept = {name: text for name, text in entry.command.labels.items() if name == RETRY_OF}
    command = SubmitRequest(action=entry.command.action, labels=kept)
    given = arguments_of(entry.command.action, entry.command.args)
    if given is not None:
        args = ProcessArgs(argv=shortened(given).argv)
        command = msgspec.structs.replace(command, args=msgspec.Raw(codec.encode(args)))
    return msgspec.structs.replace(entry, agents=[], skipped={}, command=command)
