"""Connects the parts of heartbeats, handshake and renewal."""

from collections.abc import Callable
from dataclasses import dataclass

from broker_agent.services.echo_watch import EchoWatch
from broker_agent.services.handshake import Handshake, Introduction
from broker_agent.services.heartbeats import Heartbeats
from broker_agent.services.recall import Recall
from broker_agent.services.renewer import Renewer
from broker_agent.services.wire import Station
from broker_agent.wiring.ports import Ports
from broker_agent.wiring.work import Work
from broker_client.runtime.logs import bind_process
from broker_client.runtime.tls import trust_digest
from schemas.messages.liveness import Welcome


@dataclass(frozen=True, kw_only=True)
class Contact:
    """Parts that speak with the master about this agent: who it is, and that it lives."""

    renewer: Renewer
    heartbeats: Heartbeats
    handshake: Handshake
    echo_watch: EchoWatch
    note_epoch: Callable[[int], None]


def build_contact(station: Station, ports: Ports, work: Work) -> Contact:
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
        running=work.running,
        reporter=work.reporter,
        shipper=work.shipper,
        chance=ports.chance,
        room=work.room,
        renewal=lambda: renewer.failed,
        profiles=lambda: work.profiles.digest,
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
        running=work.running,
        runner=work.runner,
        reporter=work.reporter,
        heartbeats=heartbeats,
        recall=Recall(station.book, ports.journal, work.runner),
        introduction=Introduction(
            details=ports.details,
            certificate=lambda: (renewer.facts.serial, renewer.facts.not_after),
            trust=lambda: trust_digest(ports.slots.ca_pem()),
            addresses=lambda: renewer.addresses,
        ),
        on_agreed=note_welcome,
    )
    return Contact(
        renewer=renewer,
        heartbeats=heartbeats,
        handshake=handshake,
        echo_watch=EchoWatch(station),
        note_epoch=note_epoch,
    )
