"""Wiring of an agent. Each part gets its connections at construction."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from broker_agent.core.resources import Bounds
from broker_agent.executors.cells import Cells
from broker_agent.executors.conditions import StartConditions
from broker_agent.executors.registry import ExecutorPorts, Executors
from broker_agent.services.carrier import CarrierPost
from broker_agent.services.control import ControlHandler
from broker_agent.services.echo_watch import EchoWatch
from broker_agent.services.handshake import Handshake, Introduction
from broker_agent.services.heartbeats import Heartbeats
from broker_agent.services.inbox import Echoes, Inbox
from broker_agent.services.intake import Intake
from broker_agent.services.leaving import Leaving
from broker_agent.services.linked import Linked
from broker_agent.services.recall import Recall
from broker_agent.services.recovery import Recovery
from broker_agent.services.renewer import Renewer
from broker_agent.services.reporter import Reporter
from broker_agent.services.resources import ResourceMonitor
from broker_agent.services.runner import Runner
from broker_agent.services.running import Running
from broker_agent.services.shipper import Shipper
from broker_agent.services.status import StatusFile
from broker_agent.services.warden import WardenPost
from broker_agent.services.watchdog import Watchdog
from broker_agent.services.ways import WaysIn
from broker_agent.services.wire import AgentLink, Station
from broker_agent.settings import AgentSettings
from broker_agent.store.folders import Folders
from broker_agent.store.identity_slots import AgentFacts, IdentitySlots
from broker_agent.store.journal import Journal
from broker_agent.warden.table import WardenTable
from broker_client.runtime.logs import bind_process
from broker_client.runtime.notify import Notices, ServiceManager
from broker_client.runtime.supervise import Service
from broker_client.runtime.tls import trust_digest
from schemas.messages.liveness import Details, Welcome


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


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An agent, connected and not yet running."""

    station: Station
    executors: Executors
    carrier: CarrierPost
    post: WardenPost
    room: ResourceMonitor
    reporter: Reporter
    shipper: Shipper
    running: Running
    runner: Runner
    watchdog: Watchdog
    handshake: Handshake
    heartbeats: Heartbeats
    echo_watch: EchoWatch
    renewer: Renewer
    status: StatusFile
    intake: Intake
    inbox: Inbox
    recovery: Recovery
    leaving: Leaving
    endpoint: list[Service]
    notices: Notices

    @property
    def start_order(self) -> list[Service]:
        """Services in their order of start; they stop in reverse order."""
        return [
            # Before any task: each needs the warden, and a reader of its output.
            self.post,
            self.carrier,
            # Before the first heartbeat, which names the resources that are short.
            self.room,
            # Before the handshake, after which both send.
            self.reporter,
            self.shipper,
            # Before the handshake, which allows tasks to run until the lease expires.
            self.watchdog,
            # Before the heartbeats: their echo may ask for a handshake.
            self.handshake,
            self.heartbeats,
            # After the services whose heartbeats and echoes it watches.
            self.echo_watch,
            self.renewer,
            *self.endpoint,
            # Last: it reports that all the others run.
            self.notices,
        ]

    def is_patient(self) -> bool:
        """Whether the journal may delay a group commit: no task would start sooner without."""
        return self.station.book.is_full or self.executors.are_behind


