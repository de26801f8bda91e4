"""Restored state: commands that ended, began or were accepted after the backup was made.

A command that is open in the backup is *doubtful*: it may have run since, so no agent gets it. An
agent that lists it in its handshake ends the doubt; if its agent is silent for too long, or does
not have it, the command is lost with a reason, or treated by its `on_lost`. An attempt that an
agent runs, or has not reported the end of, is adopted if the state lacks it: it is shown, can be
cancelled, and its end is reported.
"""

import asyncio
from pathlib import Path
from typing import Final

import msgspec
import structlog

from broker_master.ca.mesh import ADMIN
from broker_master.core import ends
from broker_master.core.commands import Command
from broker_master.core.epochs import generation_of
from broker_master.core.fold import fold
from broker_master.core.liveness import Presence
from broker_master.core.phases import Phase
from broker_master.plane import OPEN_IN_BACKUP, Plane
from broker_master.services.settle import Settler
from broker_master.store.restored import Restored, remove_restored, write_restored
from schemas import subjects
from schemas.counting import counted
from schemas.faults import MeshError
from schemas.messages.facts import Accepted, Assigned, Fact, Outcome
from schemas.messages.liveness import TaskStatus
from schemas.moments import rfc3339
from schemas.spans import DAY_S
from schemas.states import Liveness, State

log = structlog.get_logger()

# Least time of an agent's memory of its attempts.
_KEPT_S: Final = DAY_S
_ATTEMPTS_MAX: Final = 16
LABEL: Final = "restored"
_FOUND: Final = "found there after a restore"
_ARGS: Final = msgspec.msgpack.encode({"argv": ["(not in the backup)"]})


