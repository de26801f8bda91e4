"""Content of a dashboard, independent of Grafana's format.

`quiet` marks panels that are empty while all is well; a test shows each of them with a fault.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["stat", "lines", "bars", "table", "timeline", "heatmap", "pie", "gauges"]

# Each expression is limited to the selection of the variables.
JOB: Final = 'job=~"$job"'
GROUP: Final = 'job=~"$job",group=~"$group"'
AGENT: Final = 'job=~"$job",group=~"$group",agent=~"$agent"'

STATUS_COLORS: Final = {
    "awaiting_setup": ("Awaiting setup", "blue", 1),
    "no_response": ("No response", "red", 2),
    "disabled": ("Disabled", "#808080", 3),
    "active": ("Active", "green", 4),
}
# One number per agent; the timelines map it back to the status.
STATUS_CODE: Final = (
    "max by (agent) (\n  "
    + "\n  or ".join(
        f'mesh_agent_status{{{AGENT},status="{status}"}} * {code}'
        for status, (_, _, code) in STATUS_COLORS.items()
    )
    + "\n)"
)


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query. legend: label values in double braces; in a table the name of the column."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. steps: colour from each value on, the first one for all. join: a table's key."""

    kind: Kind
    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    join: str = ""
    units: tuple[tuple[str, str], ...] = ()
    sort: str = ""
    descending: bool = False
    stacked: bool = False
    quiet: bool = False
    link: str = ""
    decimals: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Board:
    """One dashboard. variables: those of `job`, `group` and `agent` that its panels use."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[str, ...] = ("job", "group")
    since: str = "now-6h"

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


def query(expr: str, legend: str = "") -> Query:
    return Query(expr=expr, legend=legend)


def stat(title: str, description: str, expr: str, **more: Any) -> Panel:  # noqa: ANN401  of Panel
    options: dict[str, Any] = {"width": 3, "height": 4, **more}
    return Panel(
        kind="stat",
        title=title,
        description=description,
        queries=(query(expr),),
        **options,
    )
