"""One agent, built and run: from a state directory to the last goodbye."""

import asyncio
import os
import platform
import random
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from broker_agent.core.lease import Lease, Phase
from broker_agent.core.room import FDS_PER_TASK, Bounds
from broker_agent.core.tasks import TaskBook
from broker_agent.executors import registry
from broker_agent.executors.account import Account, closed_way, find_account
from broker_agent.executors.base import Left, Ports
from broker_agent.executors.cells import Cells, find_parent
from broker_agent.executors.groups import check_host
from broker_agent.executors.manner import file_limits, manner_of
from broker_agent.executors.spawn import keep_descriptors
from broker_agent.services.beat import Beats
from broker_agent.services.carrier import CarrierPost
from broker_agent.services.control import Controls
from broker_agent.services.handshake import Handshake
from broker_agent.services.hearing import Hearing
from broker_agent.services.inbox import Echoes, Inbox
from broker_agent.services.intake import Intake
from broker_agent.services.recall import Recall
from broker_agent.services.renewal import Renewer
from broker_agent.services.reporter import Reporter
from broker_agent.services.room import Room
from broker_agent.services.runner import Runner
from broker_agent.services.shipper import Shipper
from broker_agent.services.status import StatusFile
from broker_agent.services.warden import WardenPost
from broker_agent.services.watchdog import Watchdog
from broker_agent.services.wire import Address, Station
from broker_agent.settings import AgentSettings
from broker_agent.store.folders import Folders
from broker_agent.store.identity import AgentFacts, Slots
from broker_agent.store.journal import Journal, Row, open_journal
from broker_agent.warden.table import Table
from broker_client.runtime.clock import SystemClock
from broker_client.runtime.descriptors import allow_many_files
from broker_client.runtime.files import lock_directory, make_private_directory, os_errors
from broker_client.runtime.link import Link
from broker_client.runtime.logs import bind_process
from broker_client.runtime.notify import Notices, ServiceManager
from broker_client.runtime.proxies import unused_proxies
from broker_client.runtime.supervise import Service, supervise
from broker_client.runtime.tls import trust_digest
from schemas import codec, subjects
from schemas.addresses import usable
from schemas.faults import MeshError, Refused
from schemas.messages.liveness import Details
from schemas.states import State

START_TIMEOUT_S: Final = 10.0
# The reports of a stopping agent wait for the master this long; what is left waits on the disk.
REPORT_S: Final = 10.0
JOURNAL_CLOSE_S: Final = 10.0
# Recording and sending how tasks ended takes milliseconds, also for an agent that stops at once.
TOLD_S: Final = 3.0
# The journal's number of starts goes into the upper bits of every report's number: it grows over
# restarts without being written each time.
SEQ_BITS: Final = 32
# Attempts hold their slot until they have ended, so the table needs few places more than slots.
SPARE_PLACES: Final = 16
# Empty folders that are kept to be used again: one of each slot, and one that it had just before.
SPARES_MAX: Final = 1024
# Descriptors beside those of running tasks: links, logs, what of ended tasks is on its way.
FDS_SPARE: Final = 512

log = structlog.get_logger(__name__)


async def run_agent(
    state_dir: Path,
    settings: AgentSettings,
    on_ready: Callable[[AgentFacts], None],
    version: str,
    manager: ServiceManager,
) -> bool:
    """Run until SIGTERM or SIGINT, drained; a second one ends what still runs.

    Returns whether it is to be started again, as it belongs to another group now.

    on_ready: called once, when the master counts this agent as active. manager: told that it runs,
    which it does without a master as well. Raises MeshError if the
    state directory (an absolute path) cannot be used, and whatever made a service fail.
    """
    check_host()
    keep_descriptors()
    with os_errors(state_dir, "read"):
        os.scandir(state_dir).close()
    if proxies := unused_proxies(os.environ):
        log.warning("proxy_not_used", variables=proxies, why="brokers are connected to directly")
    slots = Slots(state_dir)
    if slots.facts() is None:
        raise Refused("state_missing", f"{state_dir} holds no identity of an agent")
    with lock_directory(state_dir):
        slots.settle()
        facts = slots.facts()
        if facts is None:
            raise Refused("state_missing", f"{state_dir} holds no identity of an agent")
        # Damaged keys are a fault of their own, not a broker that cannot be reached.
        slots.identity()
        make_private_directory(state_dir / "tasks")
        journal = open_journal(state_dir / "journal.db", remember_s=settings.remember_s)
        journal.start(asyncio.get_running_loop().call_soon_threadsafe)
        try:
            agent = Agent(state_dir, settings, facts, slots, journal, on_ready, version, manager)
            await agent.run()
            return agent.is_relocated
        finally:
            await asyncio.to_thread(journal.close, JOURNAL_CLOSE_S)


