"""The kind `mysql`: MariaDB and MySQL, by PyMySQL."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta

from broker_agent.connectors.api import ActionSpec, CallFailed, Secret, Secrets
from broker_agent.connectors.sql.statements import ACTIONS, SqlProfile, allowed, check_statements
from broker_agent.connectors.sql.tokens import MYSQL

if TYPE_CHECKING:
    from broker_agent.connectors.sql.mysql_session import MysqlSession

Port = Annotated[int, Meta(ge=1, le=65535)]


class MysqlProfile(SqlProfile, frozen=True, kw_only=True):
    """A database of a MariaDB or MySQL server. socket: path, in place of host and port.

    tls: `verify-full` checks certificate and name, `verify-ca` the certificate; `require` encrypts
    only; `off` does not. ca: file of the authorities, None for those of the system.
    """

    host: str = ""
    port: Port = 3306
    socket: str | None = None
    database: str
    user: str
    password: Secret | None = None
    tls: Literal["verify-full", "verify-ca", "require", "off"] = "verify-full"
    ca: str | None = None


class MysqlConnector:
    kind = "mysql"
    capability = "sql"
    profile = MysqlProfile
    actions: Mapping[str, ActionSpec] = ACTIONS

    def check(self, profile: MysqlProfile) -> Sequence[str]:
        wrong = list(check_statements(profile, MYSQL))
        if bool(profile.host) == (profile.socket is not None):
            wrong.append("name either host or socket")
        if profile.ca is not None and not Path(profile.ca).is_file():
            wrong.append(f"ca: there is no file {profile.ca}")
        return wrong

    def allowed(self, profile: MysqlProfile) -> Sequence[str]:
        return allowed(profile)

    def open(self, profile: MysqlProfile, secrets: Secrets) -> "MysqlSession":
        try:
            from broker_agent.connectors.sql.mysql_session import MysqlSession
        except ImportError as error:
            raise CallFailed(
                "connector_missing", "PyMySQL is not installed: agent-mesh[mysql]", effect="none"
            ) from error
        return MysqlSession(profile, secrets)

    def kill(self, profile: MysqlProfile, secrets: Secrets, server_id: str) -> None:
        """End a session of an ended worker, whose statement would otherwise run to its end."""
        session = self.open(profile, secrets)
        try:
            session.kill_other(server_id)
        finally:
            session.close()


CONNECTOR: Final = MysqlConnector()
