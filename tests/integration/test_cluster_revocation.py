"""S1 on a cluster of three nodes: what is revoked is gone from each of them, and stays out."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from nats.errors import Error as NatsError

from broker_client.runtime.creds import decode_creds
from broker_client.runtime.identity import CREDS_FILE, read_identity
from broker_master.broker_config import render_config
from broker_master.ca.mesh import Mesh, open_mesh
from schemas.messages.api import Done, NameQuery
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.servers import TestCredentials, choose_ports, connect_raw, greets, server_binary
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-cluster")]

NODES = 3
READY_S = PATIENCE_S


@dataclass
class Node:
    """One nats-server of a cluster of the mesh, with routes to the others on this machine."""

    mesh: Mesh
    folder: Path
    number: int
    port: int
    routes: list[int]
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def render(self) -> str:
        files = msgspec.structs.replace(
            self.mesh.broker_files(),
            resolver=self.folder / "resolver",
            store=self.folder / "store",
            log=self.folder / "nats.log",
        )
        name = f"node-{self.number}"
        config = render_config(
            host="127.0.0.1",
            port=self.port,
            name=name,
            files=files,
            trust=self.mesh.broker_trust(),
        )
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self.routes)
        listen = f"127.0.0.1:{self.routes[self.number]}"
        return f'{config}\ncluster {{ name: "mesh", listen: "{listen}", routes: [{others}] }}\n'

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "nats.conf"
        path.write_text(self.render())
        with (self.folder / "nats.out").open("ab") as out:
            self.process = subprocess.Popen(
                [server_binary(), "-c", str(path)], stdout=out, stderr=out
            )
        async with asyncio.timeout(READY_S):
            while not await greets(self.port):
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(READY_S)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[MeshProcesses, list[Node]]]:
    ports = choose_ports(2 * NODES)
    url = f"tls://127.0.0.1:{ports[0]}"
    replicas = {"MESH_BROKER__REPLICAS": f"{NODES}"}
    mesh = MeshProcesses(tmp_path, env=FAST_TIMERS, master_env=replicas, nats_url=url)
    nodes: list[Node] = []
    try:
        await mesh.init()
        opened = open_mesh(mesh.state_dir)
        nodes = [
            Node(opened, tmp_path / f"node-{n}", n, ports[n], ports[NODES:]) for n in range(NODES)
        ]
        await asyncio.gather(*(node.start() for node in nodes))
        await mesh.start_master()
        await mesh.add_group("web")
        await mesh.add_agent("web-1", group="web")
        await mesh.add_agent("web-2", group="web")
        yield mesh, nodes
    finally:
        await mesh.aclose()
        for node in nodes:
            node.kill()


def stolen(mesh: MeshProcesses, name: str) -> TestCredentials:
    """A copy of what an agent holds."""
    folder = mesh.agent_dir(name) / "identity" / "current"
    identity = read_identity(folder)
    creds = decode_creds((folder / CREDS_FILE).read_bytes())
    claims = identity.claims
    return TestCredentials(
        role="agent",
        name=name,
        folder=folder,
        url="",
        context=identity.context,
        jwt=creds.jwt,
        seed=creds.seed,
        user=claims.user,
        serial="",
        not_after=claims.expires_at,
    )


async def is_refused(copy: TestCredentials, node: Node) -> bool:
    try:
        client = await connect_raw(replace(copy, url=node.url))
    except (NatsError, OSError, ssl.SSLError):
        return True
    await client.close()
    return False


async def test_sec_s1_revoked_is_gone_from_every_node_and_refused_by_those_restarted(
    cluster: tuple[MeshProcesses, list[Node]],
) -> None:
    mesh, nodes = cluster
    copy, other = stolen(mesh, "web-1"), stolen(mesh, "web-2")
    assert not await is_refused(copy, nodes[2])
    thieves = [await connect_raw(replace(copy, url=node.url)) for node in nodes]
    bystanders = [await connect_raw(replace(other, url=node.url)) for node in nodes]
    async with mesh.client() as admin:
        await admin.ask("agent", "revoke", NameQuery(name="web-1"), Done)
    await eventually(lambda: all(client.is_closed for client in thieves))
    assert all(client.is_connected for client in bystanders)
    for client in bystanders:
        await client.close()
    for node in nodes:
        assert await is_refused(copy, node)

    # A node that was down meanwhile, and then all of them, with no master to tell them anything.
    down = nodes[2]
    down.kill()
    async with asyncio.timeout(READY_S):
        # The store elects new leaders meanwhile.
        while (await mesh.cli("agent", "revoke", "web-2")).code:
            await asyncio.sleep(0.1)
    await mesh.master.stop(READY_S)
    await down.start()
    async with asyncio.timeout(READY_S):
        while not await is_refused(other, down):
            await asyncio.sleep(0.1)
    for node in nodes:
        node.kill()
    await asyncio.gather(*(node.start() for node in nodes))
    for node in nodes:
        assert await is_refused(copy, node)
        assert await is_refused(other, node)
