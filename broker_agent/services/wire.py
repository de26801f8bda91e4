"""Shared objects of an agent's services: connection, subjects, lease, clock and book."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from broker_agent.core.lease import Lease
from broker_agent.core.tasks import TaskBook
from broker_client.runtime.clock import Clock
from broker_client.runtime.frames import Msg
from broker_client.runtime.signals import Signal
from schemas import subjects
from schemas.faults import MeshError
from schemas.ids import is_command_id


class Wire(Protocol):
    """The part of `runtime.link.Link` that the agent's services use."""

    @property
    def is_connected(self) -> bool: ...

    def publish_nowait(
        self,
        subject: str,
        payload: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None: ...

    def open_inbox(self, callback: Callable[[Msg], object]) -> tuple[str, Callable[[], None]]: ...

    def rebuild(self, reason: str) -> None: ...


class AgentLink(Wire, Protocol):
    """The part of `runtime.link.Link` that only the wiring uses."""

    @property
    def reconnects(self) -> int: ...

    def subscribe(self, subject: str, callback: Callable[[Msg], None]) -> object: ...

    def on_connected(self, listener: Callable[[], object]) -> None: ...

    def on_disconnected(self, listener: Callable[[MeshError], object]) -> None: ...

    async def flush(self, timeout_s: float) -> None: ...


class Address:
    """The subjects of one agent in one group."""

    def __init__(self, group: str, agent: str) -> None:
        self.group = group
        self.agent = agent
        self.beat = subjects.up(group, agent, "beat")
        self.hello = subjects.up(group, agent, "hello")
        self.report = subjects.up(group, agent, "report")
        self.profiles = subjects.up(group, agent, "profiles")
        self.input = subjects.up(group, agent, "input")
        self.down = subjects.down_all(group, agent)
        self.down_prefix = self.down.removesuffix(">")

    def reply(self, token: str) -> str | None:
        """Subject of an answer; None for an invalid token."""
        return subjects.reply(self.group, self.agent, token) if is_command_id(token) else None

    def log(self, command: str, attempt: int, stream: str) -> str:
        return subjects.log(self.group, self.agent, command, attempt, stream)


@dataclass(frozen=True, kw_only=True)
class Station:
    """Shared objects of one agent.

    standing: called after a change of the state for people on this host. fitness: called after a
    change of the state in heartbeats, which has to be sent now.
    """

    wire: Wire
    address: Address
    lease: Lease
    clock: Clock
    book: TaskBook
    standing: Signal[[]] = field(default_factory=Signal)
    fitness: Signal[[]] = field(default_factory=Signal)
