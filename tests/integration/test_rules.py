"""The shipped rules before Prometheus' own tools, and the dashboards before Grafana's own types."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import grafana
from grafana.alerting import ALERTS
from grafana.plain_yaml import render
from tests import dashboards
from tests.prometheus import INSTALL
from tests.requirements_policy import require

HERE = Path(grafana.__file__).parent
PROMTOOL_S = 120.0
RULES = HERE / "prometheus"
STORIES = sorted((RULES / "tests").glob("*.yaml"))

pytestmark = [pytest.mark.integration]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require(program, INSTALL), *arguments],
        capture_output=True,
        text=True,
        timeout=PROMTOOL_S,
        check=False,
    )


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_every_alert_is_quiet_fires_resolves_and_forgives_a_missed_scrape(path: Path) -> None:
    done = run("promtool", "test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_two_stories() -> None:
    told = "\n".join(path.read_text() for path in STORIES)
    for alert in ALERTS:
        assert f'"{alert.name}: quiet, firing, resolved"' in told
        assert f'"{alert.name}: one missed scrape"' in told


def test_a_wrong_story_fails(tmp_path: Path) -> None:
    """The tool reports it: the same story without its fault expects an alert that never comes."""
    story = {
        "rule_files": [str(RULES / "rules.yaml"), str(RULES / "alerts.yaml")],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": 'up{job="mesh-master"}', "values": "1+0x40"}],
                "alert_rule_test": [
                    {
                        "eval_time": "5m",
                        "alertname": "MeshMasterDown",
                        "exp_alerts": [{"exp_labels": {"severity": "critical"}}],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "wrong.yaml"
    path.write_text(render(story))
    assert run("promtool", "test", "rules", str(path)).returncode != 0


def test_configuration_files_are_accepted() -> None:
    done = run("promtool", "check", "config", str(RULES / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("amtool", "check-config", str(RULES / "alertmanager.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_syntax_of_every_expression_of_every_dashboard(tmp_path: Path) -> None:
    exprs = [each.expr for each in dashboards.expressions()]
    rules = [{"record": f"r{index}", "expr": expr} for index, expr in enumerate(exprs)]
    path = tmp_path / "all.yaml"
    path.write_text(render({"groups": [{"name": "all", "rules": rules}]}))
    done = run("promtool", "check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(exprs)} rules found" in done.stdout


# What Prometheus' own part of an annotation is; the schema leaves that to the data source.
_OF_THE_SOURCE = ("expr", "step", "textFormat", "titleFormat", "useValueForTime")
# Enumerations are words in JSON.
_TYPES = """import { Dashboard } from "@grafana/schema";
type Plain<T> = T extends string ? `${T}` : T extends number ? number
  : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
export const dashboard: Plain<Dashboard> = """
_OPTIONS = (
    *("--noEmit", "--strict", "--skipLibCheck"),
    *("--moduleResolution", "bundler", "--module", "esnext", "--target", "es2022"),
)


@pytest.fixture
def types() -> Path:
    """A folder with `node_modules` that has @grafana/schema and typescript in it."""
    folder = os.environ.get("GRAFANA_TYPES", "")
    if not folder:
        hint = (
            "dashboards are not checked against Grafana's types: npm install @grafana/schema@13.2.3"
            " typescript in an empty folder, and name it in GRAFANA_TYPES"
        )
        # A machine without npm cannot have them; with it, a failed installation is no excuse.
        if os.environ.get("CI") == "true" and shutil.which("npm") is not None:
            pytest.fail(hint)
        pytest.skip(hint)
    return Path(folder)


def _compiled(types: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "node_modules").symlink_to(types / "node_modules")
    for board in dashboards.boards():
        for annotation in board["annotations"]["list"]:
            for name in _OF_THE_SOURCE:
                annotation.pop(name, None)
        (folder / f"{board['uid']}.ts").write_text(f"{_TYPES}{json.dumps(board, indent=1)};\n")
    compiler = types / "node_modules" / ".bin" / "tsc"
    return subprocess.run(
        [str(compiler), *_OPTIONS, *(path.name for path in sorted(folder.glob("*.ts")))],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PROMTOOL_S,
        check=False,
    )


def test_dashboards_are_of_the_type_that_grafana_declares(types: Path, tmp_path: Path) -> None:
    done = _compiled(types, tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_misspelt_field_of_a_dashboard_is_found(
    types: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = dashboards.boards()
    boards[0]["panels"][1]["fieldConfig"]["defaults"]["unitt"] = "s"
    monkeypatch.setattr(dashboards, "boards", lambda: boards[:1])
    assert "'\"unitt\"' does not exist" in _compiled(types, tmp_path).stdout
