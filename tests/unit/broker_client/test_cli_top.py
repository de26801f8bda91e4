"""A frame of `mesh top`: trouble first, and no more lines than the screen has."""

import pytest

from broker_client.cli.mesh.top import MeshView, frame, shortened, trouble_first
from broker_client.cli.screen.live import lines_of
from broker_client.cli.screen.tables import Table
from schemas.messages.api import GroupRecord, StatusAnswer
from tests.unit.broker_client.test_cli_roster import FLEET, NOW, agent


def seen(agents: int) -> MeshView:
    status = StatusAnswer(
        mesh="m1",
        version="0.1",
        epoch=3,
        started_at="2025-11-21T19:00:00.000Z",
        agents={"active": agents, "disabled": 0},
        groups={"active": 1},
        commands={},
        broker="connected",
        notes=["the broker is slow"],
    )
    group = GroupRecord(
        group="web", status="active", reason="", since=status.started_at, agents={"active": agents}
    )
    fleet = [agent(f"web-{number}") for number in range(agents)]
    return MeshView(status=status, groups=[group], agents=fleet, commands=[])


@pytest.mark.parametrize("height", [24, 40])
def test_frame_fits_the_screen_and_says_how_much_more_there_is(height: int) -> None:
    lines = lines_of(frame(seen(200), NOW, height), coloured=False)
    assert len(lines) <= height
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("mesh m1  master 0.1 up 1h  ")
    assert "note      the broker is slow" in lines
    assert lines[-1].endswith("more lines")


def test_small_mesh_is_shown_whole() -> None:
    lines = lines_of(frame(seen(3), NOW, 24), coloured=False)
    assert sum(line.startswith("web-") for line in lines) == 3
    assert "more line" not in "".join(lines)


def test_trouble_comes_first_then_the_busiest() -> None:
    names = [each.agent for each in trouble_first(FLEET)]
    assert names == ["db-1", "web-1", "web-2", "db-2"]


def test_shortened_table_counts_what_is_left_out() -> None:
    table = Table(["A", "1", "2", "3"], [])
    assert shortened(table, 3) == table
    assert shortened(table, 2).lines == ["A", "1", "2", "… 1 more line"]
