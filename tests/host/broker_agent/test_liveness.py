"""Handshake, heartbeat and fencing of an agent; the test plays the master and moves the clock."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from broker_agent.core.lease import LeasePhase
from broker_agent.services.echo_watch import EchoWatch
from schemas.faults import Refused
from schemas.messages.liveness import Echo, TaskDecision, Welcome
from schemas.states import State
from schemas.timers import Timers
from tests.fake_clock import FakeClock
from tests.host.broker_agent.rig import WAIT_S, Rig
from tests.waiting import eventually

# Longer than any wait of a test: it ends because something ends it.
SLEEP = ["sleep", "600"]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    timers = Timers(beat_s=1, suspect_s=5, ack_s=1, grace_s=0.3, lost_s=60, handshake_s=0.2)
    rig = Rig(tmp_path, clock=FakeClock(), timers=timers)
    yield rig
    await rig.close()


def clock(rig: Rig) -> FakeClock:
    assert isinstance(rig.clock, FakeClock)
    return rig.clock


async def shaken(
    rig: Rig,
    decisions: list[TaskDecision] | None = None,
    *,
    epoch: int = 1,
    recall: tuple[str, ...] = (),
) -> None:
    """Run one handshake to its end."""
    before = sum(hello.done for hello in rig.hellos())
    rig.handshake.ask()
    hellos = len(rig.hellos())
    await eventually(lambda: len(rig.hellos()) > hellos, WAIT_S)
    rig.welcome(decisions, epoch=epoch, recall=recall)
    await eventually(lambda: sum(hello.done for hello in rig.hellos()) > before, WAIT_S)


async def test_heartbeat_precedes_hello_so_that_the_master_can_name_its_number(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.handshake.ask()
    await eventually(rig.hellos, WAIT_S)
    kinds = [subject.rpartition(".")[2] for subject, _ in rig.wire.published]
    assert kinds[:2] == ["beat", "hello"]
    assert rig.beats_sent()[0].seq == 1


async def test_hello_is_retried_until_it_is_answered(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.handshake.ask()
    await eventually(lambda: len(rig.hellos()) >= 3, WAIT_S)
    assert not rig.lease.reconciled
    rig.welcome()
    await eventually(lambda: rig.lease.reconciled, WAIT_S)
    assert rig.hellos()[-1].done
    await eventually(lambda: rig.journal.epoch == 1, WAIT_S)


async def test_lost_hello_is_retried_at_the_next_echo_of_the_master(
    rig: Rig,
) -> None:
    """The retry does not wait for the timeout; an echo of the earlier heartbeat causes none."""
    rig.lease.timers = msgspec.structs.replace(rig.timers, handshake_s=60)
    rig.serve(rig.handshake)
    rig.handshake.ask()
    await eventually(rig.hellos, WAIT_S)
    last_heard, inc = rig.lease.beat(rig.clock.elapsed()), rig.lease.incarnation
    rig.send("echo", Echo(epoch=1, incarnation=inc, seq=1, reconciled=False))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(rig.hellos()) == 1
    rig.send("echo", Echo(epoch=1, incarnation=inc, seq=last_heard, reconciled=False))
    await eventually(lambda: len(rig.hellos()) == 2, WAIT_S)


async def test_no_task_runs_before_handshake_and_echo(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.heartbeats.send()
    rig.run("c1")
    assert (await rig.reply_to("c1")).code == "agent_unleased"
    await shaken(rig)
    rig.echo()
    rig.run("c2", ["true"])
    assert (await rig.reply_to("c2")).answer == "accepted"


async def test_verdicts_are_carried_out_before_the_handshake_ends(rig: Rig) -> None:
    rig.link()
    rig.serve(rig.handshake, rig.reporter, rig.shipper)
    for command in ("keep", "kill"):
        rig.run(command, SLEEP)
    for command in ("release", "report"):
        rig.run(command)
        await rig.end_of(command)
    await eventually(lambda: len(rig.processes.leaders) == 2, WAIT_S)
    rig.lease.on_disconnected()
    reported = len(rig.reports("report"))
    decisions = [
        TaskDecision(command=name, attempt=1, verdict=name)
        for name in ("keep", "kill", "release", "report")
    ]
    await shaken(rig, decisions)
    hello = next(hello for hello in reversed(rig.hellos()) if not hello.done)
    assert {(task.command, task.state) for task in hello.tasks} == {
        ("keep", "running"),
        ("kill", "running"),
        ("release", "succeeded"),
        ("report", "succeeded"),
    }
    assert hello.complete
    assert (await rig.end_of("kill")).state == "cancelled"
    await eventually(lambda: len(rig.reports("report")) > reported, WAIT_S)
    assert rig.station.book.get("release", 1) is None
    assert rig.station.book.known_state("keep", 1) == "running"
    rig.running.stop_all(State.CANCELLED, "the test is over")
    await rig.end_of("keep")


async def test_released_ends_are_reported_again_to_a_restored_master(rig: Rig) -> None:
    """Ends come with the output that is still on disk; unknown commands are reported too."""
    rig.folders._keep = 1
    rig.serve(rig.reporter, rig.handshake)
    rig.link()
    rig.run("gone", ["sh", "-c", "echo gone; exit 3"])
    rig.release(await rig.end_of("gone"))
    rig.run("kept", ["sh", "-c", "echo kept"])
    rig.release(await rig.end_of("kept"))
    await eventually(lambda: not Path(rig.folders.name("gone", 1)).exists(), WAIT_S)
    rig.run("open", SLEEP)
    await eventually(lambda: rig.processes.leaders, WAIT_S)
    rig.lease.on_disconnected()
    before = len(rig.reports("kept")), len(rig.reports("gone"))
    await shaken(rig, epoch=7, recall=("gone", "kept", "open", "never"))
    done = rig.hellos()[-1]
    assert [(task.command, task.attempt, task.state) for task in done.tasks] == [
        ("gone", 1, "failed"),
        ("kept", 1, "succeeded"),
        ("open", 1, "running"),
        ("never", 0, "unknown"),
    ]
    await eventually(lambda: len(rig.reports("kept")) > before[0], WAIT_S)
    await eventually(lambda: len(rig.reports("gone")) > before[1], WAIT_S)
    kept, gone = rig.reports("kept")[-1], rig.reports("gone")[-1]
    assert kept.output is not None
    assert (kept.exit_code, kept.output.stdout, kept.truncated) == (0, b"kept\n", False)
    assert (gone.exit_code, gone.output, gone.stdout_bytes, gone.truncated) == (3, None, 5, True)
    assert gone.ended_at >= gone.started_at > 0
    rig.release(kept)
    await eventually(lambda: rig.station.book.get("kept", 1) is None, WAIT_S)
    assert rig.station.book.known_state("gone", 1) == "failed"
    rig.running.stop_all(State.CANCELLED, "the test is over")
    await rig.end_of("open")


async def test_refused_agent_takes_no_work_and_shows_the_reason(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.handshake.ask()
    await eventually(rig.hellos, WAIT_S)
    rig.send(
        "welcome",
        Welcome(epoch=1, incarnation=rig.lease.incarnation, refused="agent_revoked"),
    )
    await eventually(lambda: rig.handshake.refused == "agent_revoked", WAIT_S)
    assert not rig.lease.reconciled
    await shaken(rig)
    assert rig.handshake.refused == ""


async def test_welcome_to_another_start_or_of_an_older_master_is_skipped(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.link(epoch=5)
    rig.lease.on_disconnected()
    rig.send("welcome", Welcome(epoch=6, incarnation="other"))
    rig.send("welcome", Welcome(epoch=4, incarnation=rig.lease.incarnation))
    assert rig.inbox.skipped == 2
    assert rig.lease.epoch == 5


async def test_expired_lease_ends_every_task_and_reports_it_after_the_reconnect(rig: Rig) -> None:
    rig.link()
    rig.serve(rig.watchdog, rig.handshake, rig.reporter, rig.shipper)
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.processes.leaders, WAIT_S)
    clock(rig).advance(5)
    rig.watchdog.nudge()
    await eventually(lambda: rig.lease.phase is LeasePhase.SUSPECT, WAIT_S)
    rig.run("c2", SLEEP)
    assert (await rig.reply_to("c2")).code == "agent_unleased"
    assert rig.processes.tasks
    clock(rig).advance(5)
    rig.watchdog.nudge()
    await eventually(lambda: rig.lease.phase is LeasePhase.FENCED, WAIT_S)
    assert not rig.processes.tasks
    assert not rig.reports("c1")
    await shaken(rig)
    assert (await rig.end_of("c1")).state == "killed_fenced"


async def test_task_with_a_longer_deadline_goes_on_and_is_kept_at_the_handshake(rig: Rig) -> None:
    """The lease has expired for other tasks; the deadline of this task is later."""
    rig.link()
    rig.serve(rig.watchdog, rig.handshake, rig.reporter, rig.shipper)
    rig.run("usual", SLEEP)
    rig.run("held", SLEEP, kill_after_s=100.0)
    await eventually(lambda: len(rig.processes.leaders) == 2, WAIT_S)
    clock(rig).advance(11)
    rig.watchdog.nudge()
    await eventually(lambda: rig.lease.phase is LeasePhase.FENCED, WAIT_S)
    assert {task.name for task in rig.processes.tasks} == {"held.1"}
    clock(rig).advance(80)
    decisions = [TaskDecision(command="held", attempt=1, verdict="keep")]
    await shaken(rig, decisions)
    hello = next(hello for hello in reversed(rig.hellos()) if not hello.done)
    assert ("held", "running") in {(task.command, task.state) for task in hello.tasks}
    rig.echo()
    assert rig.lease.is_linked
    end = await rig.end_of("usual")
    assert (end.state, end.reason) == ("killed_fenced", "the master was silent for 11 s")
    assert rig.processes.tasks
    clock(rig).advance(99)
    rig.watchdog.nudge()
    await eventually(lambda: rig.lease.phase is LeasePhase.FENCED, WAIT_S)
    assert rig.processes.tasks
    clock(rig).advance(1)
    rig.watchdog.nudge()
    await eventually(lambda: not rig.processes.tasks, WAIT_S)


async def test_strict_master_ends_tasks_when_it_is_suspect(rig: Rig) -> None:
    rig.timers = Timers(beat_s=1, suspect_s=5, ack_s=1, grace_s=0.3, lost_s=60, strict=True)
    rig.link()
    rig.serve(rig.watchdog)
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.processes.leaders, WAIT_S)
    clock(rig).advance(4.9)
    rig.watchdog.look()
    assert rig.lease.phase is LeasePhase.LINKED
    clock(rig).advance(0.1)
    rig.watchdog.look()
    await eventually(lambda: not rig.processes.tasks, WAIT_S)


async def test_host_suspended_past_the_deadline_ends_tasks_before_it_reads_messages(
    rig: Rig,
) -> None:
    """The grace has passed too: the master may have declared the tasks lost already."""
    rig.link()
    rig.serve(rig.watchdog, rig.reporter)
    rig.run("c1", ["/bin/sh", "-c", "trap '' TERM; sleep 60"])
    await eventually(lambda: rig.processes.leaders, WAIT_S)
    seq = rig.lease.beat(clock(rig).elapsed())
    clock(rig).advance(3600)
    rig.timers = Timers(beat_s=1, suspect_s=5, ack_s=1, grace_s=600, lost_s=900)
    rig.send("echo", Echo(epoch=1, incarnation=rig.lease.incarnation, seq=seq))
    assert rig.station.book.get("c1", 1).stop is State.KILLED_FENCED  # type: ignore[union-attr]
    assert rig.lease.phase is LeasePhase.FENCING
    await eventually(lambda: not rig.processes.tasks, WAIT_S)


async def test_task_ended_by_the_warden_is_reported_as_fenced(rig: Rig) -> None:
    """The agent was suspended meanwhile, and notices the exit before it reads the clock."""
    rig.link()
    rig.serve(rig.reporter)
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.reports("c1", "started"), WAIT_S)
    clock(rig).advance(12)
    os.kill(next(iter(rig.processes.tasks)).pid, signal.SIGTERM)
    await eventually(lambda: not rig.processes.tasks, WAIT_S)
    rig.lease.on_fenced()
    rig.link()
    end = await rig.end_of("c1")
    assert (end.state, end.reason) == ("killed_fenced", "the master was silent for 12 s")


async def test_superseded_agent_ends_its_tasks_and_itself(rig: Rig) -> None:
    rig.link()
    rig.serve(rig.watchdog)
    leaving = asyncio.create_task(rig.handshake.run(asyncio.Event()))
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.processes.leaders, WAIT_S)
    rig.lease.on_disconnected()
    rig.handshake.ask()
    await eventually(rig.hellos, WAIT_S)
    refused = Welcome(
        epoch=1, incarnation=rig.lease.incarnation, refused="superseded", reason="on h2"
    )
    rig.send("welcome", refused)
    with pytest.raises(Refused, match="on h2") as caught:
        await leaving
    assert caught.value.kind.exit_code == 77
    assert not rig.processes.tasks
    rig.run("c2", SLEEP)
    assert (await rig.reply_to("c2")).answer == "rejected"


async def test_revoked_agent_ends_its_tasks_and_retries_the_handshake(rig: Rig) -> None:
    rig.link()
    rig.serve(rig.watchdog, rig.handshake)
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.processes.leaders, WAIT_S)
    rig.lease.on_disconnected()
    rig.handshake.ask()
    await eventually(rig.hellos, WAIT_S)
    rig.send(
        "welcome",
        Welcome(epoch=1, incarnation=rig.lease.incarnation, refused="agent_revoked"),
    )
    await eventually(lambda: not rig.processes.tasks, WAIT_S)
    await shaken(rig)


def test_connection_without_echoes_is_replaced_when_the_lease_is_suspect(rig: Rig) -> None:
    echo_watch = EchoWatch(rig.station)
    echo_watch.on_connected()
    rig.link()
    assert echo_watch.look() == 5.0
    clock(rig).advance(5.0)
    assert echo_watch.look() == 1.0
    assert rig.wire.rebuilt == ["deaf: the master is not heard"]
    echo_watch.on_connected()
    clock(rig).advance(0.5)
    assert echo_watch.look() == 0.5
    for _ in range(4):
        clock(rig).advance(1.0)
        echo_watch.look()
        echo_watch.on_connected()
    assert len(rig.wire.rebuilt) == 5
    clock(rig).advance(5.0)
    echo_watch.look()
    assert len(rig.wire.rebuilt) == 5, "once the lease is over it is no hurry any more"
    clock(rig).advance(1.0)
    echo_watch.look()
    assert len(rig.wire.rebuilt) == 6
    rig.wire.is_connected = False
    clock(rig).advance(100.0)
    echo_watch.look()
    assert len(rig.wire.rebuilt) == 6
    rig.echo()
    echo_watch.look()
    assert len(rig.wire.rebuilt) == 6


async def test_watchdog_thread_kills_the_task_of_a_hung_loop(rig: Rig) -> None:
    rig.link()
    rig.serve(rig.watchdog)
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.processes.leaders, WAIT_S)
    pid = next(iter(rig.processes.tasks)).pid
    clock(rig).advance(100)
    _hang(pid)
    await eventually(lambda: not rig.processes.tasks, WAIT_S)


def _hang(pid: int) -> None:
    """Block the loop until the program is dead, so that the loop cannot have killed it."""
    import time

    until = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "still alive"
        time.sleep(0.05)


async def test_heartbeat_period_changes_when_the_master_announces_it(rig: Rig) -> None:
    """The default period is longer than the timeout of a master with quick timers."""
    rig.timers = Timers(beat_s=0.05, suspect_s=1, handshake_s=0.2)
    rig.lease.timers = Timers(beat_s=30, suspect_s=60, lost_s=500, handshake_s=0.2)
    rig.serve(rig.handshake, rig.heartbeats)
    await asyncio.sleep(0)
    await shaken(rig)
    await eventually(lambda: len(rig.beats_sent()) > 5, WAIT_S)


async def test_heartbeat_is_dropped_while_disconnected(rig: Rig) -> None:
    rig.wire.is_connected = False
    assert not rig.heartbeats.send()
    assert rig.lease.seq == 0


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"\x80", b"\x91" * 40, b"\x81\xa5epoch\xa1x"])
async def test_junk_is_counted_and_skipped(rig: Rig, junk: bytes) -> None:
    from broker_client.runtime.frames import Msg

    for kind in ("run", "release", "echo", "welcome", "control", "nonsense"):
        rig.inbox.on_message(Msg(f"mesh.v1.down.g1.a1.{kind}", "", junk))
    rig.inbox.on_message(Msg("mesh.v1.down.g1.a2.run", "", junk))
    assert rig.inbox.skipped == 7
