"""Rules and alerts in Prometheus's format."""

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from grafana.alerting import ALERTS, Alert
from grafana.recording import RULES

Seconds = Callable[[float], float]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def annotations(alert: Alert) -> dict[str, str]:
    """Annotations of every installation; `broker-master monitoring` adds the links of one."""
    return {"summary": alert.summary, "description": alert.description}


def dashboard_path(alert: Alert) -> str:
    """Path of an alert's dashboard below Grafana's address, with its variables selected."""
    query = "&".join(
        f"{name}={value if '{{' in value else quote(value)}"
        for name, value in alert.variables.items()
    )
    return f"/d/{alert.board}" + (f"?{query}" if query else "")


def recording_rules(seconds: Seconds = float) -> dict[str, object]:
    return {
        "groups": [
            {
                "name": "mesh-rules",
                "rules": [
                    {"record": name, "expr": _scaled(expr, seconds)} for name, expr in RULES.items()
                ],
            }
        ]
    }


def alerting_rules(seconds: Seconds = float) -> dict[str, object]:
    """Build the alerting rules. seconds: maps each duration; tests shorten durations with it."""
    rules: list[dict[str, object]] = []
    for alert in ALERTS:
        rule: dict[str, object] = {"alert": alert.name, "expr": _scaled(alert.expr, seconds)}
        if alert.for_s:
            rule["for"] = duration(seconds(alert.for_s))
        if alert.keep_s:
            rule["keep_firing_for"] = duration(seconds(alert.keep_s))
        rule["labels"] = {"severity": alert.severity}
        rule["annotations"] = annotations(alert)
        rules.append(rule)
    return {"groups": [{"name": "mesh-alerts", "rules": rules}]}


def _scaled(expr: str, seconds: Seconds) -> str:
    def scale(found: re.Match[str]) -> str:
        return f"[{duration(seconds(int(found[1]) * _UNITS[found[2]]))}]"

    return re.sub(r"\[(\d+)([smhd])\]", scale, expr)


def duration(seconds: float) -> str:
    """Format a duration for Prometheus, in the largest unit that divides it."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:g}s"
