"""What the registry holds of groups, agents and clients (key-value bucket `mesh_registry`)."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.messages.fields import Count, Label, Priority, Tags, Timestamp

Balance = Literal["least_load", "round_robin", "priority", "weighted", "sticky"]
Weight = Annotated[int, Meta(ge=1, le=100)]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How a group shares its work.

    sticky_label: with `sticky`, commands with the same value of this label go to the same agent.
    limit: commands at once in the whole group. queue_limit: how many may wait. 0: none of its own.
    """

    balance: Balance = "least_load"
    sticky_label: Label = ""
    limit: Count = 0
    queue_limit: Count = 0


class Traits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operator says of an agent, for whoever chooses among agents.

    tags: what commands may ask for. weight: its part with the balance `weighted`. priority: of
    members that are free, those with the greatest are used first with the balance `priority`.
    limit: commands at once, where that is less than its slots; 0: its slots.
    """

    tags: Tags = {}
    weight: Weight = 1
    priority: Priority = 2
    limit: Count = 0


DEFAULT_POLICY: Final = Policy()
DEFAULT_TRAITS: Final = Traits()


class GroupEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: Label
    created_at: Timestamp
    created_by: Label = ""
    policy: Policy = DEFAULT_POLICY


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
    key: SHA-256 of the certificate's public key, likewise.
    authority, signer: generations of the authority and of the signing key that issued it.
    candidate_until: unless it is confirmed before that, it is withdrawn; 0 once it is confirmed.
    retired_at: its successor is in use since then, and it is refused; 0 while it is good.
    """

    serial: Label
    not_after: Timestamp
    user_nkey: Label
    issued_at: Timestamp = 0.0
    fingerprint: Label = ""
    authority: Count = 1
    signer: Count = 1
    candidate_until: Timestamp = 0.0
    retired_at: Timestamp = 0.0
    key: Label = ""


class AdminTerm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an agent is disabled or paused. until: when a pause ends, 0 for never."""

    note: Label = ""
    until: Timestamp = 0.0


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """certificates: newest last. connected: it has completed a handshake at least once.

    seen_at: when it was last heard before it was given
    up; 0 while it is live. moving_to: the group it joins once it is empty. trust: the digest of the
    authorities that it has said it trusts. joined_at: of its first handshake; 0: not yet, or under
    0.1.0.
    """

    name: Label
    group: Label
    created_at: Timestamp
    created_by: Label = ""
    admin: Label = "enabled"
    admin_since: Timestamp = 0.0
    admin_by: Label = ""
    admin_term: AdminTerm = AdminTerm()
    token: TokenEntry | None = None
    certificates: list[CertificateEntry] = []
    connected: bool = False
    seen_at: Timestamp = 0.0
    moving_to: Label = ""
    trust: Label = ""
    traits: Traits = DEFAULT_TRAITS
    joined_at: Timestamp = 0.0


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
