"""Numbered findings: check, result, and for a failure its cause and cure."""

import threading
from collections.abc import Callable
from typing import Final, Literal, TypeVar

import msgspec

from broker_client.cli.screen.terminal import shown
from schemas.faults import MeshError

A = TypeVar("A")
T = TypeVar("T")
State = Literal["ok", "warning", "failed", "skipped"]

# Seconds after which a check is said to be under way.
SLOW_S: Final = 2.0
SKIPPED: Final = "a check before it failed"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A finding. cause, cure: empty if there is nothing to do."""

    number: int
    check: str
    state: State
    found: str
    cause: str = ""
    cure: str = ""


def lines_of(finding: Finding) -> list[str]:
    """Return the lines for people; untrusted text is escaped."""
    head = f"{finding.number:>2}  {finding.state:<7}  {shown(finding.check)}"
    lines = [f"{head}: {shown(finding.found)}"]
    for name, text in (("cause", finding.cause), ("cure", finding.cure)):
        if text:
            lines.append(f"             {name}: {shown(text)}")
    return lines


class Trouble(Exception):
    """A finding without a fault code. A `warning` does not fail the whole."""

    def __init__(self, found: str, cause: str, cure: str, *, state: State = "failed") -> None:
        super().__init__(found)
        self.found, self.cause, self.cure, self.state = found, cause, cure, state


class Findings(list[Finding]):
    """Findings so far, in order.

    show: called with each finding at once. say: called with a line about a check that takes long.
    """

    def __init__(
        self,
        show: Callable[[Finding], object] = lambda _: None,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        super().__init__()
        self._show, self._say = show, say

    def look(self, check: str, how: Callable[[A], tuple[str, T]], needed: A | None) -> T | None:
        """Note the finding of `how` and return its value; None if it failed or warned.

        needed: its input; None, the result of a failed check, skips it.
        """
        if needed is None:
            self.note(check, "skipped", SKIPPED)
            return None
        slow = threading.Timer(SLOW_S, self._say, [f"{check}: no answer yet, waiting for it"])
        slow.start()
        try:
            found, value = how(needed)
        except MeshError as error:
            self.note(check, "failed", error.message, error.code, error.advice)
        except Trouble as trouble:
            self.note(check, trouble.state, trouble.found, trouble.cause, trouble.cure)
        else:
            self.note(check, "ok", found)
            return value
        finally:
            slow.cancel()
        return None

    def note(self, check: str, state: State, found: str, cause: str = "", cure: str = "") -> None:
        number = len(self) + 1
        finding = Finding(
            number=number, check=check, state=state, found=found, cause=cause, cure=cure
        )
        self.append(finding)
        self._show(finding)

    @property
    def is_failed(self) -> bool:
        return any(finding.state == "failed" for finding in self)
