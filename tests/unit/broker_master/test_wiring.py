"""Connections of the parts of a master: each of these tests fails without one of them."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker_master.ca.mesh import Mesh
from broker_master.core.dispatch import Dispatcher
from broker_master.core.findings import StreamSize
from broker_master.services.floods import FloodWatch
from broker_master.wiring.parts import Parts, build
from broker_master.wiring.ports import make_events
from schemas.messages.audit import AuditEntry
from schemas.messages.liveness import HEARS_STORED, Hello
from schemas.messages.work import ControlReply
from schemas.states import State
from schemas.verbs import VERBS
from tests.planes import FakeLink, add_agent, connect
from tests.unit.broker_master.stage import Stage, attempt_of
from tests.unit.broker_master.table import Table


@pytest.fixture
def table(mesh: Mesh) -> Table:
    return Table(mesh)


@pytest.fixture
def parts(table: Table) -> Parts:
    return build(table.plane, table.ports)


# -- the order of the start


async def test_each_part_that_runs_is_started(parts: Parts) -> None:
    started = [*map(id, parts.start_order)]
    assert len({*started}) == len(started)
    held = [*vars(parts.keys).values(), *vars(parts.work).values(), *vars(parts).values()]
    for part in held:
        if hasattr(part, "run") and hasattr(part, "name"):
            assert id(part) in started, part


async def test_services_are_these_in_groups(parts: Parts) -> None:
    names = [getattr(service, "name", "writer") for service in parts.start_order]
    assert names == [
        *("writer", "writer", "writer"),
        *("whereabouts", "audit", "strays", "gate"),
        *("historian", "checkpoint", "statuses"),
        *("transmit", "assign", "presence", "probe", "terms", "receipts", "connections"),
        *("inputs", "upstream", "fanouts", "addresses", "enrolment", "renewals"),
        *("custody", "rotator", "comparison", "survey"),
        *("door", "api", "quotas", "floods", "pulse", "http"),
    ]


async def test_metrics_are_served_on_a_port_of_their_own_as_well(mesh: Mesh) -> None:
    table = Table(mesh)
    settings = cast("Any", table.plane.settings)
    table.plane.settings = type(settings)(metrics_http="127.0.0.1:1")
    (own,) = (
        each
        for each in build(table.plane, table.ports).start_order
        if type(each).__name__ == "ExpositionServer"
    )
    assert cast("Any", own)._port == 1


# -- the connection


async def test_connection_that_goes_and_comes_is_known_to_the_roster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage("web-1")
    called: list[str] = []
    rejoined: list[float] = []
    stage.link.go()
    assert stage.plane.roster.is_cut_off
    monkeypatch.setattr(stage.presence, "_echo", lambda up, _presence: called.append(up.agent))
    monkeypatch.setattr(stage.plane.roster, "on_rejoined", lambda *, now_s: rejoined.append(now_s))
    stage.link.come()
    assert (called, rejoined) == (["web-1"], [stage.clock.elapsed()])


# -- listeners of each event


async def test_slot_that_is_free_gets_what_waits() -> None:
    stage = Stage("web-1")
    taken = [await stage.submit(f"c{number}") for number in range(9)]
    assert taken[-1].state is State.QUEUED
    await stage.reply("web-1", "c0", "accepted", token=attempt_of(taken[0]).token)
    await stage.report("web-1", "c0", "succeeded")
    assert attempt_of(taken[-1]).agent == "web-1"


async def test_command_that_has_ended_is_handed_to_history() -> None:
    stage = Stage("web-1")
    await stage.submit("c1")
    await stage.reply("web-1", "c1", "accepted")
    await stage.report("web-1", "c1", "succeeded")
    assert [record.id for record in stage.ended] == ["c1"]


def noted(stage: Stage, method: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The agents of which the roster is told in this way."""
    told: list[str] = []

    def note(agent: str, **_: object) -> list[object]:
        told.append(agent)
        return []

    monkeypatch.setattr(stage.plane.roster, method, note)
    return told


async def test_agent_that_leaves_requests_unanswered_is_known_to_be_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage("web-1")
    told = noted(stage, "on_untaken", monkeypatch)
    stage.transmitter.on_untaken("web-1")
    assert told == ["web-1"]


