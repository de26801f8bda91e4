"""Attempts that an agent ought to have and does not name: its journal is gone, or is not the one.

The process that took them on may still run beside the one that speaks now: an identity was copied,
or a host restored while the old one lives. Nobody echoes that one any more, so its lease runs out,
and until then nobody can say that its tasks do not run.
"""

import asyncio
from collections.abc import Collection

import structlog

from broker_master.core.book import Attempt, Command
from broker_master.core.liveness import Presence
from broker_master.plane import OPEN_IN_BACKUP, Plane
from broker_master.services.settle import Settler, is_final
from broker_master.store.facts import Conflict
from schemas import subjects
from schemas.messages.facts import Outcome, Started
from schemas.messages.liveness import Hello
from schemas.states import State

log = structlog.get_logger()


class Forgotten:
    """Ends them as lost, each not before its time is over wherever it may run."""

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
        """Compare a complete hello with what is open on the agent.

        What was never acknowledged was never journalled, and is sent again once the handshake is
        done: unless this journal has forgotten others, then it may have forgotten that as well.
        asked: commands of which the agent has yet to say what it remembers.
        """
        if not hello.complete:
            return
        listed = {(task.command, task.attempt) for task in hello.tasks}
        missing = [
            (command, attempt)
            for command, attempt in open_
            if (command.id, attempt.number) not in listed
            and not command.settling
            and command.id not in asked
        ]
        has_forgotten = any(_was_acknowledged(attempt) for _, attempt in missing)
        for command, attempt in missing:
            is_doubtful = command.id in self._plane.doubtful
            if is_doubtful or _was_acknowledged(attempt) or (has_forgotten and attempt.sent):
                self._doubt(presence, command, attempt)

    def deny(self, presence: Presence, command: Command, attempt: Attempt) -> None:
        """The agent was asked, after a restore, and says that it knows nothing of it."""
        self._denied.add((command.id, attempt.number))
        self._doubt(presence, command, attempt)

    def _doubt(self, presence: Presence, command: Command, attempt: Attempt) -> None:
        plane = self._plane
        now_s, at = plane.clock.elapsed(), plane.clock.now()
        if presence.predecessor_s is not None:
            after_s = plane.timers.lost_after_s(command.accepted.kill_after_s)
            attempt.elsewhere_s = presence.predecessor_s + after_s
        if attempt.elsewhere_s <= now_s:
            self._lose(command, attempt)
            return
        attempt.elsewhere_at = at + attempt.elsewhere_s - now_s
        if (command.id, attempt.number) not in self._waiting:
            self._waiting[command.id, attempt.number] = attempt
            self._note_durably(command, attempt)
        if attempt.state is not State.UNKNOWN:
            attempt.hidden = attempt.state
            command.move(attempt, State.UNKNOWN, at)
        log.warning(
            "attempt_forgotten",
            command_id=command.id,
            agent=attempt.agent,
            wait_s=round(attempt.elsewhere_s - now_s, 1),
        )

    def _note_durably(self, command: Command, attempt: Attempt) -> None:
        """A master that starts meanwhile must not send it once more: it has been taken on."""
        fact = subjects.Fact(command.id, attempt.number, "started")
        body = Started(
            agent=attempt.agent,
            accepted_at=attempt.accepted_at or self._plane.clock.now(),
            started_at=attempt.started_at,
            sent=attempt.sent,
        )

        def stored(future: "asyncio.Future[int]") -> None:
            if future.cancelled():
                return
            if (error := future.exception()) is None:
                command.facts[subjects.fact(*fact)] = future.result()
            elif not isinstance(error, Conflict):
                log.warning("memory_unrecorded", command_id=command.id, error=str(error))

        self._plane.facts.append(fact, body).add_done_callback(stored)

    def tick(self) -> None:
        """End those whose time is over."""
        now_s = self._plane.clock.elapsed()
        for (command_id, number), attempt in list(self._waiting.items()):
            command = self._plane.book.get(command_id)
            is_same = command is not None and command.find(number) is attempt
            if command is None or not is_same or not attempt.is_open or not attempt.elsewhere_s:
                del self._waiting[command_id, number]
            elif attempt.elsewhere_s <= now_s and not command.settling:
                self._lose(command, attempt)

    def _lose(self, command: Command, attempt: Attempt) -> None:
        reason = f"{attempt.agent} came back without any memory of it"
        if command.id in self._plane.doubtful:
            self._plane.count("restored", "lost")
            says = "has it no longer"
            if (command.id, attempt.number) in self._denied:
                says = "says that it never had it, or longer ago than it remembers"
            reason = f"{attempt.agent} {says}, {OPEN_IN_BACKUP}"
        self._denied.discard((command.id, attempt.number))
        self._settler.settle(
            command,
            attempt.number,
            Outcome(
                state=State.LOST,
                at=self._plane.clock.now(),
                agent=attempt.agent,
                accepted_at=attempt.accepted_at,
                started_at=attempt.started_at,
                sent=attempt.sent,
                reason=reason,
                final=is_final(command, State.LOST),
            ),
        )


def _was_acknowledged(attempt: Attempt) -> bool:
    return bool(attempt.accepted_at or attempt.started_at)
