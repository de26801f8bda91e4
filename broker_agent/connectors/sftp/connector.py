"""Connector of the kind `sftp`, and its settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from broker_agent.connectors.api import ActionSpec, CallFailed, Profile, Secret, Secrets
from broker_agent.connectors.files import ACTIONS

if TYPE_CHECKING:
    from broker_agent.connectors.sftp.session import SftpSession

Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=300)]


class SftpProfile(Profile, frozen=True, kw_only=True):
    """An SFTP server. base: absolute path on the server.

    password, key: how to log in; the key is in OpenSSH's or PEM form, and passphrase decrypts it.
    known_hosts: file with the server's keys; host_key: such a line without the host,
    `ssh-ed25519 AAAA…`; one of the two. write, patterns: as of a directory.
    """

    host: str
    port: Port = 22
    user: str
    password: Secret | None = None
    key: Secret | None = None
    passphrase: Secret | None = None
    known_hosts: str | None = None
    host_key: str | None = None
    base: str
    write: bool = False
    patterns: list[str] = []
    connect_s: Seconds = 10.0


class SftpConnector:
    kind = "sftp"
    capability = "file"
    profile = SftpProfile
    actions: Mapping[str, ActionSpec] = ACTIONS

    def check(self, profile: SftpProfile) -> Sequence[str]:
        return [problem for is_one, problem in _problems(profile) if is_one]

    def open(self, profile: SftpProfile, secrets: Secrets) -> "SftpSession":
        try:
            from broker_agent.connectors.sftp.session import SftpSession
        except ImportError as error:
            raise CallFailed(
                "connector_missing", "asyncssh is not installed: agent-mesh[sftp]", effect="none"
            ) from error
        return SftpSession(profile, secrets)

    def kill(self, profile: SftpProfile, secrets: Secrets, server_id: str) -> None:
        """The server ends a session whose connection is gone."""


def _problems(profile: SftpProfile) -> Sequence[tuple[bool, str]]:
    known = profile.known_hosts
    return (
        (not profile.base.startswith("/"), "base is not an absolute path"),
        ((known is None) == (profile.host_key is None), "name either known_hosts or host_key"),
        (known is not None and not Path(known or "").is_file(), f"known_hosts: no file {known}"),
        (profile.password is None and profile.key is None, "name password or key"),
        (profile.passphrase is not None and profile.key is None, "passphrase is that of a key"),
    )


CONNECTOR: Final = SftpConnector()
