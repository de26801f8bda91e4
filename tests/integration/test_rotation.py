"""Certificates that are renewed while work goes on, and what is left when a step of it fails."""

import asyncio
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import nats.errors
import pytest

from broker_agent.store.identity_slots import IdentitySlots
from broker_client.api import MeshClient
from broker_client.runtime.files import read_bytes
from broker_client.runtime.identity import CERT_FILE, KEY_FILE, new_identity, read_identity
from broker_client.runtime.proofs import renewal_request
from broker_master.broker_child import choose_port
from broker_master.ca.mesh import open_mesh
from broker_master.embedded import EmbeddedBroker
from schemas import codec, subjects
from schemas.faults import FAULTS
from schemas.messages.actions import NoopArgs
from schemas.messages.api import AgentRecord, NameQuery
from tests.harness import FAST_TIMERS, MeshProcesses, program
from tests.meshes import LONG_LEASE, fault, issuer, mesh_fixture, raw, state_reached
from tests.servers import TestCredentials
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-rotation")]

SOON_S: Final = 60.0
PAUSE_S: Final = 0.05
DAY_S: Final = 86_400.0
CALM_TIMERS: Final = {**FAST_TIMERS, **LONG_LEASE}


mesh = mesh_fixture({"web": ("web-1", "web-2")})


async def shown(admin: MeshClient, name: str) -> AgentRecord:
    return await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)


def serial(record: AgentRecord) -> str:
    assert record.certificate is not None
    return record.certificate.serial


