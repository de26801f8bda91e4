"""Quota of each agent in the log stream: purges the oldest output of agents above it.

The broker counts all bytes sent by a connection, more than its output: an agent that sends much
else keeps less output. Each look also stores the head of the stream, so that "the last so many
bytes of an agent" is a place in the stream:

    looks      seq 100    seq 900    seq 4000       sent since: quota ──▶ purge its own up to 900
    sent         1 MB       5 MB       9 MB
"""

from collections import deque
from collections.abc import Mapping

import msgspec

Place = tuple[str, int]

# Looks in memory of one agent: one for each sixteenth of the quota.
_STEPS = 16
# Fill level of the stream above which the largest agents make room, rather than the oldest output
# of all.
_FULL_PART = 0.9


class Purge(msgspec.Struct, frozen=True):
    """Purge an agent's output up to this place of the stream."""

    agent: str
    up_to: int


class _Account:
    __slots__ = ("kept_from", "looks", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.kept_from = 0
        self.looks: deque[tuple[int, int]] = deque()


class Quotas:
    """Shares of the log stream, in bytes.

    limit: of the stream. quota: of one agent. Both in bytes.
    """

    def __init__(self, *, limit: int, quota: int) -> None:
        self._limit = limit
        self._quota = quota
        self._counters: dict[Place, int] = {}
        self._accounts: dict[str, _Account] = {}

    def kept(self, agent: str) -> int:
        """Upper bound of its bytes in the stream."""
        account = self._accounts.get(agent)
        return account.sent - account.kept_from if account is not None else 0

    def look(
        self, sent: Mapping[Place, tuple[str, int]], *, last_seq: int, size: int
    ) -> list[Purge]:
        """Take in the bytes sent by each connection so far; return the purges.

        sent: agent and bytes of each live connection. last_seq, size: of the stream, read before
        the connections.
        """
        for place, (agent, total) in sent.items():
            account = self._accounts.setdefault(agent, _Account())
            account.sent += max(0, total - self._counters.get(place, 0))
            self._counters[place] = total
        self._counters = {place: self._counters[place] for place in sent}
        for account in self._accounts.values():
            step = account.looks[-1][1] if account.looks else account.kept_from
            if account.sent - step >= self._quota // _STEPS or not account.looks:
                account.looks.append((last_seq, account.sent))
        return [*self._over_quota(), *self._for_room(size)]

    def _over_quota(self) -> list[Purge]:
        found = (self._keep(agent, self._quota) for agent in self._accounts)
        return [purge for purge in found if purge is not None]

    def _for_room(self, size: int) -> list[Purge]:
        over = size - int(self._limit * _FULL_PART)
        if over <= 0 or not self._accounts:
            return []
        largest = max(self._accounts, key=self.kept)
        purge = self._keep(largest, max(self.kept(largest) - 2 * over, self.kept(largest) // 2))
        return [purge] if purge is not None else []

    def _keep(self, agent: str, most: int) -> Purge | None:
        """Let an agent keep its last `most` bytes, if it has more."""
        account = self._accounts[agent]
        place = None
        while account.looks and account.sent - account.kept_from > most:
            place = account.looks.popleft()
            account.kept_from = place[1]
        if place is None:
            return None
        return Purge(agent, place[0])
