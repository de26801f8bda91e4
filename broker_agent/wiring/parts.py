"""Connects all parts of an agent, and puts its services in their order of start."""

from dataclasses import dataclass

from broker_agent.executors.registry import Executors
from broker_agent.services.intake import Intake
from broker_agent.services.leaving import Leaving
from broker_agent.services.recovery import Recovery
from broker_agent.services.renewer import Renewer
from broker_agent.services.reporter import Reporter
from broker_agent.services.status import StatusFile
from broker_agent.services.wire import Station
from broker_agent.wiring.contact import Contact, build_contact
from broker_agent.wiring.inbound import Inbound, build_inbound, listen
from broker_agent.wiring.ports import Ports
from broker_agent.wiring.work import Work, build_work
from broker_client.runtime.notify import Notices
from broker_client.runtime.supervise import Service


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An agent, connected and not yet running."""

    station: Station
    work: Work
    contact: Contact
    inbound: Inbound
    status: StatusFile
    recovery: Recovery
    leaving: Leaving
    endpoint: list[Service]
    notices: Notices

    @property
    def start_order(self) -> list[Service]:
        """Services in their order of start; they stop in reverse order."""
        work, contact = self.work, self.contact
        return [
            # Before any task: each needs the warden, and a reader of its output.
            work.post,
            work.carrier,
            # Before the first heartbeat, which names the resources that are short.
            work.room,
            # As well: it has their digest.
            work.profiles,
            # Before the handshake, after which both send.
            work.reporter,
            work.shipper,
            # Before the handshake, which allows tasks to run until the lease expires.
            work.watchdog,
            # Before the heartbeats: their echo may ask for a handshake.
            contact.handshake,
            contact.heartbeats,
            # After the services whose heartbeats and echoes it watches.
            contact.echo_watch,
            contact.renewer,
            *self.endpoint,
            # Last: it reports that all the others run.
            self.notices,
        ]

    def is_patient(self) -> bool:
        """Whether the journal may delay a group commit: no task would start sooner without."""
        return self.station.book.is_full or self.work.executors.are_behind


def build(station: Station, ports: Ports) -> Parts:
    """Connect all parts of one agent. Call it in the loop of its services."""
    work = build_work(station, ports)
    contact = build_contact(station, ports, work)
    renewer = contact.renewer
    status = StatusFile(
        ports.state_dir,
        station,
        running=work.running,
        handshake=contact.handshake,
        room=work.room,
        trouble=lambda: renewer.trouble,
        enclosure=lambda: work.executors.enclosure,
        profiles=work.profiles,
    )
    inbound = build_inbound(station, ports, work, contact, status)
    listen(station, ports.line, inbound.inbox, contact, work.shipper, status)
    leaving = Leaving(
        station,
        running=work.running,
        runner=work.runner,
        reporter=work.reporter,
        heartbeats=contact.heartbeats,
        manager=ports.manager,
        flush=ports.line.flush,
        drain_s=ports.settings.drain_s,
    )
    return Parts(
        station=station,
        work=work,
        contact=contact,
        inbound=inbound,
        status=status,
        recovery=Recovery(
            journal=ports.journal,
            folders=ports.folders,
            executors=work.executors,
            runner=work.runner,
        ),
        leaving=leaving,
        endpoint=_endpoint(station, ports, work.executors, inbound.intake, work.reporter, renewer),
        notices=Notices(ports.manager, lambda: leaving.standing),
    )


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
