"""Results of the benchmarks, a line each: a value, its limit, the verdict."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HEADINGS: Final = ("what", "value", "beside", "ratio", "target", "")


@dataclass(frozen=True)
class Row:
    """One finding. target: `>= 0.5`, `<= 64` and so on, for the ratio if there is one, else value.

    beside: the floor's or the peer's value in the same run. No target: for information.
    """

    what: str
    value: float
    unit: str
    beside: float | None = None
    ratio: float | None = None
    target: str = ""

    @property
    def verdict(self) -> str:
        if not self.target:
            return ""
        relation, bound = self.target.split()
        judged = self.value if self.ratio is None else self.ratio
        holds = judged >= float(bound) if relation == ">=" else judged <= float(bound)
        return "ok" if holds else "MISSED"

    def cells(self) -> tuple[str, ...]:
        return (
            self.what,
            f"{_number(self.value)} {self.unit}".strip(),
            "" if self.beside is None else f"{_number(self.beside)} {self.unit}".strip(),
            "" if self.ratio is None else f"{self.ratio:.2f}",
            f"{self.target} x" if self.target and self.ratio is not None else self.target,
            self.verdict,
        )


def compared(
    what: str, pairs: Sequence[tuple[float, float]], unit: str, *, target: str = ""
) -> Row:
    """A row out of rounds of (value, what stood beside it): medians, and the median of ratios."""
    values, others = zip(*pairs, strict=True)
    ratio = statistics.median(value / other for value, other in pairs)
    return Row(what, statistics.median(values), unit, statistics.median(others), ratio, target)


def render(rows: Sequence[Row]) -> str:
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, len(widths) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
