"""F23 on a cluster: a connection that is dead and says nothing is left for another node."""

import asyncio

import pytest

from tests.harness import MeshProcesses
from tests.integration.test_cluster_revocation import Node, cluster
from tests.proxy import Proxy
from tests.waiting import PATIENCE_S, eventually

__all__ = ["cluster"]

pytestmark = [pytest.mark.chaos]

LINES = 20_000


async def test_f23_half_open_connection_is_left_for_a_second_node(
    cluster: tuple[MeshProcesses, list[Node]],
) -> None:
    """Output is under way and unsent when the first node's line goes dead."""
    mesh, nodes = cluster
    agent, flag = mesh.agents["web-1"], mesh.directory / "line-is-dead"
    async with Proxy(nodes[0].port) as proxy:
        await agent.stop(PATIENCE_S)
        agent.env["MESH_URLS"] = f"tls://127.0.0.1:{proxy.port},{nodes[1].url}"
        await agent.start()
        await mesh.wait_status("web-1", "active", within_s=PATIENCE_S)
        assert proxy.open_connections, "the first address is tried first"
        script = f"seq 100; while [ ! -e {flag} ]; do echo; sleep 0.01; done; seq {LINES}"
        async with mesh.client() as admin:
            ending = asyncio.ensure_future(
                admin.run(["sh", "-c", script], agent="web-1", id="long", timeout_s=PATIENCE_S)
            )
            await eventually(lambda: proxy.passed_bytes["up"] > 10_000, PATIENCE_S)
            proxy.freeze()
            flag.touch()
            record = await ending
            assert record.state == "succeeded", record.reason
            assert [each.agent for each in record.attempts] == ["web-1"]
            assert not record.truncated
            printed = b"".join([part.data async for part in admin.logs("long")])
            lines = printed.split()
            assert lines[:100] == [str(each).encode() for each in range(1, 101)]
            assert lines[-LINES:] == [str(each).encode() for each in range(1, LINES + 1)]
            assert (await mesh.wait_status("web-1", "active")).status == "active"
