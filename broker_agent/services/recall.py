"""Reports ends again to a master that was restored from a backup.

The master before it may have released these attempts, so that only this agent's journal knows them.
"""

import asyncio
from collections.abc import Sequence

import structlog

from broker_agent.core.tasks import TaskBook, TaskEntry
from broker_agent.services.runner import Runner
from broker_agent.store.journal import Journal
from broker_agent.store.rows import ReleasedAttempt
from schemas import limits
from schemas.faults import MeshError
from schemas.messages.liveness import NO_ATTEMPT, UNKNOWN_TO_AGENT, TaskStatus
from schemas.states import AGENT_ENDS

log = structlog.get_logger(__name__)

_ENDS = frozenset(str(state) for state in AGENT_ENDS)


class Recall:
    def __init__(self, book: TaskBook, journal: Journal, runner: Runner) -> None:
        self._book = book
        self._journal = journal
        self._runner = runner

    async def answer(self, commands: Sequence[str], timeout_s: float) -> list[TaskStatus]:
        """Report the ends of these commands again, except those that cannot be looked up."""
        try:
            async with asyncio.timeout(timeout_s):
                past = await self._find(commands)
        except (MeshError, TimeoutError) as error:
            log.warning("recall_failed", commands=len(commands), error=str(error))
            return []
        wanted = frozenset(commands)
        tasks = [_status(entry) for entry in self._book if entry.command in wanted]
        for each in past:
            if each.state in _ENDS and self._book.get(each.command, each.attempt) is None:
                self._runner.tell_again(each)
                tasks.append(
                    TaskStatus(command=each.command, attempt=each.attempt, state=each.state)
                )
        known = {task.command for task in tasks} | {each.command for each in past}
        log.warning("recalled", asked=len(commands), found=len(tasks))
        tasks.sort(key=lambda task: (task.command, task.attempt))
        tasks += [_unknown(each) for each in commands if each not in known]
        return tasks[: limits.HELLO_TASKS]

    async def _find(self, commands: Sequence[str]) -> list[ReleasedAttempt]:
        done: asyncio.Future[list[ReleasedAttempt] | MeshError] = (
            asyncio.get_running_loop().create_future()
        )

        def found(past: list[ReleasedAttempt] | MeshError) -> None:
            if not done.done():
                done.set_result(past)

        self._journal.find_released(commands, found)
        past = await done
        if isinstance(past, MeshError):
            raise past
        return past


def _status(entry: TaskEntry) -> TaskStatus:
    state = entry.ending or entry.state
    return TaskStatus(command=entry.command, attempt=entry.attempt, state=state)


def _unknown(command: str) -> TaskStatus:
    return TaskStatus(command=command, attempt=NO_ATTEMPT, state=UNKNOWN_TO_AGENT)
