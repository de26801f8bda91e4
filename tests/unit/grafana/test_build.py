"""Committed dashboards equal those that the code makes, and keep the house's rules."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import grafana
from broker_master.metrics.catalogue import FAMILIES
from grafana import build
from grafana.alerting import ALERTS
from grafana.boards import BOARDS
from grafana.plain_yaml import render
from grafana.recording import RULES
from tests import dashboards
from tools.docs import DASHBOARDS, ROOT

HERE = Path(grafana.__file__).parent
BOARD_FILES = sorted((HERE / "dashboards").glob("*.json"))
every_board = pytest.mark.parametrize("path", BOARD_FILES, ids=lambda path: path.stem)
METRIC = re.compile(r"\b(mesh_[a-z_]+)\b(?!:)")


def load(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def test_every_committed_file_is_one_that_is_built() -> None:
    made = build.files()
    folders = ("dashboards", "prometheus/tests")
    there = {str(path.relative_to(HERE)) for name in folders for path in (HERE / name).iterdir()}
    assert there == {path for path in made if Path(path).parent.as_posix() in folders}


@every_board
def test_links_of_a_board_lead_to_what_there_is(path: Path) -> None:
    """To a board, or to a page of the master."""
    uids = {each.stem for each in BOARD_FILES}
    urls = [url for url in re.findall(r'"url": "([^"]*)"', path.read_text()) if url]
    assert "${console}" in urls
    for url in urls:
        board = re.match(r"/d/([a-z-]+)", url)
        assert url == "${console}" or (board and board[1] in uids), url


@every_board
def test_board_is_identified_tagged_and_reads_its_source_from_a_variable(path: Path) -> None:
    board = load(path)
    assert board["uid"] == path.stem
    assert board["tags"] == ["mesh"]
    assert board["title"].startswith("Mesh / ")
    assert board["description"]
    text = path.read_text()
    assert set(re.findall(r'"uid": "([^"]+)"', text)) <= {"${datasource}", board["uid"]}


@every_board
def test_every_panel_says_what_it_shows_in_which_unit(path: Path) -> None:
    panels = dashboards.panels(load(path))
    assert panels
    for panel in panels:
        assert panel["title"], panel
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
    ids = [panel["id"] for panel in load(path)["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)


@every_board
def test_panels_lie_inside_the_grid_and_on_nobody(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in load(path)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_expressions_ask_for_metrics_that_a_master_has() -> None:
    parts = ("_bucket", "_sum", "_count")
    known = {*FAMILIES, *(f"{name}{part}" for name in FAMILIES for part in parts)}
    asked = [each.expr for each in dashboards.expressions()]
    asked += [alert.expr for alert in ALERTS] + list(RULES.values())
    for expr in asked:
        without_rules = re.sub(r"\b\w+:\w+:\w+", "", expr)
        assert set(METRIC.findall(without_rules)) <= known, expr


def test_recorded_series_that_are_asked_for_are_recorded() -> None:
    asked = " ".join(
        [*(each.expr for each in dashboards.expressions()), *(alert.expr for alert in ALERTS)]
    )
    assert set(re.findall(r"\b(?:mesh|group):\w+:\w+", asked)) <= set(RULES)


def test_every_alert_leads_to_a_runbook_and_to_a_board() -> None:
    runbooks = (HERE / "runbooks.md").read_text()
    headings = set(re.findall(r"^## (\w+)$", runbooks, re.MULTILINE))
    assert {alert.name for alert in ALERTS} == headings
    assert {alert.board for alert in ALERTS} <= {board.uid for board in BOARDS}
    assert {alert.severity for alert in ALERTS} == {"critical", "warning", "info"}


def test_yaml_is_quoted_where_its_readers_would_see_something_else() -> None:
    written = render({"a": "yes", "b": "1m", "c": "x: y", "d": ["", "plain words"], "e": "l1\nl2"})
    assert written == (
        'a: "yes"\nb: "1m"\nc: "x: y"\nd:\n  - ""\n  - plain words\ne: |-\n  l1\n  l2\n'
    )
    with pytest.raises(TypeError):
        render({"a": object()})


def test_docs_have_an_answer_to_every_query_of_a_panel() -> None:
    written = (ROOT / DASHBOARDS).read_text()
    assert "|  |" not in written, "make docs RECORD=1"
    assert "| nothing |" not in written