def build(station: Station, ports: Ports) -> Parts:
    """Connect all parts of one agent. Call it in the loop of its services."""
    others: set[int] = set()
    carrier = CarrierPost(others)
    executors = _executors(station, ports, carrier, others)
    reporter = Reporter(station)
    shipper = Shipper(station)
    running = Running(station)
    watchdog = Watchdog(station, running)
    runner = Runner(
        station,
        running=running,
        watchdog=watchdog,
        journal=ports.journal,
        reporter=reporter,
        shipper=shipper,
        folders=ports.folders,
        executors=executors,
    )
    room = ResourceMonitor(
        ports.state_dir,
        Bounds(ports.settings.spool_bytes, ports.settings.disk_free),
        journal=ports.journal,
        waiting_bytes=lambda: shipper.waiting_bytes,
        on_change=station.fitness,
        every_look=executors.reap,
    )
    renewer = Renewer(
        station,
        ports.slots,
        ports.ways,
        chance=ports.chance,
        on_change=station.fitness,
        on_relocated=ports.on_relocated,
    )
    heartbeats = Heartbeats(
        station,
        running=running,
        reporter=reporter,
        shipper=shipper,
        chance=ports.chance,
        room=room,
        renewal=lambda: renewer.failed,
    )

    def note_epoch(epoch: int) -> None:
        bind_process(epoch=epoch)
        ports.journal.note_epoch(epoch)
        renewer.on_new_master()

    def note_welcome(welcome: Welcome) -> None:
        note_epoch(welcome.epoch)
        renewer.learn(welcome.urls)

    handshake = Handshake(
        station,
        running=running,
        runner=runner,
        reporter=reporter,
        heartbeats=heartbeats,
        recall=Recall(station.book, ports.journal, runner),
        introduction=Introduction(
            details=ports.details,
            certificate=lambda: (renewer.facts.serial, renewer.facts.not_after),
            trust=lambda: trust_digest(ports.slots.ca_pem()),
            addresses=lambda: renewer.addresses,
        ),
        on_agreed=note_welcome,
    )
    status = StatusFile(
        ports.state_dir,
        ports.facts,
        station,
        running=running,
        handshake=handshake,
        room=room,
        trouble=lambda: renewer.trouble,
        enclosure=lambda: executors.enclosure,
    )
    echo_watch = EchoWatch(station)
    post = WardenPost(
        station, ports.table, ports.state_dir, cells=ports.cells.prefix, others=others
    )
    intake = Intake(
        station,
        journal=ports.journal,
        running=running,
        runner=runner,
        reporter=reporter,
        room=room,
        valid_until=lambda: renewer.facts.not_after,
    )
    echoes = Echoes(
        station,
        on_linked=Linked(watchdog, status, ports.on_ready).on_linked,
        on_unagreed=handshake.on_unagreed,
        on_epoch=note_epoch,
        on_renewed=post.tell,
    )
    controls = ControlHandler(station, running, rotate=renewer.order, trust=ports.slots.trust)
    inbox = Inbox(
        station,
        {
            "run": intake.on_run,
            "release": runner.on_release,
            "echo": echoes.on_echo,
            "welcome": handshake.on_welcome,
            "control": controls.on_control,
            # Only for a connection under trial, which subscribes by itself.
            "selftest": lambda _payload: None,
        },
        check_lease=watchdog.check,
        on_stored=shipper.on_stored,
    )
    _hear(station, ports.line, inbox, echo_watch, handshake, shipper, status)
    leaving = Leaving(
        station,
        running=running,
        runner=runner,
        reporter=reporter,
        heartbeats=heartbeats,
        manager=ports.manager,
        flush=ports.line.flush,
        drain_s=ports.settings.drain_s,
    )
    return Parts(
        station=station,
        executors=executors,
        carrier=carrier,
        post=post,
        room=room,
        reporter=reporter,
        shipper=shipper,
        running=running,
        runner=runner,
        watchdog=watchdog,
        handshake=handshake,
        heartbeats=heartbeats,
        echo_watch=echo_watch,
        renewer=renewer,
        status=status,
        intake=intake,
        inbox=inbox,
        recovery=Recovery(
            journal=ports.journal,
            folders=ports.folders,
            executors=executors,
            runner=runner,
        ),
        leaving=leaving,
        endpoint=_endpoint(station, ports, executors, intake, reporter, renewer),
        notices=Notices(ports.manager, lambda: leaving.standing),
    )


def _executors(station: Station, ports: Ports, carrier: CarrierPost, others: set[int]) -> Executors:
    return ports.make_executors(
        ExecutorPorts(
            loop=asyncio.get_running_loop(),
            grace_s=lambda: station.lease.timers.grace_s,
            elapsed=station.clock.elapsed,
            marks={
                "MESH_AGENT": station.address.agent,
                "MESH_GROUP": station.address.group,
                "MESH_INCARNATION": station.lease.incarnation,
            },
            carrier=carrier,
            table=ports.table,
            others=others,
            conditions=ports.conditions,
            cells=ports.cells,
        )
    )


def _hear(
    station: Station,
    line: AgentLink,
    inbox: Inbox,
    echo_watch: EchoWatch,
    handshake: Handshake,
    shipper: Shipper,
    status: StatusFile,
) -> None:
    """Subscribe, and register the callbacks of connect and disconnect in their order."""
    line.subscribe(station.address.down, inbox.on_message)
    line.on_connected(echo_watch.on_connected)
    line.on_connected(handshake.ask)
    line.on_connected(status.write)
    line.on_disconnected(lambda _reason: station.lease.on_disconnected())
    line.on_disconnected(lambda _reason: shipper.on_disconnected())
    line.on_disconnected(lambda _reason: status.write())


def _endpoint(
    station: Station,
    ports: Ports,
    executors: Executors,
    intake: Intake,
    reporter: Reporter,
    renewer: Renewer,
) -> list[Service]:
    port = ports.settings.metrics_port
    if not port:
        return []
    # Imported on demand: agents are small.
    from broker_agent.services.local_metrics import LocalMetrics, local_endpoint

    metrics = LocalMetrics(
        station,
        ports.line,
        intake,
        reporter,
        version=ports.details.version,
        not_after=lambda: renewer.facts.not_after,
        missed=lambda: executors.enclosure.missed,
    )
    return [local_endpoint(port, metrics)]
