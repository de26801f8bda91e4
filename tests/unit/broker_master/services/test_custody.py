"""Warnings of certificates: each is told once, also across a restart of the master."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_master.ca.mesh import Mesh
from broker_master.services.recovery import enter_agents
from broker_master.services.statuses import StatusKeeper
from broker_master.store.statuses import Pasts, read_pasts
from tests.planes import DAY_S, add_agent, add_group
from tests.unit.broker_master.table import Table


@pytest.fixture
async def table(mesh: Mesh) -> AsyncIterator[Table]:
    """One agent, whose certificate ends in ninety days."""
    made = Table(mesh)
    add_group(made.plane, "web")
    add_agent(made.plane, "web-1", "web")
    yield made
    await made.aclose()


def told(table: Table) -> list[tuple[str, str]]:
    table.keys.custody._warn()
    found = [
        (entry.target, (entry.detail or "").split(": ")[1].split(",")[0])
        for entry in table.notes
        if entry.action == "certificate.warning" and entry.target == "web-1"
    ]
    table.notes.clear()
    return found


async def test_threshold_that_was_crossed_while_no_master_ran_is_reported_at_the_start(
    table: Table,
) -> None:
    table.clock.advance(84 * DAY_S)
    enter_agents(table.plane, Pasts(at=table.clock.now() - 20 * DAY_S))
    assert told(table) == [("web-1", "ends within 7 days")]
    assert told(table) == []
    table.clock.advance(5.5 * DAY_S)
    assert told(table) == [("web-1", "ends within 1 day")]


@pytest.mark.parametrize("before_s", [60.0, None])
async def test_threshold_that_the_previous_master_reported_is_not_reported_again(
    table: Table, before_s: float | None
) -> None:
    """Where no file says when it ended, as after 0.1.0, it may have told of all."""
    table.clock.advance(84 * DAY_S)
    enter_agents(table.plane, Pasts(at=table.clock.now() - before_s) if before_s else Pasts())
    assert told(table) == []
    table.clock.advance(5.5 * DAY_S)
    assert told(table) == [("web-1", "ends within 1 day")]


async def test_moment_until_which_a_master_ran_is_stored(table: Table, tmp_path: Path) -> None:
    StatusKeeper(table.plane, tmp_path).store()
    assert read_pasts(tmp_path).at == table.clock.now()
