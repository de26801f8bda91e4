"""Start conditions of tasks: user, environment, limits, independent of the agent's own."""

import os
import resource
from collections.abc import Mapping
from typing import Final, NamedTuple

from broker_agent.executors.account import UserAccount, find_account
from broker_agent.settings import TaskSettings, parse_limit

# Variables of the agent that tasks get, beside the ones of `tasks.pass_env`.
PASSED_ON: Final = (b"PATH", b"LANG", b"LC_ALL", b"TZ")
# Variables of a login, also for users without an entry and agents without an environment.
_OF_LOGIN: Final = (b"HOME", b"USER", b"LOGNAME", b"SHELL")


class StartConditions(NamedTuple):
    """Start conditions. account: user of tasks. limits: number of the resource, soft, hard."""

    account: UserAccount
    env: Mapping[bytes, bytes]
    umask: int
    nice: int
    oom_score_adj: int
    limits: tuple[tuple[int, int, int], ...]

    @property
    def is_ours(self) -> bool:
        """Whether this process has the same conditions, so that its children inherit them."""
        if self.account.is_other or os.getpriority(os.PRIO_PROCESS, 0) != self.nice:
            return False
        if os.sched_getscheduler(0) != os.SCHED_OTHER or _own_umask() != self.umask:
            return False
        return _own_oom_score_adj() == self.oom_score_adj and all(
            resource.getrlimit(kind) == (soft, hard) for kind, soft, hard in self.limits
        )


def file_limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def own_conditions() -> StartConditions:
    """Conditions of this process, without settings."""
    return conditions_of(TaskSettings(), find_account(str(os.geteuid())), file_limits())


def conditions_of(
    settings: TaskSettings, account: UserAccount, files: tuple[int, int]
) -> StartConditions:
    """Build the conditions. files: soft and hard limit of open files at the agent's start."""
    limits = {resource.RLIMIT_NOFILE: files}
    for text in settings.limits:
        kind, soft, hard = parse_limit(text)
        limits[kind] = _within(kind, soft, hard)
    return StartConditions(
        account,
        _environment(settings, account),
        int(settings.umask, 8),
        settings.nice,
        settings.oom_score_adj,
        tuple((kind, soft, hard) for kind, (soft, hard) in limits.items()),
    )


def _within(kind: int, soft: int, hard: int) -> tuple[int, int]:
    """Cap limits by this process's own, unless it is root: others may not raise them."""
    most = resource.getrlimit(kind)[1]
    if os.geteuid() == 0 or most == resource.RLIM_INFINITY:
        return soft, hard
    if hard == resource.RLIM_INFINITY or hard > most:
        hard = most
    return (min(soft, hard) if soft != resource.RLIM_INFINITY else hard), hard


def _environment(settings: TaskSettings, account: UserAccount) -> dict[bytes, bytes]:
    names = [*PASSED_ON, *(os.fsencode(name) for name in settings.pass_env)]
    if not account.name and not account.is_other:
        names += _OF_LOGIN
    found = {name: os.environb[name] for name in names if name in os.environb}
    found.setdefault(b"PATH", os.defpath.encode())
    own = [os.fsencode(pair).partition(b"=") for pair in settings.env]
    return {**account.environment, **found, **{name: value for name, _, value in own}}


def _own_umask() -> int:
    own = os.umask(0o077)
    os.umask(own)
    return own


def _own_oom_score_adj() -> int:
    try:
        with open("/proc/self/oom_score_adj", "rb") as file:  # noqa: PTH123
            return int(file.read())
    except (OSError, ValueError):
        return 0
