"""Input of a program that is larger than a command may be."""

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from msgspec import structs

from broker_client.inputs import stage
from schemas.faults import MeshError
from schemas.messages.actions import ProcessArgs, StagedInput
from schemas.messages.api.commands import InputPart
from schemas.verbs import COMMAND_INPUT
from tests.harness import MeshProcesses
from tests.meshes import LONG_LEASE, behind, mesh_fixture
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

MIB = 1024 * 1024
SUM = ["sha256sum"]


mesh = mesh_fixture(
    {"web": ("web-1",)},
    env=LONG_LEASE,
    master_env={
        "MESH_LIMITS__INPUT_BYTES_PER_COMMAND": str(8 * MIB),
        "MESH_LIMITS__INPUT_BYTES": str(40 * MIB),
    },
)


async def emptied(mesh: MeshProcesses) -> None:
    """Wait until no input is stored."""
    async with behind(mesh) as stores, asyncio.timeout(PATIENCE_S):
        while await stores.messages("MESH_INPUT"):
            await asyncio.sleep(0.1)


def digest_line(data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  -\n".encode()


async def test_program_reads_all_of_a_large_stdin_and_nothing_stays(mesh: MeshProcesses) -> None:
    text = "0123456789abcdef" * (3 * MIB // 16) + "end"
    run = ("run", "--agent", "web-1", "--stdin", "--id", "large-1", "--", *SUM)
    ran = await mesh.cli(*run, stdin=text)
    assert (ran.code, ran.out.encode()) == (0, digest_line(text.encode())), ran.err
    await emptied(mesh)
    # The same id and the same input again is the same command, which runs no second time.
    again = await mesh.cli(*run, stdin=text)
    assert (again.code, again.out) == (0, ran.out), again.err
    await emptied(mesh)
    shown = await mesh.cli("command", "show", "large-1", "-o", "json")
    assert json.loads(shown.out)["arguments"]["stdin_bytes"] == len(text)
    retried = await mesh.cli("command", "retry", "large-1")
    assert (retried.code, "(input_missing)" in retried.err) == (6, True), retried.err


async def test_sdk_takes_a_file_and_a_stream(mesh: MeshProcesses, tmp_path: Path) -> None:
    data = os.urandom(MIB + 1)
    file = tmp_path / "input"
    file.write_bytes(data)

    async def stream() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 100_003):
            yield data[at : at + 100_003]

    async with mesh.client() as client:
        for source in (data, file, stream(), data[:1000]):
            ended = await client.run(SUM, stdin=source, agent="web-1")
            wanted = data[:1000] if source == data[:1000] else data
            assert ended.output is not None
            assert ended.output.stdout == digest_line(wanted)
    await emptied(mesh)


async def test_upload_goes_on_after_a_restart_of_the_master(mesh: MeshProcesses) -> None:
    data = os.urandom(2 * MIB)

    async def stream() -> AsyncIterator[bytes]:
        yield data[:MIB]
        await mesh.restart_master(kill=True)
        yield data[MIB:]

    async with mesh.client() as client:
        ended = await client.run(SUM, stdin=stream(), agent="web-1")
    assert ended.output is not None, ended.reason
    assert ended.output.stdout == digest_line(data)


async def test_fetch_goes_on_after_a_restart_of_the_master(mesh: MeshProcesses) -> None:
    """The agent asks for parts while no master is there."""
    data = os.urandom(4 * MIB)
    await mesh.wait_status("web-1", "active")
    async with mesh.client() as client:
        mesh.agents["web-1"].signal(signal.SIGSTOP)
        try:
            answer = await client.submit(SUM, stdin=data, agent="web-1")
        finally:
            mesh.master.kill()
            mesh.agents["web-1"].signal(signal.SIGCONT)
        await mesh.start_master()
        ended = await client.wait(answer.id, with_output=True)
    assert ended.output is not None, ended.reason
    assert ended.output.stdout == digest_line(data)


async def refused(mesh: MeshProcesses, code: str, ask: "Awaitable[object]") -> None:
    with pytest.raises(MeshError) as caught:
        await ask
    assert caught.value.code == code, caught.value


async def test_input_above_the_limits_is_refused_and_takes_nothing_from_others(
    mesh: MeshProcesses,
) -> None:
    async with mesh.client() as client:
        await refused(mesh, "too_large", client.run(["cat"], stdin=bytes(9 * MIB), agent="web-1"))
        # One input of more than half of the share of a client: a second has no room.
        big = bytes(7 * MIB)
        held = await stage(client._asker, big)
        assert isinstance(held, StagedInput)
        await refused(mesh, "queue_full", client.run(["cat"], stdin=big, agent="web-1"))
        ended = await client.run(ProcessArgs(argv=SUM, input=held), agent="web-1")
        assert ended.output is not None
        assert ended.output.stdout == digest_line(big)
        await refused(mesh, "group_unknown", client.run(["cat"], stdin=big[:MIB], group="none"))
        await emptied(mesh)
        ended = await client.run(SUM, stdin=b"small", agent="web-1")
        assert ended.state == "succeeded"
    many = await mesh.cli("run", "--all", "--group", "web", "--stdin", "--", *SUM, stdin="x" * MIB)
    assert (many.code, "for many agents" in many.err) == (2, True), many.err


async def test_sec_s39_input_of_another_client_and_a_false_hash_start_nothing(
    mesh: MeshProcesses,
) -> None:
    folder = mesh.directory / "eve"
    made = await mesh.cli("client", "create", "eve", "--role", "operator", "--out", str(folder))
    assert made.code == 0, made.err
    data = os.urandom(1000)
    part = InputPart(input="mine", part=0, data=data)
    whole = StagedInput(id="mine", size=len(data), sha256=hashlib.sha256(data).digest())
    async with mesh.client(folder / "context.toml") as eve, mesh.client() as admin:
        await admin.ask(COMMAND_INPUT, part)
        # An input is its client's own.
        stolen = eve.run(ProcessArgs(argv=["cat"], input=whole), agent="web-1")
        await refused(mesh, "input_missing", stolen)
        false = structs.replace(whole, sha256=bytes(32))
        ended = await admin.run(ProcessArgs(argv=["cat"], input=false), agent="web-1")
        assert (ended.state, ended.attempts[0].started_at) == ("failed", None)
        assert ended.reason == "its input is not what its client sent"


async def test_input_that_is_gone_fails_the_attempt_with_no_effect(mesh: MeshProcesses) -> None:
    data = os.urandom(MIB)
    async with mesh.client() as client, behind(mesh) as stores:
        mesh.agents["web-1"].signal(signal.SIGSTOP)
        try:
            answer = await client.submit(["touch", "never"], stdin=data, agent="web-1")
            await stores.client.request("$JS.API.STREAM.PURGE.MESH_INPUT", b"", timeout=PATIENCE_S)
        finally:
            mesh.agents["web-1"].signal(signal.SIGCONT)
        ended = await client.wait(answer.id)
    assert (ended.state, ended.attempts[-1].started_at) == ("failed", None)
    assert "(input_missing)" in ended.reason


async def test_stop_ends_the_wait_for_an_input(mesh: MeshProcesses) -> None:
    """The agent has accepted the command, and waits for parts that do not come."""
    data = os.urandom(MIB)
    async with mesh.client() as client:
        answer = await client.submit(["cat"], stdin=data, agent="web-1", id="stopped-1")
        await asyncio.gather(client.cancel(answer.id), return_exceptions=True)
        ended = await client.wait(answer.id)
    assert ended.state in ("cancelled", "succeeded")
