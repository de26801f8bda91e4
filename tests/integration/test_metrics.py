"""The metrics of a real master and a real agent, and a trace from a client to a task."""

import asyncio
import functools
import gzip
import subprocess
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from broker_client.runtime import tracing
from broker_master.broker_child import choose_port
from schemas.messages.api import Done, NameQuery
from tests.harness import MeshProcesses
from tests.meshes import mesh_fixture
from tests.planes import Samples, samples_of
from tests.prometheus import INSTALL, wait_for
from tests.requirements_policy import require
from tests.waiting import PATIENCE_S

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("metrics"),
]

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@functools.cache
def port_of(process: str) -> int:
    """Chosen at the first use: until then another program may take a free port."""
    return choose_port("127.0.0.1")


def master_env() -> dict[str, str]:
    return {"MESH_METRICS_HTTP": f"127.0.0.1:{port_of('master')}"}


async def add_agent(mesh: MeshProcesses) -> None:
    await mesh.add_agent("web-1", group="web", env={"MESH_METRICS_PORT": str(port_of("agent"))})


mesh = mesh_fixture(
    {"web": ()},
    master_env=master_env,
    prepare=add_agent,
)


async def fetch(url: str, **headers: str) -> tuple[bytes, dict[str, str]]:
    def get() -> tuple[bytes, dict[str, str]]:
        with urlopen(Request(url, headers=headers), timeout=60) as answer:
            return answer.read(), dict(answer.headers)

    return await asyncio.to_thread(get)


async def scraped() -> Samples:
    body, _ = await fetch(f"http://127.0.0.1:{port_of('master')}/metrics")
    return samples_of(body)


def checked_by_promtool(page: bytes) -> None:
    promtool = require("promtool", INSTALL)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip(), done.stderr


async def test_page_passes_the_check_of_prometheus_itself(mesh: MeshProcesses) -> None:
    async with mesh.client() as client:
        await client.run(["true"], group="web")
    page, headers = await fetch(f"http://127.0.0.1:{port_of('master')}/metrics")
    checked_by_promtool(page)
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_page_is_packed_for_whoever_takes_gzip(mesh: MeshProcesses) -> None:
    url = f"http://127.0.0.1:{port_of('master')}/metrics"
    page, headers = await fetch(url, **{"Accept-Encoding": "deflate, gzip;q=0.5"})
    assert headers["Content-Encoding"] == "gzip"
    assert b"mesh_build_info" in gzip.decompress(page)


async def test_metrics_with_a_port_of_their_own_are_nowhere_else(mesh: MeshProcesses) -> None:
    with pytest.raises(HTTPError) as refused:
        await fetch(f"{mesh.http_url}/metrics")
    assert refused.value.code == 404
    refused.value.close()
    with pytest.raises(HTTPError) as missing:
        await fetch(f"http://127.0.0.1:{port_of('master')}/")
    assert missing.value.code == 404
    missing.value.close()


async def test_commands_are_counted_where_they_belong(mesh: MeshProcesses) -> None:
    async def settled() -> Samples | None:
        found = await scraped()
        known = found.get(("mesh_stream_messages", frozenset({("stream", "MESH_EVENTS")})))
        return found if known is not None else None

    before = await wait_for(settled, PATIENCE_S, "the survey of the streams")
    async with mesh.client() as client:
        await client.run(["true"], group="web", id="once")
        await client.run(["true"], group="web", id="once")
        await client.run(["false"], group="web")

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return float(after[key] - before.get(key, 0))

    await asyncio.sleep(1.1)  # a page is kept for a second
    after = await scraped()
    web = {"group": "web", "action": "process"}
    assert grown("mesh_commands_submitted_total", **web, source="nats") == 2
    assert grown("mesh_commands_finished_total", **web, outcome="succeeded") == 1
    assert grown("mesh_commands_finished_total", **web, outcome="failed") == 1
    assert grown("mesh_command_sends_total", group="web", attempt="1") == 2
    assert grown("mesh_command_acknowledge_seconds_count", group="web") >= 1
    assert grown("mesh_command_duration_seconds_count", **web) == 2
    assert grown("mesh_command_queue_seconds_count", **web) == 2
    twice = {result: grown("mesh_command_duplicates_total", side="master", result=result)
             for result in ("suppressed", "replayed")}  # fmt: skip
    assert sum(twice.values()) == 1
    agent = {"agent": "web-1", "group": "web"}
    rtt = after["mesh_agent_heartbeat_rtt_seconds", frozenset(agent.items())]
    assert rtt > 0
    assert abs(after["mesh_agent_clock_skew_seconds", frozenset(agent.items())]) < PATIENCE_S


async def test_agent_exports_local_metrics_under_a_prefix_of_its_own(mesh: MeshProcesses) -> None:
    page, _ = await fetch(f"http://127.0.0.1:{port_of('agent')}/metrics")
    checked_by_promtool(page)
    names = {name for name, _ in samples_of(page)}
    assert names
    assert [name for name in names if not name.startswith("mesh_local_")] == []
    assert "mesh_local_lease_age_seconds" in names


async def test_trace_reaches_the_environment_of_the_task(mesh: MeshProcesses) -> None:
    show = ["sh", "-c", "echo ${TRACEPARENT-none}"]
    async with mesh.client() as client:
        with tracing.use(TRACE):
            traced = await client.run(show, group="web")
        plain = await client.run(show, group="web")
    assert traced.output is not None
    assert plain.output is not None
    assert traced.output.stdout.decode().strip() == TRACE
    assert traced.labels == {"traceparent": TRACE}
    assert plain.output.stdout == b"none\n"
    assert plain.labels == {}


async def test_command_line_passes_the_trace_of_its_own_environment_on(
    mesh: MeshProcesses,
) -> None:
    mesh.env["TRACEPARENT"] = TRACE
    try:
        ran = await mesh.cli("run", "--group", "web", "--", "sh", "-c", "echo $TRACEPARENT")
    finally:
        del mesh.env["TRACEPARENT"]
    assert ran.out.strip() == TRACE


async def test_series_of_a_deleted_agent_end(mesh: MeshProcesses) -> None:
    await mesh.add_agent("web-2", group="web")
    async with mesh.client() as client:
        await client.ask("agent", "delete", NameQuery(name="web-2"), Done)

    async def gone() -> bool:
        return not [1 for _, labels in await scraped() if ("agent", "web-2") in labels]

    await wait_for(gone, PATIENCE_S, "no series of web-2")


async def test_address_that_is_none_is_refused_at_the_start() -> None:
    from broker_master.metrics.endpoint import own_endpoint
    from schemas.faults import Refused

    for wrong in ("host:port", "127.0.0.1:", "0:9100", "[::1"):
        with pytest.raises(Refused, match=r"metrics_http .*(HOST:PORT|address)"):
            own_endpoint(wrong, None)  # type: ignore[arg-type]  # never reached
