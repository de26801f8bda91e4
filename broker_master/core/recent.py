"""Outcomes of the last commands of each agent, a letter each, the newest last."""

from collections.abc import Callable, Iterable
from typing import Final

from schemas.states import RESULT_LETTERS

LAST: Final = 20

# Arguments: agent and number. Returns its newest ended commands, ids with states, the newest first.
Load = Callable[[str, int], Iterable[tuple[str, str]]]


def letter_of(state: str) -> str:
    """The letter of a final state; `?` for an unknown one of a later version."""
    return RESULT_LETTERS.get(state, "?")


class Recents:
    """Loads an agent's history at the first request, and follows changes from there.

    load: reads the list of history. It may lag: newer ends are kept here in the meantime.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._known: dict[str, str] = {}
        self._unwritten: dict[str, dict[str, str]] = {}

    def note(self, agent: str, command: str, state: str, *, is_new: bool) -> None:
        """Note a command that ended on `agent`; not `is_new`: its outcome has changed."""
        if not agent:
            return
        letter = letter_of(state)
        self._unwritten.setdefault(agent, {})[command] = letter
        if not is_new:
            self._known.pop(agent, None)
        elif (known := self._known.get(agent)) is not None:
            self._known[agent] = (known + letter)[-LAST:]

    def on_written(self, agent: str, command: str, state: str) -> None:
        """The history has it and can be read; a late report on it may still be under way."""
        waiting = self._unwritten.get(agent)
        if waiting is not None and waiting.get(command) == letter_of(state):
            del waiting[command]
            if not waiting:
                del self._unwritten[agent]

    def forget(self, agent: str) -> None:
        """Drop a deleted agent; a later one of its name begins with the history's list."""
        self._known.pop(agent, None)

    def of(self, agent: str) -> str:
        """At most `LAST` letters, the newest last; empty if nothing has ended there."""
        known = self._known.get(agent)
        if known is None:
            waiting = self._unwritten.get(agent, {})
            rows = [*self._load(agent, LAST)]
            rows.reverse()
            letters = [letter_of(state) for command, state in rows if command not in waiting]
            known = "".join([*letters, *waiting.values()])[-LAST:]
            self._known[agent] = known
        return known
