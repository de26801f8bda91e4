"""Secrets go through the whole product and come to light nowhere: logs, metrics, errors, files.

Each canary is a secret of one kind. All are used for real, in what succeeds and in what fails.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import pytest
import pytest_asyncio

from broker_client.runtime.creds import decode_creds
from schemas.faults import MeshError
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import AgentCreate, TokenAnswer
from tests.harness import FAST_TIMERS, MeshProcesses, Ran

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Seeded:
    mesh: MeshProcesses
    canaries: dict[str, str]
    told: list[str] = field(default_factory=list)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seeded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Seeded]:
    env = {**FAST_TIMERS, "MESH_LOG__LEVEL": "debug", "MESH_LOG_LEVEL": "debug"}
    async with MeshProcesses(tmp_path_factory.mktemp("secrets"), env=env) as mesh:
        await mesh.add_group("web")
        await mesh.add_agent("web-1", group="web")
        world = Seeded(mesh, {})
        await _use_tokens(world)
        await _use_arguments(world)
        await _fail_in_many_ways(world)
        _note_keys(world)
        await asyncio.sleep(0.5)  # the last beats and lines
        yield world


async def _use_tokens(world: Seeded) -> None:
    """A token that is spent, one that is never used, and one that is wrong."""
    mesh = world.mesh
    async with mesh.client() as client:
        request = AgentCreate(name="web-2", group="web")
        answer = await client.ask("agent", "create", request, TokenAnswer)
        world.canaries["activation token, open"] = answer.token
    wrong = answer.token[:-8] + "AAAAAAAA"
    world.canaries["activation token, wrong"] = wrong
    for token in (wrong, "not-a-token-CANARY-token-text"):
        folder = ("--state-dir", str(mesh.directory / "wrong"))
        world.told += _words(await mesh._run("broker-agent", "setup", *folder, "--token=-",
                                             stdin=token))  # fmt: skip
    world.canaries["activation token, no token at all"] = "CANARY-token-text"


async def _use_arguments(world: Seeded) -> None:
    values = {
        "argument": "CANARY-argv-7f3a",
        "environment": "CANARY-env-91bc",
        "stdin": "CANARY-stdin-44de",
        "output": "CANARY-output-5a5a",
    }
    world.canaries |= values
    mesh = world.mesh
    printed = f"printf %s-%s CANARY-output 5a5a; cat; echo {values['argument']} $SECRET"
    work = ProcessArgs(
        argv=["sh", "-c", printed],
        env={"SECRET": values["environment"]},
        stdin=values["stdin"].encode(),
    )
    async with mesh.client() as client:
        record = await client.run(work, group="web")
        assert record.output is not None
        assert values["stdin"].encode() in record.output.stdout
        await client.run(["sh", "-c", f"exit 3 # {values['argument']}"], group="web")
        timed = ProcessArgs(argv=["sleep", "9", values["argument"]], timeout_s=0.2)
        with pytest.raises(MeshError):
            await client.run(timed, group="nowhere")


async def _fail_in_many_ways(world: Seeded) -> None:
    """Programs that cannot be started, refused requests, and requests with a wrong context."""
    mesh, secrets = world.mesh, world.canaries
    options = ("--env", f"A={secrets['environment']}")
    for arguments in (
        ("run", "--group", "nowhere", *options, "--", "true", secrets["argument"]),
        ("run", "--group", "web", "--id", "bad id", *options, "--", "true", secrets["argument"]),
        ("run", "--group", "web", "--timeout", "-1", *options, "--", secrets["argument"]),
    ):
        world.told += _words(await mesh.cli(*arguments))


def _note_keys(world: Seeded) -> None:
    """Private halves that lie on the disk: of the admin, the agent, the master, the authority."""
    directory = world.mesh.directory
    for path in sorted(directory.rglob("user.creds")):
        world.canaries[f"seed in {path.relative_to(directory)}"] = decode_creds(
            path.read_bytes()
        ).seed
    for path in sorted([*directory.rglob("*.key"), *directory.rglob("key.pem")]):
        body = path.read_text().splitlines()
        if len(body) > 2:
            world.canaries[f"key in {path.relative_to(directory)}"] = body[1]
    for path in sorted(directory.rglob("*.nk")):
        world.canaries[f"key in {path.relative_to(directory)}"] = path.read_text().strip()


def _read(url: str) -> str:
    with urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
    return body.decode()


def _words(ran: Ran) -> list[str]:
    return [ran.out, ran.err]


def logs_of(mesh: MeshProcesses) -> dict[str, str]:
    files = [*mesh.logs.rglob("*"), *mesh.directory.rglob("*.log")]
    # A task's own output files are what the task printed, kept for its owner.
    texts = {
        str(path.relative_to(mesh.directory)): path.read_text(errors="replace")
        for path in files
        if path.is_file() and "tasks" not in path.parts
    }
    assert any(texts.values())
    return texts


async def test_sec_s20_twelve_kinds_of_secrets_are_found_nowhere(seeded: Seeded) -> None:
    assert len(seeded.canaries) >= 12, sorted(seeded.canaries)
    assert all(len(canary) >= 12 for canary in seeded.canaries.values())
    mesh = seeded.mesh
    places = logs_of(mesh)
    for path in ("metrics", "readyz", "healthz"):
        places[path] = await asyncio.to_thread(_read, f"{mesh.http_url}/{path}")
    places["errors and outputs of command lines"] = "\n".join(seeded.told)
    found = {
        (place, kind)
        for place, text in places.items()
        for kind, canary in seeded.canaries.items()
        if canary in text
    }
    assert found == set()


async def test_lines_are_json_and_say_whose_they_are(seeded: Seeded) -> None:
    mesh = seeded.mesh
    master = [json.loads(line) for line in mesh.master.stderr.splitlines()]
    agent = [json.loads(line) for line in mesh.agents["web-1"].stderr.splitlines()]
    ends = [line for line in master if line["event"] == "attempt_ended"]
    assert {line["outcome"] for line in ends} == {"succeeded", "failed"}
    for line in ends:
        assert line["epoch"] == ends[0]["epoch"] > 0
        assert line["command_id"]
        assert (line["agent"], line["attempt"]) == ("web-1", 1)
    assert [line for line in agent if (line["agent"], line["group"]) != ("web-1", "web")] == []
    assert {line.get("epoch") for line in agent if line["event"] == "reconciled"} == {
        ends[0]["epoch"]
    }


async def test_search_finds_a_secret_that_was_printed(seeded: Seeded, tmp_path: Path) -> None:
    """The places are read as a whole: what is put into one of them is seen."""
    leak = seeded.mesh.logs / "leak.err"
    leak.write_text(f"argv={seeded.canaries['argument']}\n")
    try:
        assert any(seeded.canaries["argument"] in text for text in logs_of(seeded.mesh).values())
    finally:
        leak.unlink()


async def test_sec_s20_mesh_with_a_secret_in_a_log_cannot_be_closed_without_a_failure(
    tmp_path: Path,
) -> None:
    """The check of every mesh of every test: each kind of secret, in each kind of place."""
    async with MeshProcesses(tmp_path / "clean", env=FAST_TIMERS) as mesh:
        await mesh.add_group("web")
        await mesh.add_agent("web-1", group="web")
        kinds = mesh.canaries.kinds()
    assert len(kinds) >= 12, sorted(kinds)
    assert mesh.canaries.leaks() == []
    assert mesh.canaries.leaks({"metrics": "up 1"}) == []
    log = mesh.logs / "agent-web-1.err"
    before = log.read_text()
    for kind, secret in kinds.items():
        log.write_text(f"{before}{{'event': 'x', 'password': '{secret}'}}\n")
        found = mesh.canaries.leaks()
        log.write_text(before)
        assert f"{kind}: {log}" in found
        found = mesh.canaries.leaks({"metrics": f'x{{a="{secret}"}} 1'})
        assert f"{kind}: metrics" in found
    log.write_text(f"{before}{kinds['token of web-1']}\n")
    with pytest.raises(AssertionError, match="secrets came to light"):
        await mesh.aclose()
    log.write_text(before)
