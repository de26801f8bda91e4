"""Registry of executors by action."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from broker_agent.executors.base import Executor, ExecutorPorts, Instant
from schemas.faults import Refused
from schemas.messages.actions import ACTIONS

_PACKAGE: Final = __name__.rpartition(".")[0]


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
    def are_behind(self) -> bool:
        return any(each.is_behind for each in self)


def build(ports: ExecutorPorts) -> Executors:
    """Build one executor for each family of actions, from the module of that name."""
    families: dict[str, Executor | Instant] = {}
    here = [name for name, action in ACTIONS.items() if not action.capability]
    for action in here:
        family = action.partition(".")[0]
        if family not in families:
            families[family] = import_module(f"{_PACKAGE}.{family}").build(ports)
    return Executors({action: families[action.partition(".")[0]] for action in here})
