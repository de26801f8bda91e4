"""Hosts as they really are: busy, short of descriptors, with a log that takes nothing."""

import asyncio
import contextlib
import os
import pty
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from broker_client.api import MeshClient
from schemas.faults import MeshError, Unreachable
from schemas.messages.api import AgentRecord, GroupRecord, NameQuery
from tests.children import Child
from tests.harness import FAST_TIMERS, MeshProcesses, program
from tests.meshes import mesh_fixture, state_reached

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-hosts")]

WAIT_S = 60.0
MESH = program("mesh")[0]


async def add_one(mesh: MeshProcesses) -> None:
    await mesh.add_agent("one-1", group="one", slots=1)


mesh = mesh_fixture({"web": ("web-1",), "one": ()}, prepare=add_one)


async def agent_said(admin: MeshClient, name: str, reason: str) -> AgentRecord:
    """The agent's record once its reason has these words."""
    async with asyncio.timeout(WAIT_S):
        while True:
            record = await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)
            if reason in record.reason:
                return record
            await asyncio.sleep(0.05)


async def test_group_whose_slots_are_all_taken_is_active(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    running = await admin.submit(["sleep", "60"], group="one")
    await state_reached(admin, running.id, "running")
    agent = await agent_said(admin, "one-1", "1 of 1 slots taken")
    await asyncio.sleep(0.4)  # two beats that say that no slot is free
    assert (agent.status, agent.badges) == ("active", [])
    group = await admin.ask("group", "show", NameQuery(name="one"), GroupRecord)
    assert (group.status, "all slots taken" in group.reason) == ("active", True)
    queued = await admin.submit(["true"], group="one", on_inactive="refuse")
    assert (queued.state, queued.target, queued.next) == ("queued", "active", "")
    reason = "waits for a free slot of an agent of one"
    assert (await admin.show(queued.id)).reason == reason
    listed = await mesh.cli("command", "list", "--group", "one", "--output", "json")
    assert reason in [each["reason"] for each in listed.json]
    await admin.cancel(running.id)
    assert (await admin.wait(queued.id)).state == "succeeded"


async def test_agent_short_of_descriptors_is_active_and_says_what_it_lacks(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    pid = mesh.agents["one-1"].pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (20, limits[1]))
    try:
        agent = await agent_said(admin, "one-1", "file descriptors are left")
        assert (agent.status, agent.badges) == ("active", ["few descriptors"])
        assert agent.next.startswith("takes work again")
        group = await admin.ask("group", "show", NameQuery(name="one"), GroupRecord)
        assert group.status == "active"
        assert group.reason == "1 of 1 agents active, none takes new work: 1 few descriptors"
        with pytest.raises(MeshError) as caught:
            await admin.submit(["true"], group="one", on_inactive="refuse")
        assert caught.value.code == "group_inactive"
        assert "no agent of one takes new work: 1 few descriptors" in str(caught.value)
        queued = await admin.submit(["true"], agent="one-1", queue_ttl_s=60)
        assert queued.target == "active"
        assert "waits for one-1 to take work again" in queued.next
        assert "few descriptors" in (await admin.show(queued.id)).reason
        series = 'mesh_agent_lacks{agent="one-1",group="one",lack="descriptors"} 1'
        assert series in await asyncio.to_thread(mesh._metrics)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert (await admin.wait(queued.id)).state == "succeeded"
    await agent_said(admin, "one-1", "beats arrive")


NO_LOG = (">/dev/full 2>/dev/full", "<&- >&- 2>&-")


def with_streams(child: Child, how: str) -> Child:
    """The same program with its standard streams as a shell writes it; it cannot say `ready`."""
    argv = ["sh", "-c", f'exec "$@" {how}', "sh", *child.argv]
    return Child(f"{child.name}-streams", argv, child.stdout_path.parent, env=child.env)


@pytest.mark.parametrize("how", NO_LOG)
async def test_agent_whose_log_cannot_be_written_works(
    mesh: MeshProcesses, admin: MeshClient, how: str
) -> None:
    usual = mesh.agents["web-1"]
    await usual.stop(WAIT_S)
    agent = with_streams(usual, how)
    try:
        await agent.start()
        await mesh.wait_status("web-1", "active")
        record = await admin.run(["sh", "-c", "echo out; echo err >&2"], agent="web-1")
        assert record.output is not None
        assert (record.output.stdout, record.output.stderr) == (b"out\n", b"err\n")
        assert await agent.stop(WAIT_S) == 0
    finally:
        agent.kill()
        await usual.start()


async def mesh_answers(mesh: MeshProcesses) -> None:
    """Until the master, which cannot say that it is ready, answers."""
    async with mesh.client() as client, asyncio.timeout(WAIT_S):
        while True:
            try:
                await client.status()
            except Unreachable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_master_whose_log_cannot_be_written_works(tmp_path: Path) -> None:
    async with MeshProcesses(tmp_path / "mesh", env=FAST_TIMERS) as mesh:
        for how in NO_LOG:
            await mesh.master.stop(WAIT_S)
            master = with_streams(mesh.master, how)
            try:
                await master.start()
                await mesh_answers(mesh)
                assert await master.stop(WAIT_S) == 0
            finally:
                master.kill()


def in_shell(mesh: MeshProcesses, line: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """`line` of a shell in which $MESH is `mesh`; the exit code is that of its first part."""
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        env={**mesh.env, "MESH_CONTEXT": str(mesh.admin_context), "MESH": MESH, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("how", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
)
def test_output_that_cannot_be_written_has_a_code_of_its_own(
    mesh: MeshProcesses, how: str, why: str
) -> None:
    unwritable = f"mesh: the output cannot be written: {why}"
    for words in ("agent list", "agent list --output json", "--version", "completion bash"):
        ran = in_shell(mesh, f"$MESH {words} {how}")
        assert (ran.returncode, ran.stderr) == (74, f"{unwritable}\n"), words
    ran = in_shell(mesh, f"$MESH run --agent web-1 --id kept{why[:2]} -- echo a {how}")
    assert ran.returncode == 74
    assert ran.stderr == (
        f"{unwritable}; see `mesh command show kept{why[:2]}`, which goes on unless it has ended\n"
    )
    submitted = (74, f"{unwritable}; left{why[:2]} was submitted\n")
    for options in ("", "--output json"):
        words = f"run --detach {options} --agent web-1 --id left{why[:2]} -- true"
        ran = in_shell(mesh, f"$MESH {words} {how}")
        assert (ran.returncode, ran.stderr) == submitted, options


def test_id_is_not_lost_with_its_reader_and_words_change_no_code(mesh: MeshProcesses) -> None:
    detached = "$MESH run --detach --agent web-1"
    # The reader has gone before anything is written.
    for options in ("", "--output json"):
        line = f"exec {detached} {options} --id piped -- true"
        ran = in_shell(mesh, f"{{ sleep 1; {line}; }} | true")
        assert (ran.returncode, ran.stderr) == (141, "mesh: piped was submitted\n"), options
    ran = in_shell(mesh, "$MESH agent show nobody 2>/dev/full")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "", "")
    ran = in_shell(mesh, "$MESH run --agent web-1 -- sh -c 'echo a >&2; exit 7' 2>/dev/full")
    assert ran.returncode == 74


def test_text_that_the_terminal_cannot_show_is_spelled_out(mesh: MeshProcesses) -> None:
    note = "--note 'au\u00dfer Haus'"
    assert in_shell(mesh, f"$MESH agent disable one-1 {note}").returncode == 0
    try:
        ran = in_shell(mesh, "$MESH agent show one-1", PYTHONIOENCODING="ascii")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "au\\xdfer Haus" in ran.stdout
    finally:
        assert in_shell(mesh, "$MESH agent enable one-1").returncode == 0


async def test_path_with_bytes_that_are_no_utf8_fails_no_command(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    usual = mesh.agents["web-1"]
    await usual.stop(WAIT_S)
    argv = ["sh", "-c", 'PATH="$(printf /caf\\351):$PATH" exec "$@"', "sh", *usual.argv]
    agent = Child("web-1-path", argv, usual.stdout_path.parent, env=usual.env, ready="ready ")
    try:
        await agent.start()
        await mesh.wait_status("web-1", "active")
        record = await admin.run(["echo", "a"], agent="web-1")
        assert (record.state, record.output and record.output.stdout) == ("succeeded", b"a\n")
    finally:
        await agent.stop(WAIT_S)
        await usual.start()


def test_bytes_that_are_no_utf8_are_refused_by_their_field(mesh: MeshProcesses) -> None:
    bad = "$(printf 'caf\\351')"
    run = "$MESH run --agent one-1"
    for line, field in (
        (f'{run} -- echo "{bad}"', "argv[1]"),
        (f'{run} --env "A={bad}" -- true', "--env[A]"),
        (f'{run} --cwd "/{bad}" -- true', "--cwd"),
        (f'{run} --label "a={bad}" -- true', "--label[a]"),
        (f'$MESH agent disable one-1 --note "{bad}"', "--note"),
    ):
        ran = in_shell(mesh, line)
        assert ran.returncode == 2, (line, ran)
        assert ran.stderr.startswith(f"mesh: {field} has bytes that are not UTF-8"), (line, ran)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_signal_to_a_run_ends_the_command_as_ctrl_c_does(
    mesh: MeshProcesses, admin: MeshClient, number: signal.Signals
) -> None:
    command = f"ended-{number}"
    arguments = ("run", "--agent", "web-1", "--id", command, "--", "sleep", "60")
    running = subprocess.Popen(
        program("mesh", *arguments),
        env={**mesh.env, "MESH_CONTEXT": str(mesh.admin_context)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    if (await admin.show(command)).state == "running":
                        break
                except MeshError:
                    pass
                await asyncio.sleep(0.05)
        running.send_signal(number)
        _, said = await asyncio.to_thread(running.communicate, timeout=WAIT_S)
    finally:
        running.kill()
    assert running.returncode == 123, said
    assert f"ending {command}" in said
    assert (await admin.show(command)).state == "cancelled"


@pytest.mark.parametrize("options", [(), ("--detach",), ("--agent", "one-1")])
async def test_signal_to_a_run_without_an_answer_leaves_a_line_with_the_id(
    mesh: MeshProcesses, admin: MeshClient, options: tuple[str, ...]
) -> None:
    """However far it has come: the master is stopped, so that nothing is answered."""
    words = ("run", "--agent", "web-1", *options, "--id", "unanswered", "--", "true")
    mesh.master.signal(signal.SIGSTOP)
    running = subprocess.Popen(
        program("mesh", *words),
        env={**mesh.env, "MESH_CONTEXT": str(mesh.admin_context)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            while not catches(running.pid, signal.SIGTERM):
                await asyncio.sleep(0.01)
            while running.poll() is None:
                running.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(running.wait, 2.0)
        said = await asyncio.to_thread(running.communicate, timeout=WAIT_S)
    finally:
        running.kill()
        mesh.master.signal(signal.SIGCONT)
        for name in ("web-1", "one-1"):
            await agent_said(admin, name, "beats arrive and are answered")
    assert running.returncode == 130, said
    # An interrupted start may log a line of its own after it.
    assert any(
        line.startswith("mesh: ") and "unanswered" in line for line in said[1].splitlines()
    ), said


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line[7:], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (number - 1) & 1)


def test_fan_out_in_a_pipe_gives_the_bytes_as_they_are(mesh: MeshProcesses) -> None:
    line = r"$MESH run --agent web-1 --agent one-1 -- printf 'a\033[1m\nb'"
    said = sorted(in_shell(mesh, line).stdout.splitlines())
    assert said[:4] == ["one-1 | a\x1b[1m", "one-1 | b", "web-1 | a\x1b[1m", "web-1 | b"]


def test_raw_output_steers_a_terminal_only_where_it_is_asked_for(mesh: MeshProcesses) -> None:
    env = {**mesh.env, "MESH_CONTEXT": str(mesh.admin_context)}
    for options, expected in (((), b"a\\x1b[1m"), (("--raw",), b"a\x1b[1m")):
        theirs, ours = pty.openpty()
        words = ("run", *options, "--agent", "web-1", "--", "printf", "a\\033[1m")
        subprocess.run(program("mesh", *words), env=env, stdout=ours, timeout=60, check=True)
        os.close(ours)
        assert os.read(theirs, 1000) == expected
        os.close(theirs)


def test_address_that_cannot_work_is_refused_at_the_door(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    master, agent = program("broker-master")[0], program("broker-agent")[0]
    for host in ("0.0.0.0", "256.1.1.1", "fe80::1%eth0"):
        ran = in_shell(mesh, f"{master} init --state-dir {tmp_path}/m --host {host}")
        assert (ran.returncode, host in ran.stderr) == (78, True), ran
    assert not (tmp_path / "m").exists()
    state = mesh.agent_dir("web-1")
    for url, words in (("ws://a:80", "ws:// is not spoken"), ("tls://0.0.0.0:1", "listen on")):
        ran = in_shell(mesh, f"{agent} run --state-dir {state} --urls {url}")
        assert (ran.returncode, words in ran.stderr) == (78, True), ran
        ran = in_shell(mesh, f"{master} serve --state-dir {mesh.state_dir} --nats {url}")
        assert (ran.returncode, words in ran.stderr) == (78, True), ran
