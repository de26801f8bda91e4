"""Commands from submission to their result, through real processes on both sides."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from broker_client.api import MeshClient
from broker_client.cli.outcomes import MESH_EXITS
from broker_client.context import Context
from broker_client.context import context_identity as read_context_identity
from broker_client.runtime.frames import Msg
from broker_client.runtime.identity import Identity
from broker_client.runtime.link import Endpoint, LinkIdentity
from broker_client.runtime.link.guard import GuardedClient
from schemas.messages.actions import NoopArgs, ProcessArgs
from schemas.messages.api import CommandList, LogsAnswer, LogsRequest
from schemas.messages.facts import CommandRecord
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.meshes import behind, client_of, mesh_fixture, refused, state_reached
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-commands")]

GRACE_S = float(FAST_TIMERS["MESH_TIMERS__GRACE_S"])
LOST_S = float(FAST_TIMERS["MESH_TIMERS__LOST_S"])


mesh = mesh_fixture({"web": ("web-1", "web-2"), "db": ("db-1",), "empty": ()}, slots=16)


def script(text: str) -> list[str]:
    return ["sh", "-c", text]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(pid: int) -> None:
    await eventually(lambda: not alive(pid), GRACE_S + 5, what=f"process {pid} is gone")


async def number_in(path: Path, within_s: float = 10.0) -> int:
    """The number that a task has written, once it has."""
    await eventually(lambda: path.exists() and path.read_text().endswith("\n"), within_s)
    return int(path.read_text())


# what one question costs


async def test_one_question_costs_one_round_trip_beside_that_of_the_link(
    mesh: MeshProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    connections, waits, identities = GuardedClient.open, GuardedClient.flush, read_context_identity

    async def opened(
        self: GuardedClient,
        endpoint: Endpoint,
        identity: LinkIdentity,
        *,
        name: str,
        timeout_s: float = 5.0,
    ) -> None:
        await connections(self, endpoint, identity, name=name, timeout_s=timeout_s)
        done.append("connection")

    async def flushed(self: GuardedClient, timeout_s: float) -> None:
        if timeout_s > 0:
            done.append("round trip")
        await waits(self, timeout_s)

    def read(context: Context) -> Identity:
        done.append("identity")
        return identities(context)

    monkeypatch.setattr(GuardedClient, "open", opened)
    monkeypatch.setattr(GuardedClient, "flush", flushed)
    monkeypatch.setattr("broker_client.runtime.context_files.context_identity", read)
    async with mesh.client() as client:
        requests = count_requests(client, monkeypatch)
        assert len(await client.agents()) == 3
    # The one that shows that the broker takes the link's inbox; none for results, none at the end.
    assert done == ["identity", "connection", "round trip"]
    assert requests == ["mesh.v1.api.admin.agent.list"]


def count_requests(client: MeshClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    subjects: list[str] = []
    ask = client.link.request

    async def asked(
        subject: str, payload: bytes, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Msg:
        subjects.append(subject)
        return await ask(subject, payload, timeout_s, headers)

    monkeypatch.setattr(client.link, "request", asked)
    return subjects


# where it runs


async def test_group_command_runs_once_on_one_of_its_members(
    admin: MeshClient, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    record = await admin.run(script(f"echo ran >> {witness}; echo hello"), group="web")
    assert (record.state, record.group, record.agent) == ("succeeded", "web", None)
    attempt = record.attempts[0]
    assert attempt.agent in ("web-1", "web-2")
    assert (attempt.exit_code, attempt.sent, attempt.attempt) == (0, 1, 1)
    assert attempt.why.startswith("least loaded: ")
    assert None not in (attempt.accepted_at, attempt.started_at, attempt.ended_at)
    assert record.output is not None
    assert (record.output.stdout, record.output.stderr) == (b"hello\n", b"")
    assert witness.read_text() == "ran\n"


async def test_agent_command_runs_on_that_agent(admin: MeshClient) -> None:
    for _ in range(4):
        record = await admin.run(NoopArgs(), agent="web-2")
        assert (record.state, record.agent) == ("succeeded", "web-2")
        assert [each.agent for each in record.attempts] == ["web-2"]


async def test_group_shares_its_work_evenly(admin: MeshClient) -> None:
    few = asyncio.Semaphore(4)  # so that no agent is full, and the choice is always free

    async def run_one() -> CommandRecord:
        async with few:
            return await admin.run(NoopArgs(), group="web")

    records = await asyncio.gather(*(run_one() for _ in range(100)))
    assert {record.state for record in records} == {"succeeded"}
    first = sum(record.attempts[0].agent == "web-1" for record in records)
    assert 40 <= first <= 60


# the same id again


async def test_same_id_and_body_is_the_same_command(admin: MeshClient, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    work = script(f"echo ran >> {witness}")
    first = await admin.submit(work, group="web", id="twice-1")
    again = await admin.submit(work, group="web", id="twice-1")
    assert (first.duplicate, again.duplicate) == (False, True)
    await admin.wait("twice-1")
    ended = await admin.submit(work, group="web", id="twice-1")
    assert (ended.duplicate, ended.state) == (True, "succeeded")
    assert witness.read_text() == "ran\n"


async def test_same_id_with_another_body_or_of_another_client_is_a_conflict(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    await admin.run(["true"], group="web", id="mine-1")
    changes = (
        {"work": ["false"], "group": "web"},
        {"work": ["true"], "group": "db"},
        {"work": ["true"], "agent": "web-1"},
        {"work": ["true"], "group": "web", "labels": {"a": "b"}},
        {"work": ["true"], "group": "web", "on_lost": "rerun"},
        {"work": ProcessArgs(argv=["true"], timeout_s=5), "group": "web"},
    )
    for change in changes:
        fields = dict(change)
        work = fields.pop("work")
        with refused("id_conflict"):
            await admin.submit(work, id="mine-1", **fields)  # type: ignore[arg-type]
    context = await client_of(mesh, "other", "operator", directory=tmp_path)
    async with mesh.client(context) as other:
        with refused("id_conflict"):
            await other.submit(["true"], group="web", id="mine-1")
    assert (await admin.submit(["true"], group="web", id="mine-1")).duplicate


async def test_twenty_submissions_of_one_id_at_once_run_it_once(
    admin: MeshClient, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    work = script(f"echo ran >> {witness}")
    answers = await asyncio.gather(
        *(admin.submit(work, group="web", id="rush-1") for _ in range(20))
    )
    assert sorted(answer.duplicate for answer in answers) == [False] + [True] * 19
    assert (await admin.wait("rush-1")).state == "succeeded"
    assert witness.read_text() == "ran\n"


async def test_different_bodies_of_one_id_at_once_leave_one_command(
    admin: MeshClient, tmp_path: Path
) -> None:
    async def one(number: int) -> str:
        try:
            await admin.submit(script(f"echo {number} >> {tmp_path}/w"), group="web", id="race-1")
        except Exception as error:  # noqa: BLE001  the code is what counts
            return str(getattr(error, "code", error))
        return "accepted"

    said = await asyncio.gather(*(one(number) for number in range(10)))
    assert sorted(said) == ["accepted"] + ["id_conflict"] * 9
    await admin.wait("race-1")
    assert len((tmp_path / "w").read_text().split()) == 1


# how it ends


@pytest.mark.parametrize(
    ("text", "state", "code"),
    [
        ("exit 0", "succeeded", 0),
        ("exit 3", "failed", 3),
        ("exit 255", "failed", 255),
        ("kill -KILL $$", "failed", 128 + signal.SIGKILL),
        ("kill -TERM $$", "failed", 128 + signal.SIGTERM),
    ],
)
async def test_exit_codes_and_signals_are_brought_back(
    admin: MeshClient, text: str, state: str, code: int
) -> None:
    record = await admin.run(script(text), group="web")
    assert (record.state, record.attempts[0].exit_code) == (state, code)


@pytest.mark.parametrize(
    ("argv", "code"), [(["/no/such/program"], 127), (["/etc/hostname"], 126), (["/"], 126)]
)
async def test_program_that_cannot_start_fails_as_a_shell_would_say(
    admin: MeshClient, argv: list[str], code: int
) -> None:
    record = await admin.run(argv, group="web")
    assert (record.state, record.attempts[0].exit_code) == ("failed", code)
    assert argv[0] in (record.reason or record.attempts[0].reason)


async def test_arguments_environment_stdin_and_folder_arrive_as_they_were_sent(
    admin: MeshClient, tmp_path: Path
) -> None:
    work = ProcessArgs(
        argv=["sh", "-c", 'printf "%s|" "$@" "$NAME" "$PWD"; cat', "sh", "a b", "", "ä\n", "$HOME"],
        env={"NAME": "v a l"},
        cwd=str(tmp_path),
        stdin=b"\x00\xff in",
    )
    record = await admin.run(work, group="web")
    assert record.output is not None
    assert record.output.stdout == f"a b||ä\n|$HOME|v a l|{tmp_path}|".encode() + b"\x00\xff in"


async def test_timeout_ends_the_whole_process_group(admin: MeshClient, tmp_path: Path) -> None:
    """TERM is ignored by all of them, so KILL has to come, and reach the grandchild."""
    text = (
        f"trap '' TERM; (trap '' TERM; sh -c 'echo $PPID' > {tmp_path}/child; sleep 60) &"
        f" echo $$ > {tmp_path}/self; sleep 60"
    )
    work = ProcessArgs(argv=script(text), timeout_s=3.0)
    record = await admin.run(work, group="web", timeout_s=PATIENCE_S)
    assert record.state == "timed_out"
    assert record.attempts[0].exit_code in (None, 128 + signal.SIGKILL)
    for name in ("self", "child"):
        pid = await number_in(tmp_path / name)
        await gone(pid)


async def test_program_that_obeys_term_is_not_killed(admin: MeshClient, tmp_path: Path) -> None:
    text = f"trap 'echo bye; exit 7' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    answer = await admin.submit(script(text), group="web", with_output=True)
    await number_in(tmp_path / "pid")
    await admin.cancel(answer.id)
    record = await admin.wait(answer.id, with_output=True)
    assert record.state == "cancelled"
    assert record.output is not None
    assert record.output.stdout == b"bye\n"


async def test_cancel_ends_the_whole_process_group(admin: MeshClient, tmp_path: Path) -> None:
    text = (
        f"trap '' TERM; (trap '' TERM; sh -c 'echo $PPID' > {tmp_path}/child; sleep 60) &"
        f" echo $$ > {tmp_path}/self; sleep 60"
    )
    answer = await admin.submit(script(text), group="web")
    pids = [await number_in(tmp_path / name) for name in ("self", "child")]
    stopping = await admin.cancel(answer.id)
    assert stopping.state in ("stopping", "running", "accepted", "sent")
    record = await admin.wait(answer.id, timeout_s=PATIENCE_S)
    assert (record.state, record.reason) == ("cancelled", record.reason)
    for pid in pids:
        await gone(pid)
    with refused("command_ended"):
        await admin.cancel(answer.id)


async def test_descendants_of_a_task_end_with_it(admin: MeshClient, tmp_path: Path) -> None:
    text = f"(sh -c 'echo $PPID' > {tmp_path}/child; exec sleep 60) & sleep 0.2; exit 0"
    record = await admin.run(script(text), group="web", timeout_s=PATIENCE_S)
    assert record.state == "succeeded"
    pid = await number_in(tmp_path / "child")
    await gone(pid)


async def test_cancel_of_a_command_that_waits_ends_it_at_once_and_it_never_runs(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    full = [await admin.submit(["sleep", "60"], agent="db-1") for _ in range(16)]
    waiting = await admin.submit(script(f"echo ran > {tmp_path}/w"), agent="db-1")
    record = await admin.show(waiting.id)
    assert (record.state, record.attempts) == ("queued", [])
    assert record.reason == "waits for a free slot of db-1"
    cancelled = await admin.cancel(waiting.id)
    assert cancelled.id == waiting.id
    ended = await admin.wait(waiting.id)
    assert (ended.state, ended.reason) == ("cancelled", "cancelled by admin")
    for each in full:
        await admin.cancel(each.id)
    for each in full:
        assert (await admin.wait(each.id, timeout_s=PATIENCE_S)).state == "cancelled"
    assert not (tmp_path / "w").exists()


async def test_command_that_nobody_takes_in_time_expires(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    full = [await admin.submit(["sleep", "60"], agent="db-1") for _ in range(16)]
    work = script(f"echo ran > {tmp_path}/w")
    record = await admin.run(work, agent="db-1", queue_ttl_s=0.5, timeout_s=PATIENCE_S)
    assert (record.state, record.reason) == ("expired", "no agent took it within 0.5 s")
    assert record.attempts == []
    argv = ("run", "--agent", "db-1", "--queue-ttl", "0.3", "--", "true")
    assert (await mesh.cli(*argv)).code == MESH_EXITS["expired"]
    for each in full:
        await admin.cancel(each.id)
    for each in full:
        await admin.wait(each.id, timeout_s=PATIENCE_S)
    assert not (tmp_path / "w").exists()


async def test_waiting_commands_run_in_their_order(admin: MeshClient, tmp_path: Path) -> None:
    full = [await admin.submit(["sleep", "60"], agent="db-1") for _ in range(15)]
    gate = await admin.submit(["sleep", "0.5"], agent="db-1")
    order = tmp_path / "order"
    waiting = [
        await admin.submit(script(f"echo {n} >> {order}; sleep 0.05"), agent="db-1")
        for n in range(5)
    ]
    for each in (gate, *waiting):
        assert (await admin.wait(each.id, timeout_s=PATIENCE_S)).state == "succeeded"
    assert order.read_text().split() == ["0", "1", "2", "3", "4"]
    for each in full:
        await admin.cancel(each.id)
    for each in full:
        await admin.wait(each.id, timeout_s=PATIENCE_S)


# output


async def test_small_output_is_kept_apart_and_rides_with_the_result(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    async with behind(mesh) as inside:
        before = await inside.messages("MESH_LOGS")
        record = await admin.run(script("echo out; echo err >&2; printf tail"), group="web")
        assert record.output is not None
        assert (record.output.stdout, record.output.stderr) == (b"out\ntail", b"err\n")
        assert (record.stdout_bytes, record.stderr_bytes) == (8, 4)
        assert await inside.messages("MESH_LOGS") == before


async def test_large_output_comes_while_it_is_written_and_whole(
    admin: MeshClient, tmp_path: Path
) -> None:
    """5 MB on one stream and some on the other; the first bytes are read before the task ends."""
    size = 5 * 1024 * 1024
    (tmp_path / "part").write_bytes(os.urandom(size // 5))
    text = (
        f"for i in 1 2 3 4 5; do cat {tmp_path}/part; echo $i >&2; sleep 0.2; done;"
        f" while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    )
    answer = await admin.submit(script(text), group="web")
    received = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
    sizes = {"stdout": 0, "stderr": 0}
    output = admin.logs(answer.id, follow=True)
    async with asyncio.timeout(PATIENCE_S):
        async for part in output:
            assert part.offset == sizes[part.stream]
            received[part.stream].update(part.data)
            sizes[part.stream] += len(part.data)
            if sizes == {"stdout": size, "stderr": 10} and not (tmp_path / "go").exists():
                assert (await admin.show(answer.id)).state == "running"
                (tmp_path / "go").touch()
    assert sizes == {"stdout": size, "stderr": 10}
    expected = hashlib.sha256((tmp_path / "part").read_bytes() * 5)
    assert received["stdout"].digest() == expected.digest()
    assert received["stderr"].digest() == hashlib.sha256(b"1\n2\n3\n4\n5\n").digest()
    record = await admin.wait(answer.id, with_output=True)
    assert (record.stdout_bytes, record.stderr_bytes, record.output) == (size, 10, None)


async def test_large_output_of_an_ended_command_is_whole_at_once(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """When the result is there, all output is: nothing arrives behind it."""
    text = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 100000 /dev/zero | tr '\\0' y >&2"
    record = await admin.run(script(text), group="web", timeout_s=PATIENCE_S)
    sizes = {"stdout": 0, "stderr": 0}
    async for part in admin.logs(record.id):
        assert set(part.data) == {ord("x" if part.stream == "stdout" else "y")}
        sizes[part.stream] += len(part.data)
    assert sizes == {"stdout": 3_000_000, "stderr": 100_000}
    ran = await mesh.cli("command", "logs", record.id)
    assert (ran.code, len(ran.out), len(ran.err)) == (0, 3_000_000, 100_000)


async def test_logs_go_on_at_any_offset(admin: MeshClient) -> None:
    text = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    record = await admin.run(script(text), group="web", timeout_s=PATIENCE_S)
    whole = b"".join([part.data async for part in admin.logs(record.id)])
    assert whole == b"".join(b"line %d\n" % n for n in range(20000))
    for offset, room in ((0, 10), (1, 7), (65_535, 3), (100_000, 70_000), (len(whole) - 3, 50)):
        request = LogsRequest(id=record.id, stdout_from=offset, max_bytes=room)
        answer = await admin.ask("command", "logs", request, LogsAnswer)
        assert answer.stdout == whole[offset : offset + room]
        assert answer.stdout_next == offset + len(answer.stdout)
    beyond = LogsRequest(id=record.id, stdout_from=len(whole) + 5)
    answer = await admin.ask("command", "logs", beyond, LogsAnswer)
    assert (answer.stdout, answer.end) == (b"", True)


async def test_logs_of_what_is_not_there_are_refused(admin: MeshClient) -> None:
    record = await admin.run(NoopArgs(), group="web")
    for request, code in (
        (LogsRequest(id="no-such-command"), "command_unknown"),
        (LogsRequest(id=record.id, attempt=2), "attempt_unknown"),
    ):
        with refused(code):
            await admin.ask("command", "logs", request, LogsAnswer)


async def test_run_of_the_command_line_shows_both_streams_and_ends_as_the_program_did(
    mesh: MeshProcesses,
) -> None:
    ran = await mesh.cli("run", "--group", "web", "--", "sh", "-c", "echo o; echo e >&2; exit 9")
    assert (ran.code, ran.out, ran.err) == (9, "o\n", "e\n")
    silent = await mesh.cli("run", "--group", "web", "--timeout", "0.3", "--", "sleep", "30")
    assert silent.code == MESH_EXITS["timed_out"]
    detached = await mesh.cli("run", "--group", "web", "--detach", "--id", "cli-1", "--", "true")
    assert (detached.code, detached.out) == (0, "cli-1\n")
    waited = await mesh.cli("command", "wait", "cli-1", "--output", "json")
    assert (waited.code, waited.json["state"]) == (0, "succeeded")
    shown = await mesh.cli("command", "show", "cli-1", "--output", "json")
    fields = {"id", "group", "agent", "action", "state", "attempts", "submitted_at", "client"}
    assert fields <= set(shown.json)


# who hears of it


async def test_result_goes_to_the_submitter_alone_and_with_output_only_if_asked(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    context = await client_of(mesh, "listener", "operator", directory=tmp_path)
    async with mesh.client(context) as other:
        with admin.results() as mine, other.results() as theirs:
            await admin.link.flush()
            await other.link.flush()
            plain = await admin.submit(["echo", "a"], group="web")
            full = await admin.submit(["echo", "b"], group="web", with_output=True)
            own = await other.submit(["echo", "c"], group="web")
            async with asyncio.timeout(PATIENCE_S):
                records = {record.id: record for record in [await anext(mine), await anext(mine)]}
                assert (await anext(theirs)).id == own.id
            assert records[plain.id].output is None
            output = records[full.id].output
            assert output is not None
            assert output.stdout == b"b\n"
            assert theirs.missed == 0
            async with asyncio.timeout(PATIENCE_S):
                assert (await other.wait(plain.id)).state == "succeeded"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await anext(theirs)


async def test_wait_returns_as_it_stands_when_its_time_is_up(admin: MeshClient) -> None:
    answer = await admin.submit(["sleep", "60"], group="web")
    with refused("wait_timeout"):
        await admin.wait(answer.id, timeout_s=0.3)
    assert (await admin.show(answer.id)).state in ("sent", "accepted", "running")
    await admin.cancel(answer.id)
    await admin.wait(answer.id)
    with refused("command_unknown"):
        await admin.wait("no-such-command", timeout_s=30)


# lists


async def test_list_pages_through_all_newest_first_and_filters(admin: MeshClient) -> None:
    ids = [f"list-{n:02d}" for n in range(12)]
    for command_id in ids:
        await admin.run(
            ["false"] if command_id.endswith("5") else ["true"],
            agent="db-1",
            id=command_id,
            labels={"n": command_id},
        )
    running = await admin.submit(["sleep", "60"], agent="db-1", id="list-open")
    await state_reached(admin, running.id, "running")
    seen: list[str] = []
    cursor = None
    while True:
        page = await admin.list(CommandList(agent="db-1", limit=5, cursor=cursor))
        assert len(page.commands) <= 5
        seen += [record.id for record in page.commands if record.id.startswith("list-")]
        cursor = page.cursor
        if cursor is None:
            break
    # One that went into history between two pages may come twice.
    assert list(dict.fromkeys(seen)) == ["list-open", *reversed(ids)]
    failed = await admin.list(CommandList(agent="db-1", state="failed"))
    assert [each.id for each in failed.commands if each.id in ids] == ["list-05"]
    opened = await admin.list(CommandList(state="running"))
    assert [each.id for each in opened.commands] == ["list-open"]
    assert (await admin.list(CommandList(group="empty"))).commands == []
    await admin.cancel(running.id)
    await admin.wait(running.id)


@pytest.mark.parametrize(
    "cursor", ["", "open", "open:", "open:x", "ended:-1", "ended:²", "ended:" + "9" * 200, "x:1"]
)
async def test_cursor_that_is_none_of_ours_is_refused(admin: MeshClient, cursor: str) -> None:
    if not cursor:
        assert (await admin.list(CommandList(cursor=None))).commands is not None
        return
    with refused("field_invalid"):
        await admin.list(CommandList(cursor=cursor))


# losses


async def test_agent_that_dies_leaves_unknown_then_lost_with_the_reason(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    agent = await mesh.add_agent("web-3", group="empty", slots=4)
    answer = await admin.submit(script(f"echo $$ > {tmp_path}/pid; sleep 60"), agent="web-3")
    await number_in(tmp_path / "pid")
    await state_reached(admin, answer.id, "running")
    agent.kill()
    unknown = await state_reached(admin, answer.id, "unknown")
    assert unknown.reason == "web-3 does not respond; it was running before"
    assert unknown.next.startswith("given up at ")
    lost = await admin.wait(answer.id, timeout_s=LOST_S + 10)
    assert lost.state == "lost"
    assert lost.reason.startswith("web-3 fell silent while ")
    assert "running" in lost.reason
    ran = await mesh.cli("command", "wait", answer.id)
    assert ran.code == MESH_EXITS["lost"]
    agent.end_orphans()


async def test_lost_command_that_may_be_repeated_runs_again_elsewhere(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    await mesh.add_group("pair")
    first = await mesh.add_agent("pair-1", group="pair", slots=4)
    text = f"echo $$ >> {tmp_path}/pids; [ $(wc -l < {tmp_path}/pids) = 2 ] || sleep 60"
    answer = await admin.submit(script(text), group="pair", on_lost="rerun")
    await number_in(tmp_path / "pids")
    await mesh.add_agent("pair-2", group="pair", slots=4)
    first.kill()
    record = await admin.wait(answer.id, timeout_s=LOST_S + 15)
    assert record.state == "succeeded"
    assert [(each.agent, each.state) for each in record.attempts] == [
        ("pair-1", "lost"),
        ("pair-2", "succeeded"),
    ]
    first.end_orphans()


async def test_agent_that_restarts_reports_what_was_lost_with_its_process(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    agent = await mesh.add_agent("web-4", group="empty", slots=4)
    answer = await admin.submit(script(f"echo $$ > {tmp_path}/pid; sleep 60"), agent="web-4")
    pid = await number_in(tmp_path / "pid")
    await state_reached(admin, answer.id, "running")
    agent.kill()
    await agent.start()
    record = await admin.wait(answer.id, timeout_s=LOST_S + 10)
    assert record.state == "lost"
    assert not alive(pid)


async def test_silence_shorter_than_the_lease_costs_nothing(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    agent = await mesh.add_agent("web-5", group="empty", slots=4)
    text = f"echo a; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo b"
    answer = await admin.submit(script(text), agent="web-5")
    await state_reached(admin, answer.id, "running")
    agent.signal(signal.SIGSTOP)
    await state_reached(admin, answer.id, "unknown")
    agent.signal(signal.SIGCONT)
    await state_reached(admin, answer.id, "running")
    (tmp_path / "go").touch()
    record = await admin.wait(answer.id, with_output=True, timeout_s=PATIENCE_S)
    assert (record.state, len(record.attempts)) == ("succeeded", 1)
    assert record.output is not None
    assert record.output.stdout == b"a\nb\n"
