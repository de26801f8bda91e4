"""Connects all parts of a master, and puts its services in their order of start."""

from dataclasses import dataclass

from broker_client.runtime.supervise import Service
from broker_master.api.audit import AuditTrail
from broker_master.api.door import Door
from broker_master.api.http import HttpServer
from broker_master.api.nats import NatsApi
from broker_master.api.operations import Operations
from broker_master.console.overview import Overview
from broker_master.metrics.endpoint import own_endpoint
from broker_master.metrics.scrape import Scraper
from broker_master.metrics.survey import Pulse
from broker_master.metrics.system import Surroundings
from broker_master.plane import Plane
from broker_master.services.audit import Auditor
from broker_master.services.checkpoint import Checkpointer
from broker_master.services.enrolment import Enrolment
from broker_master.services.eventreader import certificate_events
from broker_master.services.floods import FloodWatch
from broker_master.services.probe import Prober
from broker_master.services.quota import OutputQuotas
from broker_master.services.renewal_desk import RenewalDesk
from broker_master.services.statuses import StatusKeeper
from broker_master.services.strays import StrayAlarm
from broker_master.services.upstream import Upstream
from broker_master.services.whereabouts import Whereabouts
from broker_master.wiring.keys import Keys, build_keys
from broker_master.wiring.operations import build_operations
from broker_master.wiring.ports import Ports
from broker_master.wiring.work import Work, build_work


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
            *_commands(plane, ports, work),
            # Before the clients, whose requests may need an agent's answer.
            *_agents(plane, ports, keys, work),
            # Before the first submit: it knows how much room the event store has.
            work.survey,
            door,
            NatsApi(plane, keys.gate, door),
            *_watch(plane, ports, keys, work, whereabouts),
            Pulse(work.survey.findings, scraper.look),
            *own_endpoint(plane.settings.metrics_http, scraper),
            # Last: its readiness page says that all the others run.
            http,
        ],
    )


def _commands(plane: Plane, ports: Ports, work: Work) -> list[Service]:
    return [
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
        work.connections,
    ]


def _agents(plane: Plane, ports: Ports, keys: Keys, work: Work) -> list[Service]:
    issuer = ports.mesh.issuer
    return [
        work.inputs,
        Upstream(
            plane,
            keys.gate,
            work.presence,
            work.reports,
            work.profiles,
            work.budgets,
            work.inputs,
        ),
        work.fanouts,
        work.addresses,
        Enrolment(plane, issuer, keys.desk),
        RenewalDesk(plane, keys.gate, issuer, keys.desk, keys.revoker, work.presence, work.budgets),
        keys.custody,
        keys.rotator,
        keys.comparison,
    ]


def _watch(
    plane: Plane, ports: Ports, keys: Keys, work: Work, whereabouts: Whereabouts
) -> list[Service]:
    """Services that keep agents and clients within their quotas and rates."""
    return [
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
    ]
