"""Builds a master out of its parts and runs it until it is asked to stop."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from broker_client.runtime.batch import BatchWriter
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.files import Lock, lock_directory
from broker_client.runtime.identity import read_identity
from broker_client.runtime.kv import Bucket
from broker_client.runtime.link import Link, LinkIdentity
from broker_client.runtime.logs import bind_process
from broker_client.runtime.notify import Notices, ServiceManager
from broker_client.runtime.streams import Streams
from broker_client.runtime.supervise import Service, TaskSet, supervise
from broker_master.ca.marker import read_marker, refuse_foreign
from broker_master.ca.mesh import ADMIN, Mesh, open_mesh, update_context_urls
from broker_master.core.dispatch import Dispatcher
from broker_master.core.eventlog import EventLog
from broker_master.core.liveness import Roster
from broker_master.core.measures import Measures
from broker_master.core.strays import Strays
from broker_master.embedded import ChildSettings, EmbeddedBroker
from broker_master.plane import MasterFacts, Plane
from broker_master.services.recovery import enter_admin, enter_agents, recover
from broker_master.services.restore import begin_epoch
from broker_master.services.system import BrokerSystem
from broker_master.settings import MasterSettings
from broker_master.store.facts import AUDIT, FANOUTS, HISTORY, REGISTRY, FactStore, ensure_streams
from broker_master.store.readmodel import ReadModel
from broker_master.store.registry import Registry
from broker_master.store.statuses import read_pasts
from broker_master.telemetry import Telemetry
from broker_master.wiring.parts import Parts, build
from broker_master.wiring.ports import Ports, make_events
from schemas.faults import MeshError, Refused
from schemas.subjects import MASTER_INBOX, inbox_prefix

log = structlog.get_logger()

_START_S = 60.0
# Timeouts: of the broker's start, and of reading its streams.
_BROKER_S = 60.0
_RECOVERY_S = 600.0
_LOOPBACK_S = 2.0
_TASKS_MAX = 2000

Ready = Callable[[str, str], None]


async def serve(settings: MasterSettings, on_ready: Ready, manager: ServiceManager) -> None:
    """Run a master until SIGTERM or SIGINT; `on_ready` gets the broker's and the console's address.

    manager: notified as well when the master is ready. Raises MeshError if it cannot start; nothing
    on disk is overwritten then.
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
            chosen = settings.broker
            child = ChildSettings(
                binary=chosen.binary, go_memory_limit=chosen.go_memory_limit, go_gc=chosen.go_gc
            )
            # Hosts given to init are meant to be reached from elsewhere.
            local = "127.0.0.1" if not mesh.marker.hosts else "0.0.0.0"  # noqa: S104
            broker = EmbeddedBroker(
                mesh, host=settings.nats_host or local, port=settings.nats_port, child=child
            )
            services.append(broker)
        services.append(ControlPlane(settings, mesh, broker, on_ready))
        services.append(Notices(manager, lambda: f"mesh {mesh.id}"))
        await supervise(services, stop, start_timeout_s=2 * _BROKER_S + _RECOVERY_S)
    finally:
        manager.tell("STOPPING=1")
        lock.release()


def _open(state_dir: Path) -> tuple[Mesh, Lock]:
    """Open the mesh of a folder, under the folder's lock."""
    refuse_foreign(state_dir)  # before a lock file is left in a foreign folder
    if read_marker(state_dir) is None:
        raise Refused("state_missing", f"there is no mesh in {state_dir}")
    lock = lock_directory(state_dir)
    try:
        return open_mesh(state_dir), lock
    except MeshError:
        lock.release()
        raise


