"""The session that the README shows is what happens; `mesh top`; completion in a real bash."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclopts import Argument

from broker_client.cli.shell.completion import FILTERED, bash, fish, named, options, zsh
from broker_client.cli.table import COMMANDS
from broker_client.cli.tree import build
from schemas.messages.api import AgentCreate, TokenAnswer
from tests.harness import MeshProcesses
from tools.docs import README, ROOT
from tools.session import record, shape, shown

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("agent", "list", "--status", "no"), ["no_response"]),
        (("agent", "list", "--output", ""), ["table", "json", "jsonl", "csv"]),
        (("agent", "show", "web-1", "--output", ""), ["table", "json"]),
        (("run", "--group", "web", "--on-lost", "r"), ["rerun"]),
        (("ca", "rotate", "pre"), ["prepare"]),
        (("completion", "z"), ["zsh"]),
    ],
    ids=" ".join,
)
def test_values_of_options_are_completed(words: tuple[str, ...], found: list[str]) -> None:
    assert completed("mesh", *words) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("agent", "list", "li"), ["limit:", "liveness:"]),
        (("agent", "list", "status", ":", "no"), ["no_response"]),
        (("top", "!stat"), ["!status:"]),
        (("command", "cancel", "state", ":", "que"), ["queued"]),
        (("command", "list", "--sort", "subm"), ["submitted"]),
        (("agent", "disable", "status", ":", "no"), ["no_response"]),
        (("agent", "delete", "livene"), ["liveness:"]),
        (("ping", "livene"), ["liveness:"]),
        (("run", "--all", "livene"), ["liveness:"]),
        (("run", "--group", "web", "livene"), []),
        (("run", "--all", "--", "livene"), []),
        (("agent", "list", "--columns", "cer"), ["cert"]),
    ],
    ids=" ".join,
)
def test_words_of_filters_and_columns_are_completed(
    words: tuple[str, ...], found: list[str]
) -> None:
    assert completed("mesh", *words) == found


def test_every_command_whose_words_are_filters_completes_them() -> None:
    filtered = set()
    for noun, verb, *_ in COMMANDS:
        command = build(())[noun]
        arguments = (command[verb] if verb else command).assemble_argument_collection()
        marks = ("state:", "status:", "words of a filter")
        if any(mark in each for each in map(_help_of, arguments) for mark in marks):
            filtered.add((noun, verb))
    assert filtered
    assert filtered <= {*FILTERED}
    assert ("agent", "disable") in filtered


@pytest.mark.parametrize(("shell", "script"), [("bash", bash), ("zsh", zsh), ("fish", fish)])
def test_script_is_one_that_its_shell_can_read(shell: str, script: Callable[[], str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing: apt install {shell}")
    checked = subprocess.run(
        [shell, "-n"], input=script(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def _help_of(argument: Argument) -> str:
    return (
        ""
        if any(name.startswith("-") for name in argument.names)
        else argument.parameter.help or ""
    )


async def test_session_of_the_readme_has_the_shape_of_one_that_is_recorded_now() -> None:
    written = shown((ROOT / README).read_text())
    now = shape(await record())
    assert now == shape(written), "make docs RECORD=1"
    assert max(map(len, written)) <= 80


def completed(*words: str, env: dict[str, str] | None = None) -> list[str]:
    if shutil.which("bash") is None:
        pytest.skip("bash is missing: apt install bash")
    typed = " ".join(f"'{word}'" for word in words)
    line = " ".join(words).replace(" : ", ":")
    script = f"{bash()}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}\n"
    script += f"COMP_LINE='{line}'; COMP_POINT={len(line)}; _mesh\n"
    done = subprocess.run(
        ["bash", "--norc", "-c", script + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **(env or {})},
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("mesh", "fan"), ["fanout"]),
        (("mesh", "agent", "lis"), ["list"]),
        (("mesh", "agent", "list", "--so"), ["--sort"]),
        (("mesh", "run", "--max"), ["--max-failures"]),
        (("mesh", "run", "--", "--max"), []),
        (("mesh", "nonsense", ""), []),
    ],
    ids=str,
)
def test_bash_completes_nouns_verbs_and_options(words: tuple[str, ...], found: list[str]) -> None:
    assert completed(*words) == found


async def test_bash_completes_names_of_what_there_is(tmp_path: Path) -> None:
    async with MeshProcesses(tmp_path / "mesh") as mesh:
        for group in ("web", "db"):
            await mesh.add_group(group)
        async with mesh.client() as client:
            for name, group in (("web-1", "web"), ("web-2", "web"), ("db-1", "db")):
                await client.ask(
                    "agent", "create", AgentCreate(name=name, group=group), TokenAnswer
                )
        env = {"MESH_CONTEXT": str(mesh.admin_context)}
        program = str(Path(sys.executable).with_name("mesh"))

        def found(*words: str) -> list[str]:
            return sorted(completed(program, *words, env=env))

        def look() -> None:
            assert found("agent", "show", "") == ["db-1", "web-1", "web-2"]
            assert found("agent", "disable", "web") == ["web-1", "web-2"]
            assert found("ping", "web") == ["web-1", "web-2"]
            assert found("run", "--all", "d") == ["db-1"]
            assert found("group", "show", "") == ["db", "web"]
            assert found("run", "--group", "w") == ["web"]
            assert found("run", "--agent", "d") == ["db-1"]
            assert found("client", "revoke", "ad") == ["admin"]
            assert found("agent", "show", "--out") == ["--output"]
            context = ("--context", str(mesh.admin_context))
            assert sorted(completed(program, "run", *context, "--group", "d")) == ["db"]

        await asyncio.to_thread(look)


def test_names_are_not_completed_where_nobody_answers(tmp_path: Path) -> None:
    env = {"MESH_CONTEXT": str(tmp_path / "none.toml")}
    program = str(Path(sys.executable).with_name("mesh"))
    assert completed(program, "run", "--group", "", env=env) == []


def test_every_verb_whose_names_are_completed_is_there() -> None:
    verbs = {(noun, verb) for noun, verb, *_ in COMMANDS}
    for noun, followed in named().items():
        assert (noun, "list") in verbs
        assert {(noun, verb) for verb in followed} <= verbs


def test_every_command_and_option_is_in_each_script() -> None:
    scripts = (bash(), zsh(), fish())
    for noun, verb, *_ in COMMANDS:
        assert all(noun in script and verb in script for script in scripts)
        for option in options()[noun, verb]:
            assert option in scripts[0]
            assert f"-l {option[2:]}" in scripts[2]
