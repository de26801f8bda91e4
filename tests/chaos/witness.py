"""Programs for tasks that write down, themselves, when they began and ended.

Each line is one write to a file opened for appending, which the kernel keeps whole and in order,
and its time is read from the same clock as the history's. A shell does all of it without starting
another program, so that a witness costs what a small task costs.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.chaos.history import now

_SAY: Final = r"""
say() { read up x </proc/uptime; echo "$1 $MESH_COMMAND $MESH_ATTEMPT $MESH_AGENT $2 $up" >>"$W"; }
say start $$
"""

# A number of lines, each with its number and the task's id: no two tasks print the same.
_PRINT: Final = r"""
i=0
while [ $i -lt $N ]; do
  i=$((i+1)); echo "$MESH_COMMAND line $i ----------------------------------------"
  [ -n "$PAUSE" ] && [ $((i % EVERY)) -eq 0 ] && sleep "$PAUSE"
done
"""

_BULK: Final = r"""
yes "$MESH_COMMAND ------------------------------------------------" | head -c $SIZE | cat -n
"""


@dataclass(frozen=True)
class Program:
    """Program of a task: an argument list and its environment."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]


@dataclass(frozen=True)
class Sighting:
    """One line of a witness."""

    kind: str
    id: str
    attempt: int
    agent: str
    pid: int
    mono: float


class Witness:
    """Makes programs that write to `path`, and reads what they wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(0o666)

    def quick(self) -> Program:
        return self._script("quick", "say end $$")

    def sleeper(self, seconds: float) -> Program:
        """The shell waits for its child, so both are of the task's group."""
        return self._script("sleeper", f"sleep {seconds:g}; say end $$")

    def printer(self, lines: int, *, pause_s: float = 0.0, every: int = 1) -> Program:
        env = {"N": str(lines), "PAUSE": f"{pause_s:g}" if pause_s else "", "EVERY": str(every)}
        return self._script("printer", f"{_PRINT}say end $$", **env)

    def bulk(self, size_bytes: int) -> Program:
        """Numbered lines as fast as they can be written: a little more than `size_bytes`."""
        return self._script("bulk", f"{_BULK}say end $$", SIZE=str(size_bytes))

    def stubborn(self, seconds: float) -> Program:
        """Does not mind TERM, nor does its child."""
        return self._script("stubborn", f"trap '' TERM; sleep {seconds:g}; say end $$")

    def forker(self, seconds: float, *, stays: bool) -> Program:
        """Leaves a grandchild in a session of its own, without any open file; stays or leaves."""
        lost = 'say escaped $$; exec </dev/null >/dev/null 2>&1; exec sleep "$1"'
        again = f"W=\"$W\" sh -c '{_SAY.strip().splitlines()[0]}; {lost}' sh {seconds:g} &"
        rest = f"sleep {seconds:g}; say end $$" if stays else "say end $$"
        script = f"""setsid sh -c '{_quoted(again)} exit 0'
sleep 0.3
{rest}"""
        return self._script("forker", script)

    def brood(self, count: int, seconds: float) -> Program:
        """Many children at once, some of them in groups of their own, and zombies."""
        script = f"""i=0
while [ $i -lt {count} ]; do
  i=$((i+1)); (sleep {seconds:g}; :) & (exit 3) &
  [ $((i % 8)) -eq 0 ] && setsid sleep {seconds:g} &
done
sleep {seconds:g}
say end $$"""
        return self._script("brood", script)

    def note(self, id: str, attempt: int, agent: str) -> None:
        """A start and an end, by somebody who runs nothing."""
        at = f"{now():.2f}"
        with self.path.open("a") as file:
            for kind in ("start", "end"):
                file.write(f"{kind} {id} {attempt} {agent} {os.getpid()} {at}\n")

    def _script(self, name: str, body: str, **env: str) -> Program:
        return Program(name, ("/bin/sh", "-c", _SAY + body), {"W": str(self.path), **env})

    def sightings(self) -> list[Sighting]:
        found = []
        for line in self.path.read_text(errors="replace").splitlines():
            parts = line.split(" ")
            if len(parts) == 6:
                kind, id, attempt, agent, pid, mono = parts
                found.append(Sighting(kind, id, int(attempt), agent, int(pid), float(mono)))
        return found


def _quoted(text: str) -> str:
    """For use within single quotes."""
    return text.replace("'", "'\\''")
