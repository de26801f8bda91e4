"""Control groups for tasks, where this host lets us make them: nothing that is in one escapes.

Only the second version (cgroup v2), where a group is killed at one stroke. A task gets its cell
when it has lived for a moment, since moving a process costs as much as starting one; what it has
started by then moves with it.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker_agent.warden import cell
from broker_agent.warden.kin import children, read_marks

PREFIX: Final = "mesh"
# A program that starts others faster than they can be moved is left to the search through /proc.
_ROUNDS: Final = 4


class Cells:
    """prefix: how the path of each cell begins; empty where there are none."""

    def __init__(self, parent: str | None, agent: str, incarnation: str) -> None:
        self._parent = parent
        self._family = f"{PREFIX}-{agent}-"
        self.prefix = "" if parent is None else f"{parent}/{self._family}{incarnation}-"

    def path(self, name: str) -> str:
        return self.prefix + name if self.prefix else ""

    def enclose(self, name: str, leader: int, marks: set[bytes]) -> str:
        """Put a task into a cell of its own; its path, or nothing if that cannot be done."""
        path = self.path(name)
        if not path:
            return ""
        try:
            os.mkdir(path)  # noqa: PTH102  (text and os: this runs for every longer task)
        except OSError:
            return ""
        if not cell.move_in(path, leader):
            cell.remove(path)
            return ""
        for pid in children(os.getpid()):
            # What it has disowned already is ours now, and known by its marks.
            if pid != leader and marks <= read_marks(pid):
                cell.move_in(path, pid)
        for _ in range(_ROUNDS):
            inside = set(cell.members(path))
            outside = {child for pid in inside for child in children(pid)} - inside
            if not sum(cell.move_in(path, pid) for pid in outside):
                break
        return path

    def sweep(self) -> None:
        """Remove cells in which nobody lives, also those of earlier starts of this agent.

        One of another agent may be among them, made but not moved into yet: it does without.
        """
        if self._parent is None:
            return
        with suppress(OSError):
            for entry in os.listdir(self._parent):  # noqa: PTH208
                if entry.startswith(self._family):
                    cell.remove(f"{self._parent}/{entry}")


def find_parent() -> str | None:
    """The group of this process in the second version's tree, if groups can be made below it."""
    try:
        mount = _mount_point(Path("/proc/self/mountinfo").read_text())
        own = _own_group(Path("/proc/self/cgroup").read_text())
        if mount is None or own is None:
            return None
        parent = f"{mount}{own}".rstrip("/")
        probe = f"{parent}/{PREFIX}-probe-{os.getpid()}"
        os.mkdir(probe)  # noqa: PTH102
        # Killing at one stroke came with Linux 5.14.
        usable = os.access(f"{probe}/cgroup.kill", os.W_OK)
        cell.remove(probe)
    except (OSError, UnicodeDecodeError):
        return None
    return parent if usable else None


def _mount_point(mountinfo: str) -> str | None:
    """Source: proc(5): the fields after a lone dash are file system type, source and options."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return before.split()[4].encode().decode("unicode_escape")
    return None


def _own_group(text: str) -> str | None:
    """Source: cgroups(7): the line of the second version begins with `0::`."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None
