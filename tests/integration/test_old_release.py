"""Release 0.1.0 and the code of now: state that is opened, and peers that work together."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from broker_client.api import MeshClient
from schemas.faults import MeshError
from schemas.messages.actions import NoopArgs
from schemas.messages.actions.sql import SqlQueryArgs
from schemas.messages.api import AgentRecord, NameQuery
from schemas.messages.api.connections import ConnectionCreate, ConnectionRecord
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.meshes import LONG_LEASE, client_of, shared_mesh, state_reached
from tests.old_release import OldRelease, is_old, programs_of, switch, unpacked

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-old-release")]

MIB: Final = 1024 * 1024
SOON_S: Final = 60.0
CALM: Final = {**FAST_TIMERS, **LONG_LEASE}
# What an old program shows of a thing at rest, and a new one must show as well.
LISTS: Final = (
    ("command", "list", "--limit", "50"),
    ("group", "list"),
    ("client", "list"),
    ("audit", "list"),
)
MOVING: Final = frozenset({"days_left", "status", "since", "running"})


@pytest.fixture(scope="module")
def old() -> Iterator[OldRelease]:
    with unpacked() as release:
        yield release


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, old: OldRelease) -> Iterator[MeshProcesses]:
    """A master of now with an agent of each release."""
    directory = tmp_path_factory.mktemp("mesh")
    with shared_mesh(directory, {"web": ("now-1",)}, env=LONG_LEASE) as running:
        with programs_of(running, old):
            asyncio.run(running.add_agent("old-1", group="web", slots=4))
        yield running


@pytest.fixture(scope="module")
def old_mesh(tmp_path_factory: pytest.TempPathFactory, old: OldRelease) -> Iterator[MeshProcesses]:
    """A master of 0.1.0 with its broker, and an agent of now."""
    directory = tmp_path_factory.mktemp("old")
    with shared_mesh(directory, {"web": ()}, env={**LONG_LEASE, **old.env}) as running:
        with programs_of(running, None):
            asyncio.run(running.add_agent("now-1", group="web", slots=4))
        yield running


async def works(mesh: MeshProcesses, client: MeshClient, agent: str) -> None:
    """Run, much output, a cancel, and a new certificate: all of it with this agent."""
    record = await client.run(["sh", "-c", "echo hi; exit 3"], agent=agent, with_output=True)
    assert (record.state, record.attempts[0].exit_code) == ("failed", 3)
    assert record.output is not None
    assert record.output.stdout == b"hi\n"
    assert (await client.run(NoopArgs(), agent=agent)).state == "succeeded"
    answer = await client.submit(["sh", "-c", f"head -c {MIB} /dev/zero"], agent=agent)
    got = bytearray()
    async for chunk in client.logs(answer.id, follow=True):
        got += chunk.data
    assert bytes(got) == bytes(MIB)
    assert (await client.wait(answer.id)).state == "succeeded"
    answer = await client.submit(["sleep", "60"], agent=agent)
    await state_reached(client, answer.id, "running")
    await client.cancel(answer.id)
    assert (await client.wait(answer.id)).state == "cancelled"
    before = await serial(client, agent)
    ran = await mesh.cli("agent", "rotate", agent, "--wait")
    assert ran.code == 0, ran.err
    assert await serial(client, agent) != before
    assert (await client.run(["true"], agent=agent)).state == "succeeded"


async def serial(client: MeshClient, agent: str) -> str:
    record = await client.ask("agent", "show", NameQuery(name=agent), AgentRecord)
    assert record.certificate is not None
    return record.certificate.serial


async def test_old_agent_works_with_a_master_of_now(mesh: MeshProcesses, old: OldRelease) -> None:
    assert is_old(mesh.agents["old-1"], old)
    assert not is_old(mesh.master, old)
    async with mesh.client() as client:
        await works(mesh, client, "old-1")


async def test_agent_of_now_works_with_an_old_master(
    old_mesh: MeshProcesses, old: OldRelease
) -> None:
    assert is_old(old_mesh.master, old)
    assert not is_old(old_mesh.agents["now-1"], old)
    with programs_of(old_mesh, None):
        async with old_mesh.client() as client:
            await works(old_mesh, client, "now-1")


def put_profile(mesh: MeshProcesses, agent: str) -> None:
    """Give a host a profile of a database; an agent of 0.1.0 knows nothing of it."""
    path = mesh.directory / "erp.sqlite"
    with closing(sqlite3.connect(path)) as made:
        made.executescript("create table if not exists place (name)")
    folder = mesh.agent_dir(agent) / "profiles.d"
    folder.mkdir(mode=0o700)
    (folder / "erp.toml").write_text(f'kind = "sqlite"\nfile = "{path}"\n')


async def test_connections_f20_old_agent_is_chosen_by_no_connection(mesh: MeshProcesses) -> None:
    for agent in ("now-1", "old-1"):
        put_profile(mesh, agent)
    way: Any = {"connection": "erp"}
    async with mesh.client() as client:
        create = ConnectionCreate(name="erp", kind="sqlite", group="web")
        await client.ask("connection", "create", create, ConnectionRecord)
        async with asyncio.timeout(SOON_S):
            while True:
                query = NameQuery(name="erp")
                record = await client.ask("connection", "show", query, ConnectionRecord)
                if record.usable:
                    break
                await asyncio.sleep(0.05)
        assert (record.agents, record.usable) == (2, 1)
        for _ in range(6):
            ended = await client.run(SqlQueryArgs(sql="select 1"), **way)
            assert (ended.state, ended.attempts[0].agent) == ("succeeded", "now-1")
        assert (await client.run(["true"], agent="old-1")).state == "succeeded"


async def test_connections_f20_agent_with_profiles_works_with_an_old_master(
    old_mesh: MeshProcesses,
) -> None:
    put_profile(old_mesh, "now-1")
    where = ("--state-dir", str(old_mesh.agent_dir("now-1")))
    with programs_of(old_mesh, None):
        ran = await old_mesh._run("broker-agent", "profile", "reload", *where, "--output", "json")
        assert [row["in_use"] != "" for row in ran.json] == [True]
        async with old_mesh.client() as client:
            assert (await client.run(["true"], agent="now-1")).state == "succeeded"
            record = await client.ask("agent", "show", NameQuery(name="now-1"), AgentRecord)
            assert record.status == "active"


async def test_old_agent_goes_on_over_a_restart_of_the_master(mesh: MeshProcesses) -> None:
    async with mesh.client() as client:
        answer = await client.submit(["sleep", "120"], agent="old-1")
        await state_reached(client, answer.id, "running")
        await mesh.restart_master(kill=True)
        await mesh.wait_status("old-1", "active")
        record = await state_reached(client, answer.id, "running")
        assert len(record.attempts) == 1
        await client.cancel(answer.id)
        assert (await client.wait(answer.id)).state == "cancelled"


async def test_old_client_works_with_a_master_of_now(mesh: MeshProcesses, old: OldRelease) -> None:
    with programs_of(mesh, old):
        ran = await mesh.cli("run", "--group", "web", "--", "echo", "hello")
        assert (ran.code, ran.out) == (0, "hello\n"), ran.err
        for words in (*LISTS, ("agent", "list"), ("status",), ("doctor",)):
            ran = await mesh.cli(*words)
            assert ran.code == 0, f"{words}: {ran.out}{ran.err}"
        ann = await client_of(mesh, "ann", "operator", "web", directory=mesh.directory)
        assert (await mesh.cli("client", "renew", context=ann)).code == 0
        ran = await mesh.cli("run", "--group", "web", "--", "echo", "ann", context=ann)
        assert (ran.code, ran.out) == (0, "ann\n"), ran.err


def ended_in_journal(path: Path, command: str, within_s: float = SOON_S) -> None:
    """Return once the journal of an agent holds the end of `command`, which no master has heard."""
    give_up_at = time.monotonic() + within_s
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
        query = "SELECT 1 FROM attempts WHERE command = ? AND report IS NOT NULL"
        while journal.execute(query, (command,)).fetchone() is None:
            assert time.monotonic() < give_up_at, f"{command} has not ended in {path}"
            time.sleep(0.02)


def at_rest(shown: Any) -> Any:  # noqa: ANN401  whatever JSON it is
    """Without the facts that time alone changes."""
    if isinstance(shown, dict):
        return {key: at_rest(value) for key, value in shown.items() if key not in MOVING}
    return [at_rest(each) for each in shown] if isinstance(shown, list) else shown


def within(before: Any, after: Any) -> bool:  # noqa: ANN401  whatever JSON they are
    """Whether all of `before` is in `after`; new fields, and new entries in front, may be there."""
    if isinstance(before, dict):
        return isinstance(after, dict) and all(
            key in after and within(value, after[key]) for key, value in before.items()
        )
    if isinstance(before, list):
        kept = after[-len(before) :] if before else []
        return len(kept) == len(before) and all(map(within, before, kept))
    return bool(before == after)


async def lists(mesh: MeshProcesses) -> list[Any]:
    shown = []
    for words in LISTS:
        ran = await mesh.cli(*words, "--output", "json")
        assert ran.code == 0, f"{words}: {ran.err}"
        shown.append(at_rest(ran.json))
    return shown


async def test_old_state_opens_and_shows_what_it_showed(tmp_path: Path, old: OldRelease) -> None:
    """The journal has a task that ended unheard, and one that ran when its host went down."""
    async with MeshProcesses(tmp_path / "mesh", env={**CALM, **old.env}) as mesh:
        for group in ("web", "db"):
            await mesh.add_group(group)
        agent = await mesh.add_agent("web-1", group="web", slots=4)
        await mesh.add_agent("db-1", group="db", start=False)
        until = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
        async with mesh.client() as client:
            await client.run(["echo", "kept"], group="web", id="ended", labels={"a": "b"})
            await client.run(["false"], group="web", id="failed")
            await client.submit(["sh", "-c", f"{until}; exit 5"], group="web", id="unheard")
            await client.submit(["sleep", "300"], group="web", id="cut")
            await client.submit(["true"], group="db", id="waiting")
            for each in ("unheard", "cut"):
                await state_reached(client, each, "running")
            async with asyncio.timeout(SOON_S):
                while sum((await client.status()).commands.values()) != 3:
                    await asyncio.sleep(0.05)
        before = await lists(mesh)
        mesh.master.kill()
        (tmp_path / "go").touch()
        await asyncio.to_thread(ended_in_journal, mesh.agent_dir("web-1") / "journal.db", "unheard")
        agent.kill()
        agent.end_orphans()
        for child in (mesh.master, agent):
            switch(child, None)
        with programs_of(mesh, None):
            await mesh.start_master()
            await agent.start()
            await mesh.wait_status("web-1", "active")
            after = await lists(mesh)
            for one, other in zip(before[1:], after[1:], strict=True):
                assert within(one, other), (one, other)
            known = {each["id"]: each for each in after[0]}
            for each in before[0]:
                if each["id"] in {"ended", "failed"}:
                    assert within(each, known[each["id"]]), (each, known[each["id"]])
            assert {each["id"] for each in before[0]} <= set(known)
            async with mesh.client() as client:
                record = await client.wait("unheard", timeout_s=SOON_S)
                assert (record.state, record.attempts[0].exit_code) == ("failed", 5)
                record = await client.wait("cut", timeout_s=SOON_S)
                assert (record.state, len(record.attempts)) == ("lost", 1)
                assert record.reason
                assert (await client.show("waiting")).state == "queued"
                record = await client.show("ended", with_output=True)
                assert record.output is not None
                assert record.output.stdout == b"kept\n"
                assert (await client.submit(["false"], group="web", id="failed")).duplicate
                assert (await client.run(["true"], group="web")).state == "succeeded"


async def test_large_stdin_is_given_to_agents_of_now_alone(mesh: MeshProcesses) -> None:
    async with mesh.client() as client:
        with pytest.raises(MeshError) as caught:
            await client.submit(["cat"], stdin=bytes(MIB), agent="old-1")
        assert caught.value.code == "input_unsupported"
        ended = await client.run(["true"], stdin=bytes(MIB), group="web")
        assert [each.agent for each in ended.attempts] == ["now-1"], ended.reason
