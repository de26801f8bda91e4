"""Connects the parts that take the messages of the master."""

from dataclasses import dataclass

from broker_agent.services.control import ControlHandler
from broker_agent.services.inbox import Echoes, Inbox
from broker_agent.services.intake import Intake
from broker_agent.services.linked import Linked
from broker_agent.services.shipper import Shipper
from broker_agent.services.status import StatusFile
from broker_agent.services.wire import AgentLink, Station
from broker_agent.wiring.contact import Contact
from broker_agent.wiring.ports import Ports
from broker_agent.wiring.work import Work


@dataclass(frozen=True, kw_only=True)
class Inbound:
    """Parts that take the messages of the master."""

    intake: Intake
    inbox: Inbox


def build_inbound(
    station: Station, ports: Ports, work: Work, contact: Contact, status: StatusFile
) -> Inbound:
    renewer, handshake = contact.renewer, contact.handshake
    intake = Intake(
        station,
        journal=ports.journal,
        running=work.running,
        runner=work.runner,
        reporter=work.reporter,
        room=work.room,
        valid_until=lambda: renewer.facts.not_after,
    )
    echoes = Echoes(
        station,
        on_linked=Linked(work.watchdog, status, ports.on_ready).on_linked,
        on_unagreed=handshake.on_unagreed,
        on_epoch=contact.note_epoch,
        on_renewed=work.post.tell,
        on_profiles=work.profiles.tell,
    )
    controls = ControlHandler(station, work.running, rotate=renewer.order, trust=ports.slots.trust)
    inbox = Inbox(
        station,
        {
            "run": intake.on_run,
            "release": work.runner.on_release,
            "echo": echoes.on_echo,
            "welcome": handshake.on_welcome,
            "control": controls.on_control,
            "input": work.inputs.on_input,
            # Only for a connection under trial, which subscribes by itself.
            "selftest": lambda _payload: None,
        },
        check_lease=work.watchdog.check,
        on_stored=work.shipper.on_stored,
    )
    return Inbound(intake=intake, inbox=inbox)


def listen(
    station: Station,
    line: AgentLink,
    inbox: Inbox,
    contact: Contact,
    shipper: Shipper,
    status: StatusFile,
) -> None:
    """Subscribe, and register the callbacks of connect and disconnect in their order."""
    line.subscribe(station.address.down, inbox.on_message)
    line.on_connected(contact.echo_watch.on_connected)
    line.on_connected(contact.handshake.ask)
    line.on_connected(status.write)
    line.on_disconnected(lambda _reason: station.lease.on_disconnected())
    line.on_disconnected(lambda _reason: shipper.on_disconnected())
    line.on_disconnected(lambda _reason: status.write())
