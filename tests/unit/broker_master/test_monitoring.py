"""The files of `broker-master monitoring`: links are absolute, or there are none."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]  # no types are published beside it that we lock

from broker_client.runtime.settings import load_settings
from broker_master.monitoring import monitoring_files, write_monitoring
from broker_master.settings import ConsoleSettings, MasterSettings, check_settings
from grafana import rules
from grafana.alerting import ALERTS
from schemas.faults import Refused

ALERTS_FILE = "prometheus/alerts.yaml"
WHERE = ConsoleSettings(
    public_url="https://mesh.example:8443",
    grafana_url="https://grafana.example",
    runbooks_url="https://wiki.example/mesh/runbooks.md",
)


def annotations(console: ConsoleSettings) -> dict[str, dict[str, str]]:
    (group,) = yaml.safe_load(monitoring_files(console)[ALERTS_FILE])["groups"]
    return {rule["alert"]: rule["annotations"] for rule in group["rules"]}


def test_alerts_have_no_link_unless_its_base_is_set() -> None:
    for found in annotations(ConsoleSettings()).values():
        assert set(found) == {"summary", "description"}
    for found in annotations(ConsoleSettings(grafana_url="https://g.example")).values():
        assert set(found) == {"summary", "description", "dashboard_url"}


def test_links_of_alerts_are_absolute_and_lead_to_their_own_places() -> None:
    found = annotations(WHERE)
    assert set(found) == {alert.name for alert in ALERTS}
    for alert in ALERTS:
        links = found[alert.name]
        assert links["runbook_url"] == f"{WHERE.runbooks_url}#{alert.name.lower()}"
        assert links["dashboard_url"] == f"{WHERE.grafana_url}{rules.dashboard_path(alert)}"
        assert all(urlsplit(url).netloc for name, url in links.items() if name.endswith("_url"))


def test_dashboards_open_the_console_that_is_set() -> None:
    files = monitoring_files(WHERE)
    boards = [json.loads(text) for name, text in files.items() if name.startswith("dashboards/")]
    assert len(boards) == 8
    for board in boards:
        variables = {each["name"]: each for each in board["templating"]["list"]}
        assert variables["console"]["query"] == WHERE.public_url


def test_folder_holds_all_that_watches_a_mesh(tmp_path: Path) -> None:
    made = {path.relative_to(tmp_path).as_posix() for path in write_monitoring(tmp_path, WHERE)}
    assert {
        "runbooks.md",
        ALERTS_FILE,
        "prometheus/rules.yaml",
        "prometheus/prometheus.yml",
        "prometheus/alertmanager.yml",
        "provisioning/dashboards/mesh.yaml",
        "dashboards/mesh-fleet.json",
    } <= made
    assert made == {
        path.relative_to(tmp_path).as_posix() for path in write_monitoring(tmp_path, WHERE)
    }


@pytest.mark.parametrize("url", ["mesh.example", "ftp://a", "https://a/", 'https://a"b', "/d/x"])
def test_address_that_is_no_absolute_one_is_refused(url: str) -> None:
    flags = {"console.public_url": url}
    with pytest.raises(Refused, match=r"console\.public_url"):
        load_settings(MasterSettings, environ={}, flags=flags, check=check_settings)
