"""Handshake, beats and fencing of an agent; the test plays the master and moves the clock."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_agent.core.lease import Phase
from schemas.messages.liveness import TaskDecision, Welcome
from schemas.states import State
from schemas.timers import Timers
from tests.fake_clock import FakeClock
from tests.unit.broker_agent.rig import WAIT_S, Rig
from tests.waiting import eventually

SLEEP = ["sleep", "60"]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    timers = Timers(beat_s=1, suspect_s=5, ack_s=1, grace_s=0.3, lost_s=60, handshake_s=0.2)
    rig = Rig(tmp_path, clock=FakeClock(), timers=timers)
    yield rig
    await rig.close()


def clock(rig: Rig) -> FakeClock:
    assert isinstance(rig.clock, FakeClock)
    return rig.clock


async def shaken(rig: Rig, decisions: list[TaskDecision] | None = None, *, epoch: int = 1) -> None:
    """Let one handshake take its course."""
    before = sum(hello.done for hello in rig.hellos())
    rig.handshake.ask()
    hellos = len(rig.hellos())
    await eventually(lambda: len(rig.hellos()) > hellos, WAIT_S)
    rig.welcome(decisions, epoch=epoch)
    await eventually(lambda: sum(hello.done for hello in rig.hellos()) > before, WAIT_S)


async def test_beat_goes_before_hello_so_that_the_master_has_a_number_to_name(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.handshake.ask()
    await eventually(rig.hellos, WAIT_S)
    kinds = [subject.rpartition(".")[2] for subject, _ in rig.wire.published]
    assert kinds[:2] == ["beat", "hello"]
    assert rig.beats_sent()[0].seq == 1


async def test_hello_is_sent_again_until_it_is_answered(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.handshake.ask()
    await eventually(lambda: len(rig.hellos()) >= 3, WAIT_S)
    assert not rig.lease.reconciled
    rig.welcome()
    await eventually(lambda: rig.lease.reconciled, WAIT_S)
    assert rig.hellos()[-1].done
    await eventually(lambda: rig.journal.epoch == 1, WAIT_S)


async def test_nothing_runs_before_handshake_and_echo(rig: Rig) -> None:
    rig.serve(rig.handshake)
    rig.beats.send()
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
    await eventually(lambda: len(rig.processes.tasks) == 2, WAIT_S)
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
    rig.runner.stop_all(State.CANCELLED, "the test is over")
    await rig.end_of("keep")


async def test_refused_agent_takes_no_part_and_says_why(rig: Rig) -> None:
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


async def test_silence_ends_every_task_and_says_so_later(rig: Rig) -> None:
    rig.link()
    rig.serve(rig.watchdog, rig.handshake, rig.reporter, rig.shipper)
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.processes.tasks, WAIT_S)
    clock(rig).advance(5)
    rig.watchdog.nudge()
    await eventually(lambda: rig.lease.phase is Phase.SUSPECT, WAIT_S)
    rig.run("c2", SLEEP)
    assert (await rig.reply_to("c2")).code == "agent_unleased"
    assert rig.processes.tasks
    clock(rig).advance(5)
    rig.watchdog.nudge()
    await eventually(lambda: rig.lease.phase is Phase.FENCED, WAIT_S)
    assert not rig.processes.tasks
    assert not rig.reports("c1")
    await shaken(rig)
    assert (await rig.end_of("c1")).state == "killed_fenced"


async def test_task_of_a_hung_agent_is_killed_by_the_thread(rig: Rig) -> None:
    rig.link()
    rig.serve(rig.watchdog)
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.processes.tasks, WAIT_S)
    pid = next(iter(rig.processes.tasks)).pid
    clock(rig).advance(100)
    _hang(pid)
    await eventually(lambda: not rig.processes.tasks, WAIT_S)


def _hang(pid: int) -> None:
    """Hold the loop up until the program is dead, which nothing in the loop can have done."""
    import time

    until = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "still alive"
        time.sleep(0.05)


async def test_new_period_begins_when_the_master_announces_it(rig: Rig) -> None:
    """The default period is longer than what a master with quick timers would wait."""
    rig.timers = Timers(beat_s=0.05, suspect_s=1, handshake_s=0.2)
    rig.lease.timers = Timers(beat_s=30, suspect_s=60, lost_s=500, handshake_s=0.2)
    rig.serve(rig.handshake, rig.beats)
    await asyncio.sleep(0)
    await shaken(rig)
    await eventually(lambda: len(rig.beats_sent()) > 5, WAIT_S)


async def test_beat_is_dropped_while_there_is_no_connection(rig: Rig) -> None:
    rig.wire.is_connected = False
    assert not rig.beats.send()
    assert rig.lease.seq == 0


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"\x80", b"\x91" * 40, b"\x81\xa5epoch\xa1x"])
async def test_junk_is_counted_and_skipped(rig: Rig, junk: bytes) -> None:
    from broker_client.runtime.frames import Msg

    for kind in ("run", "release", "echo", "welcome", "control", "nonsense"):
        rig.inbox.on_message(Msg(f"mesh.v1.down.g1.a1.{kind}", "", junk))
    rig.inbox.on_message(Msg("mesh.v1.down.g1.a2.run", "", junk))
    assert rig.inbox.skipped == 7
