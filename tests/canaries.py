"""Secrets that every mesh of the tests carries, and the search for them when it is closed.

Natural ones are every private key, seed and activation token that a mesh has; planted ones lie in
the environment of master and agents, as passwords of other programs do on real hosts. None of them
may turn up in a log, in the metrics or in what a command line says: `MeshProcesses.aclose` looks,
and fails the test that closes the mesh.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from broker_client.runtime.creds import decode_creds
from schemas.faults import MeshError

# Longer logs are read from both ends: what begins or stops a process is there.
_READ_MAX: Final = 32 * 1024 * 1024
_SHORTEST: Final = 12
_KEYS: Final = ("*.key", "key.pem", "*-key.pem", "ca-key*.pem")
_NO_LOGS: Final = frozenset({"tasks", "jetstream"})


def planted() -> dict[str, str]:
    """Variables with a fresh secret each, of the kinds that hosts have in their environment."""
    word = {
        kind: f"CANARY-{kind}-{secrets.token_hex(8)}" for kind in ("pass", "cloud", "url", "api")
    }
    return {
        "DATABASE_PASSWORD": word["pass"],
        "AWS_SECRET_ACCESS_KEY": word["cloud"],
        "BROKER_URL": f"amqp://mesh:{word['url']}@127.0.0.1/",
        "API_TOKEN": word["api"],
    }


class Canaries:
    """All secrets of one mesh below `directory`; `note` adds one that is on no disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._noted: dict[str, str] = {}
        self.environment = planted()

    def note(self, kind: str, secret: str) -> None:
        self._noted[kind] = secret

    def kinds(self) -> dict[str, str]:
        """Every secret by what it is; keys by the file that they are in."""
        found = {**self._noted, **_of_environment(self.environment)}
        for path in _files(self._directory, ("user.creds",)):
            try:
                found[f"seed in {path}"] = decode_creds(path.read_bytes()).seed
            except MeshError:
                continue
        for path in _files(self._directory, _KEYS):
            lines = path.read_text(errors="replace").splitlines()
            if len(lines) > 2:
                found[f"key in {path}"] = lines[1]
        for path in _files(self._directory, ("*.nk",)):
            found[f"key in {path}"] = path.read_text(errors="replace").strip()
        return {kind: secret for kind, secret in found.items() if len(secret) >= _SHORTEST}

    def leaks(self, texts: Mapping[str, str] = {}) -> list[str]:
        """Where a secret came to light: in a log below the directory, or in one of `texts`."""
        wanted = {kind: secret.encode() for kind, secret in self.kinds().items()}
        places: Iterator[tuple[str, bytes]] = (
            (str(path), _read(path)) for path in _logs(self._directory)
        )
        found = []
        for place, data in [*((name, text.encode()) for name, text in texts.items()), *places]:
            found += [f"{kind}: {place}" for kind, secret in wanted.items() if secret in data]
        return found


def _of_environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {f"variable {name}": value for name, value in variables.items()}


def _files(directory: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        for path in sorted(directory.rglob(pattern)):
            if path.is_file():
                yield path


def _logs(directory: Path) -> Iterator[Path]:
    """Output of processes, without the files of tasks, which are kept for their owner."""
    for path in _files(directory, ("*.log", "*.err", "*.out", "*.log.*")):
        if not _NO_LOGS.intersection(path.relative_to(directory).parts):
            yield path


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_READ_MAX)
        size = path.stat().st_size
        if size <= _READ_MAX:
            return head
        file.seek(max(_READ_MAX, size - _READ_MAX))
        return head + file.read()
