"""The connector `postgresql`: PostgreSQL 12 or newer, by psycopg.

Queries run in a read-only transaction; csv is what the server's COPY gives. The server ends a
statement itself when its time is over, or when this process is gone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta

from broker_agent.connectors.api import CallFailed, Secret, Secrets
from broker_agent.connectors.sql.statements import (
    ACTIONS,
    SqlProfile,
    allowed,
    check_statements,
)
from broker_agent.connectors.sql.tokens import POSTGRESQL
from schemas import limits

if TYPE_CHECKING:
    from broker_agent.connectors.sql.postgresql_session import PostgresqlSession

_Text = Annotated[str, Meta(min_length=1, max_length=limits.LABEL_LEN)]


class PostgresqlProfile(SqlProfile, frozen=True, kw_only=True):
    """A server and a database.

    host: name, address, or folder of a local socket. tls: `verify-full` checks the server's
    certificate and name by `ca`, or by the host's authorities; `require` encrypts only. cert, key:
    files of a certificate to log in with.
    """

    host: _Text
    port: Annotated[int, Meta(ge=1, le=65535)] = 5432
    database: _Text
    user: _Text
    password: Secret | None = None
    tls: Literal["verify-full", "require", "off"] = "verify-full"
    ca: str = ""
    cert: str = ""
    key: str = ""


class PostgresqlConnector:
    kind = "postgresql"
    capability = "sql"
    profile = PostgresqlProfile
    actions = ACTIONS

    def check(self, profile: PostgresqlProfile) -> Sequence[str]:
        wrong = [
            f"{name} is no absolute path"
            for name in ("ca", "cert", "key")
            if getattr(profile, name) and not getattr(profile, name).startswith("/")
        ]
        if bool(profile.cert) != bool(profile.key):
            wrong.append("cert and key go together")
        if profile.ca and profile.tls != "verify-full":
            wrong.append('ca is used with tls = "verify-full" only')
        return [*wrong, *check_statements(profile, POSTGRESQL)]

    def allowed(self, profile: PostgresqlProfile) -> Sequence[str]:
        return allowed(profile)

    def open(self, profile: PostgresqlProfile, secrets: Secrets) -> "PostgresqlSession":
        return _session(profile, secrets)

    def kill(self, profile: PostgresqlProfile, secrets: Secrets, server_id: str) -> None:
        session = _session(profile, secrets)
        try:
            session.end_other(server_id)
        finally:
            session.close()


def _session(profile: PostgresqlProfile, secrets: Secrets) -> "PostgresqlSession":
    try:
        # Loads the driver, in a worker only.
        from broker_agent.connectors.sql.postgresql_session import PostgresqlSession
    except ImportError as error:
        message = f"pip install 'agent-mesh[postgresql]' on the agent's host: {error}"
        raise CallFailed("connector_missing", message, effect="none") from error
    return PostgresqlSession(profile, secrets)


CONNECTOR: Final = PostgresqlConnector()
