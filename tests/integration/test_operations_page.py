"""Each console block of docs/operations.md, section by section, on the hosts that it names."""

import asyncio
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from broker_client.runtime.files import read_text
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.hosts import Host, Hosts, steps_of
from tests.integration.test_readme import blocks_of, check_shown
from tests.old_release import switch, unpacked
from tests.servers import server_binary

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-operations-page")]

PAGE: Final = Path(__file__).parents[2] / "docs" / "operations.md"
LOOK_S: Final = 60.0
SECTIONS: Final = (
    "Moving the master",
    "Replacing the keys of NATS",
    "Lost admin credentials",
    "Upgrading",
    "Backup and restore",
)


def section(title: str) -> str:
    _, _, after = PAGE.read_text().partition(f"\n## {title}\n")
    return after.partition("\n## ")[0]


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    server_binary()
    hosts = Hosts(tmp_path, FAST_TIMERS)
    yield hosts
    await hosts.aclose()


async def do(hosts: Hosts, host: str, command: str) -> str:
    code, said = await hosts.do(host, command)
    assert code == 0, f"{host}$ {command}\n{said}"
    return said


async def a_mesh(hosts: Hosts, *agents: str) -> None:
    """A master on `old`, an admin `ops` of its own, and agents of one group."""
    await do(
        hosts, "old", "broker-master init --state-dir /var/lib/mesh-master --host old.example.net"
    )
    await do(hosts, "old", "systemctl start mesh-master")
    ops, admin = hosts["ops"], hosts["old"].placed("/var/lib/mesh-master/contexts/admin.toml")
    ops.env["MESH_CONTEXT"] = admin
    await do(hosts, "ops", "mesh client create ops --role admin --out ops")
    await do(hosts, "ops", "mesh group create web")
    for number, host in enumerate(agents, 1):
        token = (
            await do(hosts, "ops", f"mesh agent create web-{number} --group web 2>/dev/null")
        ).strip()
        setup = f"broker-agent setup --state-dir /var/lib/mesh-agent --token={token}"
        await do(hosts, host, setup)
        await do(hosts, host, "systemctl start mesh-agent")
    ops.env["MESH_CONTEXT"] = str(ops.folder / "ops" / "context.toml")


async def play(hosts: Hosts, title: str) -> None:
    blocks = blocks_of(section(title))
    assert blocks, title
    for block in blocks:
        assert block.language == "console", f"{title}: {block.lines[0]}"
        for host, command, shown in steps_of(block.lines):
            await step(hosts, f"{title}: {host}$ {command}", host, command, shown)