class ControlPlane:
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
        # The system user may not publish to its own inbox, so it cannot test itself.
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
            parts = await self._parts(link, system, streams, readmodel, tasks)
            await self._supervise(parts, ready, url)
        finally:
            await tasks.aclose(self._settings.timers.grace_s / 2)
            if readmodel is not None:
                readmodel.close()
            await system.close()
            await link.close()

    async def _supervise(self, parts: Parts, ready: asyncio.Event, url: str) -> None:
        stop = asyncio.Event()
        announce = _Announce(ready, lambda: self._on_ready(url, parts.http.url))
        running = asyncio.ensure_future(
            supervise([*parts.start_order, announce], stop, start_timeout_s=_START_S)
        )
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({running}, timeout=self._settings.timers.stop_s)
            raise

    async def _connect(
        self, url: str, folder: Path, name: str, inbox: str, *, loopback_s: float | None = None
    ) -> Link:
        def identity() -> LinkIdentity:
            found = read_identity(folder)
            return LinkIdentity(tls=found.context, jwt=found.creds.jwt, seed=found.creds.seed)

        return await Link.connect(
            [url], identity, name, inbox, loopback_s=loopback_s, wait_s=_BROKER_S
        )

    def _urls(self) -> list[str]:
        """Addresses under which agents and clients find the broker; contexts here are updated."""
        own = [] if self._broker is None else self._mesh.urls(self._broker.port)
        urls = [*(self._settings.urls or own or [self._settings.nats_url])]
        # The contexts here are for this machine, which may not resolve its own outer names.
        local = [self._broker.url] if self._broker is not None else []
        update_context_urls(self._mesh.directory, list(dict.fromkeys([*local, *urls])))
        return urls

    async def _parts(
        self, link: Link, system: Link, streams: Streams, readmodel: ReadModel, tasks: TaskSet
    ) -> Parts:
        """Wire and recover a master on the contents of the broker and the disk."""
        dispatcher = Dispatcher()
        events = make_events(streams, dispatcher)
        bucket = Bucket(streams, REGISTRY)
        await bucket.ensure(history=8, replicas=self._settings.broker.replicas)
        strays = Strays()
        registry = Registry(bucket, strays)
        epoch, earlier, restored = await begin_epoch(registry, self._mesh, self._clock)
        bind_process(epoch=epoch)
        await registry.load()
        facts = MasterFacts(
            mesh=self._mesh.id, epoch=epoch, urls=self._urls(), started_at=self._clock.now()
        )
        plane = Plane(
            settings=self._settings,
            clock=self._clock,
            link=link,
            facts=FactStore(streams, events, strays),
            readmodel=readmodel,
            registry=registry,
            roster=Roster(self._settings.timers, now_s=self._clock.elapsed()),
            dispatcher=dispatcher,
            tasks=tasks,
            master=facts,
            telemetry=Telemetry(
                eventlog=EventLog(epoch, facts.started_at),
                measures=Measures(self._settings.programs_in_metrics),
                strays=strays,
            ),
        )
        is_admin_new = await enter_admin(plane, self._mesh)
        enter_agents(plane, read_pasts(self._mesh.directory))
        ports = Ports(
            mesh=self._mesh,
            streams=streams,
            events=events,
            history=BatchWriter(streams, HISTORY),
            audit=BatchWriter(streams, AUDIT),
            fanouts=Bucket(streams, FANOUTS),
            system=BrokerSystem(
                system,
                account=self._mesh.accounts.account,
                request_s=self._settings.broker.request_s,
            ),
            system_link=system,
            broker=self._broker,
            earlier=earlier,
            restored=restored,
        )
        parts = build(plane, ports)
        work = parts.work
        await recover(plane, streams, work.historian, work.canceller, work.settler, work.presence)
        if is_admin_new:
            detail = "its earlier credentials are refused: broker-master init --new-admin"
            plane.note("client.reset", ADMIN, detail=detail)
        await work.fanouts.load()
        return parts


class _Announce:
    """The last service: it runs when all before it are ready."""

    name = "announce"

    def __init__(self, ready: asyncio.Event, announce: Callable[[], None]) -> None:
        self._ready = ready
        self._announce = announce

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        self._announce()
        self._ready.set()
        await asyncio.Event().wait()
