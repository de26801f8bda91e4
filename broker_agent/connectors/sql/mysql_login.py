"""Connects to a MariaDB or MySQL server, and tells what was wrong."""

import ssl
from typing import Any, Final

import pymysql
from pymysql.constants import CR, ER

from broker_agent.connectors.api import CallFailed, Secrets
from broker_agent.connectors.sql.mysql import MysqlProfile

_DENIED: Final = frozenset(
    {ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, 1698, ER.HOST_NOT_PRIVILEGED, 1820, 1862}
)
# Modes in which quotes and backslashes are read otherwise than the reader of statements does.
_QUOTING: Final = frozenset(
    {"ANSI", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ORACLE", "MSSQL", "DB2", "POSTGRESQL"}
) | {"MAXDB"}


def connect(profile: MysqlProfile, secrets: Secrets) -> "pymysql.Connection[Any]":
    """Return a connection in which quotes are those of the reader. Raises CallFailed."""
    try:
        connection = pymysql.connect(
            host=profile.host or None,
            port=profile.port,
            unix_socket=profile.socket,
            user=profile.user,
            password=secrets.get("password", ""),
            database=profile.database,
            charset="utf8mb4",
            connect_timeout=profile.connect_s,
            read_timeout=profile.connect_s,
            write_timeout=profile.connect_s,
            autocommit=True,
            local_infile=False,
            ssl=_tls(profile),
        )
    except pymysql.MySQLError as error:
        raise told(error, profile) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise CallFailed("target_unreachable", f"{profile.host}: {error}", effect="none") from error
    return connection


def prepare(connection: "pymysql.Connection[Any]") -> None:
    """Give a new or reset session its settings. Raises MySQLError."""
    with connection.cursor() as cursor:
        cursor.execute("select @@session.sql_mode")
        found = cursor.fetchone()
        modes = [each for each in str(found[0] if found else "").split(",") if each]
        kept = ",".join(each for each in modes if each not in _QUOTING)
        cursor.execute("set session sql_mode = %s, time_zone = '+00:00'", (kept,))


def _tls(profile: MysqlProfile) -> ssl.SSLContext | None:
    if profile.tls == "off" or profile.socket is not None:
        return None
    try:
        context = ssl.create_default_context(cafile=profile.ca)
    except OSError as error:
        raise CallFailed("tls_failed", f"ca: {error.strerror or error}", effect="none") from error
    context.check_hostname = profile.tls == "verify-full"
    if profile.tls == "require":
        context.verify_mode = ssl.CERT_NONE
    return context


def told(error: pymysql.MySQLError, profile: MysqlProfile) -> CallFailed:
    """The fault of a failed connect."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    cause = getattr(error, "original_exception", None)
    if code in _DENIED:
        return CallFailed("login_refused", text, effect="none")
    if code == ER.BAD_DB_ERROR:
        return CallFailed("target_refused", text, effect="none")
    if isinstance(cause, ssl.SSLError) or code == CR.CR_SSL_CONNECTION_ERROR:
        return CallFailed("tls_failed", text, effect="none")
    where = profile.socket or f"{profile.host} port {profile.port}"
    return CallFailed("target_unreachable", f"{where}: {text}", effect="none")
