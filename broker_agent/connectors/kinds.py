"""The table of kinds, and the connectors behind them.

A kind's module is imported for the first profile of that kind, and defines `CONNECTOR`. It loads no
driver before `open`. Plug-ins are imported by worker processes alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, util
from typing import Any, Final, cast

import msgspec

from broker_agent.connectors.api import ENTRY_POINTS, CallFailed, Connector
from broker_agent.core.lines import Place
from broker_agent.core.profiles import Checked, ProfileProblem, check
from schemas.near import near_names

_PACKAGE: Final = __name__.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A built-in kind. module: below this package. extra, driver: what it needs, and its import."""

    name: str
    module: str
    capability: str
    extra: str = ""
    driver: str = ""


_TABLE: Final = (
    Kind(name="sqlite", module="sql.sqlite", capability="sql"),
    Kind(
        name="postgresql",
        module="sql.postgresql",
        capability="sql",
        extra="postgresql",
        driver="psycopg",
    ),
    Kind(name="mysql", module="sql.mysql", capability="sql", extra="mysql", driver="pymysql"),
    Kind(name="http", module="http", capability="http", extra="http", driver="urllib3"),
    Kind(name="directory", module="directory", capability="file"),
    Kind(name="sftp", module="sftp", capability="file", extra="sftp", driver="asyncssh"),
    Kind(name="script", module="script", capability="script"),
)
KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in _TABLE}


def missing_driver(kind: str) -> str:
    """Return why a built-in kind lacks its driver here, or an empty text; imports nothing."""
    known = KINDS.get(kind)
    if known is None or not known.driver or util.find_spec(known.driver) is not None:
        return ""
    return f"the driver of {kind} is not installed: pip install 'agent-mesh[{known.extra}]'"


def find_builtin(kind: str) -> Connector:
    """Return the connector of a built-in kind. Raises KeyError."""
    module = import_module(f"{_PACKAGE}.{KINDS[kind].module}")
    return cast("Connector", module.CONNECTOR)


def find_connector(kind: str, *, is_plugin: bool = False) -> Connector:
    """Return a connector; one of a plug-in is imported into this process.

    Raises CallFailed (`connector_missing`) with effect none.
    """
    if not is_plugin:
        return find_builtin(kind)
    from importlib import metadata  # in workers only

    found = [*metadata.entry_points(group=ENTRY_POINTS, name=kind)]
    if not found:
        raise CallFailed(
            "connector_missing", f"no installed package has a connector {kind!a}", effect="none"
        )
    return cast("Connector", found[0].load())


def kind_fault(kind: str, plugins: Iterable[str]) -> str:
    """Return why there is no such kind on this host, or an empty text."""
    known = [*KINDS, *plugins]
    if kind in known:
        return missing_driver(kind)
    return f"no kind {kind[:64]!a}{near_names(kind, known)}; there are {', '.join(known)}"


def check_settings(kind: str, settings: Mapping[str, Any], places: Sequence[Place] = ()) -> Checked:
    """Check the settings of a built-in kind. Raises ProfileProblem."""
    try:
        connector = find_builtin(kind)
    except ImportError as error:
        raise ProfileProblem(f"the connector of {kind} cannot be loaded: {error}") from error
    return check(settings, connector, places, kind=kind)


def check_plugin(kind: str, settings: Mapping[str, Any], places: Sequence[Place] = ()) -> Checked:
    """As `check_settings`, of a plug-in, in a worker process."""
    try:
        return check(settings, find_connector(kind, is_plugin=True), places, kind=kind)
    except CallFailed as error:
        raise ProfileProblem(f"{error.code}: {error.message}") from error


def typed(connector: Connector, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return checked settings in the type of their connector."""
    return msgspec.convert(dict(settings), connector.profile)


def capability_of(kind: str) -> str:
    """Capability of a built-in kind; empty for others."""
    known = KINDS.get(kind)
    return known.capability if known else ""


def kinds_of(capability: str) -> Sequence[str]:
    return [kind.name for kind in _TABLE if kind.capability == capability]
