"""The agent's host: its details for the master, its limits and modes for tasks."""

import os
import platform
import socket
import sys
from pathlib import Path
from typing import Final

import structlog

from broker_agent.core.resources import FDS_PER_TASK
from broker_agent.executors.account import UserAccount, closed_way
from broker_agent.executors.conditions import file_limits
from broker_client.runtime.descriptors import allow_many_files
from broker_client.runtime.files import os_errors
from schemas import codec
from schemas.messages.liveness import Details

# Descriptors beside those of running tasks: links, logs, output of ended tasks under way.
FDS_SPARE: Final = 512

log = structlog.get_logger(__name__)


def let_pass(state_dir: Path) -> None:
    """Let tasks reach their own folders by name, without the right to list folders."""
    for path in (state_dir, state_dir / "tasks"):
        with os_errors(path, "open"):
            path.chmod(0o711)
    closed = closed_way(state_dir)
    if closed is not None:
        log.warning("folders_closed_to_tasks", path=str(closed), do=f"chmod o+x {closed}")


def say_account(account: UserAccount, wanted: str) -> None:
    if account.is_other and not wanted:
        log.warning(
            "tasks_run_as_another_user",
            user=account.name,
            why="the agent is root, and tasks.user is not set",
            do='set tasks.user to a user of their own, or to "root" if they are to be the agent\'s',
        )
    elif account.uid == 0:
        log.warning("tasks_run_as_root", why="whoever may submit here can become this agent")


def allow_files_of(slots: int) -> None:
    """Raise the soft limit of open files if it is too low for so many tasks.

    Tasks get the original limit, for which they need a launcher.
    """
    if file_limits()[0] < slots * FDS_PER_TASK + FDS_SPARE:
        allow_many_files()


def details_of(version: str) -> Details:
    return Details(
        host=codec.textual(socket.gethostname())[:250],
        pid=os.getpid(),
        user=codec.textual(_user()),
        os=platform.system(),
        arch=platform.machine(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}",
        version=version,
    )


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
