"""Counts of observed values by bucket."""

from bisect import bisect_left


class Histogram:
    """Counts per bucket, not cumulative; the last one is for values above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value. Negative times, after a clock was set back, count as 0."""
        seconds = value if value > 0 else 0.0
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
