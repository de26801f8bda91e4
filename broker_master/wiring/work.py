"""Connects the parts that move commands along."""

from dataclasses import dataclass

from broker_master.core.budgets import Budgets
from broker_master.core.commands import Command
from broker_master.core.liveness import Presence
from broker_master.core.room import StoreRoom
from broker_master.metrics.survey import Survey
from broker_master.plane import Plane
from broker_master.services.addresses import Addresses
from broker_master.services.aftermath import Aftermath
from broker_master.services.assign import Assigner
from broker_master.services.cancel import Canceller
from broker_master.services.connection_views import ConnectionViews
from broker_master.services.fanout import Fanouts
from broker_master.services.historian import Historian
from broker_master.services.inputs import Inputs
from broker_master.services.intake import Intake
from broker_master.services.lastlines import LastLines
from broker_master.services.late_results import LateResults
from broker_master.services.notes import notes
from broker_master.services.presence import Listeners, PresenceService
from broker_master.services.profiles import ProfileReceiver
from broker_master.services.receipts import Receipts
from broker_master.services.reports import Reports
from broker_master.services.results import ResultPublisher
from broker_master.services.settle import Settler
from broker_master.services.transitions import AdminTransitions
from broker_master.services.transmit import Transmitter
from broker_master.services.views import Views
from broker_master.wiring.keys import Keys
from broker_master.wiring.ports import Ports
from schemas.messages.facts import CommandRecord


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
    connections: ConnectionViews
    profiles: ProfileReceiver
    presence: PresenceService
    late: LateResults
    reports: Reports
    intake: Intake
    inputs: Inputs
    fanouts: Fanouts
    transitions: AdminTransitions


def build_work(plane: Plane, ports: Ports, keys: Keys) -> Work:
    historian = Historian(plane, ports.history)
    results = ResultPublisher(plane.link, plane.clock)
    plane.link.on_disconnected(lambda _reason: results.on_disconnected())
    plane.link.on_connected(results.on_connected)
    inputs = Inputs(plane, ports.streams)

    def on_ended(command: Command, record: CommandRecord) -> None:
        historian.add(command, record)
        inputs.release(command.accepted)

    settler = Settler(plane, results, on_ended)
    budgets = Budgets(plane.timers, lambda agent: agent in plane.registry.agents)
    transmitter = Transmitter(plane, settler, budgets)
    assigner = Assigner(plane, settler, transmitter)
    canceller = Canceller(plane, settler, transmitter)
    room = StoreRoom(plane.settings.limits.event_bytes, lambda: plane.facts.appended_bytes)
    survey = Survey(plane, ports.streams, ports.mesh.directory, room)
    views = Views(
        plane,
        historian.recents.of,
        lambda caller: notes(plane, caller, survey.findings, historian.lag_s()),
    )
    connections = ConnectionViews(plane, views)
    addresses = Addresses(plane, ports.system)
    receipts = Receipts(plane, ports.streams)
    presence = PresenceService(
        plane,
        settler,
        assigner,
        _aftermath(plane, ports, settler),
        Listeners(
            want_address=addresses.want,
            on_change=connections.note_group,
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
    intake = _intake(plane, ports, assigner, room, historian, inputs)
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
        connections=connections,
        profiles=_profiles(plane, presence, connections),
        presence=presence,
        late=late,
        reports=reports,
        intake=intake,
        inputs=inputs,
        fanouts=Fanouts(plane, ports.fanouts, intake, views, ports.restored),
        transitions=_transitions(plane, keys, presence, connections, historian),
    )


def _aftermath(plane: Plane, ports: Ports, settler: Settler) -> Aftermath:
    folder = ports.mesh.directory
    return Aftermath(plane, settler, folder, earlier=ports.earlier, restored=ports.restored)


def _intake(
    plane: Plane,
    ports: Ports,
    assigner: Assigner,
    room: StoreRoom,
    historian: Historian,
    inputs: Inputs,
) -> Intake:
    events = ports.events
    return Intake(
        plane,
        assigner,
        room,
        history_lag_s=historian.lag_s,
        stalled_since=lambda: events.stalled_since,
        is_crowded=lambda: events.is_crowded,
        inputs=inputs,
    )


def _profiles(
    plane: Plane, presence: PresenceService, connections: ConnectionViews
) -> ProfileReceiver:
    def on_change(changed: Presence) -> None:
        presence.sync_member(changed)
        connections.note_group(changed.group)

    return ProfileReceiver(plane, on_change)


def _transitions(
    plane: Plane,
    keys: Keys,
    presence: PresenceService,
    connections: ConnectionViews,
    historian: Historian,
) -> AdminTransitions:
    def on_gone(agent: str) -> None:
        historian.recents.forget(agent)
        plane.profiles.forget(agent)

    return AdminTransitions(
        plane,
        presence,
        keys.revoker,
        keys.orders,
        on_change=connections.note_group,
        on_gone=on_gone,
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
