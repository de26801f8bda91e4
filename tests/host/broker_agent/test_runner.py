"""From request to release, with real programs and a real journal; the test plays the master."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker_agent.core.pace import MOST_BYTES
from schemas import limits
from schemas.faults import Unreachable
from schemas.messages.work import Output
from tests.host.broker_agent.rig import WAIT_S, Rig
from tests.waiting import eventually

# Longer than any wait of a test: it ends because something ends it.
SLEEP = ["sleep", "600"]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.link()
    rig.serve()
    yield rig
    await rig.close()


def printing(size: int, stream: str = "stdout") -> list[str]:
    code = f"import sys; sys.{stream}.write('x' * {size})"
    return [sys.executable, "-c", code]


async def journalled(rig: Rig) -> list[tuple[str, str]]:
    done = asyncio.get_running_loop().create_future()
    rig.journal.flush(done.set_result)
    async with asyncio.timeout(WAIT_S):
        await done
    found = rig.journal._rows._db.execute("SELECT command, state FROM attempts ORDER BY row")
    return list(found)


async def test_noop_is_reported_after_its_commit_and_the_report_acknowledges_it(rig: Rig) -> None:
    rig.run("c1")
    assert not rig.reports("c1")
    end = await rig.end_of("c1")
    assert (end.state, end.exit_code, end.output) == ("succeeded", 0, None)
    assert await journalled(rig) == [("c1", "succeeded")]
    assert not rig.replies("c1")
    rig.run("c1")
    assert (await rig.reply_to("c1")).answer == "duplicate"
    rig.release(end)
    assert await journalled(rig) == []
    assert len(rig.station.book) == 0


async def test_small_output_rides_in_the_report_and_nothing_is_streamed(rig: Rig) -> None:
    rig.run("c1", ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])
    end = await rig.end_of("c1")
    assert (end.state, end.exit_code, end.truncated) == ("failed", 3, False)
    assert end.output == Output(stdout=b"out\n", stderr=b"err\n")
    assert (end.stdout_bytes, end.stderr_bytes) == (4, 4)
    assert end.accepted_at <= end.started_at <= end.ended_at
    assert rig.stored("c1", "stdout") == b""
    assert not rig.reports("c1", "started")


async def test_large_output_is_stored_before_the_end_is_reported(rig: Rig) -> None:
    size = 3 * limits.CHUNK_BYTES + 7
    rig.run("c1", printing(size))
    end = await rig.end_of("c1")
    assert rig.stored("c1", "stdout") == b"x" * size
    assert (end.stdout_bytes, end.output, end.truncated) == (size, None, False)
    last_log = max(i for i, (to, _) in enumerate(rig.wire.published) if ".log." in to)
    told = max(i for i, (to, _) in enumerate(rig.wire.published) if to.endswith("report"))
    assert last_log < told
    assert len(rig.reports("c1")) == 1


async def test_output_of_a_running_task_comes_while_it_runs(rig: Rig, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo first; while [ ! -e {gate} ]; do sleep 0.01; done; echo last"
    rig.run("c1", ["/bin/sh", "-c", script])
    await eventually(lambda: rig.stored("c1", "stdout") == b"first\n", WAIT_S)
    assert rig.reports("c1", "started")
    assert not rig.reports("c1")
    gate.touch()
    end = await rig.end_of("c1")
    assert end.output == Output(stdout=b"first\nlast\n")
    assert rig.stored("c1", "stdout") == b"first\nlast\n"


async def test_output_beyond_the_limit_keeps_both_ends_and_reports_its_true_size(
    rig: Rig,
) -> None:
    rig.run("c1", printing(200_000), output_limit_bytes=100_000)
    end = await rig.end_of("c1")
    assert (end.truncated, end.stdout_bytes, end.output) == (True, 200_000, None)
    assert rig.stored("c1", "stdout") == b"x" * 25_000 + bytes(100_000) + b"x" * 75_000
    (marked,) = [chunk for chunk in rig.chunks("c1", "stdout") if chunk.skipped]
    assert (marked.offset, marked.skipped) == (125_000, 100_000)


async def test_unacknowledged_chunk_is_retried(rig: Rig) -> None:
    answers = [b"", b'{"error":{"code":503}}', b"garbage"]

    def answer() -> bytes:
        if len(answers) == 3:
            answers.pop()
            raise Unreachable("no_answer", "lost")
        return answers.pop() if answers else b'{"stream":"MESH_LOGS","seq":9}'

    rig.wire.answer = answer
    rig.run("c1", printing(50_000))
    end = await rig.end_of("c1")
    assert rig.stored("c1", "stdout") == b"x" * 50_000
    assert not end.truncated


async def test_back_pressure_bounds_the_chunks_under_way(rig: Rig) -> None:
    for number in range(4):
        rig.run(f"c{number}", printing(3_000_000))
    for number in range(4):
        await rig.end_of(f"c{number}")
        assert rig.stored(f"c{number}", "stdout") == b"x" * 3_000_000
    assert rig.wire.most_in_flight > 1
    assert rig.wire.most_bytes <= MOST_BYTES + limits.CHUNK_BYTES


async def test_redelivered_attempt_is_answered_and_runs_once(rig: Rig, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    rig.run("c1", ["/bin/sh", "-c", f"echo x >> {ran}"])
    end = await rig.end_of("c1")
    rig.run("c1", ["/bin/sh", "-c", f"echo x >> {ran}"])
    assert (rig.replies("c1")[-1].answer, rig.replies("c1")[-1].state) == ("duplicate", "succeeded")
    rig.release(end)
    rig.run("c1", ["/bin/sh", "-c", f"echo x >> {ran}"])
    await eventually(lambda: len(rig.replies("c1")) == 3, WAIT_S)
    assert (rig.replies("c1")[-1].answer, rig.replies("c1")[-1].state) == ("duplicate", "succeeded")
    assert ran.read_text() == "x\n"


async def test_concurrent_duplicates_of_a_request_run_once(rig: Rig, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for _ in range(3):
        rig.run("c1", ["/bin/sh", "-c", f"echo x >> {ran}"])
    await rig.end_of("c1")
    assert sorted(reply.answer for reply in rig.replies("c1")) == [
        "accepted",
        "duplicate",
        "duplicate",
    ]
    assert ran.read_text() == "x\n"


async def test_rejected_attempt_stays_rejected_on_redelivery(rig: Rig) -> None:
    """The master may have given the command to another agent; a new attempt is accepted."""
    rig.lease.on_disconnected()
    rig.run("c1", ["true"])
    rig.run("c2", ["true"], epoch=0)
    rig.link()
    for _ in range(2):
        rig.run("c1", ["true"])
    rig.run("c2", ["true"])
    rig.run("c1", ["true"], attempt=2)
    await rig.end_of("c1")
    assert [(r.attempt, r.answer, r.code) for r in rig.replies("c1")] == [
        (1, "rejected", "agent_unleased"),
        (1, "rejected", "agent_unleased"),
        (1, "rejected", "agent_unleased"),
        (2, "accepted", ""),
    ]
    # The refusal was for a stale epoch: the next master may send the same attempt.
    assert [(r.answer, r.code) for r in rig.replies("c2")] == [
        ("rejected", "epoch_stale"),
        ("accepted", ""),
    ]


async def test_full_agent_rejects_and_has_a_slot_again_when_a_task_has_ended(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, slots=1)
    rig.link()
    rig.serve()
    rig.run("c1", SLEEP)
    rig.run("c2", ["true"])
    assert (await rig.reply_to("c2")).code == "agent_full"
    rig.cancel("c1")
    await rig.end_of("c1")
    rig.run("c3", ["true"])
    assert (await rig.reply_to("c3")).answer == "accepted"
    await rig.end_of("c3")
    await rig.close()


async def test_cancel_ends_a_task(rig: Rig) -> None:
    rig.run("c1", SLEEP)
    await eventually(lambda: rig.processes.leaders, WAIT_S)
    rig.cancel("c1")
    end = await rig.end_of("c1")
    assert (end.state, end.reason, end.exit_code) == ("cancelled", "cancelled", 143)
    assert rig.control_replies()[0].known


async def test_cancel_that_overtakes_the_start_wins(rig: Rig, tmp_path: Path) -> None:
    rig.run("c1", ["touch", str(tmp_path / "ran")])
    rig.cancel("c1")
    end = await rig.end_of("c1")
    assert (end.state, end.started_at, end.exit_code) == ("cancelled", 0.0, None)
    assert not (tmp_path / "ran").exists()


async def test_cancel_that_comes_before_the_request_keeps_it_from_running(rig: Rig) -> None:
    rig.cancel("c1")
    assert rig.control_replies()[0].known is False
    rig.run("c1", ["true"])
    assert (await rig.reply_to("c1")).code == "attempt_stale"


@pytest.mark.parametrize(
    ("argv", "code", "state"),
    [
        (["no-such-program"], 127, "failed"),
        (["/etc"], 126, "failed"),
    ],
)
async def test_program_that_cannot_start_is_a_failed_attempt(
    rig: Rig, argv: list[str], code: int, state: str
) -> None:
    rig.run("c1", argv)
    end = await rig.end_of("c1")
    assert (end.state, end.exit_code) == (state, code)
    assert argv[0] in end.reason
    rig.release(end)
    rig.run("c2", ["true"])
    await rig.end_of("c2")
    assert not list(Path(rig.folders._root).glob("c1*"))  # the folder was kept for reuse only


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"action": "nonsense"}, "action_unknown"),
        ({"args": {"argv": ["true"], "shell": True}}, "argument_unknown"),
        ({"args": {"argv": []}}, "field_invalid"),
        ({"epoch": 0}, "epoch_stale"),
        ({"beat_seq": 10**9}, "attempt_stale"),
    ],
)
async def test_bad_request_is_rejected_with_its_code(
    rig: Rig, fields: dict[str, Any], code: str
) -> None:
    rig.run("c1", ["true"], **fields)
    reply = await rig.reply_to("c1")
    assert (reply.answer, reply.code) == ("rejected", code)
    assert await journalled(rig) == []


async def test_request_for_another_incarnation_is_ignored(rig: Rig) -> None:
    """A refusal by a copy would look like one of the agent that may run it."""
    rig.run("c1", ["true"], incarnation="of-a-copy")
    rig.run("c2", ["true"])
    assert (await rig.reply_to("c2")).answer == "accepted"
    assert rig.replies("c1") == []


async def test_invalid_reply_token_is_never_answered(rig: Rig) -> None:
    before = len(rig.wire.published)
    for token in ("a.b", "*", ">", "", "a b", "ä"):
        rig.run("c1", token=token)
    assert rig.inbox.skipped == 6
    assert len(rig.wire.published) == before


async def test_draining_agent_takes_nothing_new_and_resumes(rig: Rig) -> None:
    rig.running.drain()
    rig.run("c1", ["true"])
    assert (await rig.reply_to("c1")).code == "agent_draining"
    rig.running.drain(draining=False)
    rig.run("c2", ["true"])
    await rig.end_of("c2")


async def test_no_task_runs_without_a_writable_journal(rig: Rig, tmp_path: Path) -> None:
    rig.journal._rows._db.execute(
        "CREATE TRIGGER no BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
    )
    rig.run("c1", ["touch", str(tmp_path / "ran")])
    reply = await rig.reply_to("c1")
    assert (reply.answer, reply.code) == ("rejected", "journal_unavailable")
    assert not (tmp_path / "ran").exists()
    assert (rig.station.book.running, len(rig.station.book)) == (0, 0)


async def test_report_is_retried_until_it_is_released(rig: Rig) -> None:
    rig.run("c1")
    end = await rig.end_of("c1")
    await eventually(lambda: len(rig.reports("c1")) >= 3, WAIT_S)
    assert rig.reports("c1") == [end] * len(rig.reports("c1"))
    rig.release(end)
    assert len(rig.reporter) == 0


async def test_release_of_the_start_does_not_release_the_end(rig: Rig) -> None:
    rig.run("c1", ["sleep", "0.2"])
    await eventually(lambda: rig.reports("c1", "started"), WAIT_S)
    started = rig.reports("c1", "started")[0]
    end = await rig.end_of("c1")
    rig.release(started)
    assert len(rig.reporter) == 1
    assert started.seq < end.seq
    assert started.started_at == end.started_at


async def test_folder_goes_with_the_release(rig: Rig) -> None:
    rig.run("c1", ["/bin/sh", "-c", "echo x; touch left; pwd"])
    end = await rig.end_of("c1")
    assert end.output is not None
    folder = Path(end.output.stdout.decode().splitlines()[1])
    assert folder.is_dir()
    rig.release(end)
    await eventually(lambda: not folder.exists(), WAIT_S)


async def test_restart_after_a_kill_reports_losses_and_kills_orphans(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.link()
    rig.serve()
    rig.run("done")
    rig.run("c1", ["/bin/sh", "-c", "echo before; exec sleep 60"])
    await eventually(lambda: rig.reports("c1", "started"), WAIT_S)
    await rig.end_of("done")
    pid = rig.reports("c1", "started")[0].pid
    await journalled(rig)
    await rig.die()

    again = Rig(tmp_path)
    again.recover()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    again.link()
    again.serve()
    end = await again.end_of("c1")
    assert (end.state, end.reason, end.exit_code) == ("lost", "agent restarted", None)
    assert end.output == Output(stdout=b"before\n")
    assert end.seq > 1 << 32
    assert (await again.end_of("done")).state == "succeeded"
    again.run("c1", SLEEP)
    assert again.replies("c1")[-1].state == "lost"
    again.release(end, *again.reports("done"))
    await journalled(again)
    assert await journalled(again) == []
    await again.close()


async def test_end_whose_output_was_not_stored_keeps_its_state_over_a_restart(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.link()
    rig.serve()

    def refuse() -> bytes:
        raise Unreachable("no_answer", "nobody")

    rig.wire.answer = refuse
    rig.run("c1", [sys.executable, "-c", "print('x' * 99_999); raise SystemExit(7)"])
    await eventually(
        lambda: (
            rig.station.book.get("c1", 1)
            and not rig.processes.tasks
            and rig.shipper.waiting_bytes == 100_000
        ),
        WAIT_S,
    )
    await journalled(rig)
    await rig.close()

    again = Rig(tmp_path)
    again.recover()
    again.link()
    again.serve()
    end = await again.end_of("c1")
    assert (end.state, end.exit_code, end.stdout_bytes) == ("failed", 7, 100_000)
    assert again.stored("c1", "stdout") == b"x" * 99_999 + b"\n"
    await again.close()
