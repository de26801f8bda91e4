"""A real master, watched by a real Prometheus and Alertmanager with the shipped rules.

One mesh for all tests of this file, in their order: its agents pass through all four statuses, its
commands through every kind of end, before the first of them.
"""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from grafana.boards import BOARDS
from tests import dashboards
from tests.prometheus import LINKED, wait_for
from tests.waiting import PATIENCE_S
from tests.watched import GROUPS, STATUSES, World, watched_world

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("prometheus"),
]

_QUIET = {
    f"{board.uid} / {panel.title}" for board in BOARDS for panel in board.panels if panel.quiet
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with watched_world(tmp_path_factory.mktemp("watched")) as made:
        yield made


async def test_every_expression_has_data_and_what_is_quiet_is_shown_by_a_fault(
    world: World,
) -> None:
    # With the faults among it even the quiet ones have something to show.
    results = await world.live_through_it()
    assert {each.where for each, samples in results.items() if not samples} == set()
    assert {each.where for each in results} >= _QUIET


async def test_a_rotation_is_seen_and_leaves_nothing_pending(world: World) -> None:
    query = world.watchers.query
    ends = "mesh_agent_certificate_not_after_timestamp_seconds"
    moved = await query(f"changes({ends}[5m]) > 0")
    assert [each["metric"]["agent"] for each in moved] == ["db-1"]
    done = await query('mesh_certificate_renewals_total{outcome="confirmed"}')
    assert [each["value"][1] for each in done] == ["1"]
    pending = await query("mesh_agent_certificate_rotation_pending")
    shown = {each["metric"]["agent"]: each["value"][1] for each in pending}
    assert shown == dict.fromkeys(STATUSES, "0")
    steady = await query('changes(mesh_agent_start_time_seconds{agent="db-1"}[5m])')
    assert [each["value"][1] for each in steady] == ["0"]


async def test_every_variable_offers_what_the_mesh_has(world: World) -> None:
    offered = {}
    for where, match, label in dashboards.variables():
        values = await world.watchers.label_values(label, match)
        assert values, where
        offered[where.rpartition(" ")[2]] = set(values)
    assert offered["job"] == {"mesh-master"}
    assert offered["group"] == set(GROUPS)
    assert offered["agent"] == set(STATUSES)


async def test_legends_name_labels_that_results_have(world: World) -> None:
    for each, samples in (await dashboards.results(world.watchers)).items():
        for sample in samples:
            # A panel's unset label would be shown as nothing; `instance` of an annotation is there.
            assert each.legend_labels <= set(sample["metric"]), each


async def test_all_four_statuses_are_there_one_per_agent(world: World) -> None:
    found = await world.watchers.query("mesh_agent_status == 1")
    status = {each["metric"]["agent"]: each["metric"]["status"] for each in found}
    assert status == STATUSES
    assert len(await world.watchers.query("mesh_agent_status")) == 4 * len(status)
    heard = await world.watchers.query("mesh_agent_uptime_seconds")
    assert "web-2" not in {each["metric"]["agent"] for each in heard}


async def test_alerts_of_agents_are_held_back_while_the_broker_is_away(world: World) -> None:
    mesh, watchers = world.mesh, world.watchers
    await watchers.wait_alert("MeshAgentNoResponse", "firing", agent="web-2")
    began = time.monotonic()
    os.kill(mesh.broker_pid, signal.SIGSTOP)
    try:
        await watchers.wait_alert("MeshBrokerDisconnected", "firing", within_s=PATIENCE_S)

        async def held_back() -> bool:
            return ("MeshAgentNoResponse", "web-2") in await watchers.suppressed()

        await wait_for(held_back, PATIENCE_S, "the agent's alert is inhibited")
    finally:
        os.kill(mesh.broker_pid, signal.SIGCONT)
    await watchers.wait_alert("MeshBrokerDisconnected", "resolved", after=began)


async def test_killed_agent_raises_an_alert_at_the_webhook_and_its_return_ends_it(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    mesh, watchers = world.mesh, world.watchers
    began = time.monotonic()
    mesh.agents["db-1"].kill()
    notice = await watchers.wait_alert("MeshGroupInactive", "firing", after=began, group="db")
    record_property("group_inactive_told_after_s", round(notice.at - began, 1))
    notice = await watchers.wait_alert("MeshAgentNoResponse", "firing", agent="web-2")
    assert notice.annotations["summary"] == "Agent web-2 of group web does not respond"
    links = {name: url for name, url in notice.annotations.items() if name.endswith("_url")}
    assert links == {
        "runbook_url": f"{LINKED.runbooks_url}#meshagentnoresponse",
        "dashboard_url": f"{LINKED.grafana_url}/d/mesh-agent?var-agent=web-2&var-group=web",
        "console_url": f"{LINKED.public_url}/",
    }
    assert notice.labels["severity"] == "warning"
    began = time.monotonic()
    await mesh.agents["web-2"].start()
    await mesh.agents["db-1"].start()
    notice = await watchers.wait_alert(
        "MeshAgentNoResponse", "resolved", after=began, agent="web-2"
    )
    record_property("return_told_after_s", round(notice.at - began, 1))
    await watchers.wait_alert("MeshGroupInactive", "resolved", after=began, group="db")


async def test_group_without_members_raises_an_alert_until_it_has_one(world: World) -> None:
    await world.mesh.add_group("bare")
    began = time.monotonic()
    await world.watchers.wait_alert("MeshGroupInactive", "firing", group="bare")
    await world.mesh.add_agent("bare-1", group="bare")
    await world.watchers.wait_alert("MeshGroupInactive", "resolved", after=began, group="bare")


async def test_certificate_near_its_end_raises_an_alert_until_its_renewal(world: World) -> None:
    mesh, watchers = world.mesh, world.watchers
    notice = await watchers.wait_alert("MeshAgentCertificateExpiresSoon", "firing", agent="cert-1")
    assert "9d 23h" in notice.annotations["description"]
    began = time.monotonic()
    ran = await mesh.cli("agent", "rotate", "cert-1", "--wait")
    assert ran.code == 0, ran.err
    await watchers.wait_alert(
        "MeshAgentCertificateExpiresSoon", "resolved", after=began, agent="cert-1"
    )