async def test_agent_renews_on_request_as_the_same_process(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    before = await shown(admin, "web-1")
    ran = await mesh.cli("agent", "rotate", "web-1", "--wait", "--output", "json")
    assert ran.code == 0, ran.err
    after = await shown(admin, "web-1")
    assert serial(after) == ran.json[0]["serial"] != serial(before)
    assert (after.status, after.details.pid, after.since) == (
        "active",
        before.details.pid,
        before.since,
    )
    slots = IdentitySlots(mesh.agent_dir("web-1"))
    facts = slots.facts()
    assert facts is not None
    assert facts.serial == serial(after)
    await eventually(lambda: not slots.is_unconfirmed, SOON_S, what="the old keys are deleted")
    record = await admin.run(["true"], agent="web-1")
    assert record.state == "succeeded"


async def test_group_renews_and_names_those_it_cannot_reach(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    await mesh.add_agent("web-3", group="web", start=False)
    before = {name: serial(await shown(admin, name)) for name in ("web-1", "web-2")}
    ran = await mesh.cli("group", "rotate", "web", "--output", "json")
    assert ran.code == 0, ran.err
    assert ran.json["ordered"] == ["web-1", "web-2"]
    assert [each["agent"] for each in ran.json["passed"]] == ["web-3"]
    async with asyncio.timeout(SOON_S):
        while any([serial(await shown(admin, name)) == old for name, old in before.items()]):
            await asyncio.sleep(0.05)


async def test_replaced_credentials_are_refused_even_as_a_kept_copy(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mesh.agent_dir("web-1") / "identity" / "current", copy)
    async with raw(held(copy, "web-1", mesh)):
        pass
    ran = await mesh.cli("agent", "rotate", "web-1", "--wait")
    assert ran.code == 0, ran.err
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                async with raw(held(copy, "web-1", mesh)):
                    await asyncio.sleep(0.05)
            except Exception:  # noqa: BLE001  whatever the client makes of a refusal
                break
    assert (await shown(admin, "web-1")).status == "active"


def held(folder: Path, name: str, mesh: MeshProcesses) -> TestCredentials:
    identity = read_identity(folder)
    return TestCredentials(
        role="agent",
        name=name,
        folder=folder,
        url=mesh.nats_url,
        context=identity.context,
        jwt=identity.creds.jwt,
        seed=identity.creds.seed,
        user="",
        serial="",
        not_after=0,
    )


async def test_only_the_holder_of_the_certificate_in_use_gets_the_next_one(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    """A connection alone is not enough, and nothing of the request but its keys is believed."""
    mine, others = (mesh.agent_dir(name) / "identity" / "current" for name in ("web-2", "web-1"))
    cert, key = read_bytes(mine / CERT_FILE), read_bytes(mine / KEY_FILE)
    foreign = issuer(mesh).issue("agent", "web-2", "web").folder
    keys, stranger = new_identity("web-2"), new_identity("web-2")
    good = renewal_request("web-2", keys, cert_pem=cert, key_pem=key)
    bad = {
        "signed by another key": renewal_request(
            "web-2", keys, cert_pem=cert, key_pem=stranger.key_pem
        ),
        "another agent's": renewal_request(
            "web-2",
            keys,
            cert_pem=read_bytes(others / CERT_FILE),
            key_pem=read_bytes(others / KEY_FILE),
        ),
        "never entered": renewal_request(
            "web-2",
            keys,
            cert_pem=read_bytes(foreign / CERT_FILE),
            key_pem=read_bytes(foreign / KEY_FILE),
        ),
        "broker key of somebody else": msgspec.structs.replace(
            good, user_nkey=stranger.user, csr_pem=good.csr_pem
        ),
        "exchanged request": msgspec.structs.replace(good, csr_pem=stranger.csr_pem.decode()),
    }
    codes = {"request_invalid", "renewal_refused"}
    async with raw(held(mine, "web-2", mesh)) as client:
        for name, request in bad.items():
            subject = subjects.up("web", "web-2", "renew")
            code = "rate_limited"
            while code == "rate_limited":  # one may ask a few times, then once a second
                answer = await client.request(subject, codec.encode(request), timeout=SOON_S)
                code = fault(answer).code
                # Words beyond an agent's budget get no answer at all.
                await asyncio.sleep(PAUSE_S)
            assert code in codes, name


async def gone(path: Path) -> None:
    await eventually(lambda: not path.exists(), SOON_S, what=f"{path} is deleted")


# Each place at which a renewal may be cut short, and whether the new certificate is in use then.
PLACES: Final = (
    "agent.renewal_keys_made",
    "agent.renewal_answered",
    "agent.renewal_stored",
    "agent.renewal_tested",
    "agent.renewal_moved",
    "agent.renewal_settling",
    "agent.renewal_promoted",
    "agent.renewal_confirmed",
)


async def test_f36_agent_killed_at_any_step_of_a_renewal_comes_back(tmp_path: Path) -> None:
    """With the old key or the new one, never locked out, and the renewal is completed."""
    names = {f"a{number}": place for number, place in enumerate(PLACES)}
    async with MeshProcesses(tmp_path, env=CALM_TIMERS) as mesh, mesh.client() as admin:
        await mesh.add_group("web")
        async with asyncio.TaskGroup() as group:
            for name, place in names.items():
                orders = {"MESH_FAILPOINTS": f"{place}=kill", "MESH_ALLOW_FAILPOINTS": "tests"}
                group.create_task(mesh.add_agent(name, group="web", slots=2, env=orders))
        before = {name: serial(await shown(admin, name)) for name in names}
        ran = await mesh.cli("group", "rotate", "web")
        assert ran.code == 0, ran.err
        for name, place in names.items():
            assert await mesh.agents[name].wait(SOON_S) == -signal.SIGKILL, place
        for child in mesh.agents.values():
            del child.env["MESH_FAILPOINTS"]
            child.launch()
        for name, place in names.items():
            await mesh.agents[name].wait_ready(within_s=SOON_S)
            record = await admin.run(["true"], agent=name, timeout_s=SOON_S)
            assert record.state == "succeeded", place
        for name in names:
            async with asyncio.timeout(SOON_S):
                while serial(await shown(admin, name)) == before[name]:
                    await asyncio.sleep(0.05)
            old_keys = mesh.agent_dir(name) / "identity" / "old"
            await gone(old_keys)
        ran = await mesh.cli("group", "rotate", "web", "--wait", "--output", "json")
        assert ran.code == 0, ran.out


@pytest.mark.parametrize("place", ["master.renewal_signed", "master.renewal_confirmed"])
async def test_master_killed_within_a_renewal_leaves_the_agent_its_way_in(
    tmp_path: Path, place: str
) -> None:
    orders = {"MESH_FAILPOINTS": f"{place}=kill", "MESH_ALLOW_FAILPOINTS": "tests"}
    mesh = MeshProcesses(tmp_path, env=CALM_TIMERS, master_env=orders)
    async with mesh, mesh.client() as admin:
        await mesh.add_group("web")
        await mesh.add_agent("web-1", group="web")
        old = serial(await shown(admin, "web-1"))
        ran = await mesh.cli("agent", "rotate", "web-1")
        assert ran.code == 0, ran.err
        assert await mesh.master.wait(SOON_S) == -signal.SIGKILL
        del mesh.master.env["MESH_FAILPOINTS"]
        await mesh.start_master()
        async with mesh.client() as back:
            async with asyncio.timeout(SOON_S):
                while serial(await shown(back, "web-1")) == old:
                    await asyncio.sleep(0.05)
            await mesh.wait_status("web-1", "active")
            record = await back.run(["true"], agent="web-1", timeout_s=SOON_S)
            assert record.state == "succeeded"


async def test_renewal_goes_on_with_the_next_master_and_not_an_hour_later(
    tmp_path: Path,
) -> None:
    """The broker stays up, so that no reconnect tells the agent to try again."""
    orders = {"MESH_FAILPOINTS": "master.renewal_signed=kill", "MESH_ALLOW_FAILPOINTS": "tests"}
    port = choose_port("127.0.0.1")
    url = f"tls://127.0.0.1:{port}"
    mesh = MeshProcesses(tmp_path, env=CALM_TIMERS, master_env=orders, nats_url=url)
    await mesh.init()
    broker = EmbeddedBroker(open_mesh(mesh.state_dir), port=port)
    await broker.start()
    try:
        await mesh.start_master()
        await mesh.add_group("web")
        agent = await mesh.add_agent("web-1", group="web")
        async with mesh.client() as admin:
            old = serial(await shown(admin, "web-1"))
            ran = await mesh.cli("agent", "rotate", "web-1")
            assert ran.code == 0, ran.err
            assert await mesh.master.wait(SOON_S) == -signal.SIGKILL
            await eventually(lambda: "renewal_failed" in agent.stderr, SOON_S)
            del mesh.master.env["MESH_FAILPOINTS"]
            await mesh.start_master()
            async with asyncio.timeout(SOON_S):
                while serial(await shown(admin, "web-1")) == old:
                    await asyncio.sleep(PAUSE_S)
    finally:
        await mesh.aclose()
        await broker.stop()


async def test_master_killed_while_it_revokes_leaves_the_rest_to_its_next_start(
    tmp_path: Path,
) -> None:
    """The broker refuses keys that the registry calls revoked; the caller has got no answer."""
    orders = {"MESH_FAILPOINTS": "master.barred=kill", "MESH_ALLOW_FAILPOINTS": "tests"}
    mesh = MeshProcesses(tmp_path, env=CALM_TIMERS, master_env=orders)
    async with mesh, mesh.client():
        await mesh.add_group("web")
        agent = await mesh.add_agent("web-1", group="web")
        ran = await mesh.cli(
            *("client", "create", "ann", "--role", "viewer", "--out", str(tmp_path / "ann"))
        )
        assert ran.code == 0, ran.err
        current = mesh.agent_dir("web-1") / "identity" / "current"
        ann = tmp_path / "ann"
        for noun, name, folder in (("agent", "web-1", current), ("client", "ann", ann)):
            async with raw(held(folder, name, mesh)):
                pass
            ran = await mesh.cli("--timeout", "2", noun, "revoke", name)
            assert ran.code != 0
            assert await mesh.master.wait(SOON_S) == -signal.SIGKILL
            await mesh.start_master()
            await until_refused(held(folder, name, mesh))
        agent.kill()


async def until_refused(credentials: TestCredentials) -> None:
    """Until the broker says that it does not admit whoever holds these."""
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                async with raw(credentials):
                    await asyncio.sleep(0.05)
            except nats.errors.Error as error:
                if "authorization" in str(error).lower():
                    return


async def test_f33_renewals_by_themselves_cost_no_command_and_no_byte(tmp_path: Path) -> None:
    """A few turns of it; ten under 200 commands a second are among the faults of `make chaos`."""
    life = {"MESH_CERTIFICATES__AGENT_DAYS": str(6 / DAY_S)}
    mesh = MeshProcesses(tmp_path, env=CALM_TIMERS, master_env=life)
    async with mesh, mesh.client() as admin:
        await mesh.add_group("web")
        await mesh.add_agent("web-1", group="web")
        printing = await admin.submit(["sh", "-c", PRINT], agent="web-1")
        seen: set[str] = set()
        serials: set[str] = set()
        ids: list[str] = []
        async with asyncio.timeout(3 * SOON_S):
            while len(serials) < 4:
                answers = [await admin.submit(NoopArgs(), agent="web-1") for _ in range(5)]
                ids += [answer.id for answer in answers]
                record = await shown(admin, "web-1")
                seen.add(record.status)
                serials.add(serial(record))
                await asyncio.sleep(0.05)
        assert seen == {"active"}
        for number in ids:
            ended = await admin.wait(number, timeout_s=SOON_S)
            assert (ended.state, [each.sent for each in ended.attempts]) == ("succeeded", [1]), (
                number
            )
        await admin.cancel(printing.id)
        await admin.wait(printing.id, timeout_s=SOON_S)
        printed = b"".join([part.data async for part in admin.logs(printing.id)])
        lines = printed.decode().splitlines()
        assert lines[: len(lines)] == [f"line {number}" for number in range(1, len(lines) + 1)]
        assert len(lines) > 50


# Without an end, so that output is under way at each moment of the test.
PRINT: Final = 'i=0; while :; do i=$((i+1)); echo "line $i"; sleep 0.05; done'


async def test_f35_expired_agent_is_cut_off_and_set_up_again_as_itself(tmp_path: Path) -> None:
    life = {"MESH_CERTIFICATES__AGENT_DAYS": str(6 / DAY_S)}
    mesh = MeshProcesses(tmp_path, env=FAST_TIMERS, master_env=life)
    async with mesh, mesh.client() as admin:
        await mesh.add_group("web")
        agent = await mesh.add_agent("web-1", group="web", start=False)
        # Where keys for a renewal would be made there is something else already.
        blocked = mesh.agent_dir("web-1") / "identity" / "next"
        blocked.write_text("")
        await agent.start()
        record = await mesh.wait_status("web-1", "active")
        assert record.certificate is not None
        ends_at = datetime.fromisoformat(record.certificate.not_after).timestamp()
        running = await admin.submit(["sleep", "60"], agent="web-1")
        async with asyncio.timeout(SOON_S):
            while not (await shown(admin, "web-1")).badges:
                await asyncio.sleep(0.05)
        shown_badges = (await shown(admin, "web-1")).badges
        assert any("renewal failed: ask: cannot create" in badge for badge in shown_badges)
        silent = await mesh.wait_status("web-1", "no_response")
        assert silent.reason.startswith("certificate expired at "), silent
        assert time.time() >= ends_at
        ended = await state_reached(admin, running.id, "lost", "killed_fenced")
        assert len(ended.attempts) == 1
        assert await agent.wait(SOON_S) == FAULTS["certificate_expired"].exit_code
        assert "certificate_expired" in agent.stderr
        blocked.unlink()
        ran = await mesh.cli("agent", "token", "web-1", "--output", "json")
        where = ("--state-dir", str(mesh.agent_dir("web-1")))
        again = await asyncio.to_thread(
            subprocess.run,
            program("broker-agent", "setup", *where, "--token", ran.json["token"]),
            env=mesh.env,
            check=True,
            capture_output=True,
        )
        assert again.returncode == 0
        await agent.start()
        back = await mesh.wait_status("web-1", "active")
        assert (back.agent, back.group) == ("web-1", "web")
        told = await admin.show(running.id)
        assert [each.agent for each in told.attempts] == ["web-1"]