class Agent:
    """Everything of one agent, wired. The journal belongs to the caller."""

    def __init__(
        self,
        state_dir: Path,
        settings: AgentSettings,
        facts: AgentFacts,
        slots: Slots,
        journal: Journal,
        on_ready: Callable[[AgentFacts], None],
        version: str,
        manager: ServiceManager,
    ) -> None:
        loop = asyncio.get_running_loop()
        clock = SystemClock()
        self._settings = settings
        self._facts = facts
        self._slots = slots
        bind_process(agent=facts.agent, group=facts.group)
        self._version = version
        self._journal = journal
        self._on_ready = on_ready
        self._manager = manager
        self._is_ready = False
        self.is_relocated = False
        self.link = Link(
            settings.urls or usable(facts.urls),
            lambda: self.renewer.identity(),  # noqa: PLW0108  (it is made later)
            f"agent {facts.agent}",
            subjects.inbox_prefix(facts.agent),
            clock=clock,
        )
        incarnation = f"{journal.boots:08x}-{secrets.token_hex(8)}"
        self.station = station = Station(
            wire=self.link,
            address=Address(facts.group, facts.agent),
            lease=Lease(incarnation, settings.timers, now=clock.elapsed(), epoch=journal.epoch),
            clock=clock,
            book=TaskBook(settings.task_slots),
        )
        account = find_account(settings.tasks.user)
        if account.is_other:
            _let_pass(state_dir)
        self.folders = Folders(
            state_dir / "tasks",
            keep=settings.keep_folders,
            spares=min(SPARES_MAX, 2 * settings.task_slots),
            owner=(account.uid, account.gid) if account.is_other else None,
        )
        manner = manner_of(settings.tasks, account, file_limits())
        _say_account(account, settings.tasks.user)
        _allow_many_files(settings.task_slots)
        cells = Cells(find_parent(), facts.agent, incarnation, are_used=settings.tasks.cells)
        others: set[int] = set()
        self.carrier = CarrierPost(others)
        self.table = Table(settings.task_slots + SPARE_PLACES)
        self.executors = registry.build(
            Ports(
                loop=loop,
                grace_s=lambda: station.lease.timers.grace_s,
                elapsed=clock.elapsed,
                marks={
                    "MESH_AGENT": facts.agent,
                    "MESH_GROUP": facts.group,
                    "MESH_INCARNATION": incarnation,
                },
                carrier=self.carrier,
                table=self.table,
                others=others,
                manner=manner,
                cells=cells,
            )
        )
        journal.is_patient = lambda: station.book.is_full or self.executors.are_behind
        self.reporter = Reporter(station)
        self.shipper = Shipper(station)
        self.runner = Runner(
            station,
            journal=journal,
            reporter=self.reporter,
            shipper=self.shipper,
            folders=self.folders,
            executors=self.executors,
            first_seq=journal.boots << SEQ_BITS,
        )
        self.renewer = Renewer(station, slots, chance=random.random, on_change=self._on_certificate)
        self.renewer.use(self.link)
        self.room = Room(
            state_dir,
            Bounds(settings.spool_bytes, settings.disk_free),
            journal=journal,
            waiting_bytes=lambda: self.shipper.waiting_bytes,
            on_change=self._on_room_changed,
            every_look=self._reap,
        )
        self.beats = Beats(
            station,
            runner=self.runner,
            reporter=self.reporter,
            shipper=self.shipper,
            chance=random.random,
            room=self.room,
            renewal=lambda: self.renewer.failed,
        )
        self.handshake = Handshake(
            station,
            runner=self.runner,
            reporter=self.reporter,
            beats=self.beats,
            details=_details(version),
            certificate=self._certificate,
            on_epoch=self._on_epoch,
            trust=lambda: trust_digest(slots.ca_pem()),
        )
        self.handshake.recall = Recall(station.book, journal, self.runner)
        self.watchdog = Watchdog(station, self.runner)
        self.hearing = Hearing(station)
        self.post = WardenPost(
            station,
            self.table,
            state_dir,
            cells=cells.prefix,
            others=others,
        )
        self.status = StatusFile(
            state_dir,
            facts,
            station,
            self.runner,
            self.handshake,
            self.room,
            trouble=lambda: self.renewer.trouble,
            has_cells=bool(cells.prefix),
        )
        self._connect_parts()

    def _connect_parts(self) -> None:
        station, runner = self.station, self.runner
        intake = Intake(
            station,
            journal=self._journal,
            runner=runner,
            reporter=self.reporter,
            room=self.room,
            valid_until=lambda: self.renewer.facts.not_after,
        )
        self.intake = intake
        echoes = Echoes(
            station,
            on_linked=self._on_linked,
            on_unagreed=self.handshake.on_unagreed,
            on_epoch=self._on_epoch,
            on_renewed=self.post.tell,
        )
        inbox = Inbox(
            station,
            {
                "run": intake.on_run,
                "release": runner.on_release,
                "echo": echoes.on_echo,
                "welcome": self.handshake.on_welcome,
                "control": Controls(
                    station, runner, self.renewer.order, self._slots.trust
                ).on_control,
                # Heard on a connection that is being tried, and of no interest here.
                "selftest": lambda _payload: None,
            },
            self.watchdog.check,
            self.shipper.on_stored,
        )
        _ = self.link.subscribe(station.address.down, inbox.on_message)
        self.link.on_connected(self._on_connected)
        self.link.on_disconnected(self._on_disconnected)
        self.watchdog.on_phase = lambda _: self.status.write()
        runner.on_free = self._on_free
        runner.check_lease = self.watchdog.check

    def _on_epoch(self, epoch: int) -> None:
        bind_process(epoch=epoch)
        self._journal.note_epoch(epoch)

    def _on_free(self) -> None:
        """A task has ended: what may wait for that is the end of a fencing."""
        if self.station.lease.phase is Phase.FENCING:
            self.watchdog.nudge()

    def _on_room_changed(self) -> None:
        self.beats.send()
        self.status.write()

    def _reap(self) -> None:
        for executor in self.executors:
            executor.reap()

    def _certificate(self) -> tuple[str, float]:
        facts = self.renewer.facts
        return facts.serial, facts.not_after

    def _on_certificate(self) -> None:
        """A new one is in use, or the present one could not be renewed."""
        self.beats.send()
        self.status.write()

    def _on_connected(self) -> None:
        self.hearing.on_connected()
        self.handshake.ask()
        self.status.write()

    def _on_disconnected(self, _reason: MeshError) -> None:
        self.station.lease.on_disconnected()
        self.shipper.on_disconnected()
        self.status.write()

    def _on_linked(self) -> None:
        """Each echo comes by here."""
        self.watchdog.nudge()
        if not self._is_ready:
            self._is_ready = True
            self._on_ready(self._facts)
        self.status.write_if_changed()

    async def run(self) -> None:
        self._recover()
        stop, stop_now = asyncio.Event(), asyncio.Event()

        def relocate() -> None:
            self.is_relocated = True
            stop.set()

        self.renewer.on_relocated = relocate
        ended = asyncio.Event()
        _on_signals(stop, stop_now)
        self.link.start()
        services: list[Service] = [
            self.post,
            self.carrier,
            self.room,
            self.reporter,
            self.shipper,
            self.watchdog,
            self.handshake,
            self.beats,
            self.hearing,
            self.renewer,
            *self._endpoint(),
            Notices(self._manager, self._standing),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                _ = group.create_task(self._drain(stop, stop_now, ended))
                await supervise(services, ended, start_timeout_s=START_TIMEOUT_S)
        finally:
            for executor in self.executors:
                executor.kill_all()
            await self.link.close()
            for executor in self.executors:
                executor.close()
            self.status.remove()
            self.folders.close()
            self.table.close()

    def _standing(self) -> str:
        """One line for whoever asks the service manager."""
        running = f"{self.station.book.running} tasks running"
        if self.runner.is_draining:
            return f"stopping, {running}"
        return f"{self.station.lease.phase.lower()}, {running}"

    def _endpoint(self) -> list[Service]:
        port = self._settings.metrics_port
        if not port:
            return []
        # Loaded where it is wanted only: agents are small.
        from broker_agent.services.local_metrics import LocalMetrics, local_endpoint

        version = self._version
        return [
            local_endpoint(
                port,
                LocalMetrics(
                    self.station,
                    self.link,
                    self.intake,
                    self.reporter,
                    version=version,
                    not_after=lambda: self.renewer.facts.not_after,
                ),
            )
        ]

    def _recover(self) -> None:
        """What an earlier start left: end it, tell it."""
        rows = self._journal.rows
        for row in rows:
            if row.report is None:
                log.warning("attempt_lost", command_id=row.command, killed=self._end_orphans(row))
        self.folders.adopt({self.folders.name(row.command, row.attempt) for row in rows})
        for row in rows:
            self.runner.recover(row)
        self._journal.rows = []

    def _end_orphans(self, row: Row) -> int:
        """After a boot of the host its number is somebody else's, and there is nothing to end."""
        if not self._journal.is_same_boot:
            return 0
        left = Left(row.command, row.attempt, row.incarnation, row.pid, row.pid_start)
        return sum(executor.end_left(left) for executor in self.executors)

    async def _drain(
        self, stop: asyncio.Event, stop_now: asyncio.Event, ended: asyncio.Event
    ) -> None:
        """Wait for the order to stop, then for the tasks and their reports, each within a bound."""
        await stop.wait()
        self.runner.is_draining = True
        self._manager.tell("STOPPING=1", f"STATUS={self._standing()}")
        self.beats.send()
        self.status.write()
        log.info("draining", running=self.station.book.running)
        async with asyncio.TaskGroup() as group:
            hurry = group.create_task(self._hurry(stop_now))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_s):
                    await self.runner.wait_idle()
            self.runner.stop_all(State.CANCELLED, "the agent was stopped")
            await self.runner.wait_idle()
            hurry.cancel()
        # Before the goodbye, after which nobody waits for a word of how they ended.
        with suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S):
                await self.runner.wait_told()
        self.reporter.say_last()
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if stop_now.is_set() else REPORT_S):
                await self.runner.wait_settled()
        self.beats.send(goodbye=True)
        with suppress(MeshError):
            await self.link.flush(1.0)
        log.info("stopped", unreported=len(self.station.book))
        ended.set()

    async def _hurry(self, stop_now: asyncio.Event) -> None:
        await stop_now.wait()
        self.runner.stop_all(State.CANCELLED, "the agent was stopped")
        self.runner.kill_all()


