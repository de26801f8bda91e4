"""Work of each member of a group in the last hour, beside its expected share.

Each command that any member might have got adds to the expected work of every ready member, by its
share. The members are not visited for that: the sum due to a share of 1 grows, and a member takes
its part of the growth when it changes.
"""

from collections import deque
from typing import Final, NamedTuple

PART_S: Final = 300.0
PARTS: Final = 12


class Due(NamedTuple):
    expected: float
    actual: int


class _Row:
    """since: the sum due to a share of 1 when this member last took its part."""

    __slots__ = ("actual", "expected", "share", "since", "tier")

    def __init__(self) -> None:
        self.share, self.tier, self.since = 0.0, 0, 0.0
        self.expected: deque[float] = deque([0.0], maxlen=PARTS)
        self.actual: deque[int] = deque([0], maxlen=PARTS)


class Spread:
    """Actual and expected work of a group's members.

    tier: of members with a share, those below the greatest tier are due nothing.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._shares: dict[int, float] = {}
        self._due: dict[int, float] = {}

    def set_share(self, agent: str, share: float, tier: int = 0) -> None:
        """Set a member's share: 0 while it is given no work."""
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
        """Count one command for `agent` that any member might have got."""
        if self._shares:
            tier = max(self._shares)
            self._due[tier] = self._due.get(tier, 0.0) + 1.0 / self._shares[tier]
        row = self._rows.get(agent)
        if row is not None:
            row.actual[-1] += 1

    def rotate(self) -> None:
        """Call each `PART_S`: values older than an hour are dropped."""
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
