"""Holders of credentials of a key in rotation that the next step would cut off."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from broker_master.core.certificates import newest_confirmed
from schemas.messages.registry import AgentEntry, CertificateEntry, ClientEntry
from schemas.states import BARRED

AUTHORITY: Final = "authority"

Holder = AgentEntry | ClientEntry


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """Present keys. key: the one in rotation; generation: of the one that signs.

    trust: the digest of all trusted authorities.
    """

    key: str
    generation: int
    trust: str


def holders(
    key: str, agents: Iterable[AgentEntry], clients: Iterable[ClientEntry], at: float
) -> list[Holder]:
    """All admitted holders of valid credentials of this key."""
    found: list[Holder] = []
    if key in (AUTHORITY, "agent"):
        found += [each for each in agents if each.admin not in BARRED]
    found += [each for each in clients if not each.revoked and key in (AUTHORITY, each.role)]
    return [
        each
        for each in found
        if (held := in_use(each)) and held.not_after > at and not held.retired_at
    ]


def in_use(holder: Holder) -> CertificateEntry | None:
    return newest_confirmed(holder.certificates)


def is_outdated(holder: Holder, present: Present) -> bool:
    """Whether its credentials were issued by another key than the one that signs now."""
    held = in_use(holder)
    if held is None:
        return False
    issued_by = held.authority if present.key == AUTHORITY else held.signer
    return issued_by != present.generation


def cut_off_by(step: str, found: Sequence[Holder], present: Present) -> list[str]:
    """Holders that `step` would cut off, as `agent web-1`.

    Before a new authority signs, all holders have to trust it; before the old one is removed, no
    holder may have a certificate of it. The broker has new signing keys at once, so for these only
    the second counts.
    """
    if step == "activate" and present.key == AUTHORITY:
        stuck = [each for each in found if each.trust != present.trust]
    elif step == "revoke":
        stuck = [each for each in found if is_outdated(each, present)]
    else:
        stuck = []
    return sorted(named(each) for each in stuck)


def named(holder: Holder) -> str:
    kind = "agent" if isinstance(holder, AgentEntry) else "client"
    return f"{kind} {holder.name}"
