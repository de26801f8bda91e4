"""Connects the parts of a master. Each gets all that it needs when it is made."""

from dataclasses import dataclass

from broker_client.runtime.batch import BatchWriter, WriterLimits
from broker_client.runtime.kv import Bucket
from broker_client.runtime.link import Link
from broker_client.runtime.streams import Streams
from broker_client.runtime.supervise import Service
from broker_master.api.agents import AgentOperations
from broker_master.api.audit import AuditOperations, AuditTrail
from broker_master.api.authority import AuthorityOperations
from broker_master.api.clients import ClientOperations
from broker_master.api.commands import CommandOperations
from broker_master.api.deadletters import DeadLetterOperations
from broker_master.api.door import Door
from broker_master.api.events import EventOperations
from broker_master.api.fanouts import FanoutOperations
from broker_master.api.groups import GroupOperations
from broker_master.api.http import HttpServer
from broker_master.api.nats import NatsApi
from broker_master.api.operations import Operations
from broker_master.api.renewal_orders import RenewalOrderOperations
from broker_master.api.retries import RetryOperations
from broker_master.ca.mesh import Mesh
from broker_master.console.overview import Overview
from broker_master.core.budgets import Budgets
from broker_master.core.dispatch import Dispatcher
from broker_master.core.room import StoreRoom
from broker_master.metrics.endpoint import own_endpoint
from broker_master.metrics.scrape import Scraper
from broker_master.metrics.survey import Pulse, Survey
from broker_master.metrics.system import Surroundings
from broker_master.plane import Plane
from broker_master.services.addresses import Addresses
from broker_master.services.aftermath import Aftermath
from broker_master.services.assign import Assigner
from broker_master.services.audit import Auditor
from broker_master.services.cancel import Canceller
from broker_master.services.checkpoint import Checkpointer
from broker_master.services.comparison import Comparison
from broker_master.services.custody import Custody
from broker_master.services.enrolment import Enrolment
from broker_master.services.eventreader import EventReader, certificate_events
from broker_master.services.fanout import Fanouts
from broker_master.services.floods import FloodWatch
from broker_master.services.gate import Gate
from broker_master.services.historian import Historian
from broker_master.services.intake import Intake
from broker_master.services.keys import KeyDesk
from broker_master.services.lastlines import LastLines
from broker_master.services.late_results import LateResults
from broker_master.services.notes import notes
from broker_master.services.orders import Orders
from broker_master.services.output import OutputReader
from broker_master.services.presence import Listeners, PresenceService
from broker_master.services.probe import Prober
from broker_master.services.quota import OutputQuotas
from broker_master.services.receipts import Receipts
from broker_master.services.renewal_desk import RenewalDesk
from broker_master.services.reports import Reports
from broker_master.services.results import ResultPublisher
from broker_master.services.retries import Retries
from broker_master.services.revoke import Revoker
from broker_master.services.rotation import Rotator
from broker_master.services.settle import Settler
from broker_master.services.statuses import StatusKeeper
from broker_master.services.strays import StrayAlarm
from broker_master.services.system import BrokerSystem
from broker_master.services.transitions import AdminTransitions
from broker_master.services.transmit import Transmitter
from broker_master.services.turns import Turns
from broker_master.services.upstream import Upstream
from broker_master.services.views import Views
from broker_master.services.whereabouts import Whereabouts
from broker_master.store.facts import EVENTS
from broker_master.store.restored import Restored
from schemas.verbs import COMMAND_SUBMIT

# With so many commands waiting for a free slot, faster writes would serve none sooner.
_BACKLOG = 64
# Bytes of large commands in one write: no other waits longer than for this.
_HEAVY_BYTES = 512 * 1024


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything a master uses of the world outside its services, beside the plane.

    events, history, audit: the writers of these streams. fanouts: the bucket of their entries.
    system_link: the connection as the broker's system user, on which `system` asks. earlier: the
    epoch before this one. restored: the note of a restore, if any.
    """

    mesh: Mesh
    streams: Streams
    events: BatchWriter
    history: BatchWriter
    audit: BatchWriter
    fanouts: Bucket
    system: BrokerSystem
    system_link: Link
    earlier: int
    restored: Restored | None


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Parts that authenticate connections and issue keys and certificates."""

    custody: Custody
    comparison: Comparison
    turns: Turns
    gate: Gate
    revoker: Revoker
    desk: KeyDesk
    orders: Orders
    rotator: Rotator


