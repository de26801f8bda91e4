"""The known fan-outs, as the command book has the commands."""

from broker_master.core.fanout import Fanout
from schemas.messages.fanouts import FanoutEntry


class FanoutTable:
    """`running` whole, `summaries` of those that have ended, both by id.

    `ids`: of fan-outs, and of commands of theirs whose ids were not reserved yet; no other request
    may choose one of them.
    """

    def __init__(self) -> None:
        self.running: dict[str, Fanout] = {}
        self.summaries: dict[str, FanoutEntry] = {}
        self.ids: set[str] = set()

    def known(self, id: str) -> FanoutEntry | None:
        """A running fan-out, whole, or the summary of an ended one."""
        fanout = self.running.get(id)
        return fanout.entry if fanout is not None else self.summaries.get(id)

    def groups(self, id: str) -> list[str]:
        """Groups of its agents; none if the fan-out is not known."""
        entry = self.known(id)
        return entry.groups if entry is not None else []
