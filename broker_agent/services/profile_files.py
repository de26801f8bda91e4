"""Reads the files of profiles: `/etc/mesh/profiles.d/NAME.toml`, `<state>/profiles.d/NAME.toml`.

A file is read again after a change, and while it has a problem that may lie elsewhere.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from broker_agent.connectors import kinds
from broker_agent.core.lines import Place, line_of, places_in
from broker_agent.core.profile_book import Found
from broker_agent.core.profiles import (
    FILE_BYTES,
    Checked,
    ProfileProblem,
    UsableProfile,
    file_fault,
    has_plain,
    name_fault,
    parse,
)
from broker_agent.core.references import Vault
from broker_agent.settings import AgentSettings, ConnectorSettings
from broker_client.runtime.files import open_regular
from schemas import limits

SUFFIX: Final = ".toml"
# Files that are looked at, of both folders.
FILES_MAX: Final = limits.PROFILES

# Checks settings of a plug-in in a process of its own. Raises ProfileProblem.
CheckPlugin = Callable[[str, Mapping[str, Any], Sequence[Place]], Checked]
Mark = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """mark: of the file as it was read; None: read it again."""

    mark: Mark | None
    found: Found


class ProfileFiles:
    """The files in all folders. Not for several threads at once."""

    def __init__(
        self, folders: Sequence[Path], settings: ConnectorSettings, check_plugin: CheckPlugin
    ) -> None:
        self.folders = folders
        self._plugins = settings.plugins
        self._vault = Vault(**structs.asdict(settings.vault))
        self._check_plugin = check_plugin
        self._seen: dict[str, _Seen] = {}
        # Folders and files that are no profile at all, each with its cause.
        self.strays: list[str] = []

    def read(self, *, again: bool = False) -> list[Found]:
        """Read what has changed; again: all files. A folder that is missing holds no file."""
        self.strays = []
        before = {} if again else self._seen
        seen: dict[str, _Seen] = {}
        for folder in self.folders:
            fault = _folder_fault(folder)
            if fault:
                self.strays.append(f"{folder}: its files are not used: {fault}")
                seen |= self._kept(folder, fault)
                continue
            for path in _files_in(folder):
                if fault := name_fault(path.stem):
                    self.strays.append(f"{path}: {fault}")
                elif len(seen) >= FILES_MAX:
                    self.strays.append(f"{path}: more than {FILES_MAX} files")
                else:
                    seen[str(path)] = self._look(path, before.get(str(path)))
        self._seen = seen
        return [each.found for each in seen.values()]

    def _kept(self, folder: Path, fault: str) -> dict[str, _Seen]:
        """Return the earlier files of a folder that is not used, each with this problem."""
        known = [Path(path) for path in self._seen if Path(path).parent == folder]
        problem = f"{folder}: {fault}"
        return {
            str(path): _Seen(
                mark=None, found=Found(name=path.stem, path=str(path), problem=problem)
            )
            for path in known
        }

    def _look(self, path: Path, seen: _Seen | None) -> _Seen:
        try:
            mark = _mark(path.stat())
            if seen is not None and seen.mark == mark:
                return seen
            text, facts = _read(path)
        except OSError as error:
            problem = f"{path}: {(error.strerror or 'cannot be read').lower()}"
            return _Seen(mark=None, found=Found(name=path.stem, path=str(path), problem=problem))
        if _mark(facts) != mark:
            # It is being written: what was there before stays until the next look.
            return seen or _Seen(mark=None, found=_unfinished(path))
        found, is_lasting = self._check(path, text, facts)
        return _Seen(mark=mark if is_lasting else None, found=found)

    def _check(self, path: Path, text: str, facts: os.stat_result) -> tuple[Found, bool]:
        """Return the file's content, and whether it stays as it is without a change of the file."""
        name, kind, is_plugin = path.stem, "", False
        try:
            if fault := _trust_fault(facts):
                raise ProfileProblem(fault)
            kind, settings = parse(text)
            places = places_in(text)
            if has_plain(settings) and (fault := _trust_fault(facts, has_plain=True)):
                raise ProfileProblem(fault)
            if fault := kinds.kind_fault(kind, self._plugins):
                raise ProfileProblem(fault, line_of(places, ["kind"]))
            is_plugin = kind not in kinds.KINDS
            checker = self._check_plugin if is_plugin else kinds.check_settings
            checked = checker(kind, settings, places)
        except ProfileProblem as problem:
            where = f"{path}:{problem.line}" if problem.line else str(path)
            told = Found(name=name, path=str(path), kind=kind, problem=f"{where}: {problem.text}")
            return told, is_plugin
        profile = UsableProfile(
            name=name,
            kind=kind,
            hash=checked.hash,
            settings=settings,
            path=str(path),
            variables=checked.variables,
            is_plugin=is_plugin,
            vault=self._vault,
        )
        return Found(name=name, path=str(path), kind=kind, profile=profile, checked=checked), True


def folders_of(state_dir: Path, settings: AgentSettings) -> list[Path]:
    """Folders with profiles of this host."""
    shared = [Path(settings.profiles_dir)] if settings.profiles_dir else []
    return [*shared, state_dir / "profiles.d"]


def _folder_fault(folder: Path) -> str:
    """Return why the files of a folder are not used; empty also for one that is missing."""
    try:
        facts = folder.stat()
        os.scandir(folder).close()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return (error.strerror or "cannot be read").lower()
    return file_fault(facts.st_mode, facts.st_uid, os.geteuid(), has_plain=False)


def _files_in(folder: Path) -> list[Path]:
    """Return the files of a folder by name; none of one that is gone meanwhile."""
    try:
        found = [path for path in folder.iterdir() if path.suffix == SUFFIX]
    except OSError:
        return []
    return sorted(path for path in found if not path.name.startswith("."))


def _trust_fault(facts: os.stat_result, *, has_plain: bool = False) -> str:
    return file_fault(facts.st_mode, facts.st_uid, os.geteuid(), has_plain=has_plain)


def _unfinished(path: Path) -> Found:
    return Found(name=path.stem, path=str(path), problem=f"{path}: it is being written")


def _mark(facts: os.stat_result) -> Mark:
    return (
        facts.st_dev,
        facts.st_ino,
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
        stat.S_IMODE(facts.st_mode),
        facts.st_uid,
    )


def _read(path: Path) -> tuple[str, os.stat_result]:
    """Return the text of a regular file, and its facts after it was read."""
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        data = file.read(FILE_BYTES + 1)
        facts = os.fstat(file.fileno())
    if len(data) > FILE_BYTES:
        raise OSError(errno.EFBIG, f"larger than {FILE_BYTES} bytes")
    try:
        return data.decode(), facts
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "not UTF-8 text") from None