class Aftermath:
    """Stores its decisions as facts, so that a restarted master has them."""

    def __init__(
        self,
        plane: Plane,
        settler: Settler,
        state_dir: Path,
        *,
        earlier: int,
        restored: Restored | None,
    ) -> None:
        self._earlier = earlier
        self._restored = restored
        self._plane = plane
        self._settler = settler
        self._state_dir = state_dir
        # Agents whose tasks may predate the restore, until their handshake is done.
        self._past: set[str] = set()
        self._due_s = plane.clock.elapsed() + plane.timers.adopt_s
        self._noted: set[str] = set()
        # Groups whose agents have shown that this state was restored without a note.
        self._noticed: set[str] = set()

    def begin(self) -> None:
        """Before any transmission: doubt the open commands of a restored state."""
        plane, restored = self._plane, self._restored
        if restored is None:
            return
        found = {command.id for command in plane.book if not command.is_terminal}
        if restored.doubtful is not None:
            found &= set(restored.doubtful)
        else:
            self._tell(restored, len(found))
        plane.doubtful |= found
        self._write(msgspec.structs.replace(restored, doubtful=sorted(found)))

    def _tell(self, restored: Restored, open_: int) -> None:
        """Report each restore once, by the first master on the restored state."""
        plane = self._plane
        made = rfc3339(restored.taken_at) if restored.taken_at else "at an unknown time"
        plane.count("restore", "announced")
        plane.note(
            "master.restore",
            plane.master.mesh,
            detail=f"from a backup made {made}, restored {rfc3339(restored.at)};"
            f" epoch {self._earlier} before, {plane.master.epoch} now;"
            f" {counted(open_, 'command')} open in it",
        )

    def is_past(self, epoch: int) -> bool:
        """Whether a master of this epoch had state that the present one lacks."""
        plane = self._plane
        if self._restored is not None:
            return generation_of(epoch) < generation_of(plane.master.epoch)
        return self._earlier < epoch < plane.master.epoch

    def is_of_past(self, agent: str) -> bool:
        """Whether the agent may run tasks unknown to this state, until its handshake is done."""
        return agent in self._past

    def note_past(self, presence: Presence) -> None:
        """Note that an agent has obeyed such a master, and has no handshake with this one yet."""
        if presence.reconciled or presence.agent in self._past:
            return
        self._past.add(presence.agent)
        if self._restored is None:
            self._doubt_group(presence.group)

    def _doubt_group(self, group: str) -> None:
        """Doubt a group after an unnoted restore, detected by the epoch that its agents obey."""
        plane = self._plane
        fresh = {
            command.id
            for command in plane.book
            if command.accepted.group == group and self._may_have_ended(command)
        }
        self._withhold(fresh)
        if group in self._noticed:
            return  # another agent of it reports the same
        self._noticed.add(group)
        log.error("state_was_put_back", group=group, doubtful=len(fresh))
        plane.count("restore", "noticed")
        plane.note(
            "group.restore",
            group,
            result="alarm",
            detail=f"agents have obeyed a master since epoch {self._earlier}, the last that this"
            f" state knows: it was restored; {counted(len(fresh), 'command')} in doubt",
        )

    def _withhold(self, commands: set[str]) -> None:
        """Give these to no agent until their state is known."""
        plane = self._plane
        for command_id in commands - plane.doubtful:
            plane.dispatcher.withdraw(command_id)
        plane.doubtful |= commands

    def _may_have_ended(self, command: Command) -> bool:
        """Whether it predates this start, and no agent has listed it to this master."""
        began, attempt = self._plane.master.started_at, command.open_attempt
        if attempt is None:
            return command.state is State.QUEUED and command.accepted.submitted_at < began
        return attempt.assigned_at < began and attempt.state in (State.SENT, State.UNKNOWN)

    def on_done(self, agent: str) -> None:
        """Take in a complete handshake: the agent's later tasks are this master's own."""
        self._past.discard(agent)

    # -- attempts that agents have

    def adopt(self, agent: str, task: TaskStatus) -> None:
        """Enter an attempt of an agent that predates the restore and is not in the book."""
        if agent not in self._past or not 0 < task.attempt <= _ATTEMPTS_MAX:
            return
        plane = self._plane
        command = plane.book.get(task.command)
        if command is None:
            if plane.readmodel.known(task.command) is not None:
                return
            command = self._open(agent, task)
        elif (
            command.is_terminal
            or command.phase is Phase.SETTLING
            or task.attempt <= len(command.attempts)
        ):
            if command.find(task.attempt) is not None:
                plane.doubtful.discard(command.id)
            return
        elif command.accepted.group != self._group(agent):
            return
        self._attach(command, agent, task.attempt)

    def _open(self, agent: str, task: TaskStatus) -> Command:
        """Enter a command accepted after the backup: only its id and its agent are known."""
        accepted = Accepted(
            id=task.command,
            client=ADMIN,
            group=self._group(agent),
            agent=agent,
            action="process",
            args=msgspec.Raw(_ARGS),
            submitted_at=self._plane.clock.now(),
            labels={LABEL: "adopted"},
        )
        command = self._plane.book.open(accepted)
        self._append(command, [(subjects.Fact(task.command, 0, "accepted"), accepted)])
        return command

    def _attach(self, command: Command, agent: str, number: int) -> None:
        """Set attempt `number` to run on this agent; earlier unknown attempts say so."""
        plane, at = self._plane, self._plane.clock.now()
        plane.dispatcher.withdraw(command.id)
        facts: list[tuple[subjects.Fact, Fact]] = []
        open_ = command.open_attempt
        if open_ is not None:
            plane.dispatcher.give_back(open_.agent, command.accepted.connection)
            facts.append(self._lost(command, open_.number, open_.agent, at))
        for each in range(len(command.attempts) + 1, number):
            assigned = Assigned(agent=agent, at=at, epoch=plane.master.epoch, why=OPEN_IN_BACKUP)
            facts.append((subjects.Fact(command.id, each, "assigned"), assigned))
            facts.append(self._lost(command, each, agent, at))
        assigned = Assigned(agent=agent, at=at, epoch=plane.master.epoch, why=_FOUND)
        facts.append((subjects.Fact(command.id, number, "assigned"), assigned))
        plane.dispatcher.take(agent, command.accepted.connection)
        self._append(command, facts)
        plane.doubtful.discard(command.id)
        plane.count("restored", "adopted")
        log.warning("attempt_adopted", command_id=command.id, attempt=number, agent=agent)

    def _lost(
        self, command: Command, number: int, agent: str, at: float
    ) -> tuple[subjects.Fact, Outcome]:
        reason = f"another attempt followed it, {OPEN_IN_BACKUP}"
        outcome = Outcome(state=State.LOST, at=at, agent=agent, reason=reason, final=False)
        return subjects.Fact(command.id, number, "outcome"), outcome

    def _append(self, command: Command, facts: list[tuple[subjects.Fact, Fact]]) -> None:
        for fact, body in facts:
            fold(command, fact, body)

        def stored(future: "asyncio.Future[list[int]]") -> None:
            if future.cancelled():
                return
            if (error := future.exception()) is not None:
                log.error("adoption_unrecorded", command_id=command.id, error=str(error))
                return
            names = [subjects.fact(*fact) for fact, _ in facts]
            for name, sequence in zip(names, future.result(), strict=True):
                command.keep_place(name, sequence)

        self._plane.facts.append_many(facts).add_done_callback(stored)

    def _group(self, agent: str) -> str:
        return self._plane.registry.agent(agent).group

    # -- attempts that no agent names

    def tick(self) -> None:
        """After the grace period: settle attempts that no agent has named, by their `on_lost`."""
        plane = self._plane
        if plane.doubtful and plane.clock.elapsed() >= self._due_s and not plane.roster.is_cut_off:
            for command_id in list(plane.doubtful):
                self._judge(command_id)
        if self._restored is not None and self._noted != plane.doubtful:
            self._write(msgspec.structs.replace(self._restored, doubtful=sorted(plane.doubtful)))
        is_old = self._restored and plane.clock.now() > self._restored.at + _KEPT_S
        if is_old and not plane.doubtful:
            self._restored = None
            remove_restored(self._state_dir)

    def _judge(self, command_id: str) -> None:
        plane = self._plane
        command = plane.book.get(command_id)
        if command is None or command.is_terminal or command.is_undecided:
            plane.doubtful.discard(command_id)
            return
        attempt = command.open_attempt
        if command.phase is Phase.SETTLING:
            return
        if attempt is None:
            self._end(command, f"not given to any agent, {OPEN_IN_BACKUP}")
        elif attempt.state not in (State.SENT, State.UNKNOWN):
            plane.doubtful.discard(command_id)
        elif attempt.state is State.SENT and self._is_live(attempt.agent):
            reason = f"{attempt.agent} does not name it, {OPEN_IN_BACKUP}"
            self._end(command, reason)

    def _is_live(self, agent: str) -> bool:
        presence = self._plane.roster.get(agent)
        return presence is not None and presence.liveness is Liveness.LIVE and presence.reconciled

    def _end(self, command: Command, reason: str) -> None:
        self._plane.count("restored", "lost")
        self._settler.settle_all(command, ends.on_lost(command, reason, self._plane.clock.now()))

    def _write(self, restored: Restored) -> None:
        self._restored = restored
        self._noted = set(restored.doubtful or ())
        try:
            write_restored(self._state_dir, restored)
        except MeshError as error:
            # The next start doubts more than necessary.
            log.warning("restore_unrecorded", error=str(error))
