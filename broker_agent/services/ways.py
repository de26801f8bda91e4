"""Identities of an agent for its connections, and the choice between them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from broker_agent.store.identity_slots import IdentitySlots
from broker_client.runtime.identity import Identity, read_identity
from broker_client.runtime.link import Link, LinkIdentity
from schemas.faults import Refused

OpenLink = Callable[[Callable[[], LinkIdentity]], Link]


class WaysIn:
    """Identities by slot. link: requests one for each connection. refusals: number in a row.

    urls: addresses of brokers that override the master's; empty: none.
    """

    def __init__(self, slots: IdentitySlots, open_link: OpenLink, urls: Sequence[str] = ()) -> None:
        self._slots = slots
        self.urls = urls
        self._way: Path | None = None
        self.refusals = 0
        self.link = open_link(self.identity)

    def identity(self) -> LinkIdentity:
        """Read an identity for a new connection; after a refusal, that of the next slot."""
        is_refused = isinstance(self.link.last_error, Refused)
        self.refusals = self.refusals + 1 if is_refused else 0
        ways = self._slots.ways_in()
        self._way = ways[self.refusals % len(ways)]
        return as_link(read_identity(self._way))

    def take_way(self) -> Path | None:
        """Return the slot of the accepted identity, and reset the count of refusals."""
        self.refusals = 0
        return self._way

    def look_at(self, urls: Sequence[str]) -> None:
        """Use changed addresses of brokers."""
        if not self.urls:
            self.link.look_at(urls)

    @property
    def are_all_refused(self) -> bool:
        return self.refusals > len(self._slots.ways_in())


def as_link(identity: Identity) -> LinkIdentity:
    creds = identity.creds
    return LinkIdentity(tls=identity.context, jwt=creds.jwt, seed=creds.seed)
