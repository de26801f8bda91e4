"""Every connection of the parts of an agent: each of these tests fails without one of them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from broker_agent.core.lease import LeasePhase
from broker_agent.executors.base import OrphanedAttempt
from broker_agent.executors.cells import Cells
from broker_agent.services.doctor import _ends
from broker_agent.services.status import read_status
from broker_agent.settings import AgentSettings
from broker_agent.store.rows import AttemptRow
from broker_agent.warden.table import read_table
from broker_agent.wiring.parts import build
from broker_client.cli.doctor.findings import Trouble
from broker_client.runtime import logs
from broker_client.runtime.exposition import ExpositionServer
from broker_client.runtime.frames import Msg
from broker_client.runtime.notify import ServiceManager
from schemas import subjects
from schemas.addresses import digest
from schemas.faults import MeshError, Refused
from schemas.messages.liveness import Welcome
from schemas.messages.work import Control, ControlReply
from schemas.states import State
from schemas.timers import Timers
from tests.fake_clock import FakeClock
from tests.host.broker_agent.rig import NOT_AFTER, WAIT_S, Rig
from tests.waiting import eventually

TIMERS = Timers(beat_s=1, suspect_s=5, ack_s=1, grace_s=0.3, lost_s=60, handshake_s=0.2)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, clock=FakeClock(), timers=TIMERS)
    yield rig
    await rig.close()


def clock(rig: Rig) -> FakeClock:
    assert isinstance(rig.clock, FakeClock)
    return rig.clock


def status(rig: Rig) -> Any:  # noqa: ANN401
    return read_status(rig.ports.state_dir)


def names(rig: Rig) -> list[str]:
    return [service.name for service in rig.parts.start_order]


# -- the order of the start


async def test_each_part_that_runs_is_started(rig: Rig) -> None:
    held = [rig.parts, rig.parts.work, rig.parts.contact, rig.parts.inbound]
    parts = [part for each in held for part in vars(each).values()]
    services = [part for part in parts if hasattr(part, "run") and hasattr(part, "name")]
    assert len(services) == len(rig.parts.start_order)
    assert {*map(id, services)} == {*map(id, rig.parts.start_order)}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("warden", "carrier"),
        ("carrier", "handshake"),
        ("resources", "heartbeats"),
        ("reporter", "handshake"),
        ("shipper", "handshake"),
        ("watchdog", "handshake"),
        ("handshake", "heartbeats"),
        ("heartbeats", "echo_watch"),
    ],
)
async def test_part_starts_before_its_dependents(rig: Rig, first: str, then: str) -> None:
    assert names(rig).index(first) < names(rig).index(then)


async def test_service_manager_is_notified_last(rig: Rig) -> None:
    assert names(rig)[-1] == "notices"


# -- messages of the connection


async def test_agent_subscribes_to_its_own_subjects_alone(rig: Rig) -> None:
    assert [*rig.wire.subscribed] == ["mesh.v1.down.g1.a1.>"]
    assert rig.wire.subscribed["mesh.v1.down.g1.a1.>"] == rig.inbox.on_message


async def test_run_is_answered_and_its_report_is_released(rig: Rig) -> None:
    rig.link()
    rig.serve()
    rig.run("n1")
    report = await rig.end_of("n1")
    rig.release(report)
    await eventually(lambda: not len(rig.station.book), WAIT_S)


async def test_selftest_message_is_not_counted_as_malformed(rig: Rig) -> None:
    rig.inbox.on_message(Msg("mesh.v1.down.g1.a1.selftest", "", b"x"))
    assert rig.inbox.skipped == 0


async def test_acknowledgement_of_stored_output_reaches_the_shipper(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Msg] = []
    monkeypatch.setattr(rig.shipper._transit, "on_stored", said.append)
    msg = Msg(f"mesh.v1.down.g1.a1.{subjects.STORED}.c1.1.stdout", "", b"")
    rig.inbox.on_message(msg)
    assert said == [msg]


async def test_expired_lease_is_noticed_before_a_message_is_read(rig: Rig) -> None:
    rig.link()
    clock(rig).advance(TIMERS.unrecoverable_s + 1)
    rig.inbox.on_message(Msg("mesh.v1.down.g1.a1.selftest", "", b""))
    assert rig.lease.phase is LeasePhase.FENCED


def order(rig: Rig, kind: str, **fields: Any) -> ControlReply:  # noqa: ANN401
    rig.send("control", Control(kind=kind, epoch=rig.lease.epoch, token="ctl", **fields))
    return rig.control_replies()[-1]


async def test_order_to_rotate_reaches_the_renewer(rig: Rig) -> None:
    order(rig, "rotate")
    assert rig.parts.contact.renewer._renewal.next_at() == 0.0


async def test_order_to_trust_reaches_the_slots(rig: Rig) -> None:
    order(rig, "trust", ca_pem="new")
    assert rig.slots.trusted == [b"new"]


async def test_order_to_drain_shows_in_heartbeats_and_on_the_host(rig: Rig) -> None:
    order(rig, "drain")
    rig.heartbeats.send()
    rig.parts.status.write()
    assert (rig.beats_sent()[-1].draining, status(rig).draining) == (True, True)


# -- effects of an echo, a welcome, a disconnect


async def test_echo_renews_the_lease_in_the_wardens_table(rig: Rig) -> None:
    rig.link()
    assert rig.lease.is_linked
    assert rig.lease.renewed_at == rig.clock.elapsed()
    assert read_table(rig.table.fd).renewed_at == rig.lease.renewed_at


async def test_first_reconciled_echo_is_notified_once_and_each_wakes_the_watchdog(rig: Rig) -> None:
    rig.link()
    rig.watchdog._wake.clear()
    rig.echo()
    assert (rig.ready, rig.watchdog._wake.is_set()) == (1, True)
    assert status(rig).link == LeasePhase.LINKED


@pytest.mark.parametrize("by", ["echo", "welcome"])
async def test_epoch_of_a_new_master_is_stored_as_a_fencing_token(
    rig: Rig, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.link()
    noted: list[int] = []
    monkeypatch.setattr(rig.journal, "note_epoch", noted.append)
    if by == "echo":
        rig.echo(7)
    else:
        rig.serve(rig.handshake)
        rig.wire.go()
        rig.wire.come()
        await eventually(rig.hellos, WAIT_S)
        rig.welcome(epoch=7)
        await eventually(lambda: noted, WAIT_S)
    assert noted[-1] == 7
    assert logs._of_process["epoch"] == 7


async def test_epoch_of_a_new_master_retries_the_renewal(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.link()
    told: list[bool] = []
    monkeypatch.setattr(rig.parts.contact.renewer, "on_new_master", lambda: told.append(True))
    rig.echo(7)
    assert told == [True]


async def test_addresses_of_a_welcome_are_stored_used_and_confirmed(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.wire.come()
    await eventually(rig.hellos, WAIT_S)
    urls = ["tls://old:4222", "tls://new:4222"]
    rig.welcome(epoch=7, urls=urls)
    await eventually(lambda: any(hello.done for hello in rig.hellos()), WAIT_S)
    assert rig.slots.urls == tuple(urls)
    assert rig.ways.looked_at == [tuple(urls)]
    done = next(hello for hello in rig.hellos() if hello.done)
    assert done.details.addresses == digest(urls)


@pytest.mark.parametrize("forged", [{"incarnation": "another"}, {"epoch": 3}], ids=str)
async def test_sec_s37_welcome_that_does_not_count_brings_no_address(
    rig: Rig, forged: dict[str, Any]
) -> None:
    """One to another start of the agent, or of a master that was replaced."""
    rig.serve(rig.handshake)
    rig.wire.come()
    await eventually(rig.hellos, WAIT_S)
    rig.welcome(epoch=7, urls=["tls://good:4222"])
    await eventually(lambda: any(hello.done for hello in rig.hellos()), WAIT_S)
    before = len(rig.hellos())
    rig.echo(epoch=7, reconciled=False)
    await eventually(lambda: len(rig.hellos()) > before, WAIT_S)
    evil = {"epoch": 7, "incarnation": rig.lease.incarnation, "urls": ["tls://evil:4222"]}
    with contextlib.suppress(Refused):
        rig.send("welcome", Welcome(**{**evil, **forged}))
    rig.welcome(epoch=7, urls=["tls://better:4222"])
    await eventually(lambda: ("tls://better:4222",) in rig.ways.looked_at, WAIT_S)
    assert not any("evil" in url for urls in rig.ways.looked_at for url in urls)


async def test_sec_s37_addresses_without_tls_or_of_no_host_are_left_out(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.wire.come()
    await eventually(rig.hellos, WAIT_S)
    bad = ["nats://evil:4222", "ws://evil:80", "tls://0.0.0.0:4222", "tls://evil:99999"]
    rig.welcome(epoch=7, urls=[*bad, "tls://good:4222"])
    await eventually(lambda: any(hello.done for hello in rig.hellos()), WAIT_S)
    assert rig.ways.looked_at == [("tls://good:4222",)]


async def test_echo_that_asks_for_a_handshake_gets_one(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.echo(reconciled=False)
    await eventually(rig.hellos, WAIT_S)


async def test_hello_says_who_the_agent_is(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.wire.come()
    await eventually(rig.hellos, WAIT_S)
    hello = rig.hellos()[-1]
    assert hello.details.version == "1.2.3"
    assert (hello.certificate_serial, hello.certificate_not_after) == ("1", NOT_AFTER)
    assert len(hello.trust) == 16


async def test_reconnect_resets_the_echo_watch_begins_a_handshake_and_writes_the_status(
    rig: Rig,
) -> None:
    rig.wire.is_connected = False
    clock(rig).advance(100)
    rig.wire.come()
    assert rig.parts.contact.echo_watch._since == rig.clock.elapsed()
    assert rig.handshake._wanted.is_set()
    assert status(rig).connected


async def test_disconnect_reaches_lease_output_and_status(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[None] = []
    monkeypatch.setattr(rig.shipper._transit, "on_disconnected", lambda: lost.append(None))
    rig.link()
    rig.parts.status.write()
    rig.wire.go()
    assert (rig.lease.reconciled, len(lost), status(rig).connected) == (False, 1, False)


async def test_accepted_connection_is_noted_by_the_renewer(rig: Rig) -> None:
    rig.parts.contact.renewer._wake.clear()
    rig.wire.come()
    assert rig.parts.contact.renewer._wake.is_set()


# -- changes that are sent at once


def said(rig: Rig) -> tuple[int, Any]:
    return len(rig.beats_sent()), status(rig)


async def test_change_of_resources_is_sent_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_agent.services.resources._disk_free", lambda _path: -1.0)
    rig.parts.work.room.look()
    heartbeats, line = said(rig)
    assert (heartbeats, "disk" in line.full) == (1, True)
    assert "disk" in str(rig.beats_sent()[-1].lacks)


async def test_failed_renewal_is_sent_at_once(rig: Rig) -> None:
    await rig.parts.contact.renewer._fail(
        cast("Any", rig.parts.contact.renewer)._renewal.step, MeshError("no_answer", "nobody")
    )
    heartbeats, line = said(rig)
    assert heartbeats == 1
    assert "nobody" in rig.beats_sent()[-1].renewal
    assert "renewal failed" in line.reason


async def test_phase_of_the_lease_is_written_when_time_changes_it(rig: Rig) -> None:
    rig.link()
    clock(rig).advance(TIMERS.suspect_s + 1)
    rig.watchdog.look()
    assert status(rig).link == LeasePhase.SUSPECT


async def test_freed_slot_ends_a_fencing(rig: Rig) -> None:
    rig.watchdog._wake.clear()
    rig.lease.phase = LeasePhase.FENCING
    rig.runner.note_idle()
    assert rig.watchdog._wake.is_set()


async def test_relocated_agent_reports_it(rig: Rig) -> None:
    rig.parts.contact.renewer._on_relocated()
    assert rig.relocated == 1


# -- values that parts read of each other


async def test_waiting_output_counts_as_spool(tmp_path: Path, rig: Rig) -> None:
    settings = AgentSettings(spool_bytes=1 << 20, disk_free=0.0)
    (tmp_path / "small").mkdir()
    small = Rig(tmp_path / "small", settings=settings)
    try:
        small.shipper._followed[("c", 1)] = cast("Any", Waiting(1 << 21))
        small.parts.work.room.look()
        assert "spool" in [*small.parts.work.room.lacks]
        small.heartbeats.send()
        assert small.beats_sent()[-1].spool_bytes == 1 << 21
    finally:
        small.shipper._followed.clear()
        await small.close()


class Waiting:
    """Output that waits for the broker."""

    def __init__(self, waiting_bytes: int) -> None:
        self.waiting_bytes = waiting_bytes


async def test_measurement_of_resources_reaps_orphans(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[None] = []
    monkeypatch.setattr("broker_agent.services.resources.LOOK_S", 0.01)
    monkeypatch.setattr(rig.processes, "reap", lambda: turns.append(None))
    rig.serve(rig.parts.work.room)
    await eventually(lambda: turns, WAIT_S)


async def test_agent_with_an_expired_certificate_takes_no_work(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.link()
    monkeypatch.setattr(
        rig.parts.contact.renewer,
        "facts",
        msgspec.structs.replace(rig.slots.facts(), not_after=1.0),
    )
    rig.run("n1")
    assert (await rig.reply_to("n1")).code == "agent_expired"


async def test_agent_short_of_resources_takes_no_work(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.link()
    monkeypatch.setattr(rig.parts.work.room, "refusal", lambda: "no room at all")
    rig.run("c1", ["true"])
    assert "no room at all" in (await rig.reply_to("c1")).message


# -- resources of executors


async def test_programs_are_marked_and_found_by_their_marks(rig: Rig) -> None:
    marks = rig.processes._marks
    assert marks == {
        b"MESH_AGENT": b"a1",
        b"MESH_GROUP": b"g1",
        b"MESH_INCARNATION": rig.lease.incarnation.encode(),
    }


async def test_executor_has_what_the_others_have(rig: Rig) -> None:
    processes = cast("Any", rig.processes)
    assert processes.carrier is rig.carrier
    assert processes.table is rig.table
    assert processes.task_processes.others is rig.carrier.others
    assert processes.task_processes.others is rig.parts.work.post.others
    assert processes.cells is rig.ports.cells
    assert processes._env == rig.ports.conditions.env
    assert processes.grace_s() == TIMERS.grace_s
    assert processes.elapsed() == rig.clock.elapsed()


async def test_group_commit_is_delayed_while_no_task_would_start_sooner(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not rig.parts.is_patient()
    monkeypatch.setattr(type(rig.processes), "is_behind", True)
    assert rig.parts.is_patient()


async def test_group_commit_is_delayed_while_all_slots_are_taken(tmp_path: Path) -> None:
    full = Rig(tmp_path, slots=0)
    try:
        assert full.parts.is_patient()
    finally:
        await full.close()


# -- shutdown, and recovery


async def test_draining_shutdown_notifies_master_and_service_manager(
    rig: Rig, tmp_path: Path
) -> None:
    rig.link()
    rig.serve()
    manager, heard = listener(tmp_path)
    parts = build(rig.station, replace(rig.ports, manager=manager))
    assert parts.leaving.standing == "linked, 0 tasks running"
    await parts.leaving.leave(asyncio.Event())
    assert parts.work.running.is_draining
    assert b"STOPPING=1" in took(heard)
    assert [(beat.goodbye, beat.empty) for beat in rig.beats_sent()[-2:]] == [
        (False, False),
        (True, True),
    ]
    assert status(rig).draining
    assert rig.wire.flushed == 1
    assert parts.leaving.standing == "stopping, 0 tasks running"
    heard.close()


async def test_task_is_stopped_after_the_drain_timeout(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=AgentSettings(drain_s=0.01, disk_free=0.0))
    try:
        rig.link()
        rig.serve()
        rig.run("c1", ["sleep", "600"])
        await rig.reply_to("c1")
        leaving = asyncio.ensure_future(rig.parts.leaving.leave(asyncio.Event()))
        end = await rig.end_of("c1")
        assert end.state == State.CANCELLED
        rig.release(end)
        async with asyncio.timeout(WAIT_S):
            await leaving
        goodbye = rig.beats_sent()[-1]
        assert (goodbye.goodbye, goodbye.empty) == (True, True)
    finally:
        await rig.close()


async def test_service_manager_reads_one_line_of_the_agent(rig: Rig, tmp_path: Path) -> None:
    manager, heard = listener(tmp_path)
    parts = build(rig.station, replace(rig.ports, manager=manager))
    rig.serve(parts.notices)
    await eventually(lambda: b"fenced, 0 tasks running" in took(heard), WAIT_S)
    heard.close()


def took(heard: socket.socket) -> bytes:
    """Receive a datagram that has arrived; empty without."""
    try:
        return heard.recv(4096)
    except BlockingIOError:
        return b""


def listener(folder: Path) -> tuple[ServiceManager, socket.socket]:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.setblocking(False)
    heard.bind(str(folder / "notify"))
    return ServiceManager(str(folder / "notify")), heard


async def test_orphaned_attempt_of_an_earlier_start_is_ended_and_reported(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = AttemptRow(1, "c1", 1, "inc-0", State.RUNNING, accepted_at=1.0, started_at=1.0, pid=4711)
    ended: list[OrphanedAttempt] = []

    def end_orphans(left: OrphanedAttempt) -> int:
        ended.append(left)
        return 1

    monkeypatch.setattr(rig.processes, "end_orphans", end_orphans)
    rig.folders.make("c9", 1).close()
    rig.journal.rows = [row]
    rig.parts.recovery.recover()
    assert [left.mark[0] for left in ended] == [4711]
    assert rig.station.book.get("c1", 1) is not None
    await eventually(lambda: not (tmp_path / "tasks" / rig.folders.name("c9", 1)).exists(), WAIT_S)


async def test_status_shows_whether_tasks_have_cells(rig: Rig) -> None:
    rig.parts.status.write()
    assert status(rig).cells is False
    enclosed = replace(rig.ports, cells=Cells("/nowhere", "a1", "i"))
    build(rig.station, enclosed).status.write()
    assert status(rig).cells is True


async def test_status_and_doctor_report_tasks_without_a_cell(rig: Rig, tmp_path: Path) -> None:
    cells = Cells("/nowhere", "a1", "i")
    parts = build(rig.station, replace(rig.ports, cells=cells))
    parts.status.write()
    settings = AgentSettings()
    assert _ends(rig.ports.state_dir, settings)[0].startswith("each task begins in a control group")
    cells.note_missed("no space left on device")
    cells.note_missed("device or resource busy")
    parts.status.write_if_changed()
    assert (status(rig).uncelled, status(rig).uncelled_why) == (2, "device or resource busy")
    with pytest.raises(Trouble) as told:
        _ends(rig.ports.state_dir, settings)
    assert told.value.found.startswith("2 tasks began without their control group: device or")


async def test_warden_is_given_the_paths_of_the_cells(rig: Rig) -> None:
    post = build(rig.station, replace(rig.ports, cells=Cells("/nowhere", "a1", "i"))).work.post
    assert post._cells == "/nowhere/mesh-a1-i-"
    assert post._table is rig.table
    assert post._log_path == rig.ports.state_dir / "warden.log"


async def test_endpoint_serves_the_agents_metrics(rig: Rig) -> None:
    assert rig.parts.endpoint == []
    settings = AgentSettings(metrics_port=1)
    cells = Cells("/nowhere", "a1", "i")
    cells.note_missed("no space left on device")
    parts = build(rig.station, replace(rig.ports, settings=settings, cells=cells))
    (endpoint,) = parts.endpoint
    assert endpoint in parts.start_order
    assert isinstance(endpoint, ExpositionServer)
    assert (endpoint._host, endpoint._port) == ("127.0.0.1", 1)
    rig.wire.reconnects = 3
    text = (await endpoint._render(False)).body.decode()
    for line in (
        'mesh_local_build_info{agent="a1",group="g1",version="1.2.3"} 1',
        "mesh_local_broker_reconnects_total 3",
        f"mesh_local_certificate_not_after_timestamp_seconds {NOT_AFTER:.0f}",
        'mesh_local_run_requests_total{answer="accepted"} 0',
        "mesh_local_log_buffer_bytes 0",
        "mesh_local_tasks_without_cell_total 1",
    ):
        assert line in text
