"""Checks keys to be certified: proved by the requester, and not held by another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from broker_client.runtime.nkeys import any_kind
from broker_master.ca.authority import requested_digest
from broker_master.core.keys import Asked, KeysHeld
from broker_master.plane import Plane
from schemas.faults import Refused

# In the audit trail. Such a peer proves its keys when it connects: without them its credentials are
# worthless; and no other peer can have them, so revoking them disconnects no other.
NOT_PROVED: Final = "its broker key was not proved: a peer of 0.1.0"


class KeyDesk:
    """Reserves keys that are being certified.

    own: broker keys of the mesh itself, and digests of the keys of its certificates. refused: the
    broker keys that are revoked.
    """

    def __init__(
        self,
        plane: Plane,
        own: Callable[[], tuple[set[str], set[str]]],
        refused: Callable[[], set[str]],
    ) -> None:
        self._plane = plane
        self._own = own
        self._refused = refused
        # Keys that are being certified: the registry does not have them yet.
        self._under_way: list[Asked] = []

    @contextmanager
    def held(self, name: str, user_nkey: str, csr_pem: str) -> Iterator[None]:
        """Reserve both keys for `name`, until the registry has them.

        Raises Refused (`request_invalid`) if either has a holder, or is no key.
        """
        asked = Asked(name, user_nkey, requested_digest(csr_pem.encode()))
        self._check(asked)
        self._under_way.append(asked)
        try:
            yield
        finally:
            self._under_way.remove(asked)

    def _check(self, asked: Asked) -> None:
        own, digests = self._own()
        registry = self._plane.registry
        held = KeysHeld(
            registry.agents,
            registry.clients,
            # The same 32 bytes are another key under another prefix.
            own={asked.user} if any_kind(asked.user) & own else (),
            own_digests=digests,
            refused=self._refused(),
        )
        held.check(asked)
        for each in self._under_way:
            is_same = each.user == asked.user or each.digest == asked.digest
            if is_same and each.name != asked.name:
                raise Refused("request_invalid", "this key has another holder: make new ones")
