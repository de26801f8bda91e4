"""Compares each live connection with the registry, and disconnects those that do not match.

A stolen signing key makes tokens that the broker accepts: here they are detected.
"""

import asyncio
from collections.abc import Callable, Collection
from operator import is_
from typing import Final

import msgspec
import structlog

from broker_client.runtime.nkeys import from_base64url
from broker_master.ca.accounts import Accounts
from broker_master.core.identities import Finding, IssuedIdentities, Shown
from broker_master.plane import Plane
from broker_master.services.system import BrokerSystem, Connection
from schemas.faults import MeshError
from schemas.messages.registry import AgentEntry, ClientEntry

log = structlog.get_logger()

# Reported connections: each once, up to this number.
_TOLD_MAX: Final = 10_000
# Connections judged in one turn of the loop.
_TURN: Final = 100

_Key = tuple[str, int]


class _Token(msgspec.Struct):
    """name: the identity in the token. issuer: the public key that signed it."""

    name: str = ""
    issuer: str = msgspec.field(default="", name="iss")


class Comparison:
    """Judges connections by the registry.

    own: the mesh's own broker keys with their names.
    """

    name = "comparison"

    def __init__(
        self,
        plane: Plane,
        accounts: Accounts,
        system: BrokerSystem,
        own: Callable[[], dict[str, str]],
    ) -> None:
        self._plane = plane
        self._accounts = accounts
        self._system = system
        self._own = own
        self._told: set[_Key] = set()
        self._refused = set(accounts.revocations)
        self._tokens: dict[_Key, _Token] = {}
        self._entries: list[AgentEntry | ClientEntry] = []
        self._made: IssuedIdentities | None = None

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await asyncio.sleep(self._plane.settings.certificates.compare_s)
            try:
                await self.compare()
            except MeshError as error:
                log.warning("comparison_failed", code=error.code, error=str(error))

    async def compare(self) -> None:
        connections = await self._system.connections()
        live = {(each.server, each.cid) for each in connections}
        self._told &= live
        self._tokens = {key: each for key, each in self._tokens.items() if key in live}
        refused = set(self._accounts.revocations)
        just_refused, self._refused = refused - self._refused, refused
        _ = await self.judge(connections, just_refused)

    async def judge(
        self, connections: Collection[Connection], just_refused: Collection[str] = ()
    ) -> set[_Key]:
        """Judge connections and act on the findings; returns those that are disconnected."""
        # Only now: credentials issued while the broker was asked are included.
        known = self._known()
        refused = set(self._accounts.revocations)
        wrong = set()
        for turn, connection in enumerate(connections):
            if turn % _TURN == 0:
                await asyncio.sleep(0)  # thousands are judged without blocking the loop
            finding = known.judge(self._shown(connection), refused, just_refused)
            if finding is not None:
                # The master's own key may be a new one.
                known = self._known(anew=True)
                finding = known.judge(self._shown(connection), refused, just_refused)
            if finding is not None:
                await self._act(connection, finding)
                if finding.kick:
                    wrong.add((connection.server, connection.cid))
        return wrong

    def _known(self, *, anew: bool = False) -> IssuedIdentities:
        """View of the registry as it is; rebuilt only if an entry has changed."""
        registry = self._plane.registry
        entries: list[AgentEntry | ClientEntry]
        entries = [*registry.agents.values(), *registry.clients.values()]
        is_same = len(entries) == len(self._entries) and all(map(is_, entries, self._entries))
        if anew or not is_same or self._made is None:
            self._entries = entries
            self._made = IssuedIdentities(registry.agents, registry.clients, self._own())
        return self._made

    async def _act(self, connection: Connection, finding: Finding) -> None:
        key = (connection.server, connection.cid)
        if finding.is_news and key not in self._told and len(self._told) < _TOLD_MAX:
            self._told.add(key)
            self._tell(connection, finding)
        if finding.kick:
            await self._system.kick(connection)
        await asyncio.sleep(0)  # a crowd of unknown peers is reported without blocking the loop

    def _tell(self, connection: Connection, finding: Finding) -> None:
        plane = self._plane
        plane.count("comparison", finding.kind)
        log.error(
            "connection_wrong",
            kind=finding.kind,
            reason=finding.reason,
            address=connection.address,
            issuer=self._token(connection).issuer,
            kicked=finding.kick,
        )
        did = "cut" if finding.kick else "not cut: mesh ca rotate prepare --key ROLE"
        detail = f"{finding.reason}; from {connection.address}; {did}"
        name = self._token(connection).name
        plane.note(f"connection.{finding.kind}", name, result="alarm", detail=detail)

    def _shown(self, connection: Connection) -> Shown:
        name = self._token(connection).name
        return Shown(connection.user, name, connection.certificate, connection.subject)

    def _token(self, connection: Connection) -> "_Token":
        """Claims of a connection's token, cached: they are the same for its whole life."""
        key = (connection.server, connection.cid)
        token = self._tokens.get(key)
        if token is None:
            token = self._tokens[key] = _read_token(connection.token)
        return token


def name_in(token: str) -> str:
    """Name of the identity in an admitted token."""
    return _read_token(token).name


def _read_token(token: str) -> _Token:
    """Read an admitted token; the broker has verified its signature."""
    try:
        return msgspec.json.decode(from_base64url(token.split(".")[1]), type=_Token)
    except (IndexError, ValueError, msgspec.MsgspecError, MeshError):
        return _Token()
