"""The `mesh` command against a real mesh: what scripts and people may rely on."""

import asyncio
import contextlib
import csv
import fcntl
import inspect
import json
import os
import pty
import re
import signal
import ssl
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from cyclopts import App

from broker_client.cli.options import Listing
from broker_client.cli.table import COMMANDS
from broker_client.cli.tree import build
from tests.harness import MeshProcesses, program
from tests.interrupts import LONG, storm
from tests.meshes import mesh_fixture
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TALK = "echo out; echo err >&2; exit 3"


mesh = mesh_fixture({"web": ("web-1",)})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator(mesh: MeshProcesses) -> Path:
    """A directory that `mesh client create` made."""
    folder = mesh.directory / "ann"
    made = await mesh.cli("client", "create", "ann", "--role", "operator", "--out", str(folder))
    assert made.code == 0, made.err
    return folder


def started(mesh: MeshProcesses, *arguments: str) -> "subprocess.Popen[bytes]":
    """`mesh …` left running, both streams in pipes."""
    return subprocess.Popen(
        program("mesh", "--context", str(mesh.admin_context), *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=mesh.env,
    )


def example(mesh: MeshProcesses, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=mesh.env,
    )


async def ended(process: "subprocess.Popen[bytes]") -> tuple[int, bytes, bytes]:
    try:
        out, err = await asyncio.to_thread(process.communicate, None, 60)
    finally:
        process.kill()
    return process.returncode, out, err


async def first_line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.to_thread(process.stdout.readline)


async def test_run_keeps_streams_apart_and_returns_the_exit_code(mesh: MeshProcesses) -> None:
    ran = await mesh.cli("run", "--group", "web", "--", "sh", "-c", TALK)
    assert (ran.code, ran.out, ran.err) == (3, "out\n", "err\n")


async def test_run_on_one_agent_gives_it_environment_folder_and_stdin(
    mesh: MeshProcesses,
) -> None:
    ran = await mesh.cli(
        *("run", "--agent", "web-1", "--env", "NAME=a=b", "--cwd", "/tmp", "--stdin"),
        *("--", "sh", "-c", 'echo "$NAME"; pwd; cat'),
        stdin="from here",
    )
    assert (ran.code, ran.out) == (0, "a=b\n/tmp\nfrom here")


async def test_run_as_json_prints_the_record_and_nothing_else(mesh: MeshProcesses) -> None:
    ran = await mesh.cli(
        "run", "--group", "web", "--output", "json", "--", "sh", "-c", "printf 'a\\377'; exit 3"
    )
    assert (ran.code, ran.err) == (3, "")
    record = ran.json
    assert record["state"] == "failed"
    assert record["attempts"][-1]["exit_code"] == 3
    assert record["output"] == {"stdout": "a\\xff", "stderr": "", "truncated": False}


async def test_output_arrives_while_the_program_runs(mesh: MeshProcesses) -> None:
    process = started(mesh, "run", "--group", "web", "--", "sh", "-c", "echo one; sleep 600")
    try:
        assert await first_line(process) == b"one\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        code, out, err = await ended(process)
    finally:
        process.kill()
    assert (code, out) == (123, b"")
    assert b"ending" in err
    assert b"(cancelled)" in err


async def test_second_interrupt_leaves_and_says_how_to_see_it(mesh: MeshProcesses) -> None:
    script = "trap '' TERM; echo one; while :; do sleep 0.1; done"
    process = started(mesh, "run", "--id", "stubborn", "--group", "web", "--", "sh", "-c", script)
    assert process.stderr is not None
    try:
        assert await first_line(process) == b"one\n"
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE_S):
            assert b"Ctrl-C again" in await asyncio.to_thread(process.stderr.readline)
        process.send_signal(signal.SIGINT)
        code, _, err = await ended(process)
    finally:
        process.kill()
    # The agent ends it by force after its grace; whichever came first, nothing was waited for.
    assert code in {130, 123}
    assert b"mesh command" in err
    assert (await mesh.cli("command", "wait", "stubborn")).code == 123


async def test_large_output_arrives_whole_through_run_and_logs(mesh: MeshProcesses) -> None:
    script = "seq 400000; echo done >&2"
    expected = "".join(f"{number}\n" for number in range(1, 400_001))
    ran = await mesh.cli("run", "--id", "large", "--group", "web", "--", "sh", "-c", script)
    assert (ran.code, ran.out == expected, ran.err) == (0, True, "done\n")
    logs = await mesh.cli("command", "logs", "large")
    assert (logs.code, logs.out == expected, logs.err) == (0, True, "done\n")


