"""Builds and runs one agent, from its state directory to its `goodbye`."""

import asyncio
import os
import random
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from broker_agent.core.lease import Lease
from broker_agent.core.tasks import TaskBook
from broker_agent.executors import registry
from broker_agent.executors.account import find_account
from broker_agent.executors.cells import Cells, find_parent
from broker_agent.executors.conditions import conditions_of, file_limits
from broker_agent.executors.process_groups import check_host
from broker_agent.executors.spawn import keep_descriptors
from broker_agent.services.host import allow_files_of, details_of, let_pass, say_account
from broker_agent.services.ways import WaysIn
from broker_agent.services.wire import Address, Station
from broker_agent.settings import AgentSettings
from broker_agent.store.folders import Folders
from broker_agent.store.identity_slots import AgentFacts, IdentitySlots
from broker_agent.store.journal import Journal, open_journal
from broker_agent.warden.table import WardenTable
from broker_agent.wiring.parts import build
from broker_agent.wiring.ports import Ports
from broker_client.runtime.clock import SystemClock
from broker_client.runtime.files import lock_directory, make_private_directory, os_errors
from broker_client.runtime.link import Link
from broker_client.runtime.logs import bind_process
from broker_client.runtime.notify import ServiceManager
from broker_client.runtime.proxies import unused_proxies
from broker_client.runtime.supervise import supervise
from schemas import subjects
from schemas.addresses import usable
from schemas.faults import Refused

START_TIMEOUT_S: Final = 10.0
JOURNAL_CLOSE_S: Final = 10.0
# Attempts hold their slot until they have ended, so the table needs few records more than slots.
SPARE_PLACES: Final = 16
# Empty folders kept for reuse: two for each slot, at most.
SPARES_MAX: Final = 1024

log = structlog.get_logger(__name__)


async def run_agent(
    state_dir: Path,
    settings: AgentSettings,
    on_ready: Callable[[AgentFacts], None],
    version: str,
    manager: ServiceManager,
) -> bool:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends the tasks that still run.

    Returns whether the process has to start again because the agent was moved to another group.

    state_dir: absolute path. on_ready: called once, when the master reports this agent as active.
    manager: notified when the agent runs, with or without a master. Raises MeshError if the state
    directory cannot be used, and the error of a service that failed.
    """
    check_host()
    keep_descriptors()
    with os_errors(state_dir, "read"):
        os.scandir(state_dir).close()
    if proxies := unused_proxies(os.environ):
        log.warning("proxy_not_used", variables=proxies, why="brokers are connected to directly")
    slots = IdentitySlots(state_dir)
    if slots.facts() is None:
        raise Refused("state_missing", f"{state_dir} holds no identity of an agent")
    with lock_directory(state_dir):
        slots.swap_in()
        facts = slots.facts()
        if facts is None:
            raise Refused("state_missing", f"{state_dir} holds no identity of an agent")
        # Damaged keys raise here, and do not show later as an unreachable broker.
        slots.identity()
        make_private_directory(state_dir / "tasks")
        journal = open_journal(state_dir / "journal.db", remember_s=settings.remember_s)
        try:
            agent = Agent(state_dir, settings, facts, slots, journal, on_ready, version, manager)
            await agent.run()
            return agent.is_relocated
        finally:
            await asyncio.to_thread(journal.close, JOURNAL_CLOSE_S)


class Agent:
    """One agent, built from real parts. The caller owns and closes the journal."""

    def __init__(
        self,
        state_dir: Path,
        settings: AgentSettings,
        facts: AgentFacts,
        slots: IdentitySlots,
        journal: Journal,
        on_ready: Callable[[AgentFacts], None],
        version: str,
        manager: ServiceManager,
    ) -> None:
        bind_process(agent=facts.agent, group=facts.group)
        self.is_relocated = False
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        clock = SystemClock()
        ways = WaysIn(
            slots,
            lambda identity: Link(
                settings.urls or usable(facts.urls),
                identity,
                f"agent {facts.agent}",
                subjects.inbox_prefix(facts.agent),
                clock=clock,
            ),
            settings.urls,
        )
        self.link = ways.link
        self.journal = journal
        incarnation = f"{journal.boots:08x}-{secrets.token_hex(8)}"
        account = find_account(settings.tasks.user)
        if account.is_other:
            let_pass(state_dir)
        self.folders = Folders(
            state_dir / "tasks",
            keep=settings.keep_folders,
            spares=min(SPARES_MAX, 2 * settings.task_slots),
            owner=(account.uid, account.gid) if account.is_other else None,
        )
        conditions = conditions_of(settings.tasks, account, file_limits())
        say_account(account, settings.tasks.user)
        allow_files_of(settings.task_slots)
        cells = Cells(find_parent(), facts.agent, incarnation, are_used=settings.tasks.cells)
        self.table = WardenTable(settings.task_slots + SPARE_PLACES)
        station = Station(
            wire=self.link,
            address=Address(facts.group, facts.agent),
            lease=Lease(incarnation, settings.timers, now=clock.elapsed(), epoch=journal.epoch),
            clock=clock,
            book=TaskBook(settings.task_slots),
        )
        ports = Ports(
            state_dir=state_dir,
            settings=settings,
            facts=facts,
            details=details_of(version),
            line=self.link,
            ways=ways,
            slots=slots,
            journal=journal,
            folders=self.folders,
            table=self.table,
            conditions=conditions,
            make_executors=registry.build,
            cells=cells,
            manager=manager,
            chance=random.random,
            on_ready=lambda: on_ready(facts),
            on_relocated=self._relocate,
        )
        self.parts = build(station, ports)

    def _relocate(self) -> None:
        self.is_relocated = True
        self._stop.set()

    async def run(self) -> None:
        parts, ended = self.parts, asyncio.Event()
        loop = asyncio.get_running_loop()
        self.journal.start(loop.call_soon_threadsafe, parts.is_patient)
        parts.recovery.recover()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, parts.work.profiles.look_soon)
        self.link.start()
        try:
            async with asyncio.TaskGroup() as group:
                _ = group.create_task(self._leave(ended))
                await supervise(parts.start_order, ended, start_timeout_s=START_TIMEOUT_S)
        finally:
            parts.work.executors.kill_all()
            await self.link.close()
            parts.work.executors.close()
            parts.status.remove()
            self.folders.close()
            self.table.close()

    def _on_signal(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def _leave(self, ended: asyncio.Event) -> None:
        await self._stop.wait()
        await self.parts.leaving.leave(self._stop_now)
        ended.set()
