"""Who got how much of a group's work in the last hour, and who should have.

Each command that any member might have got adds to what is expected of every member that is ready
then, by its share. The members are not visited for it: the sum of what a share of 1 is due grows,
and a member takes its part of the growth when something of it changes.
"""

from collections import deque
from typing import Final, NamedTuple

PART_S: Final = 300.0
PARTS: Final = 12


class Due(NamedTuple):
    expected: float
    actual: int


class _Row:
    """since: what a share of 1 was due when this member last took its part."""

    __slots__ = ("actual", "expected", "share", "since", "tier")

    def __init__(self) -> None:
        self.share, self.tier, self.since = 0.0, 0, 0.0
        self.expected: deque[float] = deque([0.0], maxlen=PARTS)
        self.actual: deque[int] = deque([0], maxlen=PARTS)


class Spread:
    """tier: of members with a share, only those in the greatest tier are due anything."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._shares: dict[int, float] = {}
        self._due: dict[int, float] = {}

    def set_share(self, agent: str, share: float, tier: int = 0) -> None:
        """share: 0 while it is given nothing."""
        row = self._rows.get(agent)
        if row is None:
            row = self._rows[agent] = _Row()
        if (share, tier) == (row.share, row.tier):
            return
        self._take_part(row)
        self._add(row.tier, -row.share)
        row.share, row.tier, row.since = share, tier, self._due.get(tier, 0.0)
        self._add(tier, share)

    def remove(self, agent: str) -> None:
        row = self._rows.pop(agent, None)
        if row is not None:
            self._add(row.tier, -row.share)

    def note(self, agent: str) -> None:
        """One command went to `agent`, which any member might have got."""
        if self._shares:
            tier = max(self._shares)
            self._due[tier] = self._due.get(tier, 0.0) + 1.0 / self._shares[tier]
        row = self._rows.get(agent)
        if row is not None:
            row.actual[-1] += 1

    def rotate(self) -> None:
        """Call each `PART_S`: what is older than an hour is forgotten."""
        for row in self._rows.values():
            self._take_part(row)
            row.expected.append(0.0)
            row.actual.append(0)

    def of(self, agent: str) -> Due:
        row = self._rows.get(agent)
        if row is None:
            return Due(0.0, 0)
        self._take_part(row)
        return Due(sum(row.expected), sum(row.actual))

    def _take_part(self, row: _Row) -> None:
        due = self._due.get(row.tier, 0.0)
        row.expected[-1] += row.share * (due - row.since)
        row.since = due

    def _add(self, tier: int, share: float) -> None:
        total = self._shares.get(tier, 0.0) + share
        if total > 1e-9:
            self._shares[tier] = total
        else:
            self._shares.pop(tier, None)