async def test_terminal_gets_control_sequences_spelled_out(mesh: MeshProcesses) -> None:
    ours, theirs = pty.openpty()
    try:
        arguments = ("run", "--group", "web", "--", "printf", "\\033]0;x\\007\\n")
        process = subprocess.Popen(
            program("mesh", "--context", str(mesh.admin_context), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=mesh.env,
        )
        assert (await ended(process))[0] == 0
        assert os.read(ours, 1000) == b"\\x1b]0;x\\x07\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


GOES_ON = (
    "mesh: {id} goes on without a reader of its output; to end it: `mesh command cancel {id}`\n"
)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("seq 200000", ""),
        (
            "seq 200000; exec sleep 600",
            GOES_ON,
        ),
    ],
    ids=["ended", "open"],
)
async def test_reader_that_goes_away_is_told_of_what_goes_on_without_it(
    mesh: MeshProcesses, program: str, said: str
) -> None:
    name = "unread-open" if said else "unread-ended"
    process = started(mesh, "run", "--group", "web", "--id", name, "--", "sh", "-c", program)
    assert process.stdout is not None
    assert await first_line(process) == b"1\n"
    if not said:
        assert (await mesh.cli("command", "wait", name)).out == "succeeded\n"
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        heard = await asyncio.to_thread(process.stderr.read)
    assert await asyncio.to_thread(process.wait, PATIENCE_S) == 141
    assert heard.decode() == said.format(id=name)
    if said:
        assert (await mesh.cli("command", "cancel", name)).code == 0


async def test_detached_command_is_waited_for_shown_and_listed(mesh: MeshProcesses) -> None:
    detached = await mesh.cli("run", "--detach", "--group", "web", "--", "sh", "-c", TALK)
    command = detached.out.strip()
    assert (detached.code, detached.err) == (0, "")
    waited = await mesh.cli("command", "wait", command)
    assert (waited.code, waited.out, waited.err) == (3, "failed\n", "")
    logs = await mesh.cli("command", "logs", command)
    assert (logs.code, logs.out, logs.err) == (0, "out\n", "err\n")
    shown = await mesh.cli("command", "show", command)
    assert shown.code == 0
    assert "attempt 1 failed, exit code 3" in shown.out
    record = (await mesh.cli("command", "show", command, "--output", "json")).json
    assert (record["id"], record["state"], record["client"]) == (command, "failed", "admin")
    listed = await mesh.cli("command", "list", "--state", "failed", "--output", "json")
    assert command in [found["id"] for found in listed.json]


async def test_wait_gives_up_after_its_timeout_and_cancel_ends_it(mesh: MeshProcesses) -> None:
    command = (
        await mesh.cli("run", "--detach", "--group", "web", "--", "sleep", "600")
    ).out.strip()
    waited = await mesh.cli("command", "wait", command, "--timeout", "0.3")
    assert waited.code == 4
    assert "(wait_timeout)" in waited.err
    assert (await mesh.cli("command", "cancel", command)).code == 0
    assert (await mesh.cli("command", "wait", command)).code == 123
    again = await mesh.cli("command", "cancel", command)
    assert (again.code, "(command_ended)" in again.err) == (6, True)


async def test_same_id_is_the_same_command_and_another_body_a_conflict(
    mesh: MeshProcesses,
) -> None:
    run = ("run", "--id", "once", "--group", "web", "--")
    first = await mesh.cli(*run, "sh", "-c", "date +%N")
    second = await mesh.cli(*run, "sh", "-c", "date +%N")
    assert (second.code, second.out) == (0, first.out)
    conflict = await mesh.cli(*run, "true")
    assert (conflict.code, "(id_conflict)" in conflict.err) == (6, True)


