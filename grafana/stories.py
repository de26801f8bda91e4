"""Turns the story of an alert into promtool tests.

quiet          healthy for a while: no alert fires
firing         faulty for long enough, and not before: the alert fires with its text
resolved       healthy again: no alert fires
missed scrape  healthy, one scrape fails, healthy: no alert fires
"""

from collections.abc import Iterator
from math import ceil
from typing import Final

from grafana.alerting import Alert, Series
from grafana.rules import annotations, duration

_HEALTHY_STEPS: Final = 20
_MARGIN_STEPS: Final = 4
_AFTER_MISS_STEPS: Final = 40


def cases(alert: Alert) -> Iterator[dict[str, object]]:
    """Yield the two promtool tests of an alert."""
    yield _life(alert)
    yield _missed_scrape(alert)


def _life(alert: Alert) -> dict[str, object]:
    step = alert.step_s
    fault = ceil(max(alert.for_s, alert.fault_s) / step) + _MARGIN_STEPS
    cure = ceil((alert.keep_s + alert.settle_s) / step) + 2 * _MARGIN_STEPS
    began, ended = _HEALTHY_STEPS, _HEALTHY_STEPS + fault
    last = ended + cure - 1
    checks = [_check(alert, began - 1)]
    if alert.for_s > 2 * step:
        checks.append(_check(alert, began + ceil(alert.for_s / step / 2)))
    checks.append(_check(alert, ended - 1, fires=True))
    checks.append(_check(alert, last))
    return {
        "name": f"{alert.name}: quiet, firing, resolved",
        "interval": duration(step),
        "input_series": [
            {"series": each.name, "values": _told(each, began, fault, cure)} for each in alert.story
        ],
        "alert_rule_test": checks,
    }


def _missed_scrape(alert: Alert) -> dict[str, object]:
    miss = _HEALTHY_STEPS
    times = (miss, miss + 1, miss + 2, miss + _AFTER_MISS_STEPS)
    return {
        "name": f"{alert.name}: one missed scrape",
        "interval": duration(alert.step_s),
        "input_series": [{"series": each.name, "values": _with_gap(each)} for each in alert.story],
        "alert_rule_test": [_check(alert, time) for time in times],
    }


def _check(alert: Alert, step: int, *, fires: bool = False) -> dict[str, object]:
    expected = {
        "exp_labels": {"severity": alert.severity, **alert.labels},
        "exp_annotations": {
            name: _filled(alert, text) for name, text in annotations(alert).items()
        },
    }
    return {
        "eval_time": duration(step * alert.step_s),
        "alertname": alert.name,
        "exp_alerts": [expected] if fires else [],
    }


def _filled(alert: Alert, text: str) -> str:
    """Fill a text as Prometheus does, with labels and value of the story."""
    for name, value in alert.labels.items():
        text = text.replace(f"{{{{ $labels.{name} }}}}", value)
    for form in ("", " | humanizeDuration", " | humanizePercentage"):
        text = text.replace(f"{{{{ $value{form} }}}}", alert.value)
    return text


def _told(series: Series, healthy: int, faulty: int, cure: int) -> str:
    if series.counter:
        if isinstance(series.faulty, list):
            raise TypeError("a counter grows by a number")
        parts, value = [], 0.0
        for growth, count in ((series.healthy, healthy), (series.faulty, faulty)):
            parts.append(f"{_number(value)}+{_number(growth)}x{count - 1}")
            value += (growth or 0) * count
        parts.append(f"{_number(value)}+{_number(series.healthy)}x{cure - 1}")
        return " ".join(parts)
    parts = [_flat(series.healthy, healthy)]
    if isinstance(series.faulty, list):
        cycle = series.faulty
        parts += [_number(cycle[index % len(cycle)]) for index in range(faulty)]
    else:
        parts.append(_flat(series.faulty, faulty))
    if series.healthy is None:
        return " ".join([*parts, "stale", _flat(None, cure - 1)])
    return " ".join([*parts, _flat(series.healthy, cure)])


def _with_gap(series: Series) -> str:
    """Insert a failed scrape, which marks every series stale and sets `up` to 0."""
    before, after = _HEALTHY_STEPS, _AFTER_MISS_STEPS + 1
    if series.name.startswith("up{"):
        return f"{_flat(1, before)} 0 {_flat(1, after)}"
    if series.counter:
        growth = series.healthy or 0
        value = growth * (before + 1)
        return f"0+{_number(growth)}x{before - 1} stale {_number(value)}+{_number(growth)}x{after}"
    if series.healthy is None:
        return _flat(None, before + 1 + after)
    return f"{_flat(series.healthy, before)} stale {_flat(series.healthy, after)}"


def _flat(value: float | None, count: int) -> str:
    return f"_x{count}" if value is None else f"{_number(value)}+0x{count - 1}"


def _number(value: float | None) -> str:
    if value is None:
        raise TypeError("a counter grows by a number")
    return str(int(value)) if float(value).is_integer() else repr(value)