def _on_signals(stop: asyncio.Event, stop_now: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def heard() -> None:
        (stop_now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard)


def _let_pass(state_dir: Path) -> None:
    """Tasks reach their own folders by name, and can list nothing on the way."""
    for path in (state_dir, state_dir / "tasks"):
        with os_errors(path, "open"):
            path.chmod(0o711)
    closed = closed_way(state_dir)
    if closed is not None:
        log.warning("folders_closed_to_tasks", path=str(closed), do=f"chmod o+x {closed}")


def _say_account(account: Account, wanted: str) -> None:
    if account.is_other and not wanted:
        log.warning(
            "tasks_run_as_another_user",
            user=account.name,
            why="the agent is root, and tasks.user is not set",
            do='set tasks.user to a user of their own, or to "root" if they are to be the agent\'s',
        )
    elif account.uid == 0:
        log.warning("tasks_run_as_root", why="whoever may submit here can become this agent")


def _allow_many_files(slots: int) -> None:
    """Where the soft limit is too low for so many tasks: the usual one is far below the hard one.

    Tasks get it as it was, which costs them a launcher.
    """
    if file_limits()[0] < slots * FDS_PER_TASK + FDS_SPARE:
        allow_many_files()


def _details(version: str) -> Details:
    return Details(
        host=codec.textual(socket.gethostname())[:250],
        pid=os.getpid(),
        user=codec.textual(_user()),
        os=platform.system(),
        arch=platform.machine(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}",
        version=version,
    )


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
