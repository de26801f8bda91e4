"""Builds a master out of its parts and runs it until it is asked to stop."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from broker_client.runtime.batch import BatchWriter, WriterLimits
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.files import Lock, lock_directory
from broker_client.runtime.identity import read_identity
from broker_client.runtime.kv import Bucket
from broker_client.runtime.link import Link, LinkIdentity
from broker_client.runtime.logs import bind_process
from broker_client.runtime.notify import Notices, ServiceManager
from broker_client.runtime.streams import Streams
from broker_client.runtime.supervise import Service, TaskSet, supervise
from broker_master.api.again import AgainOperations
from broker_master.api.agents import AgentOperations
from broker_master.api.audit import AuditOperations, AuditTrail
from broker_master.api.authority import AuthorityOperations
from broker_master.api.clients import ClientOperations
from broker_master.api.commands import CommandOperations
from broker_master.api.deadletters import DeadLetterOperations
from broker_master.api.door import Door
from broker_master.api.fanouts import FanoutOperations
from broker_master.api.groups import GroupOperations
from broker_master.api.http import HttpServer
from broker_master.api.nats import NatsApi
from broker_master.api.operations import Operations, Registers
from broker_master.api.rotation import RotationOperations
from broker_master.ca.marker import read_marker, refuse_foreign
from broker_master.ca.mesh import ADMIN, Mesh, open_mesh, update_context_urls
from broker_master.console.overview import Overview
from broker_master.core.liveness import Roster
from broker_master.core.measures import Measures
from broker_master.core.strays import Strays
from broker_master.embedded import ChildSettings, EmbeddedBroker
from broker_master.metrics.endpoint import own_endpoint
from broker_master.metrics.scrape import Scraper
from broker_master.metrics.survey import Pulse, Survey
from broker_master.metrics.system import Surroundings
from broker_master.plane import Plane
from broker_master.services.addresses import Addresses
from broker_master.services.aftermath import Aftermath
from broker_master.services.again import Again
from broker_master.services.assign import Assigner
from broker_master.services.audit import Auditor
from broker_master.services.cancel import Canceller
from broker_master.services.checkpoint import Checkpointer
from broker_master.services.comparison import Comparison
from broker_master.services.custody import Custody
from broker_master.services.enrolment import Enrolment
from broker_master.services.fanout import Fanouts
from broker_master.services.gate import Gate
from broker_master.services.historian import Historian
from broker_master.services.intake import Intake
from broker_master.services.keys import KeyDesk
from broker_master.services.late import LateResults
from broker_master.services.notes import notes
from broker_master.services.orders import Orders
from broker_master.services.output import OutputReader
from broker_master.services.presence import PresenceService
from broker_master.services.probe import Prober
from broker_master.services.quota import OutputQuotas
from broker_master.services.receipts import Receipts
from broker_master.services.recovery import (
    enter_admin,
    enter_agents,
    orphans,
    rebuild_readmodel,
    replay_facts,
    resume,
)
from broker_master.services.renewal import Renewals
from broker_master.services.reports import Reports
from broker_master.services.revoke import Revoker
from broker_master.services.rotator import Rotator
from broker_master.services.settle import Settler
from broker_master.services.statuses import StatusKeeper
from broker_master.services.strays import StrayAlarm
from broker_master.services.system import BrokerSystem
from broker_master.services.terms import Terms
from broker_master.services.transmit import Transmitter
from broker_master.services.upstream import Upstream
from broker_master.services.views import Views
from broker_master.services.whereabouts import Whereabouts
from broker_master.settings import MasterSettings
from broker_master.store.facts import (
    AUDIT,
    EVENTS,
    FANOUTS,
    HISTORY,
    REGISTRY,
    FactStore,
    ensure_streams,
)
from broker_master.store.readmodel import ReadModel
from broker_master.store.registry import Registry
from broker_master.store.restored import Restored, read_restored, write_restored
from broker_master.store.statuses import read_pasts
from schemas.faults import MeshError, Refused
from schemas.subjects import MASTER_INBOX, inbox_prefix
from schemas.verbs import COMMAND_SUBMIT

log = structlog.get_logger()

_START_S = 60.0
# How long a master waits for its broker, and for reading what that holds.
_BROKER_S = 60.0
_RECOVERY_S = 600.0
_LOOPBACK_S = 2.0
_TASKS_MAX = 2000
# So many commands that wait for a free slot are served no sooner by hurried writes.
_BACKLOG = 64
# Of large commands, what goes with one write: no other waits longer than for this.
_HEAVY_BYTES = 512 * 1024

Ready = Callable[[str, str], None]


async def serve(settings: MasterSettings, on_ready: Ready, manager: ServiceManager) -> None:
    """Run a master until SIGTERM or SIGINT; `on_ready` gets the broker's and the console's address.

    manager: told when it is ready as well.

    Raises MeshError if it cannot start; nothing on disk is overwritten then.
    """
    if settings.loss.mode == "strict":
        timers = msgspec.structs.replace(settings.timers, strict=True)
        settings = msgspec.structs.replace(settings, timers=timers)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    mesh, lock = _open(Path(settings.state_dir))
    try:
        services: list[Service] = []
        broker = None
        if not settings.nats_url:
            mesh.check_certified(settings.urls)
            child = ChildSettings(
                binary=settings.broker.binary,
                go_memory_limit=settings.broker.go_memory_limit,
                go_gc=settings.broker.go_gc,
            )
            # Hosts that were given to init are meant to be reached from elsewhere.
            local = "127.0.0.1" if not mesh.marker.hosts else "0.0.0.0"  # noqa: S104
            broker = EmbeddedBroker(
                mesh, host=settings.nats_host or local, port=settings.nats_port, child=child
            )
            services.append(broker)
        services.append(Control(settings, mesh, broker, on_ready))
        services.append(Notices(manager, lambda: f"mesh {mesh.id}"))
        await supervise(services, stop, start_timeout_s=2 * _BROKER_S + _RECOVERY_S)
    finally:
        manager.tell("STOPPING=1")
        lock.release()


def _open(state_dir: Path) -> tuple[Mesh, Lock]:
    """The mesh in a folder that nobody else works on meanwhile."""
    refuse_foreign(state_dir)  # before a lock is left in somebody else's folder
    if read_marker(state_dir) is None:
        raise Refused("state_missing", f"there is no mesh in {state_dir}")
    lock = lock_directory(state_dir)
    try:
        return open_mesh(state_dir), lock
    except MeshError:
        lock.release()
        raise


class Control:
    """The control plane as one service behind the broker."""

    name = "control"

    def __init__(
        self, settings: MasterSettings, mesh: Mesh, broker: EmbeddedBroker | None, on_ready: Ready
    ) -> None:
        self._settings = settings
        self._mesh = mesh
        self._broker = broker
        self._on_ready = on_ready
        self._clock: Clock = SystemClock()

    async def run(self, ready: asyncio.Event) -> None:
        """Connect, recover, serve. On cancellation the services stop in reverse order."""
        url = self._broker.url if self._broker else self._settings.nats_url
        link = await self._connect(
            url, self._mesh.master_directory, "master", MASTER_INBOX, loopback_s=_LOOPBACK_S
        )
        # The system user may not publish to its own inbox, so it cannot listen to itself.
        system = await self._connect(
            url, self._mesh.system_directory, "system", inbox_prefix("master-system")
        )
        tasks = TaskSet("master", limit=_TASKS_MAX, share=_TASKS_MAX // 32)
        readmodel: ReadModel | None = None
        try:
            streams = Streams(link, timeout_s=self._settings.broker.request_s)
            infos = await ensure_streams(streams, self._settings)
            readmodel = ReadModel.open(
                self._mesh.directory / "readmodel.db", infos[HISTORY].created_at
            )
            events = BatchWriter(streams, EVENTS, limits=WriterLimits(heavy_bytes=_HEAVY_BYTES))
            history = BatchWriter(streams, HISTORY)
            audit = BatchWriter(streams, AUDIT)
            plane = await self._plane(link, streams, events, readmodel, tasks)
            services = await self._services(plane, streams, events, history, audit, system)
            await self._supervise(services, ready, url)
        finally:
            await tasks.aclose(self._settings.timers.grace_s / 2)
            if readmodel is not None:
                readmodel.close()
            await system.close()
            await link.close()

    async def _supervise(self, services: list[Service], ready: asyncio.Event, url: str) -> None:
        stop = asyncio.Event()
        announce = _Announce(ready, lambda: self._announce(url, services))
        running = asyncio.ensure_future(
            supervise([*services, announce], stop, start_timeout_s=_START_S)
        )
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({running}, timeout=self._settings.timers.stop_s)
            raise

    def _announce(self, url: str, services: list[Service]) -> None:
        http = next(each for each in services if isinstance(each, HttpServer))
        self._on_ready(url, http.url)

    async def _connect(
        self, url: str, folder: Path, name: str, inbox: str, *, loopback_s: float | None = None
    ) -> Link:
        def identity() -> LinkIdentity:
            found = read_identity(folder)
            return LinkIdentity(tls=found.context, jwt=found.creds.jwt, seed=found.creds.seed)

        return await Link.connect(
            [url], identity, name, inbox, loopback_s=loopback_s, wait_s=_BROKER_S
        )

    async def _plane(
        self,
        link: Link,
        streams: Streams,
        events: BatchWriter,
        readmodel: ReadModel,
        tasks: TaskSet,
    ) -> Plane:
        bucket = Bucket(streams, REGISTRY)
        await bucket.ensure(history=8, replicas=self._settings.broker.replicas)
        strays = Strays()
        registry = Registry(bucket, strays)
        epoch, earlier, restored = await self._begin_epoch(registry)
        bind_process(epoch=epoch)
        await registry.load()
        urls = [*self._settings.urls]
        if self._broker is not None:
            urls = urls or [*self._mesh.urls(self._broker.port)]
        urls = urls or [self._settings.nats_url]
        # The contexts here are for this machine, which need not know its own outer names.
        local = [self._broker.url] if self._broker is not None else []
        update_context_urls(self._mesh.directory, list(dict.fromkeys([*local, *urls])))
        plane = Plane(
            settings=self._settings,
            measures=Measures(self._settings.programs_in_metrics),
            clock=self._clock,
            link=link,
            facts=FactStore(streams, events, strays),
            strays=strays,
            readmodel=readmodel,
            registry=registry,
            roster=Roster(self._settings.timers, now_s=self._clock.elapsed()),
            tasks=tasks,
            epoch=epoch,
            earlier=earlier,
            restored=restored,
            mesh=self._mesh.id,
            urls=urls,
            started_at=self._clock.now(),
        )
        await enter_admin(plane, self._mesh)
        enter_agents(plane, read_pasts(self._mesh.directory))
        link.on_disconnected(lambda _reason: plane.roster.on_cut_off())
        link.on_connected(lambda: plane.roster.on_rejoined(now_s=plane.clock.elapsed()))
        return plane

    async def _begin_epoch(self, registry: Registry) -> tuple[int, int, Restored | None]:
        """The epoch, the one before it, and what is noted of a state that was put back."""
        restored = read_restored(self._mesh.directory)
        is_first = restored is not None and not restored.epoch
        begun = await registry.begin_epoch(
            self._mesh.id,
            self._clock.now(),
            above=restored.above if restored is not None and is_first else 0,
            is_restored=is_first,
        )
        if restored is not None and is_first:
            restored = msgspec.structs.replace(restored, epoch=begun.epoch)
            write_restored(self._mesh.directory, restored)
            log.warning("state_was_restored", taken_at=restored.taken_at, earlier=begun.earlier)
        return begun.epoch, begun.earlier, restored

    async def _services(
        self,
        plane: Plane,
        streams: Streams,
        events: BatchWriter,
        history: BatchWriter,
        audit: BatchWriter,
        system_link: Link,
    ) -> list[Service]:
        """Wire the parts together, recover, and put all in order."""
        system = BrokerSystem(
            system_link,
            account=self._mesh.accounts.account,
            request_s=self._settings.broker.request_s,
        )
        custody = Custody(plane, self._mesh, system, {"master": plane.link, "system": system_link})
        comparison = Comparison(plane, self._mesh.accounts, system, custody.own_users)
        gate = Gate(plane, system, system_link, comparison)
        settler = Settler(plane)
        transmitter = Transmitter(plane, settler)
        assigner = Assigner(plane, settler, transmitter)
        canceller = Canceller(plane, settler, transmitter)
        historian = Historian(plane, history)
        settler.on_ended = historian.add
        late = LateResults(plane, settler, historian)
        reports = Reports(plane, transmitter, late)
        orders = Orders(plane)
        reports.on_order_reply = orders.on_reply
        addresses = Addresses(plane, system)
        presence = PresenceService(
            plane,
            settler,
            assigner,
            addresses.want,
            Aftermath(plane, settler, self._mesh.directory),
        )
        plane.link.on_connected(presence.call)
        revoker = Revoker(plane, self._mesh.accounts, system)
        terms = Terms(plane, presence, revoker, orders)
        views = Views(plane)
        presence.on_change = terms.on_change = views.note_group
        transmitter.on_untaken = presence.on_untaken
        reports.on_took = presence.on_took
        intake = Intake(
            plane,
            assigner,
            historian.lag_s,
            lambda: events.stalled_since,
            is_crowded=lambda: events.is_crowded,
        )
        events.on_stalled = intake.on_stalled
        events.is_patient = lambda: plane.dispatcher.backlog() >= _BACKLOG
        output = OutputReader(plane, streams)
        keys = KeyDesk(plane, custody.own_keys, lambda: revoker.refused)
        whereabouts = Whereabouts(system)
        auditor = Auditor(plane, audit, whereabouts)
        commands = CommandOperations(plane, canceller, output)
        again = Again(plane, intake)
        fanouts = Fanouts(plane, Bucket(streams, FANOUTS), intake, views)
        rotator = Rotator(plane, self._mesh, system, custody, orders)
        presence.on_trust = rotator.note_trust
        issuer = self._mesh.issuer
        operations = Operations()
        operations.add_direct(COMMAND_SUBMIT, intake.submit)
        parts: list[Registers] = [
            AuditOperations(streams, plane.strays),
            commands,
            DeadLetterOperations(plane, commands, again),
            AgainOperations(again),
            FanoutOperations(plane, fanouts, canceller),
            GroupOperations(plane, views),
            AgentOperations(plane, views, issuer, presence, canceller, revoker, terms, orders),
            RotationOperations(plane, orders),
            ClientOperations(plane, views, issuer, keys, revoker),
            AuthorityOperations(plane, custody, rotator),
        ]
        operations.fill(parts)
        door = Door(plane, operations, AuditTrail(plane, auditor.record))
        await _recover(plane, streams, historian, canceller, settler, presence.aftermath)
        if plane.is_admin_new:
            detail = "its earlier credentials are refused: broker-master init --new-admin"
            plane.note("client.reset", ADMIN, detail=detail)
        await fanouts.load()
        survey = Survey(plane, streams, self._mesh.directory)
        views.notes = lambda caller: notes(plane, caller, survey.findings, historian.lag_s())
        scraper = Scraper(
            plane,
            Surroundings(
                findings=survey.findings,
                history_lag_s=historian.lag_s,
                authorities=custody.authorities,
                servers=custody.servers,
            ),
        )
        return [
            events,
            history,
            audit,
            whereabouts,
            auditor,
            StrayAlarm(plane),
            gate,
            historian,
            Checkpointer(plane, streams),
            StatusKeeper(plane, self._mesh.directory),
            transmitter,
            assigner,
            presence,
            Prober(plane, presence.on_untaken),
            terms,
            _receipts(plane, streams, presence),
            Upstream(plane, gate, presence, reports),
            fanouts,
            addresses,
            Enrolment(plane, self._mesh.issuer, keys),
            Renewals(plane, gate, self._mesh.issuer, keys, revoker, presence),
            custody,
            rotator,
            comparison,
            survey,
            door,
            NatsApi(plane, gate, door),
            OutputQuotas(plane, streams, system, whereabouts),
            Pulse(survey.findings, scraper.look),
            *own_endpoint(self._settings.metrics_http, scraper),
            HttpServer(plane, scraper, Overview(plane, views), self._settings.http),
        ]


def _receipts(plane: Plane, streams: Streams, presence: PresenceService) -> Receipts:
    receipts = Receipts(plane, streams)
    presence.on_greeted = receipts.note_hello
    return receipts


async def _recover(
    plane: Plane,
    streams: Streams,
    historian: Historian,
    canceller: Canceller,
    settler: Settler,
    aftermath: Aftermath,
) -> None:
    """Bring the book to where the facts say, and carry on with what was asked for."""
    await rebuild_readmodel(plane, streams)
    await replay_facts(plane, historian)
    aftermath.begin()
    for command in resume(plane):
        canceller.carry_out(command)
    for command, attempt in orphans(plane):
        settler.give_up(command, attempt)


class _Announce:
    """The last service: ready when all before it are."""

    name = "announce"

    def __init__(self, ready: asyncio.Event, announce: Callable[[], None]) -> None:
        self._ready = ready
        self._announce = announce

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        self._announce()
        self._ready.set()
        await asyncio.Event().wait()
