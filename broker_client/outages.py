"""Outages in the view of a client: whether broker and master answer, and each change in words.

Pure: the caller gives events and times. The master is asked for a sign of life after a short quiet,
so that a request that it may hold for long does not hide its absence.
"""

from typing import Final, Literal

import msgspec

from schemas.moments import rfc3339

What = Literal["broker", "master"]
Step = Literal["", "ping", "read"]

# Turns of the caller, not seconds: a process that was stopped for a while reads what has arrived
# before it judges. The second question is of another kind: pings may be over their rate limit.
TURN_S: Final = 0.25
PING_TURNS: Final = 6
READ_TURNS: Final = 9
SILENT_TURNS: Final = 12
# Turns until a lost connection, or a broker without a master, is told: a short reconnect is not.
GRACE_TURNS: Final = 6


class Outage(msgspec.Struct, frozen=True):
    """An outage of `what`. since: unix time. reason: empty if none is known."""

    what: What
    since: float
    reason: str = ""


class Outages:
    """State of one client. where: the addresses of the broker, for people. at: unix time."""

    def __init__(self, where: str, at: float) -> None:
        self._where = where
        self._was_connected = False
        # Of the present state: connected or not, absent or not, heard last.
        self._turns = 0
        self._since = at
        self._lost = True
        self._reason = ""
        # None until the master is heard on the present connection.
        self._heard_at: float | None = None
        self._is_new = False
        self._told: Outage | None = None

    # -- events

    def on_lost(self, reason: str, at: float) -> None:
        """The connection was lost, or a try to connect has failed."""
        if not self._lost:
            self._begin(at)
        self._lost, self._reason, self._heard_at = True, reason, None

    def on_connected(self, at: float) -> None:
        self._begin(at)
        self._lost, self._was_connected, self._is_new = False, True, True

    def on_heard(self, at: float) -> None:
        """The master has answered anything."""
        if not self._lost:
            self._begin(at)
            self._heard_at = at

    def on_absent(self, at: float) -> bool:
        """The broker has said that no master listens; returns whether this is news."""
        if self._reason or self._lost:
            return False
        # A broker drops a connection of a frozen master some seconds after its last answer.
        is_told = self._told is not None and self._told.what == "master"
        self._begin(self._since if is_told else at)
        self._reason, self._heard_at = "none is listening", None
        return True

    def _begin(self, at: float) -> None:
        self._turns, self._since, self._reason = 0, at, ""

    # -- time

    def turn(self) -> Step:
        """Count a turn of `TURN_S`; returns what the master is to be asked now."""
        self._turns += 1
        if self._lost:
            return ""
        if self._is_new:
            self._is_new = False
            return "ping"
        phase = self._turns % SILENT_TURNS
        return "ping" if phase == PING_TURNS else "read" if phase == READ_TURNS else ""

    def judge(self) -> Outage | None:
        """Return the present outage; what cannot be told yet stays as it was."""
        what: What = "broker" if self._lost else "master"
        if self._turns >= (GRACE_TURNS if self._lost or self._reason else SILENT_TURNS):
            return Outage(what, self._since, self._reason)
        return None if self._heard_at is not None else self._told

    def news(self, at: float, until: float = 0.0, goes_on: str = "") -> str:
        """Return one line about a change since the last call; empty without a change.

        until: unix time at which the caller gives up; 0 if that is not known. goes_on: what the
        outage does not end; empty for nothing.
        """
        before, self._told = self._told, self.judge()
        if self._told is None:
            return "" if before is None else _back(before, at)
        if before is not None and before.what == self._told.what:
            return ""
        tried = [f"tried until {rfc3339(until)}"] if until > at else []
        return "; ".join([self._said(self._told), *tried, *([goes_on] if goes_on else [])])

    def _said(self, outage: Outage) -> str:
        since = f"since {rfc3339(outage.since)}"
        reason = outage.reason.removeprefix(f"{self._where}: ")
        why = f" ({reason})" if reason else ""
        if outage.what == "master":
            return f"the master does not answer {since}{why}"
        if self._was_connected:
            return f"no connection to the broker {since}{why}: reconnecting"
        return f"the broker at {self._where} does not answer{why}"


def _back(outage: Outage, at: float) -> str:
    return f"the {outage.what} answers again, after {at - outage.since:.0f} s"
