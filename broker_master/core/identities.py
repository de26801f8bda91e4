"""Compares a live connection with the registry: its token and its certificate together.

The broker checks each by itself: a token signed by one of the mesh's keys, a certificate of one of
its authorities. This module checks that the mesh has issued both, to the same holder.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from schemas.messages.registry import AgentEntry, CertificateEntry, ClientEntry

Kind = Literal["mismatch", "unregistered", "revoked"]


class Shown(msgspec.Struct, frozen=True):
    """Credentials of a connection. certificate: SHA-256 in hex, subject: in the broker's format.

    Empty: the broker does not report it.
    """

    user: str
    name: str
    certificate: str = ""
    subject: str = ""


class Finding(msgspec.Struct, frozen=True):
    """Fault of a connection. kick: disconnect it. is_news: worth an alarm."""

    kind: Kind
    reason: str
    kick: bool
    is_news: bool = True


class IssuedIdentities:
    """Issued broker keys and certificates with holders. own: names of the mesh's own, by key."""

    def __init__(
        self,
        agents: Mapping[str, AgentEntry],
        clients: Mapping[str, ClientEntry],
        own: Mapping[str, str],
    ) -> None:
        self._users = dict(own)
        self._certificates: dict[str, str] = {}
        for agent in agents.values():
            self._enter(agent.name, agent.certificates)
            if agent.token is not None and agent.token.user:
                self._users[agent.token.user] = agent.name
        for client in clients.values():
            self._enter(client.name, client.certificates)

    def _enter(self, name: str, certificates: Iterable[CertificateEntry]) -> None:
        for each in certificates:
            self._users[each.user_nkey] = name
            if each.fingerprint:
                self._certificates[each.fingerprint] = name

    def judge(
        self, shown: Shown, refused: Collection[str], just_refused: Collection[str]
    ) -> Finding | None:
        """None for a connection that is in order. refused: keys that the broker should refuse.

        just_refused: keys refused since the last look. The broker is about to disconnect their
        connections.
        """
        if shown.user in refused:
            is_news = shown.user not in just_refused
            return Finding(
                "revoked", f"the key of {shown.name} is revoked", kick=True, is_news=is_news
            )
        common_name = _common_name(shown.subject)
        if common_name and common_name != shown.name:
            reason = f"the token of {shown.name} came with the certificate of {common_name}"
            return Finding("mismatch", reason, kick=True)
        name = self._users.get(shown.user, "")
        whose = self._certificates.get(shown.certificate, "")
        if not name:
            # With a certificate of the mesh the pair is probably stolen; without one an operator
            # may test.
            reason = f"a token of {shown.name} that this mesh has not issued"
            return Finding("unregistered", reason, kick=bool(whose))
        if name != shown.name or whose not in ("", name):
            reason = f"the token of {shown.name} came with a key or certificate of {whose or name}"
            return Finding("mismatch", reason, kick=True)
        return None


def _common_name(subject: str) -> str:
    """`web-1` of `CN=web-1`: certificates of the mesh have no other attribute."""
    parts = dict(part.partition("=")[::2] for part in subject.split(","))
    return parts.get("CN", "")
