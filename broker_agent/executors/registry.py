"""Registry of executors by action."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Final, NamedTuple

from broker_agent.core.profile_book import ProfileBook
from broker_agent.core.profiles import UsableProfile
from broker_agent.executors.base import Carrying, Enclosure, Executor, Instant
from broker_agent.executors.cells import Cells
from broker_agent.executors.conditions import StartConditions
from broker_agent.warden.table import WardenTable
from schemas.faults import Refused
from schemas.messages.actions import ACTIONS, PROCESS, AnyAction

_PACKAGE: Final = __name__.rpartition(".")[0]


class ExecutorPorts(NamedTuple):
    """Resources of all executors; the `build` of each names those it takes.

    grace_s: returns the present grace in seconds, which a master may change. elapsed: the monotonic
    clock. marks: added to the environment of each program, beside the id of its command;
    `MESH_INCARNATION` tells the tasks of this start from those of other agents of the host.
    carrier: copies output from pipes into files. table: tasks and their deadlines, for the warden.
    others: children of this process other than tasks. conditions: for starts. cells:
    control groups of tasks. find_profile: returns a profile of a connection that is in use; raises
    Refused (`profile_unknown`, `profile_problem`). is_spool_high: whether so much output waits for
    the broker that calls through connections write no more. programs: the executor of programs,
    for those that are built after it.
    """

    loop: asyncio.AbstractEventLoop
    grace_s: Callable[[], float]
    elapsed: Callable[[], float]
    marks: Mapping[str, str]
    carrier: Carrying
    table: WardenTable
    others: set[int]
    conditions: StartConditions
    cells: Cells = Cells(None, "", "")
    find_profile: Callable[[str], UsableProfile] = ProfileBook().find
    programs: Executor | None = None
    is_spool_high: Callable[[], bool] = lambda: False


class Executors:
    """Executors by the name of the action; the actions of one family share an executor."""

    def __init__(self, of: Mapping[str, Executor | Instant]) -> None:
        self._of = of

    def find(self, action: str) -> Executor | Instant:
        """Return the executor; raises Refused (`action_unknown`) if the agent has none."""
        executor = self._of.get(action)
        if executor is None:
            raise Refused("action_unknown", f"this agent has no action {action[:64]!a}")
        return executor

    @property
    def actions(self) -> list[str]:
        return sorted(self._of)

    def __iter__(self) -> Iterator[Executor]:
        """Iterate over the executors, each once, without `Instant` ones."""
        return (each for each in {*self._of.values()} if isinstance(each, Executor))

    def reap(self) -> None:
        for each in self:
            each.reap()

    def kill_all(self) -> None:
        for each in self:
            each.kill_all()

    def close(self) -> None:
        """Close all executors, after `kill_all`."""
        for each in self:
            each.close()

    @property
    def enclosure(self) -> Enclosure:
        """Of the executor that has one: all agents run programs."""
        return next((each.enclosure for each in self if each.enclosure), Enclosure())

    @property
    def are_behind(self) -> bool:
        return any(each.is_behind for each in self)


def build(ports: ExecutorPorts) -> Executors:
    """Build one executor for each family of actions, and one for all calls to systems."""
    families: dict[str, Executor | Instant] = {}
    modules = {name: _module(action) for name, action in ACTIONS.items()}
    for module in modules.values():
        if module not in families:
            families[module] = import_module(f"{_PACKAGE}.{module}").build(ports)
        # One executor looks after all processes of tasks, whatever has started them.
        programs = families.get(PROCESS.name)
        if isinstance(programs, Executor):
            ports = ports._replace(programs=programs)
    return Executors({name: families[module] for name, module in modules.items()})


def _module(action: AnyAction) -> str:
    """Name of the module of its executor."""
    runs_here = action.capability in ("", "script")
    return action.name.partition(".")[0] if runs_here else "connection"
