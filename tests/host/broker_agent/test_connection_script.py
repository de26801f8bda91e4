"""Scripts of a profile, run by a real agent's executors."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.faults import Refused
from schemas.messages.actions.script import ScriptRunArgs, Value
from schemas.states import State
from tests.calls import CallBench, Called
from tests.unit.broker_agent.connectors.test_script import HOSTILE
from tests.waiting import eventually

# Prints its argv, its variables and its input, as JSON.
SHOW = (
    "import json, os, sys; print(json.dumps({'argv': sys.argv[1:], 'env': dict(os.environ),"
    " 'stdin': sys.stdin.read()}))"
)
PYTHON = (sys.executable, "-c")
SLEEP = "import time; time.sleep(600)"
VALUE = "p4ss w0rd/ü"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[CallBench]:
    made = CallBench(tmp_path / "tasks")
    secret = tmp_path / "secret"
    secret.write_text(VALUE)
    secret.chmod(0o600)
    text = {"to": {}, "day": {"optional": True}}
    made.put(
        "jobs",
        "script",
        scripts={
            "show": {"argv": [*PYTHON, SHOW, "{to}", ["--day", "{day}"]], "params": text},
            "fails": {"argv": [*PYTHON, "raise SystemExit(3)"]},
            "sleeps": {"argv": [*PYTHON, SLEEP], "at_once": 1},
            "short": {
                "argv": [*PYTHON, SLEEP],
                "timeout_s": 0.5,
            },
            "missing": {"argv": ["/no/such/program"]},
            "secretive": {
                "argv": [*PYTHON, SHOW, "{to}"],
                "params": {"to": {}},
                "secrets": {"TOKEN": {"file": str(secret)}},
            },
            "slow-secret": {
                "argv": [*PYTHON, "import time; print('up'); time.sleep(600)"],
                "secrets": {"TOKEN": {"file": str(secret)}},
            },
        },
    )  # fmt: skip
    made.put(
        "broken",
        "script",
        scripts={
            "lost": {
                "argv": [*PYTHON, SHOW],
                "secrets": {"TOKEN": {"file": str(tmp_path / "none")}},
            },
        },
    )
    yield made
    made.close()


async def run(bench: CallBench, script: str, stdin: bytes = b"", **params: Value) -> Called:
    return await bench.call("jobs", ScriptRunArgs(script=script, params=params, stdin=stdin))


async def test_connections_f14_values_come_identical_into_argv(bench: CallBench) -> None:
    for value in HOSTILE:
        called = await run(bench, "show", to=value)
        assert json.loads(called.out)["argv"] == [value]
    called = await run(bench, "show", b"input", to="x", day="1")
    shown = json.loads(called.out)
    assert shown["argv"] == ["x", "--day", "1"]
    assert shown["stdin"] == "input"
    assert (called.ending.state, called.ending.exit_code) == (State.SUCCEEDED, 0)
    assert called.ending.effect == "done"


async def test_connections_f14_wrong_values_are_refused_before_the_journal(
    bench: CallBench,
) -> None:
    cases: tuple[tuple[str, dict[str, Value], str], ...] = (
        ("show", {"to": "-rf"}, "parameter_invalid"),
        ("show", {}, "parameter_invalid"),
        ("show", {"to": "x", "more": "x"}, "parameter_invalid"),
        ("nothing", {}, "script_unknown"),
    )
    for script, params, code in cases:
        with pytest.raises(Refused) as refused:
            await bench.call("jobs", ScriptRunArgs(script=script, params=params))
        assert refused.value.code == code


async def test_end_of_a_script_is_that_of_its_program(bench: CallBench) -> None:
    failed = (await run(bench, "fails")).ending
    assert (failed.state, failed.exit_code, failed.effect) == (State.FAILED, 3, "unknown")
    late = (await run(bench, "short")).ending
    assert late.state is State.TIMED_OUT
    assert late.effect == "unknown"
    missing = (await run(bench, "missing")).ending
    assert (missing.state, missing.exit_code, missing.effect) == (State.FAILED, 127, "none")


async def test_limit_of_a_script_sends_the_command_elsewhere(bench: CallBench) -> None:
    under = bench.start("jobs", ScriptRunArgs(script="sleeps"))
    with pytest.raises(Refused) as refused:
        bench.start("jobs", ScriptRunArgs(script="sleeps"))
    assert refused.value.code == "agent_full"
    await eventually(lambda: under.task.pid)
    under.task.stop(State.CANCELLED, "cancelled", 0.0)
    assert (await under.end()).ending.state is State.CANCELLED
    again = bench.start("jobs", ScriptRunArgs(script="sleeps"))
    again.task.stop(State.CANCELLED, "cancelled", 0.0)
    await again.end()


async def test_secret_reaches_the_script_and_no_output(bench: CallBench) -> None:
    called = await run(bench, "secretive", b"input", to="x")
    shown = json.loads(called.out)
    assert shown["argv"] == ["x"]
    assert shown["stdin"] == "input"
    assert VALUE not in called.out.decode()
    assert "***" in shown["env"]["TOKEN"]
    assert called.ending.effect == "done"


async def test_secret_that_cannot_be_read_has_no_effect(bench: CallBench) -> None:
    ending = (await bench.call("broken", ScriptRunArgs(script="lost"))).ending
    assert (ending.state, ending.code, ending.effect) == (
        State.FAILED,
        "secret_unreadable",
        "none",
    )


async def test_script_below_the_mask_ends_with_all_its_processes(bench: CallBench) -> None:
    under = bench.start("jobs", ScriptRunArgs(script="slow-secret"))
    await eventually(lambda: under.task.pid)
    pid = under.task.pid
    await eventually(lambda: len(_group(pid)) == 2, what="the mask and the program")
    under.task.stop(State.CANCELLED, "cancelled", 0.1)
    assert (await under.end()).ending.state is State.CANCELLED
    assert _group(pid) == []


async def test_stop_while_secrets_are_read_starts_nothing(bench: CallBench) -> None:
    under = bench.start("jobs", ScriptRunArgs(script="slow-secret"))
    under.task.stop(State.CANCELLED, "cancelled")
    ending = (await under.end()).ending
    assert (ending.state, ending.effect) == (State.CANCELLED, "none")
    assert under.task.pid == 0


def _group(leader: int) -> list[int]:
    """Live processes of a process group."""
    found = []
    for each in Path("/proc").iterdir():
        if not each.name.isdigit():
            continue
        try:
            stat = (each / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[2]) == leader and stat[0] != "Z":
            found.append(int(each.name))
    return found
