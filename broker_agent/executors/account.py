"""The user that tasks run as."""

import os
import pwd
import stat
from pathlib import Path
from typing import Final, NamedTuple

from schemas.faults import Refused

# Default users of tasks of an agent that is root: the first of these that the host has.
OWN: Final = ("mesh-task", "nobody")
ROOT: Final = 0
# Source: capabilities(7).
_CAP_SETGID: Final = 6
_CAP_SETUID: Final = 7


class UserAccount(NamedTuple):
    """A user of the host. name, home and shell: empty without an entry in the user database."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str = ""
    home: str = ""
    shell: str = ""

    @property
    def is_other(self) -> bool:
        """Whether it differs from the user of this process."""
        return self.uid != os.geteuid()

    @property
    def environment(self) -> dict[bytes, bytes]:
        """Variables that a login sets."""
        said = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}
        return {name.encode(): os.fsencode(value) for name, value in said.items() if value}


def find_account(wanted: str) -> UserAccount:
    """Find the user that the setting `tasks.user` names; empty: the default for this process.

    Raises Refused (`settings_invalid`, or `host_unfit` if this process may not change its user).
    """
    own = os.geteuid()
    if not wanted:
        account = _default() if own == ROOT else _of_uid(own)
    else:
        account = _of_uid(int(wanted)) if wanted.isdecimal() else _of_name(wanted)
    if account.is_other:
        if own != ROOT:
            raise Refused(
                "settings_invalid",
                f"tasks.user: only root can run tasks as {wanted}, not uid {own}",
            )
        _check_rights()
    return account


def closed_way(folder: Path) -> Path | None:
    """First folder of the path to `folder`, itself included, that other users may not search."""
    for path in reversed([folder, *folder.parents]):
        try:
            if not path.stat().st_mode & stat.S_IXOTH:
                return path
        except OSError:
            return path
    return None


def _default() -> UserAccount:
    for name in OWN:
        try:
            return _of_name(name)
        except Refused:
            continue
    raise Refused("settings_invalid", f"tasks.user: the host has no user {' or '.join(OWN)}")


def _of_name(name: str) -> UserAccount:
    try:
        return _of_entry(pwd.getpwnam(name))
    except KeyError:
        raise Refused("settings_invalid", f"tasks.user: no user {name[:64]!a} here") from None


def _of_uid(uid: int) -> UserAccount:
    try:
        return _of_entry(pwd.getpwuid(uid))
    except (KeyError, OverflowError):
        pass
    if uid == os.geteuid():
        return UserAccount(uid, os.getegid(), tuple(os.getgroups()))
    if not 0 <= uid < 2**32 - 1:
        raise Refused("settings_invalid", f"tasks.user: {uid} is no number of a user")
    return UserAccount(uid, uid, (uid,))


def _of_entry(entry: pwd.struct_passwd) -> UserAccount:
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    uid, gid = entry.pw_uid, entry.pw_gid
    return UserAccount(uid, gid, groups, entry.pw_name, entry.pw_dir, entry.pw_shell)


def _check_rights() -> None:
    """Raise unless this process may change its user: root of a container often may not."""
    try:
        with open("/proc/self/status", encoding="latin-1") as file:  # noqa: PTH123
            rights = next((int(line[7:], 16) for line in file if line.startswith("CapEff:")), 0)
    except OSError as error:
        raise Refused("host_unfit", f"/proc cannot be read: {error.strerror}") from error
    if not rights >> _CAP_SETUID & rights >> _CAP_SETGID & 1:
        raise Refused(
            "host_unfit",
            "root may not change its user here: CAP_SETUID and CAP_SETGID are missing"
            " (or run the agent as a user of its own)",
        )
