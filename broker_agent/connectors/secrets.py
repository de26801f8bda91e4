"""Values of secrets, read by a worker process from what its profile refers to.

No value leaves the worker: `Secrets` in the settings of a profile are references, and texts of
faults pass through a `Scrubber`.
"""

import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker_agent.connectors import vault
from broker_agent.connectors.api import CallFailed
from broker_agent.connectors.scrub import Scrubber
from broker_agent.core.references import Secret, Vault

VALUE_BYTES: Final = 64 * 1024
COMMAND_S: Final = 10.0
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
# Variables that a command gets, beside none of the agent's own.
COMMAND_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SecretBox:
    """Values of the secrets of one profile; read at the first use, and again after their `ttl_s`.

    references: by the dotted names of their fields. now: the monotonic clock. Its texts contain no
    value.
    """

    def __init__(
        self,
        references: Mapping[str, Secret],
        access: Vault,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._references = references
        self._access = access
        self._now = now
        self._values: dict[str, str] = {}
        self._read_at: dict[str, float] = {}
        self._scrubber = Scrubber(())

    def values(self) -> Mapping[str, str]:
        """Values by name. Raises CallFailed (`secret_unreadable`) with effect none."""
        fresh = {name: self._read(name) for name in self._references if not self._is_fresh(name)}
        if fresh:
            self._values |= fresh
            self._read_at |= dict.fromkeys(fresh, self._now())
            self._scrubber.learn(fresh.values())
        return dict(self._values)

    @property
    def are_stale(self) -> bool:
        """Whether a session needs new values, since the time of one in use is over."""
        return bool(self._values) and not all(map(self._is_fresh, self._references))

    def scrub(self, text: str) -> str:
        """Return `text` without any value that was ever read."""
        return self._scrubber.scrub(text)

    def _is_fresh(self, name: str) -> bool:
        ttl_s, read_at = self._references[name].ttl_s, self._read_at.get(name)
        return read_at is not None and (not ttl_s or self._now() - read_at < ttl_s)

    def _read(self, name: str) -> str:
        secret = self._references[name]
        try:
            value = _value_of(secret, self._access)
        except _Unreadable as error:
            raise _fault(name, secret, str(error)) from None
        except OSError as error:
            raise _fault(name, secret, (error.strerror or type(error).__name__).lower()) from None
        if not value:
            raise _fault(name, secret, "it is empty")
        return value


class _Unreadable(Exception):
    """Cause, without any value."""


def _fault(name: str, secret: Secret, why: str) -> CallFailed:
    return CallFailed(
        "secret_unreadable", f"{name} ({secret.told}) cannot be read: {why}", effect="none"
    )


def _value_of(secret: Secret, access: Vault) -> str:
    match secret.source:
        case "credential":
            return _text(_read_file(_credential(secret.credential or "")))
        case "file":
            return _text(_read_file(Path(secret.file or "")))
        case "env":
            return _variable(secret.env or "")
        case "command":
            return _text(_output_of(secret.command or []))
        case "vault":
            return _from_vault(access, secret.vault or "")
        case _:
            return secret.plain or ""


def _credential(name: str) -> Path:
    folder = os.environ.get(CREDENTIALS)
    if not folder:
        raise _Unreadable(f"{CREDENTIALS} is not set: only a service of systemd has credentials")
    return Path(folder) / name


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise _Unreadable("the agent has no such variable")
    return value


def _read_file(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise _Unreadable("it is no regular file")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _Unreadable(f"others can write it (mode {facts.st_mode & 0o7777:o})")
        return file.read(VALUE_BYTES + 1)


def _output_of(argv: list[str]) -> bytes:
    """Return the output of a command within `COMMAND_S`; its stderr is dropped unseen.

    Its output goes to a file, so that neither a large output nor a child that it leaves behind
    holds this process up.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env={"PATH": COMMAND_PATH, "LANG": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
        try:
            code = process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            raise _Unreadable(f"it has not ended within {COMMAND_S:g} s") from None
        finally:
            _end(process)
        if code:
            raise _Unreadable(f"it ended with {code}")
        output.seek(0)
        return output.read(VALUE_BYTES + 1)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a command and of its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _from_vault(access: Vault, reference: str) -> str:
    try:
        return vault.read(access, reference)
    except vault.VaultFault as error:
        raise _Unreadable(str(error)) from None


def _text(data: bytes) -> str:
    if len(data) > VALUE_BYTES:
        raise _Unreadable(f"it is larger than {VALUE_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _Unreadable("it is not UTF-8 text") from None
    # The line end that editors and `echo` add is no part of a password.
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text
