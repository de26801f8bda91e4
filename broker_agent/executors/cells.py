"""Control groups (cells) for tasks, where this host allows them: processes cannot escape.

Only cgroup v2, where one write kills a group. A task starts in its cell, and so do all processes
that it starts. Processes of another user than the agent's cannot leave the cell; root and the
agent's own user can move to another group that they may write to.
"""

import os
import threading
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker_agent.warden import cell

PREFIX: Final = "mesh"


class Cells:
    """Cells of one start of the agent. prefix: of the paths; empty where tasks have no cells.

    missed: number of tasks that run without the cell intended for them; why: cause of the newest.
    """

    def __init__(
        self, parent: str | None, agent: str, incarnation: str, *, are_used: bool = True
    ) -> None:
        self._parent = parent
        self._family = f"{PREFIX}-{agent}-"
        self.prefix = self._prefix(incarnation) if are_used else ""
        self._lock = threading.Lock()  # guards what follows
        self.missed = 0
        self.why = ""

    def note_missed(self, why: str) -> None:
        """Note a task that started outside of its cell. Callable from any thread."""
        with self._lock:
            self.missed += 1
            self.why = why

    def path(self, name: str) -> str:
        return self.prefix + name if self.prefix else ""

    def earlier_path(self, incarnation: str, name: str) -> str:
        """Path of the cell that a task of an earlier start had, if any."""
        prefix = self._prefix(incarnation)
        return prefix + name if prefix else ""

    def _prefix(self, incarnation: str) -> str:
        return f"{self._parent}/{self._family}{incarnation}-" if self._parent else ""

    def sweep(self, used: Container[str] = ()) -> None:
        """Remove empty cells, also those of earlier starts of this agent.

        used: paths that stay, since their tasks are being started.
        """
        if self._parent is None:
            return
        with suppress(OSError):
            for entry in os.listdir(self._parent):  # noqa: PTH208
                path = f"{self._parent}/{entry}"
                if entry.startswith(self._family) and path not in used:
                    cell.remove(path)


def find_parent() -> str | None:
    """Find the cgroup v2 of this process; None if groups cannot be made below it."""
    try:
        mount = _mount_point(Path("/proc/self/mountinfo").read_text())
        own = _own_group(Path("/proc/self/cgroup").read_text())
        if mount is None or own is None:
            return None
        parent = f"{mount}{own}".rstrip("/")
        probe = f"{parent}/{PREFIX}-probe-{os.getpid()}"
        os.mkdir(probe)  # noqa: PTH102
        # Linux 5.14 added cgroup.kill.
        usable = os.access(f"{probe}/cgroup.kill", os.W_OK)
        cell.remove(probe)
    except (OSError, UnicodeDecodeError):
        return None
    return parent if usable else None


def _mount_point(mountinfo: str) -> str | None:
    """Path of the cgroup2 mount.

    Source: proc(5): the fields after a lone dash are file system type, source and options.
    """
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return before.split()[4].encode().decode("unicode_escape")
    return None


def _own_group(text: str) -> str | None:
    """Path of this process's group. Source: cgroups(7): the v2 line begins with `0::`."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None
