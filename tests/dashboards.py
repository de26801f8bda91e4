"""The expressions of the committed dashboards, and what a Prometheus says to them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.prometheus import Watchers

FOLDER: Final = Path(__file__).parents[1] / "grafana" / "dashboards"
# What Grafana would put in; windows of a test are short.
_WORDS: Final = {
    "$__rate_interval": "1m",
    "$__range": "5m",
    "$job": ".*",
    "$group": ".*",
    "$agent": ".*",
}
_LABEL_VALUES: Final = re.compile(r"label_values\((?P<match>.*),\s*(?P<label>\w+)\)")


@dataclass(frozen=True)
class Expression:
    """where: board and panel, variable or annotation. expr: with the variables filled in."""

    where: str
    expr: str
    legend: str = ""

    @property
    def legend_labels(self) -> set[str]:
        return set(re.findall(r"\{\{\s*(\w+)\s*\}\}", self.legend))


def boards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[Expression]:
    for board in boards():
        for panel in panels(board):
            for target in panel["targets"]:
                yield Expression(
                    f"{board['uid']} / {panel['title']}",
                    filled(target["expr"]),
                    target.get("legendFormat", ""),
                )
        for annotation in board["annotations"]["list"]:
            legend = f"{annotation['titleFormat']} {annotation['textFormat']}"
            where = f"{board['uid']} / annotation {annotation['name']}"
            yield Expression(where, filled(annotation["expr"]), legend)


def variables() -> Iterator[tuple[str, str, str]]:
    """Board and variable, the series to look among, and the label whose values it offers."""
    for board in boards():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
                assert found is not None, variable
                where = f"{board['uid']} / variable {variable['name']}"
                yield where, filled(found["match"]), found["label"]


def filled(expr: str) -> str:
    for word, value in _WORDS.items():
        expr = expr.replace(word, value)
    assert "$" not in expr, expr
    return expr


async def results(watchers: Watchers) -> dict[Expression, list[dict[str, Any]]]:
    """Evaluate each expression now. Raises if Prometheus refuses one."""
    return {each: _numbers(await watchers.query(each.expr)) for each in expressions()}


def _numbers(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Not a number is no data: a ratio of nothing to nothing."""
    return [sample for sample in found if sample["value"][1] != "NaN"]
