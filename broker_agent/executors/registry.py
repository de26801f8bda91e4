"""Which executor runs which action."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from broker_agent.executors.base import Executor, Instant, Ports
from schemas.faults import Refused
from schemas.messages.actions import ACTIONS

_PACKAGE: Final = __name__.rpartition(".")[0]


class Executors:
    """By the name of the action; those of one family share one."""

    def __init__(self, of: Mapping[str, Executor | Instant]) -> None:
        self._of = of

    def find(self, action: str) -> Executor | Instant:
        """Raises Refused (`action_unknown`) for what this agent cannot run."""
        executor = self._of.get(action)
        if executor is None:
            raise Refused("action_unknown", f"this agent has no action {action[:64]!a}")
        return executor

    @property
    def actions(self) -> list[str]:
        return sorted(self._of)

    def __iter__(self) -> Iterator[Executor]:
        """Each once, but for those that hold nothing."""
        return (each for each in {*self._of.values()} if isinstance(each, Executor))

    def reap(self) -> None:
        for each in self:
            each.reap()

    def kill_all(self) -> None:
        for each in self:
            each.kill_all()

    def close(self) -> None:
        """After `kill_all`."""
        for each in self:
            each.close()

    @property
    def are_behind(self) -> bool:
        return any(each.is_behind for each in self)


def build(ports: Ports) -> Executors:
    """One executor for each family of actions, from the module that has its name."""
    families: dict[str, Executor | Instant] = {}
    for action in ACTIONS:
        family = action.partition(".")[0]
        if family not in families:
            families[family] = import_module(f"{_PACKAGE}.{family}").build(ports)
    return Executors({action: families[action.partition(".")[0]] for action in ACTIONS})