@dataclass(frozen=True, kw_only=True)
class Work:
    """Parts that move commands along, and show their state."""

    budgets: Budgets
    historian: Historian
    settler: Settler
    transmitter: Transmitter
    assigner: Assigner
    canceller: Canceller
    addresses: Addresses
    receipts: Receipts
    survey: Survey
    views: Views
    presence: PresenceService
    late: LateResults
    reports: Reports
    intake: Intake
    fanouts: Fanouts
    transitions: AdminTransitions


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A master, connected and not yet running."""

    keys: Keys
    work: Work
    operations: Operations
    auditor: Auditor
    scraper: Scraper
    http: HttpServer
    start_order: list[Service]


def make_events(streams: Streams, dispatcher: Dispatcher) -> BatchWriter:
    """The writer of the event stream, slower while commands wait for agents."""
    return BatchWriter(
        streams,
        EVENTS,
        limits=WriterLimits(heavy_bytes=_HEAVY_BYTES),
        is_patient=lambda: dispatcher.is_saturated(_BACKLOG),
    )


def build(plane: Plane, ports: Ports) -> Parts:
    """Connect all parts of one master. Call it in the loop that they run in."""
    keys = build_keys(plane, ports)
    work = build_work(plane, ports, keys)
    whereabouts = Whereabouts(ports.system)
    auditor = Auditor(plane, ports.audit, whereabouts)
    auditor.on_taken.listen(certificate_events(plane))
    operations = build_operations(plane, ports, keys, work)
    door = Door(plane, operations, AuditTrail(plane, auditor.record), keys.turns)
    scraper = Scraper(
        plane,
        Surroundings(
            findings=work.survey.findings,
            history_lag_s=work.historian.lag_s,
            authorities=keys.custody.authorities,
            servers=keys.custody.servers,
        ),
    )
    http = HttpServer(plane, scraper, Overview(plane, work.views), plane.settings.http)
    return Parts(
        keys=keys,
        work=work,
        operations=operations,
        auditor=auditor,
        scraper=scraper,
        http=http,
        start_order=[
            # Before everything that stores: the writers of the streams.
            ports.events,
            ports.history,
            ports.audit,
            # Before the first alarm: its entry needs the host of a connection.
            whereabouts,
            auditor,
            StrayAlarm(plane),
            # Before the first message: until the gate is open, none is admitted.
            keys.gate,
            # Before commands end: the parts that record their ends.
            work.historian,
            Checkpointer(plane, ports.streams),
            StatusKeeper(plane, ports.mesh.directory),
            # Before the messages of agents, which move commands along.
            work.transmitter,
            work.assigner,
            work.presence,
            Prober(plane, work.presence.on_untaken),
            work.transitions,
            work.receipts,
            # Agents. Before the clients, whose requests may need an agent's answer.
            Upstream(plane, keys.gate, work.presence, work.reports, work.budgets),
            work.fanouts,
            work.addresses,
            Enrolment(plane, ports.mesh.issuer, keys.desk),
            RenewalDesk(
                plane,
                keys.gate,
                ports.mesh.issuer,
                keys.desk,
                keys.revoker,
                work.presence,
                work.budgets,
            ),
            keys.custody,
            keys.rotator,
            keys.comparison,
            # Before the first submit: it knows how much room the event store has.
            work.survey,
            # Clients.
            door,
            NatsApi(plane, keys.gate, door),
            OutputQuotas(plane, ports.streams, ports.system, whereabouts),
            FloodWatch(
                plane,
                ports.mesh.accounts,
                ports.system,
                whereabouts,
                work.budgets,
                nodes=lambda: keys.gate.nodes,
                own=keys.custody.own_users,
            ),
            Pulse(work.survey.findings, scraper.look),
            *own_endpoint(plane.settings.metrics_http, scraper),
            # Last: its readiness page says that all the others run.
            http,
        ],
    )


def build_keys(plane: Plane, ports: Ports) -> Keys:
    mesh, system = ports.mesh, ports.system
    links = {"master": plane.link, "system": ports.system_link}
    custody = Custody(plane, mesh, system, links)
    comparison = Comparison(plane, mesh.accounts, system, custody.own_users)
    revoker = Revoker(plane, mesh.accounts, system)
    orders, turns = Orders(plane), Turns(plane)
    return Keys(
        custody=custody,
        comparison=comparison,
        turns=turns,
        gate=Gate(plane, system, ports.system_link, comparison, turns),
        revoker=revoker,
        desk=KeyDesk(plane, custody.own_keys, lambda: revoker.refused),
        orders=orders,
        rotator=Rotator(plane, mesh, system, custody, orders),
    )


def build_work(plane: Plane, ports: Ports, keys: Keys) -> Work:
    events, folder = ports.events, ports.mesh.directory
    historian = Historian(plane, ports.history)
    results = ResultPublisher(plane.link, plane.clock)
    plane.link.on_disconnected(lambda _reason: results.on_disconnected())
    plane.link.on_connected(results.on_connected)
    settler = Settler(plane, results, historian.add)
    budgets = Budgets(plane.timers, lambda agent: agent in plane.registry.agents)
    transmitter = Transmitter(plane, settler, budgets)
    assigner = Assigner(plane, settler, transmitter)
    canceller = Canceller(plane, settler, transmitter)
    room = StoreRoom(plane.settings.limits.event_bytes, lambda: plane.facts.appended_bytes)
    survey = Survey(plane, ports.streams, folder, room)
    views = Views(
        plane,
        historian.recents.of,
        lambda caller: notes(plane, caller, survey.findings, historian.lag_s()),
    )
    addresses = Addresses(plane, ports.system)
    receipts = Receipts(plane, ports.streams)
    presence = PresenceService(
        plane,
        settler,
        assigner,
        Aftermath(plane, settler, folder, earlier=ports.earlier, restored=ports.restored),
        Listeners(
            want_address=addresses.want,
            on_change=views.note_group,
            on_trust=keys.rotator.note_trust,
            on_greeted=receipts.note_hello,
        ),
    )
    late = LateResults(plane, settler, historian)
    reports = Reports(
        plane,
        transmitter,
        late,
        LastLines(plane, ports.streams),
        on_order_reply=keys.orders.on_reply,
        on_took=presence.on_took,
    )
    intake = Intake(
        plane,
        assigner,
        room,
        history_lag_s=historian.lag_s,
        stalled_since=lambda: events.stalled_since,
        is_crowded=lambda: events.is_crowded,
    )
    _follow(plane, ports, intake, transmitter, presence)
    keys.gate.on_gone.listen(presence.on_closed)
    return Work(
        budgets=budgets,
        historian=historian,
        settler=settler,
        transmitter=transmitter,
        assigner=assigner,
        canceller=canceller,
        addresses=addresses,
        receipts=receipts,
        survey=survey,
        views=views,
        presence=presence,
        late=late,
        reports=reports,
        intake=intake,
        fanouts=Fanouts(plane, ports.fanouts, intake, views, ports.restored),
        transitions=AdminTransitions(
            plane,
            presence,
            keys.revoker,
            keys.orders,
            on_change=views.note_group,
            on_gone=historian.recents.forget,
        ),
    )


def _follow(
    plane: Plane,
    ports: Ports,
    intake: Intake,
    transmitter: Transmitter,
    presence: PresenceService,
) -> None:
    """Connect the events of the link, of stalled writes, and of agents that take no work."""
    roster, clock = plane.roster, plane.clock
    plane.link.on_disconnected(lambda _reason: roster.on_cut_off())
    plane.link.on_connected(lambda: roster.on_rejoined(now_s=clock.elapsed()))
    plane.link.on_connected(presence.call)
    ports.events.on_stalled.listen(intake.on_stalled)
    transmitter.on_untaken.listen(presence.on_untaken)


def build_operations(plane: Plane, ports: Ports, keys: Keys, work: Work) -> Operations:
    issuer, views, canceller = ports.mesh.issuer, work.views, work.canceller
    commands = CommandOperations(plane, canceller, OutputReader(plane, ports.streams))
    retries = Retries(plane, work.intake)
    # By client, the digest of the addresses of brokers that it uses.
    addresses: dict[str, str] = {}
    operations = Operations()
    operations.add_direct(COMMAND_SUBMIT, work.intake.submit)
    operations.fill(
        [
            AuditOperations(ports.streams, plane.telemetry.strays),
            EventOperations(EventReader(plane)),
            commands,
            DeadLetterOperations(plane, commands, retries),
            RetryOperations(retries),
            FanoutOperations(plane, work.fanouts, canceller),
            GroupOperations(plane, views),
            AgentOperations(
                plane,
                views,
                issuer,
                work.presence,
                canceller,
                keys.revoker,
                work.transitions,
                keys.orders,
            ),
            RenewalOrderOperations(plane, keys.orders),
            ClientOperations(plane, views, issuer, keys.desk, keys.revoker, addresses),
            AuthorityOperations(plane, keys.custody, keys.rotator, addresses),
        ]
    )
    return operations
