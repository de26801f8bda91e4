"""After a restore, asks agents for reported ends that the state lacks.

Each handshake asks for some; an agent is asked in more rounds until all that it may have run is
covered. A known attempt is entered as if the hello had named it, and its report follows.
"""

from collections.abc import Callable, Collection
from heapq import nsmallest

import msgspec

from broker_master.core import attempts
from broker_master.core.commands import Attempt, Command
from broker_master.core.phases import HELD
from broker_master.plane import Plane
from broker_master.services.aftermath import Aftermath
from schemas import limits
from schemas.messages.liveness import NO_ATTEMPT, RECALLS, Hello, TaskStatus


class _Round(msgspec.Struct):
    """asked: in the newest welcome. after: commands sorted up to here are answered."""

    asked: list[str] = []
    after: str = ""


class Recall:
    """Rounds of questions to each agent after a restore.

    on_unknown: called with an open attempt that its own agent does not know.
    """

    def __init__(
        self,
        plane: Plane,
        aftermath: Aftermath,
        on_unknown: Callable[[str, Command, Attempt], None],
    ) -> None:
        self._plane = plane
        self._aftermath = aftermath
        self._on_unknown = on_unknown
        self._rounds: dict[str, _Round] = {}

    def ask(self, agent: str, hello: Hello) -> list[str]:
        """The commands to ask for in the welcome; empty for an agent without any."""
        if RECALLS not in hello.features or not self._aftermath.is_of_past(agent):
            self._rounds.pop(agent, None)
            return []
        found = self._rounds.setdefault(agent, _Round())
        named = {task.command for task in hello.tasks}
        found.asked = nsmallest(
            limits.HELLO_TASKS,
            (
                command_id
                for command_id in self._plane.doubtful
                if command_id > found.after
                and command_id not in named
                and self._may_have_run(agent, command_id)
            ),
        )
        return found.asked

    def _may_have_run(self, agent: str, command_id: str) -> bool:
        command = self._plane.book.get(command_id)
        if command is None or command.is_terminal:
            return False
        accepted, attempt = command.accepted, command.attempt
        if attempt is not None and attempt.agent == agent:
            return True
        is_of_group = accepted.group == self._plane.registry.agent(agent).group
        return accepted.agent == agent or (is_of_group and not accepted.agent)

    def still_asked(self, agent: str) -> Collection[str]:
        """Commands without an answer of the agent yet: they are not lost before it."""
        found = self._rounds.get(agent)
        if found is None:
            return ()
        return [each for each in self._plane.doubtful if each > found.after]

    def on_done(self, agent: str, hello: Hello) -> bool:
        """Take in the answer. False if the agent is to be asked for more."""
        found = self._rounds.get(agent)
        if found is None:
            return True
        asked = frozenset(found.asked)
        for task in hello.tasks:
            if task.command not in asked:
                continue
            if task.attempt == NO_ATTEMPT:
                self._deny(agent, task.command)
            else:
                self._enter(agent, task)
        if len(found.asked) == limits.HELLO_TASKS:
            found.after, found.asked = found.asked[-1], []
            return False
        del self._rounds[agent]
        return True

    def _enter(self, agent: str, task: TaskStatus) -> None:
        """The agent has ended it: wait for its report, and send nothing again."""
        plane = self._plane
        self._aftermath.adopt(agent, task)
        command = plane.book.get(task.command)
        attempt = command.find(task.attempt) if command is not None else None
        if command is None or attempt is None or attempt.agent != agent:
            return
        if attempts.on_recalled(command, attempt, plane.clock.now()):
            plane.count("restored", "recalled")

    def _deny(self, agent: str, command_id: str) -> None:
        command = self._plane.book.get(command_id)
        attempt = command.open_attempt if command is not None else None
        if command is None or attempt is None or attempt.agent != agent:
            return
        if command.phase in HELD and command_id in self._plane.doubtful:
            self._on_unknown(agent, command, attempt)
