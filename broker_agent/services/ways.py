"""The identities with which an agent may connect, and the connection that is made with them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from broker_agent.store.identity import Slots
from broker_client.runtime.identity import Identity, read_identity
from broker_client.runtime.link import Link, LinkIdentity
from schemas.faults import Refused

OpenLink = Callable[[Callable[[], LinkIdentity]], Link]


class WaysIn:
    """`link`: asks here for the identity of each of its connections. `refusals`: in a row.

    urls: brokers to use whatever a master says of others; none for those that it names.
    """

    def __init__(self, slots: Slots, open_link: OpenLink, urls: Sequence[str] = ()) -> None:
        self._slots = slots
        self.urls = urls
        self._way: Path | None = None
        self.refusals = 0
        self.link = open_link(self.identity)

    def identity(self) -> LinkIdentity:
        """Read anew for each connection. What the broker has refused gives way to what else is."""
        is_refused = isinstance(self.link.last_error, Refused)
        self.refusals = self.refusals + 1 if is_refused else 0
        ways = self._slots.ways_in()
        self._way = ways[self.refusals % len(ways)]
        return as_link(read_identity(self._way))

    def take_way(self) -> Path | None:
        """The folder of the identity that has let us in just now."""
        self.refusals = 0
        return self._way

    def look_at(self, urls: Sequence[str]) -> None:
        """The addresses of brokers that are kept have changed."""
        if not self.urls:
            self.link.look_at(urls)

    @property
    def are_all_refused(self) -> bool:
        return self.refusals > len(self._slots.ways_in())


def as_link(identity: Identity) -> LinkIdentity:
    creds = identity.creds
    return LinkIdentity(tls=identity.context, jwt=creds.jwt, seed=creds.seed)