async def test_agent_whose_connection_has_ended_is_known_to_the_presence(parts: Parts) -> None:
    assert parts.keys.gate.on_gone._listeners == [parts.work.presence.on_closed]


async def test_agent_that_answers_a_request_is_known_to_take_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage("web-1")
    told = noted(stage, "on_took", monkeypatch)
    await stage.submit("c1")
    await stage.reply("web-1", "c1", "accepted")
    assert told == ["web-1"]


async def test_answer_to_an_order_reaches_who_has_given_it() -> None:
    stage = Stage("web-1")
    given = asyncio.ensure_future(stage.keys.orders.give("web-1", "drain"))
    await stage.rest()
    ((_, token),) = stage.keys.orders._waiting
    stage._say(
        "web-1", "reply", stage.reports.on_reply, ControlReply(kind=cast("Any", "drain")), token
    )
    assert (await given).kind == "drain"


async def test_hello_notifies_its_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("web-1")
    trusted: list[tuple[str, str]] = []
    monkeypatch.setattr(stage.presence, "_on_trust", lambda *said: trusted.append(said))
    said = Hello(incarnation="i1", slots=8, trust="digest", features=[])
    stage._say("web-1", "hello", stage.presence.on_hello, said)
    assert trusted == [("web-1", "digest")]
    assert "web-1" in stage.work.receipts._ears
    said = Hello(incarnation="i1", slots=8, trust="digest", features=[HEARS_STORED])
    stage._say("web-1", "hello", stage.presence.on_hello, said)
    assert "web-1" not in stage.work.receipts._ears


async def test_digest_of_an_agent_reaches_the_rotator(parts: Parts) -> None:
    assert parts.work.presence._on_trust == parts.keys.rotator.note_trust


async def test_agent_that_is_back_has_its_address_asked_for() -> None:
    stage = Stage()
    stage.work.addresses._wanted.clear()
    add_agent(stage.plane, "web-9", "web")
    connect(stage.plane, "web-9")
    stage.presence._want_address()
    assert stage.work.addresses._wanted.is_set()


async def test_alarm_reaches_the_trail(parts: Parts, table: Table, monkeypatch: Any) -> None:  # noqa: ANN401
    written: list[AuditEntry] = []

    async def write(entry: AuditEntry) -> None:
        written.append(entry)

    monkeypatch.setattr(parts.auditor, "_write", write)
    table.plane.note("agent.flood", "web-1", result="alarm")
    await asyncio.sleep(0)
    assert [entry.action for entry in written] == ["agent.flood"]


# -- what is read of each other


