"""Resources of an agent outside its services."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from broker_agent.executors.cells import Cells
from broker_agent.executors.conditions import StartConditions
from broker_agent.executors.registry import ExecutorPorts, Executors
from broker_agent.services.ways import WaysIn
from broker_agent.services.wire import AgentLink
from broker_agent.settings import AgentSettings
from broker_agent.store.folders import Folders
from broker_agent.store.identity_slots import AgentFacts, IdentitySlots
from broker_agent.store.journal import Journal
from broker_agent.warden.table import WardenTable
from broker_client.runtime.notify import ServiceManager
from schemas.messages.liveness import Details


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Outside resources of an agent; tests pass their own.

    line: the connection to the broker; ways: the identities for it. conditions: start conditions of
    programs. chance: returns a random number from 0 to 1. on_ready: called once, when the master
    reports the agent as active. on_relocated: called when the agent was moved to another group,
    which counts from its next start on.
    """

    state_dir: Path
    settings: AgentSettings
    facts: AgentFacts
    details: Details
    line: AgentLink
    ways: WaysIn
    slots: IdentitySlots
    journal: Journal
    folders: Folders
    table: WardenTable
    conditions: StartConditions
    make_executors: Callable[[ExecutorPorts], Executors]
    cells: Cells
    manager: ServiceManager
    chance: Callable[[], float]
    on_ready: Callable[[], None]
    on_relocated: Callable[[], None]
