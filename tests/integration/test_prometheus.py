"""A real master, watched by a real Prometheus and Alertmanager with the shipped rules.

One mesh for all tests of this file, in their order: its agents pass through all four statuses, its
commands through every kind of end, before the first of them.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest
import pytest_asyncio

from grafana.boards import BOARDS
from schemas.faults import MeshError
from schemas.messages.api import AgentCreate, AgentDisable, Done, TokenAnswer
from tests import dashboards
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.prometheus import Watchers, wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("prometheus"),
]

# Without it a lost agent's tasks outlive the test that waits for the verdict.
_ENV = {**FAST_TIMERS, "MESH_TIMERS__ADOPT_S": "0.5"}
_AGENT_DAYS = "MESH_CERTIFICATES__AGENT_DAYS"
_QUIET = {
    f"{board.uid} / {panel.title}" for board in BOARDS for panel in board.panels if panel.quiet
}


@dataclass
class World:
    mesh: MeshProcesses
    watchers: Watchers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("watched")
    # The first certificate ends before the warning begins; all later ones last ninety days.
    short = {_AGENT_DAYS: "10"}
    async with MeshProcesses(directory / "mesh", env=_ENV, master_env=short) as mesh:
        for group in ("web", "db", "off", "certs"):
            await mesh.add_group(group)
        await mesh.add_agent("cert-1", group="certs")
        del mesh.master.env[_AGENT_DAYS]
        await mesh.restart_master()
        watchers = Watchers(directory / "watchers", targets=[_target(mesh)])
        async with watchers:
            await _fill_fleet(mesh)
            yield World(mesh, watchers)


async def _fill_fleet(mesh: MeshProcesses) -> None:
    await asyncio.gather(
        mesh.add_agent("web-1", group="web", slots=4),
        mesh.add_agent("web-2", group="web", slots=4),
        mesh.add_agent("web-3", group="web", start=False),
        mesh.add_agent("db-1", group="db"),
        mesh.add_agent("off-1", group="off"),
    )
    async with mesh.client() as client:
        await client.ask("agent", "disable", AgentDisable(name="off-1"), Done)
    await mesh.wait_status("off-1", "disabled")


def _target(mesh: MeshProcesses) -> str:
    return mesh.http_url.removeprefix("http://")


async def _work(mesh: MeshProcesses) -> None:
    """Commands that succeed, fail, take too long, are cancelled, come twice, and wait."""
    async with mesh.client() as client:
        for index in range(8):
            await client.run(["true"], group="web", id=f"fine-{index}")
        await client.run(["true"], group="web", id="fine-0")
        await client.run(["false"], group="web")
        await client.run(["true"], group="db")
        with suppress(MeshError):
            await client.run(["sh", "-c", "kill -9 $$"], group="web")
        cancelled = await client.submit(["sleep", "60"], group="web", id="cancelled")
        await client.cancel(cancelled.id)
        await client.wait(cancelled.id, timeout_s=10)
        await client.submit(["true"], group="off", id="waits")


async def _lose_a_task(mesh: MeshProcesses) -> None:
    """An agent dies for good while it runs a command; another is away for a moment."""
    async with mesh.client() as client:
        lost = await client.submit(["sleep", "60"], agent="web-2")
        await asyncio.sleep(0.5)
        mesh.agents["web-2"].kill()
        mesh.agents["web-2"].end_orphans()
        mesh.agents["web-1"].signal(signal.SIGSTOP)
        await mesh.wait_status("web-1", "no_response")
        mesh.agents["web-1"].signal(signal.SIGCONT)
        await mesh.wait_status("web-1", "active")
        record = await client.wait(lost.id, timeout_s=15)
        assert record.state == "lost"


async def test_every_expression_has_data_and_what_is_quiet_is_shown_by_a_fault(
    world: World,
) -> None:
    mesh, watchers = world.mesh, world.watchers

    async def measured() -> object:
        return await watchers.query("mesh_store_rows and on () mesh_command_queue_seconds_count")

    # A histogram is there from its first value on, and a rate wants to have seen it before.
    async with mesh.client() as client:
        await client.run(["true"], group="web")
    await wait_for(measured, 15, "a scrape with a command in it")
    await _work(mesh)
    await _lose_a_task(mesh)

    async def empty() -> set[str]:
        found = await dashboards.results(watchers)
        return {each.where for each, samples in found.items() if not samples}

    async def complete() -> bool:
        return not await empty()

    # With the faults above even the quiet ones have something to show.
    with suppress(AssertionError):
        await wait_for(complete, 12, "data everywhere")
    assert await empty() == set()
    assert {each.where for each in dashboards.expressions()} >= _QUIET


async def test_every_variable_offers_what_the_mesh_has(world: World) -> None:
    offered = {}
    for where, match, label in dashboards.variables():
        values = await world.watchers.label_values(label, match)
        assert values, where
        offered[where.rpartition(" ")[2]] = set(values)
    assert offered["job"] == {"mesh-master"}
    assert offered["group"] == {"web", "db", "off", "certs"}
    assert offered["agent"] == {"web-1", "web-2", "web-3", "db-1", "off-1", "cert-1"}


async def test_legends_name_labels_that_results_have(world: World) -> None:
    for each, samples in (await dashboards.results(world.watchers)).items():
        for sample in samples:
            # A panel's unset label would be shown as nothing; `instance` of an annotation is there.
            assert each.legend_labels <= set(sample["metric"]), each


async def test_all_four_statuses_are_there_one_per_agent(world: World) -> None:
    found = await world.watchers.query("mesh_agent_status == 1")
    status = {each["metric"]["agent"]: each["metric"]["status"] for each in found}
    assert status == {
        "web-1": "active",
        "web-2": "no_response",
        "web-3": "awaiting_setup",
        "db-1": "active",
        "off-1": "disabled",
        "cert-1": "active",
    }
    assert len(await world.watchers.query("mesh_agent_status")) == 4 * len(status)
    heard = await world.watchers.query("mesh_agent_uptime_seconds")
    assert "web-2" not in {each["metric"]["agent"] for each in heard}


async def test_alerts_of_agents_are_held_back_while_the_broker_is_away(world: World) -> None:
    mesh, watchers = world.mesh, world.watchers
    await watchers.wait_alert("MeshAgentNoResponse", "firing", agent="web-2")
    began = time.monotonic()
    os.kill(mesh.broker_pid, signal.SIGSTOP)
    try:
        await watchers.wait_alert("MeshBrokerDisconnected", "firing", within_s=25)

        async def held_back() -> bool:
            return ("MeshAgentNoResponse", "web-2") in await watchers.suppressed()

        await wait_for(held_back, 10, "the agent's alert is inhibited")
    finally:
        os.kill(mesh.broker_pid, signal.SIGCONT)
    await watchers.wait_alert("MeshBrokerDisconnected", "resolved", after=began)


async def test_a_killed_agent_is_told_at_the_webhook_and_its_return_too(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    mesh, watchers = world.mesh, world.watchers
    began = time.monotonic()
    mesh.agents["db-1"].kill()
    notice = await watchers.wait_alert("MeshGroupInactive", "firing", after=began, group="db")
    record_property("group_inactive_told_after_s", round(notice.at - began, 1))
    notice = await watchers.wait_alert("MeshAgentNoResponse", "firing", agent="web-2")
    assert notice.annotations["summary"] == "Agent web-2 of group web does not respond"
    assert notice.annotations["runbook_url"].endswith("#meshagentnoresponse")
    assert "var-agent=web-2" in notice.annotations["dashboard_url"]
    assert notice.labels["severity"] == "warning"
    began = time.monotonic()
    await mesh.agents["web-2"].start()
    await mesh.agents["db-1"].start()
    notice = await watchers.wait_alert(
        "MeshAgentNoResponse", "resolved", after=began, agent="web-2"
    )
    record_property("return_told_after_s", round(notice.at - began, 1))
    await watchers.wait_alert("MeshGroupInactive", "resolved", after=began, group="db")


async def test_a_group_without_any_member_is_told_until_it_has_one(world: World) -> None:
    await world.mesh.add_group("bare")
    began = time.monotonic()
    await world.watchers.wait_alert("MeshGroupInactive", "firing", group="bare")
    await world.mesh.add_agent("bare-1", group="bare")
    await world.watchers.wait_alert("MeshGroupInactive", "resolved", after=began, group="bare")


async def test_a_certificate_near_its_end_is_told_until_there_is_a_new_one(world: World) -> None:
    mesh, watchers = world.mesh, world.watchers
    notice = await watchers.wait_alert("MeshAgentCertificateExpiresSoon", "firing", agent="cert-1")
    assert "9d 23h" in notice.annotations["description"]
    began = time.monotonic()
    await mesh.agents["cert-1"].stop()
    async with mesh.client() as client:
        token = await client.ask(
            "agent", "token", AgentCreate(name="cert-1", group="certs"), TokenAnswer
        )
    where = ("--state-dir", str(mesh.agent_dir("cert-1")))
    ran = await mesh._run("broker-agent", "setup", *where, "--token=-", stdin=token.token)
    assert ran.code == 0, ran.err
    await mesh.agents["cert-1"].start()
    await watchers.wait_alert(
        "MeshAgentCertificateExpiresSoon", "resolved", after=began, agent="cert-1"
    )
