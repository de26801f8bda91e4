"""Writes all generated files of this folder.

    python -m grafana.build [--into FOLDER]

Dashboards, rules, alerts, tests and links; the files are committed, and a test builds them again
and compares the bytes. `broker-master monitoring` writes them for one installation.
"""

import argparse
import json
from pathlib import Path

from grafana import rules, stories
from grafana.alerting import ALERTS
from grafana.plain_yaml import render

HERE = Path(__file__).parent
_MADE = "# Made by `python -m grafana.build`; change the Python beside it, not this file.\n"


def files() -> dict[str, str]:
    """All generated files, by path below this folder."""
    alerts = rules.alerting_rules()
    made = {
        "prometheus/rules.yaml": render(rules.recording_rules()),
        "prometheus/alerts.yaml": render(alerts),
    }
    # One file per sample interval: stories of days do not use samples of 15 seconds.
    for step_s in sorted({alert.step_s for alert in ALERTS}):
        tests = {
            "rule_files": ["../rules.yaml", "../alerts.yaml"],
            "evaluation_interval": rules.duration(step_s),
            # Alerts read results of the rules; the default order is random.
            "group_eval_order": ["mesh-rules", "mesh-alerts"],
            "tests": [
                case for alert in ALERTS if alert.step_s == step_s for case in stories.cases(alert)
            ],
        }
        made[f"prometheus/tests/alerts_{rules.duration(step_s)}.yaml"] = render(tests)
    links = {alert.name: rules.dashboard_path(alert) for alert in ALERTS}
    return {
        **{path: _MADE + text for path, text in made.items()},
        "prometheus/links.json": json.dumps(links, indent=2) + "\n",
        **_dashboards(),
    }


def _dashboards() -> dict[str, str]:
    from grafana.boards import dashboards

    return {f"dashboards/{name}.json": text for name, text in dashboards().items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m grafana.build")
    parser.add_argument("--into", type=Path, default=HERE)
    options = parser.parse_args()
    for path, text in files().items():
        target = options.into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        print(target)


if __name__ == "__main__":
    main()