async def test_writes_that_stall_are_known_to_the_intake(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    intake = cast("Any", stage.intake)
    stage.writer.stalled_since, stage.writer.is_crowded = 7.0, True
    assert (intake._stalled_since(), intake._is_crowded()) == (7.0, True)
    assert stage.writer.on_stalled._listeners == [stage.intake.on_stalled]


async def test_lag_of_history_is_known_to_intake_notes_and_metrics(
    parts: Parts, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parts.work.intake._history_lag_s == parts.work.historian.lag_s
    around = cast("Any", parts.scraper)._system._around
    assert around.history_lag_s == parts.work.historian.lag_s
    monkeypatch.setattr(parts.work.historian, "lag_s", lambda: 99.0)
    caller = cast("Any", SimpleNamespace(groups=[]))
    assert any("99 s behind" in line for line in parts.work.views._notes(caller))


async def test_room_of_the_store_is_one_for_who_looks_and_who_asks(parts: Parts) -> None:
    room = parts.work.survey._room
    assert room is parts.work.intake._room
    room.note_size(10**15, 0)
    assert not room.has(1)


async def test_room_of_the_store_counts_what_was_appended(parts: Parts, table: Table) -> None:
    room = parts.work.survey._room
    room.note_size(0, 0)
    assert room.has(1)
    table.facts.appended_bytes = 10**15
    assert not room.has(1)


async def test_results_of_a_lost_connection_are_kept_for_the_next() -> None:
    stage = Stage()
    results = cast("Any", stage.settler)._results
    stage.clock.advance(7)
    results.publish("mesh.v1.result.ops.c1", b"end")
    stage.link.go()
    assert results._lost_s == stage.clock.elapsed()
    stage.link.come()
    assert stage.link.published.count(("mesh.v1.result.ops.c1", b"end")) == 2


async def test_certificate_in_the_audit_trail_becomes_an_event(parts: Parts, table: Table) -> None:
    parts.auditor.on_taken(
        AuditEntry(at=1.0, by="web-1", actor="agent", action="agent.renew", target="web-1")
    )
    assert len(table.plane.telemetry.eventlog) == 1


async def test_changes_of_agents_and_terms_reach_the_status_of_their_group(parts: Parts) -> None:
    note_group = parts.work.connections.note_group
    assert cast("Any", parts.work.presence)._on_change == note_group
    assert cast("Any", parts.work.transitions)._on_change == note_group


async def test_budgets_know_the_agents_of_the_registry() -> None:
    is_known = cast("Any", Stage("web-1").transmitter)._budgets._is_known
    assert is_known("web-1")
    assert not is_known("stranger")


async def test_probes_and_pulse_have_their_listeners(parts: Parts) -> None:
    made = {type(each).__name__: cast("Any", each) for each in parts.start_order}
    assert made["Prober"]._on_untaken == parts.work.presence.on_untaken
    assert made["Pulse"]._look == parts.scraper.look


async def test_findings_of_the_survey_reach_notes_and_metrics(parts: Parts, table: Table) -> None:
    parts.work.survey.findings.streams["MESH_EVENTS"] = StreamSize(5, 10**15)
    parts.work.survey.findings.disk_free = 0.01
    caller = cast("Any", SimpleNamespace(groups=[]))
    assert len(parts.work.views._notes(caller)) >= 2
    page = (await parts.scraper.page(False)).body.decode()
    assert f'mesh_stream_bytes{{stream="MESH_EVENTS"}} {10**15}' in page


async def test_budgets_are_one_for_who_earns_and_who_spends(parts: Parts) -> None:
    services = {
        service.name: cast("Any", service)
        for service in parts.start_order
        if hasattr(service, "name")
    }
    budgets = parts.work.budgets
    assert services["transmit"]._budgets is budgets
    assert services["upstream"]._budgets is budgets
    assert services["renewals"]._budgets is budgets


async def test_keys_that_are_refused_or_our_own_are_nobody_elses(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = cast("Any", parts.keys.desk)
    assert desk._own == parts.keys.custody.own_keys
    # A set of this test's own: two empty sets are equal, and no proof of one source.
    monkeypatch.setattr(type(parts.keys.revoker), "refused", property(lambda _: {"UX"}))
    assert desk._refused() == {"UX"}
    assert cast("Any", parts.keys.comparison)._own == parts.keys.custody.own_users


async def test_own_certificates_are_put_to_use_on_both_connections(
    parts: Parts, table: Table
) -> None:
    links = cast("Any", parts.keys.custody)._links
    assert links == {"master": table.plane.link, "system": table.ports.system_link}


async def test_write_takes_its_time_while_commands_wait() -> None:
    dispatcher = Dispatcher()
    streams = cast("Any", SimpleNamespace(link=FakeLink()))
    events = make_events(streams, dispatcher)
    assert not events._is_patient()
    dispatcher.is_saturated = lambda least: least == 64  # type: ignore[method-assign]
    assert events._is_patient()
    assert events._limits.heavy_bytes == 512 * 1024


async def test_every_verb_has_its_handler(parts: Parts) -> None:
    table = parts.operations._table
    assert {f"{noun}.{verb}" for noun, verb in table} == {*VERBS}


async def test_floods_are_weighed_by_the_budgets_that_hear_agents(parts: Parts) -> None:
    (floods,) = (cast("Any", each) for each in parts.start_order if isinstance(each, FloodWatch))
    assert floods._budgets is parts.work.budgets
    assert floods._own == parts.keys.custody.own_users
    assert floods._nodes() is parts.keys.gate.nodes
