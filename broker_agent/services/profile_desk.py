"""Profiles for people on this host, whether an agent runs or not."""

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from broker_agent.connectors.kinds import KINDS
from broker_agent.core.profile_book import ProfileBook, Standing
from broker_agent.core.profiles import UsableProfile
from broker_agent.core.references import Secret, references_in
from broker_agent.services import trial
from broker_agent.services.profile_files import ProfileFiles, folders_of
from broker_agent.services.status import AgentState, read_status
from broker_agent.settings import AgentSettings
from broker_client.runtime.files import lock_directory
from schemas.faults import Expired, Refused

LOOK_AGAIN_S: Final = 0.05
OK: Final = "ok"
PROBLEM: Final = "problem"


class ProfileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A profile as its file is now. in_use: hash that the agent uses; empty: none, or no agent.

    problem: of the file, with its path and line. warnings: for people, each a sentence.
    """

    name: str
    kind: str = ""
    state: str = OK
    hash: str = ""
    in_use: str = ""
    file: str = ""
    shape: str = ""
    problem: str = ""
    warnings: list[str] = []


def rows(state_dir: Path, settings: AgentSettings) -> tuple[list[ProfileRow], list[str]]:
    """Read all files now. Returns them, and the files that are no profiles, with their cause."""
    book, strays = _book(state_dir, settings)
    state = running(state_dir)
    used = state.profiles if state is not None else {}
    return [_row(each, used.get(each.name, "")) for each in book], strays


def find(state_dir: Path, settings: AgentSettings, name: str) -> UsableProfile:
    """Return a profile as its file is now. Raises Refused: `profile_unknown`, `profile_problem`."""
    return _book(state_dir, settings)[0].find(name)


def reload(state_dir: Path, timeout_s: float) -> AgentState:
    """Let the agent read all files again; returns its state afterwards.

    Raises Refused (`not_ready`) if none runs here, or one of a release without profiles; Expired if
    it does not answer in time.
    """
    state = running(state_dir)
    if state is None:
        raise Refused("not_ready", f"no agent runs on {state_dir}")
    if state.profiles_read is None:
        raise Refused("not_ready", f"the agent {state.pid} is of a release without profiles")
    try:
        os.kill(state.pid, signal.SIGHUP)
    except PermissionError as error:
        raise Refused("state_unreadable", f"process {state.pid} is another user's") from error
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        now = running(state_dir)
        if now is not None and (now.profiles_read or 0) > state.profiles_read:
            return now
        time.sleep(LOOK_AGAIN_S)
    raise Expired("wait_timeout", f"the agent {state.pid} has not answered in {timeout_s:g} s")


def running(state_dir: Path) -> AgentState | None:
    """State of the agent that runs on this folder; None: none does."""
    try:
        lock_directory(state_dir).release()
    except Refused as error:
        return read_status(state_dir) if error.code == "state_locked" else None
    return None


def _book(state_dir: Path, settings: AgentSettings) -> tuple[ProfileBook, list[str]]:
    others: set[int] = set()
    files = ProfileFiles(
        folders_of(state_dir, settings),
        settings.connectors,
        lambda kind, given, places: trial.check_plugin(others, kind, given, places),
    )
    return ProfileBook().merge(files.read()), files.strays


def _row(each: Standing, in_use: str) -> ProfileRow:
    profile, checked = each.profile, each.checked
    if profile is None or checked is None:
        return ProfileRow(
            name=each.name,
            kind=each.kind,
            state=PROBLEM,
            in_use=in_use,
            file=each.path,
            problem=each.problem,
        )
    return ProfileRow(
        name=each.name,
        kind=profile.kind,
        hash=profile.hash,
        in_use=in_use,
        file=each.path,
        shape=checked.shape,
        warnings=[*checked.warnings, *_hints(profile)],
    )


def _hints(profile: UsableProfile) -> Iterator[str]:
    """Yield what is wrong with the sources of secrets, as far as it can be seen from here."""
    for name, secret in references_in(profile.settings).items():
        if hint := _hint(secret):
            yield f"{name} ({secret.told}): {hint}"
    if profile.kind not in KINDS:
        yield f"{profile.kind} is a plug-in"


def _hint(secret: Secret) -> str:
    path = secret.file or (secret.command or [""])[0]
    if not path:
        return ""
    try:
        facts = Path(path).stat()
    except OSError as error:
        return (error.strerror or "cannot be read").lower()
    if secret.command is not None:
        return "" if os.access(path, os.X_OK) else "cannot be executed"
    others = facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return f"others can read it (mode {facts.st_mode & 0o777:o})" if others else ""
