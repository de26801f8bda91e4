"""The generated section of docs/metrics.md: one row for each metric of the master."""

from collections.abc import Callable
from typing import Final

from broker_master.metrics.catalogue import FAMILIES, PER_AGENT
from tools.sections import table


def metrics() -> str:
    return table(
        ["name", "type", "labels", "meaning"],
        [
            [
                f"`{family.name}`" + (" \\*" if family.name in PER_AGENT else ""),
                family.kind,
                ", ".join(family.labels) or "–",
                family.meaning,
            ]
            for family in FAMILIES.values()
        ],
    )


SECTIONS: Final[dict[str, Callable[[], str]]] = {"metrics": metrics}