async def step(hosts: Hosts, place: str, host: str, command: str, shown: list[str]) -> None:
    """Done once; a list is looked at until it shows what the page has, as a person does."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + (LOOK_S if re.match(r"mesh (\w+ list|ca show)", command) else 0)
    while True:
        code, said = await hosts.do(host, command)
        try:
            assert code == 0, f"{place}\n{said}"
            check_shown(
                shown, said.replace(str(hosts[host].folder), "/var/lib"), f"{place}\n{said}"
            )
        except AssertionError:
            if loop.time() > give_up_at:
                raise
            await asyncio.sleep(0.2)
        else:
            return


def urls_of(host: Host) -> list[str]:
    """Where the agent of a host looks for brokers, by what it keeps."""
    path = host.folder / "mesh-agent" / "identity" / "current" / "identity.toml"
    urls: list[str] = tomllib.loads(read_text(path))["urls"]
    return urls


async def test_moved_master_is_found_by_agents_and_clients(hosts: Hosts) -> None:
    await a_mesh(hosts, "web", "spare")
    await do(hosts, "ops", "mesh run --group web --id before -- true")
    await play(hosts, "Moving the master")
    for host in ("web", "spare"):
        assert [url.partition("//")[2].partition(":")[0] for url in urls_of(hosts[host])] == [
            "127.0.0.2"
        ]
    context = tomllib.loads(read_text(hosts["ops"].folder / "ops" / "context.toml"))
    assert any("127.0.0.2" in url for url in context["urls"])
    # Each from a new start, with what it has kept alone.
    await do(hosts, "web", "systemctl restart mesh-agent")
    await do(hosts, "ops", "mesh run --agent web-1 -- true")
    assert "succeeded" in await do(hosts, "ops", "mesh command list before")


async def test_keys_of_nats_are_replaced_under_a_task(hosts: Hosts) -> None:
    await a_mesh(hosts, "web")
    done = hosts["web"].folder / "done"
    task = f"while [ ! -e {done} ]; do sleep 0.1; done; echo same"
    await do(hosts, "ops", f"mesh run --group web --id long --detach -- sh -c '{task}'")
    nats = hosts["old"].folder / "mesh-master" / "nats"
    before = {path.name: path.read_bytes() for path in nats.glob("*.nk")}
    await play(hosts, "Replacing the keys of NATS")
    done.touch()
    await do(hosts, "ops", "mesh command wait long")
    assert await do(hosts, "ops", "mesh command logs long") == "same\n"
    after = {path.name: path.read_bytes() for path in nats.glob("*.nk")}
    kept = before.keys() & after.keys()
    assert before.keys() - kept == {"operator.nk", "operator-signing.nk", "system-signing.nk"}
    assert all(before[name] == after[name] for name in kept)


async def test_lost_admin_has_a_way_back_and_copies_of_it_have_none(hosts: Hosts) -> None:
    await a_mesh(hosts)
    stolen = hosts["ops"].folder / "stolen"
    contexts = hosts["old"].placed("/var/lib/mesh-master/contexts")
    await do(hosts, "old", f"cp -a {contexts} {stolen}")
    await play(hosts, "Lost admin credentials")
    code, said = await hosts.do("ops", f"mesh --context {stolen}/admin.toml status")
    assert (code, "mesh client create" in said, "--new-admin" in said) == (77, True, True), said
    admin = hosts["old"].placed("/var/lib/mesh-master/contexts/admin.toml")
    trail = await do(hosts, "ops", f"mesh --context {admin} audit list --action client.reset")
    assert "admin" in trail


async def test_upgrade_of_the_last_release_goes_host_by_host(hosts: Hosts) -> None:
    with unpacked() as old:
        for name in ("old", "web"):
            hosts[name].env.update(old.env)
            for unit in hosts[name].units.values():
                unit.env.update(old.env)
        await a_mesh(hosts, "web")
        await do(hosts, "ops", "mesh run --group web --id before -- true")
        await play(hosts, "Upgrading")
    assert await do(hosts, "ops", "mesh run --group web -- echo still here") == "still here\n"
    assert "succeeded" in await do(hosts, "ops", "mesh command list before")


async def test_backup_is_restored_as_the_page_says(hosts: Hosts) -> None:
    await a_mesh(hosts, "web")
    await play(hosts, "Backup and restore")
    assert await do(hosts, "ops", "mesh run --group web -- echo back") == "back\n"


async def test_agent_of_the_last_release_ignores_addresses_until_it_renews(tmp_path: Path) -> None:
    with unpacked() as old:
        async with MeshProcesses(tmp_path / "mesh", env=FAST_TIMERS) as mesh:
            await mesh.add_group("web")
            agent = await mesh.add_agent("web-1", group="web", start=False)
            switch(agent, old)
            await agent.start()
            port = mesh.nats_url.rpartition(":")[2]
            both = [f"tls://127.0.0.1:{port}", f"tls://localhost:{port}"]
            mesh.master.env["MESH_URLS"] = ",".join(both)
            await mesh.restart_master()
            record = await mesh.wait_status("web-1", "active")
            assert record.addresses == "unknown"
            where = mesh.agent_dir("web-1") / "identity" / "current" / "identity.toml"
            assert tomllib.loads(where.read_text())["urls"] == both[:1]
            ran = await mesh.cli("agent", "rotate", "web-1", "--wait")
            assert ran.code == 0, ran.err
            assert tomllib.loads(where.read_text())["urls"] == both
            await agent.stop()
            switch(agent, None)
            await agent.start()
            assert (await mesh.wait_status("web-1", "active")).addresses == "current"


async def test_address_that_no_certificate_names_is_refused_before_anything_starts(
    hosts: Hosts,
) -> None:
    await do(hosts, "old", "broker-master init --state-dir /var/lib/mesh-master")
    serve = "broker-master serve --state-dir /var/lib/mesh-master --urls tls://mesh.example.net:1"
    code, said = await hosts.do("old", serve)
    assert (code, "--host mesh.example.net" in said) == (78, True), said
    init = "broker-master init --state-dir /var/lib/mesh-master --drop-host gone.example.net"
    code, said = await hosts.do("old", init)
    assert (code, "no host of this mesh" in said) == (78, True), said


def test_sections_with_steps_are_the_ones_that_are_played() -> None:
    titles = [each for each in PAGE.read_text().split("\n## ")[1:] if "```console" in each]
    assert sorted(each.partition("\n")[0] for each in titles) == sorted(SECTIONS)
