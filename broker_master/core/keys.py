"""Keys and their holders: no certificate or token is issued for a key of another holder.

Revoking a key shuts out its holder, and a connection is identified by its key. So a key has one
holder for as long as anything of it is remembered, and a holder never goes back to an older key.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from schemas.faults import Refused
from schemas.messages.registry import AgentEntry, CertificateEntry, ClientEntry


class Asked(NamedTuple):
    """Two keys for `name`. user: the broker key. digest: of the certificate's key, in hex."""

    name: str
    user: str
    digest: str


class _Held(NamedTuple):
    """newest: the latest valid keys of the holder; a request may repeat them."""

    name: str
    newest: bool


class KeysHeld:
    """The holder of each known key.

    own: broker keys of the mesh itself. own_digests: of the keys of its certificates. refused:
    revoked broker keys, whoever their holder was.
    """

    def __init__(
        self,
        agents: Mapping[str, AgentEntry],
        clients: Mapping[str, ClientEntry],
        *,
        own: Collection[str] = (),
        own_digests: Collection[str] = (),
        refused: Collection[str] = (),
    ) -> None:
        self._own, self._own_digests, self._refused = own, own_digests, refused
        self._users: dict[str, _Held] = {}
        self._digests: dict[str, _Held] = {}
        for agent in agents.values():
            self._enter(agent.name, agent.certificates)
            if agent.token is not None and agent.token.user:
                self._users[agent.token.user] = _Held("a token", newest=False)
        for client in clients.values():
            self._enter(client.name, client.certificates, is_barred=client.revoked)

    def _enter(
        self, name: str, certificates: Iterable[CertificateEntry], *, is_barred: bool = False
    ) -> None:
        entries = [*certificates]
        for each in entries:
            held = _Held(name, each is entries[-1] and not each.retired_at and not is_barred)
            self._users[each.user_nkey] = held
            if each.key:
                self._digests[each.key] = held

    def check(self, asked: Asked) -> None:
        """Raise Refused (`request_invalid`) unless both keys are new, or the holder's latest."""
        if asked.user in self._own or asked.digest in self._own_digests:
            raise _taken("is the mesh's own")
        if asked.user in self._refused:
            raise _taken("is revoked")
        for held in (self._users.get(asked.user), self._digests.get(asked.digest)):
            if held is not None and held.name != asked.name:
                raise _taken("has another holder")
            if held is not None and not held.newest:
                raise _taken(f"is an older one of {asked.name}")


def _taken(why: str) -> Refused:
    return Refused("request_invalid", f"this key {why}: make new ones")
