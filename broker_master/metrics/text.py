"""Families as text. An empty one is left out."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from broker_client.runtime.exposition import labels, number
from broker_master.core.histograms import Histogram
from broker_master.metrics.catalogue import Family

Values = Mapping[str, str]


def family(of: Family, samples: Iterable[tuple[Values, float]]) -> str:
    name = of.name
    return lines(of, [f"{name}{labels(values)} {number(value)}\n" for values, value in samples])


def lines(of: Family, ready: list[str]) -> str:
    """As `family`, of ready lines."""
    return of.head + "".join(ready) if ready else ""


def histograms(of: Family, samples: Iterable[tuple[Values, Histogram]]) -> str:
    """Histograms without observations are left out: each is a dozen series."""
    ready: list[str] = []
    for values, histogram in samples:
        *counts, total = accumulate(histogram.counts)
        if not total:
            continue
        inner = labels(values)
        start = f"{inner[:-1]}," if inner else "{"
        ready += [
            f'{of.name}_bucket{start}le="{bound}"}} {count}\n'
            for bound, count in zip(histogram.bounds, counts, strict=True)
        ]
        ready.append(f'{of.name}_bucket{start}le="+Inf"}} {total}\n')
        ready.append(f"{of.name}_sum{inner} {histogram.total:.6f}\n")
        ready.append(f"{of.name}_count{inner} {total}\n")
    return lines(of, ready)
