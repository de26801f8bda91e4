"""What the registry holds of groups, agents and clients (key-value bucket `mesh_registry`)."""

import msgspec

from schemas.messages.fields import Count, Label, Timestamp


class GroupEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: Label
    created_at: Timestamp
    created_by: Label = ""


class TokenEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An activation token by its hash. used_key: the public key it was spent on, once it is.

    user: the broker key that is in the token.
    """

    hash: Label
    expires_at: Timestamp
    used_key: Label = ""
    user: Label = ""


class CertificateEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One certificate and the broker key that goes with it.

    fingerprint: its SHA-256, lower-case hex; empty if it was issued before this was kept.
    authority, signer: generations of the authority and of the signing key that issued it.
    """

    serial: Label
    not_after: Timestamp
    user_nkey: Label
    issued_at: Timestamp = 0.0
    fingerprint: Label = ""
    authority: Count = 1
    signer: Count = 1


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """certificates: newest last. connected: it has completed a handshake at least once.

    admin_until: when a pause ends, 0 for none. seen_at: when it was last heard before it was given
    up; 0 while it is live. trust: the digest of the authorities that it has said it trusts.
    """

    name: Label
    group: Label
    created_at: Timestamp
    created_by: Label = ""
    admin: Label = "enabled"
    admin_since: Timestamp = 0.0
    admin_by: Label = ""
    admin_note: Label = ""
    admin_until: Timestamp = 0.0
    token: TokenEntry | None = None
    certificates: list[CertificateEntry] = []
    connected: bool = False
    seen_at: Timestamp = 0.0
    trust: Label = ""


class ClientEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """certificates, trust: as those of an agent."""

    name: Label
    role: Label
    created_at: Timestamp
    created_by: Label = ""
    groups: list[Label] = []
    certificates: list[CertificateEntry] = []
    revoked: bool = False
    trust: Label = ""


class RevocationEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A broker key that is refused; may be dropped once `not_after` has passed."""

    user_nkey: Label
    name: Label
    at: Timestamp
    not_after: Timestamp


class MeshEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The mesh itself: the epoch grows with every start of a master."""

    mesh: Label
    epoch: int = 0
