"""Attempts that an agent should have and does not name: its journal is lost or replaced.

The process that accepted them may still run beside the present one: an identity was copied, or a
host restored while the old one lives. That process gets no echo any more, so its lease expires;
until then its tasks may be running.
"""

import asyncio
from collections.abc import Collection

import structlog

from broker_master.core import attempts, ends
from broker_master.core.commands import Attempt, Command
from broker_master.core.effects import Remember, Settle
from broker_master.core.liveness import Presence
from broker_master.core.phases import HELD, Phase
from broker_master.plane import OPEN_IN_BACKUP, Plane
from broker_master.services.settle import Settler
from broker_master.store.facts import Conflict
from schemas import subjects
from schemas.messages.liveness import Hello

log = structlog.get_logger()


class Forgotten:
    """Ends these attempts as lost, each once it can no longer be running anywhere."""

    def __init__(self, plane: Plane, settler: Settler) -> None:
        self._plane = plane
        self._settler = settler
        self._waiting: dict[tuple[str, int], Attempt] = {}
        self._denied: set[tuple[str, int]] = set()

    def judge(
        self,
        presence: Presence,
        hello: Hello,
        open_: list[tuple[Command, Attempt]],
        asked: Collection[str] = (),
    ) -> None:
        """Compare a complete hello with the open attempts on the agent.

        An unacknowledged attempt is not in the journal, and is sent again once the handshake is
        done: unless this journal lacks others, then it may have lost these as well. asked:
        commands that the agent was asked for and has not answered yet.
        """
        if not hello.complete:
            return
        listed = {(task.command, task.attempt) for task in hello.tasks}
        missing = [
            (command, attempt)
            for command, attempt in open_
            if command.phase in HELD
            and (command.id, attempt.number) not in listed
            and command.id not in asked
        ]
        has_forgotten = any(_was_acknowledged(attempt) for _, attempt in missing)
        for command, attempt in missing:
            is_doubtful = command.id in self._plane.doubtful
            if is_doubtful or _was_acknowledged(attempt) or (has_forgotten and attempt.sent):
                self._doubt(presence, command, attempt)

    def deny(self, presence: Presence, command: Command, attempt: Attempt) -> None:
        """Take in the agent's answer, after a restore, that it does not know the attempt."""
        self._denied.add((command.id, attempt.number))
        self._doubt(presence, command, attempt)

    def _doubt(self, presence: Presence, command: Command, attempt: Attempt) -> None:
        plane = self._plane
        now_s, until_s = plane.clock.elapsed(), None
        if presence.predecessor_s is not None:
            after_s = plane.timers.lost_after_s(command.accepted.kill_after_s)
            until_s = presence.predecessor_s + after_s
        before = command.state
        effects = attempts.on_forgotten(
            command,
            attempt,
            until_s=until_s,
            reason=self._reason(command, attempt),
            now_s=now_s,
            now=plane.clock.now(),
        )
        for effect in effects:
            match effect:
                case Settle():
                    self._settle(command, effect)
                case Remember():
                    self._note_durably(command, effect)
        if command.phase is Phase.UNKNOWN:
            if before is not command.state:
                plane.tell_command(command)
            self._waiting[command.id, attempt.number] = attempt
            log.warning(
                "attempt_forgotten",
                command_id=command.id,
                agent=attempt.agent,
                wait_s=round(attempt.elsewhere_s - now_s, 1),
            )

    def _note_durably(self, command: Command, effect: Remember) -> None:
        """Store that the attempt was accepted, so that no later master sends it again."""
        fact = subjects.Fact(command.id, effect.number, "started")

        def stored(future: "asyncio.Future[int]") -> None:
            if future.cancelled():
                return
            if (error := future.exception()) is None:
                command.keep_place(subjects.fact(*fact), future.result())
            elif not isinstance(error, Conflict):
                log.warning("memory_unrecorded", command_id=command.id, error=str(error))

        self._plane.facts.append(fact, effect.started).add_done_callback(stored)

    def tick(self) -> None:
        """End attempts whose time is over."""
        now_s = self._plane.clock.elapsed()
        for (command_id, number), attempt in list(self._waiting.items()):
            command = self._plane.book.get(command_id)
            is_same = command is not None and command.find(number) is attempt
            if command is None or not is_same or not attempt.is_open or not attempt.elsewhere_s:
                del self._waiting[command_id, number]
            elif attempt.elsewhere_s <= now_s:
                reason = self._reason(command, attempt)
                for effect in ends.on_lost(command, reason, self._plane.clock.now()):
                    self._settle(command, effect)

    def _settle(self, command: Command, effect: Settle) -> None:
        if command.id in self._plane.doubtful:
            self._plane.count("restored", "lost")
        self._denied.discard((command.id, effect.number))
        self._settler.settle(command, effect)

    def _reason(self, command: Command, attempt: Attempt) -> str:
        if command.id not in self._plane.doubtful:
            return f"{attempt.agent} came back without any memory of it"
        says = "has it no longer"
        if (command.id, attempt.number) in self._denied:
            says = "says that it never had it, or longer ago than it remembers"
        return f"{attempt.agent} {says}, {OPEN_IN_BACKUP}"


def _was_acknowledged(attempt: Attempt) -> bool:
    return bool(attempt.accepted_at or attempt.started_at)