@pytest.mark.parametrize(
    ("arguments", "code", "fault"),
    [
        (("run", "--group", "nope", "--", "true"), 3, "group_unknown"),
        (("run", "--agent", "nope", "--", "true"), 3, "agent_unknown"),
        (("run", "--group", "web", "--id", "a b", "--", "true"), 2, "id_invalid"),
        (("run", "--group", "web", "--timeout", "0.2", "--", "sleep", "9"), 124, "timed_out"),
        (("run", "--group", "web", "--", "/no/such/program"), 127, "failed"),
        (("group", "create", "web"), 6, "group_exists"),
        (("group", "create", "No Name"), 2, "name_invalid"),
        (("group", "show", "nope"), 3, "group_unknown"),
        (("group", "delete", "web"), 6, "group_not_empty"),
        (("agent", "create", "web-1", "--group", "web"), 6, "agent_exists"),
        (("agent", "create", "new", "--group", "nope"), 3, "group_unknown"),
        (("agent", "show", "nope"), 3, "agent_unknown"),
        (("command", "show", "nope"), 3, "command_unknown"),
        (("command", "wait", "nope"), 3, "command_unknown"),
        (("command", "logs", "nope"), 3, "command_unknown"),
        (("client", "revoke", "nope"), 3, "client_unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
async def test_fault_is_two_lines_with_its_exit_code(
    mesh: MeshProcesses, arguments: tuple[str, ...], code: int, fault: str
) -> None:
    ran = await mesh.cli(*arguments)
    assert (ran.code, ran.out) == (code, ""), ran.err
    lines = ran.err.splitlines()
    assert len(lines) == 2, ran.err
    assert lines[0].startswith("mesh: ")
    assert lines[0].endswith(f"({fault})")
    assert lines[1].startswith("  ")


LARGE = "head -c 200000 /dev/zero | tr '\\0' x >&2; echo >&2; echo disk is full >&2; exit 9"


@pytest.mark.parametrize(
    ("id", "program", "line"),
    [
        ("told-small", "echo no such disk >&2; exit 9", "no such disk"),
        ("told-large", LARGE, "disk is full"),
    ],
)
async def test_last_line_on_stderr_is_the_reason_of_a_failure(
    mesh: MeshProcesses, id: str, program: str, line: str
) -> None:
    """However much it has printed; who watched it has seen that line already."""
    ran = await mesh.cli("run", "--agent", "web-1", "--id", id, "--", "sh", "-c", program)
    assert (ran.code, ran.err.count(line)) == (9, 1)
    shown = (await mesh.cli("command", "show", id, "--output", "json")).json
    assert (shown["reason"], shown["attempts"][0]["reason"]) == (f"stderr: {line}",) * 2
    listed = await mesh.cli("command", "list", "--columns", "id,reason", "state:failed")
    assert any(
        row.startswith(f"{id} ") and f"stderr: {line}" in row for row in listed.out.splitlines()
    ), listed.out


async def test_line_of_a_shell_given_as_one_program_names_the_shell(mesh: MeshProcesses) -> None:
    ran = await mesh.cli("run", "--group", "web", "--", "df -h | tail -3")
    assert (ran.code, ran.out) == (127, "")
    assert "mesh run … -- sh -c 'df -h | tail -3'" in ran.err


async def test_fault_as_json_goes_to_stderr(mesh: MeshProcesses) -> None:
    ran = await mesh.cli("group", "show", "nope", "--output", "json")
    assert (ran.code, ran.out) == (3, "")
    assert json.loads(ran.err)["code"] == "group_unknown"


async def test_agent_is_created_disabled_enabled_and_deleted(mesh: MeshProcesses) -> None:
    made = await mesh.cli("agent", "create", "spare", "--group", "web", "--output", "json")
    assert made.code == 0
    assert set(made.json) == {"agent", "group", "token", "expires_at"}
    awaiting = await mesh.cli("agent", "list", "--status", "awaiting_setup", "--output", "json")
    assert [agent["agent"] for agent in awaiting.json] == ["spare"]
    token = await mesh.cli("agent", "token", "spare", "--ttl", "60")
    assert (token.code, len(token.out.splitlines())) == (0, 1)
    assert token.out.strip() != made.json["token"]
    for verb, admin in (("disable", "disabled"), ("enable", "enabled"), ("revoke", "revoked")):
        assert (await mesh.cli("agent", verb, "spare")).code == 0
        record = (await mesh.cli("agent", "show", "spare", "--output", "json")).json
        assert record["admin"] == admin
    assert (await mesh.cli("agent", "delete", "spare")).code == 0
    assert (await mesh.cli("agent", "show", "spare")).code == 3


async def test_group_is_listed_with_its_agents_and_deleted_when_empty(
    mesh: MeshProcesses,
) -> None:
    assert (await mesh.cli("group", "create", "empty")).code == 0
    listed = (await mesh.cli("group", "list", "-o", "json")).json
    groups = {group["group"]: group for group in listed}
    assert groups["web"]["status"] == "active"
    assert groups["web"]["agents"]["active"] == 1
    assert groups["empty"]["status"] == "inactive"
    assert "web-1" in (await mesh.cli("group", "show", "web")).out
    assert (await mesh.cli("group", "delete", "empty")).code == 0


@pytest.mark.parametrize(
    "arguments",
    [("agent", "list"), ("group", "list"), ("command", "list"), ("client", "list"), ("status",)],
    ids=" ".join,
)
async def test_text_in_a_pipe_fits_80_columns(
    mesh: MeshProcesses, arguments: tuple[str, ...]
) -> None:
    assert (await mesh.cli("run", "--group", "web", "--", "true")).code == 0
    ran = await mesh.cli(*arguments)
    assert ran.code == 0
    assert ran.out
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    assert ran.err == "", "a usual table hides nothing"


# What a list needs beside its name.
ALSO = {("agent", "forget"): ["--silent-for", "60"], ("top", ""): ["--once"]}


def lists() -> list[list[str]]:
    """Each command that prints a list, which csv shows."""
    app = build(())
    return [
        [noun, *filter(None, [verb]), *ALSO.get((noun, verb), [])]
        for noun, verb, *_ in COMMANDS
        if noun != "context"
        and any(
            isinstance(each.default, Listing)
            for each in signature(app[noun][verb] if verb else app[noun]).values()
        )
    ]


def signature(command: App) -> Mapping[str, inspect.Parameter]:
    function = command.default_command
    return inspect.signature(function).parameters if function is not None else {}


def in_terminal(mesh: MeshProcesses, columns: int, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of a whole process on a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        program("mesh", "--context", str(mesh.admin_context), *arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**mesh.env, "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    try:
        with contextlib.suppress(OSError):  # the last one that wrote has gone
            while data := os.read(ours, 65536):
                seen += data
        code = process.wait(PATIENCE_S)
    finally:
        process.kill()
        os.close(ours)
    return code, re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).splitlines()


async def test_every_list_fits_a_terminal_of_80_columns_and_has_csv(mesh: MeshProcesses) -> None:
    await mesh.cli("run", "--all", "--group", "web", "--id", "for-lists", "--", "true")
    assert (await mesh.cli("agent", "create", "silent-1", "--group", "web")).code == 0
    assert len(lists()) >= 10
    for words in lists():
        expected = 5 if words[0] == "ping" else 0  # an agent is missing
        for columns in (80, 120):
            code, lines = await asyncio.to_thread(in_terminal, mesh, columns, *words)
            assert (code, bool(lines)) == (expected, True), (words, lines)
            assert max(map(len, lines)) <= columns, (words, lines)
        table = await mesh.cli(*words, "--output", "csv")
        heading, *rows = table.out.splitlines()
        assert table.code == expected, (words, table.err)
        assert re.fullmatch(r"[a-z_.]+(,[a-z_.]+)+", heading), (words, heading)
        assert all(len(row) == heading.count(",") + 1 for row in csv.reader(rows)), words
        cells = [cell for row in csv.reader(rows) for cell in row]
        assert not {"True", "False", "None"}.intersection(cells), words
        assert not [cell for cell in cells if cell.startswith(("{", "["))], words
    assert (await mesh.cli("agent", "delete", "silent-1")).code == 0


async def test_agents_are_filtered_sorted_and_printed_line_by_line(mesh: MeshProcesses) -> None:
    listed = await mesh.cli("agent", "list", "status:active", "web-*", "--output", "jsonl")
    assert [json.loads(line)["agent"] for line in listed.out.splitlines()] == ["web-1"]
    table = await mesh.cli("agent", "list", "expires:>1d", "--columns", "name,uptime,host")
    assert table.out.splitlines()[0].split() == ["AGENT", "UPTIME", "HOST"]
    rows = (await mesh.cli("agent", "list", "--sort", "-uptime", "-o", "csv")).out.splitlines()
    assert rows[0].startswith("agent,group,status,")
    assert rows[1].startswith("web-1,web,active,")
    nobody = await mesh.cli("agent", "list", "status:disabled")
    assert (nobody.out, nobody.err) == ("", "mesh: no agent passes the filter\n")
    for wrong in (["colour:red"], ["--sort", "colour"], ["--columns", "colour"]):
        refused = await mesh.cli("agent", "list", *wrong)
        assert (refused.code, "colour" in refused.err) == (2, True), wrong


async def test_watched_list_is_shown_again_until_interrupted(mesh: MeshProcesses) -> None:
    process = started(mesh, "agent", "list", "--watch", "--every", "0.1")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while (await asyncio.to_thread(process.stdout.readline)).split()[:1] != [b"web-1"]:
            pass
        while (await asyncio.to_thread(process.stdout.readline)).split()[:1] != [b"web-1"]:
            pass
    process.send_signal(signal.SIGINT)
    assert (await ended(process))[0] == 130


@pytest.mark.parametrize("name", LONG)
async def test_ctrl_c_ends_what_runs_long_at_any_moment(mesh: MeshProcesses, name: str) -> None:
    """A few moments of each; the chaos suite tries a hundred and more."""
    if name in {"wait", "logs"}:
        await mesh.cli("run", "--group", "web", "--detach", "--id", "endless", "--", "sleep", "999")
    await storm(mesh, name, rounds=3, seed=2)


async def test_doctor_finds_nothing_wrong_here_and_a_closed_port_there(
    mesh: MeshProcesses, operator: Path, tmp_path: Path
) -> None:
    good = await mesh.cli("doctor", "--output", "json")
    assert good.code == 0
    assert {finding["state"] for finding in good.json["findings"]} == {"ok"}
    text = (operator / "context.toml").read_text().replace('= "', f'= "{operator}/')
    for key in ("mesh", "name", "role"):
        text = text.replace(f'{key} = "{operator}/', f'{key} = "')
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text.replace(mesh.nats_url, "tls://127.0.0.1:1"))
    bad = await mesh.cli("doctor", context=wrong)
    assert bad.code == 1
    assert "connection refused" in bad.out
    assert "cure:" in bad.out
    status = await mesh.cli("status", "--timeout", "1", context=wrong)
    assert (status.code, "(broker_unreachable)" in status.err) == (7, True)


async def test_new_client_has_all_it_needs_and_nobody_else_can_read_it(operator: Path) -> None:
    files = {path.name: path.stat().st_mode & 0o777 for path in operator.iterdir()}
    names = ("cert.pem", "key.pem", "ca.pem", "user.creds", "context.toml")
    assert files == dict.fromkeys(names, 0o600)
    assert operator.stat().st_mode & 0o777 == 0o700
    ssl.create_default_context(cafile=operator / "ca.pem").load_cert_chain(
        operator / "cert.pem", operator / "key.pem"
    )


async def test_client_directory_in_use_is_refused_and_untouched(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("x")
    ran = await mesh.cli("client", "create", "bob", "--role", "viewer", "--out", str(tmp_path))
    assert (ran.code, "(state_foreign)" in ran.err) == (78, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


async def test_refused_client_leaves_no_key_behind(
    mesh: MeshProcesses, operator: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ann"
    ran = await mesh.cli("client", "create", "ann", "--role", "viewer", "--out", str(folder))
    assert (ran.code, "(name_taken)" in ran.err) == (6, True)
    assert not [*folder.iterdir()]


async def test_role_is_enforced_and_revoked_client_is_refused(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    folder = tmp_path / "vic"
    made = await mesh.cli("client", "create", "vic", "--role", "viewer", "--out", str(folder))
    assert made.code == 0, made.err
    assert (await mesh.cli("agent", "list", context=folder)).code == 0
    run = await mesh.cli("run", "--group", "web", "--", "true", context=folder)
    assert (run.code, "(forbidden)" in run.err) == (6, True)
    # A client that calls itself an admin is one to nobody but itself.
    context = folder / "context.toml"
    context.write_text(context.read_text().replace('"viewer"', '"admin"'))
    run = await mesh.cli("--timeout", "30", "group", "create", "mine", context=folder)
    assert (run.code, "(forbidden)" in run.err) == (6, True)
    assert (await mesh.cli("client", "revoke", "vic")).code == 0
    refused = await mesh.cli("agent", "list", context=folder)
    assert (refused.code, "(credentials_rejected)" in refused.err) == (77, True)


async def test_plain_client_runs_shows_output_and_returns_the_exit_code(
    mesh: MeshProcesses, operator: Path
) -> None:
    script = "echo out; echo err >&2; sleep 0.3; echo more; exit 4"
    process = example(mesh, "plain_client.py", str(operator), "web", "sh", "-c", script)
    code, out, err = await ended(process)
    assert (code, out) == (4, b"out\nmore\n"), err
    assert b"err\n" in err
    assert b"has failed, exit code 4" in err


async def test_service_is_discovered_as_nats_micro_does(
    mesh: MeshProcesses, operator: Path
) -> None:
    process = example(mesh, "discover.py", str(operator))
    code, out, err = await ended(process)
    assert code == 0, err
    assert out.startswith(b"mesh ")
    assert b"mesh.v1.api.*.command.submit" in out
    assert b" requests, " in out


async def test_result_missed_while_the_broker_was_away_is_asked_for(
    mesh: MeshProcesses,
) -> None:
    """The push is lost with the connection; `run` must end all the same."""
    work = ["sh", "-c", "sleep 1; exit 3"]
    async with mesh.client() as client, client.start(work, group="web") as (_, waiter):
        os.kill(mesh.broker_pid, signal.SIGKILL)
        await eventually(lambda: not client.link.is_connected)
        async with asyncio.timeout(60):
            record = await waiter.record()
    assert (record.state, record.attempts[-1].exit_code) == ("failed", 3)
