"""Control groups for tasks, where this host lets us make them: nothing that is in one escapes.

Only the second version (cgroup v2), where a group is killed at one stroke. A task is born in its
cell: what it starts is in there from the first moment on. Another user than the agent's cannot
leave it; root, and whoever is the agent's own user, can move to another that it may write.
"""

import os
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker_agent.warden import cell

PREFIX: Final = "mesh"


class Cells:
    """prefix: how the path of each cell begins; empty where tasks have none."""

    def __init__(
        self, parent: str | None, agent: str, incarnation: str, *, are_used: bool = True
    ) -> None:
        self._parent = parent
        self._family = f"{PREFIX}-{agent}-"
        self.prefix = self._prefix(incarnation) if are_used else ""

    def path(self, name: str) -> str:
        return self.prefix + name if self.prefix else ""

    def earlier_path(self, incarnation: str, name: str) -> str:
        """The cell that a task of an earlier start had, if it had one."""
        prefix = self._prefix(incarnation)
        return prefix + name if prefix else ""

    def _prefix(self, incarnation: str) -> str:
        return f"{self._parent}/{self._family}{incarnation}-" if self._parent else ""

    def sweep(self, used: Container[str] = ()) -> None:
        """Remove cells in which nobody lives, also those of earlier starts of this agent.

        used: paths of those that stay, as their tasks are just beginning.
        """
        if self._parent is None:
            return
        with suppress(OSError):
            for entry in os.listdir(self._parent):  # noqa: PTH208
                path = f"{self._parent}/{entry}"
                if entry.startswith(self._family) and path not in used:
                    cell.remove(path)


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
