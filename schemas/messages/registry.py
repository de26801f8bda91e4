"""Entries of groups, agents and clients in the registry (key-value bucket `mesh_registry`)."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.messages.fields import Count, Label, Priority, Tags, Timestamp

Balance = Literal["least_load", "round_robin", "priority", "weighted", "sticky"]
Weight = Annotated[int, Meta(ge=1, le=100)]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Policy by which a group shares its work.

    sticky_label: with `sticky`, commands with the same value of this label go to the same agent.
    limit: concurrency limit of the group, in commands. queue_limit: commands that may wait. 0: the
    group has no limit of its own.
    """

    balance: Balance = "least_load"
    sticky_label: Label = ""
    limit: Count = 0
    queue_limit: Count = 0


class Traits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Traits of an agent, set by an operator, for the choice among agents.

    tags: may be required by commands. weight: its share with the balance `weighted`. priority: with
    the balance `priority`, free members of the greatest are used first. limit: concurrency limit in
    commands, if lower than its slots; 0: its slots.
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
    """An activation token, by its hash. used_key: public key that it was used for; empty: unused.

    user: the broker key in the token.
    """

    hash: Label
    expires_at: Timestamp
    used_key: Label = ""
    user: Label = ""


class CertificateEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One certificate and the broker key that belongs to it.

    fingerprint: SHA-256 of the certificate, lower-case hex; empty if an earlier version issued it.
    key: SHA-256 of the certificate's public key, likewise.
    authority, signer: generations of the authority and of the signing key that issued it.
    candidate_until: time at which it is withdrawn if nothing confirms it; 0 once confirmed.
    retired_at: time since which it is refused, as its successor is in use; 0 while it is valid.
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
    """Reason for which an agent is disabled or paused. until: end of a pause, 0 for never."""

    note: Label = ""
    until: Timestamp = 0.0


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent. certificates: newest last. connected: it has completed a handshake at least once.

    seen_at: time of its last message before it was given up; 0 while it is live. moving_to: the
    group that it joins when its last task has ended. trust: digest of the authorities that it
    trusts, by its own account. joined_at: time of its first handshake; 0: none yet, or under 0.1.0.
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
    """A client. certificates, trust: as in `AgentEntry`."""

    name: Label
    role: Label
    created_at: Timestamp
    created_by: Label = ""
    groups: list[Label] = []
    certificates: list[CertificateEntry] = []
    revoked: bool = False
    trust: Label = ""


class ConnectionEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A way through a group, by the profile of the same name on its hosts.

    at_once: commands through it at a time, 0 for no limit. timeout_s, output_bytes: limits of a
    command. actions: the allowed ones; empty: all of its kind. pin: hash that a profile must have,
    or empty.
    """

    name: Label
    kind: Label
    group: Label
    enabled: bool = True
    at_once: Count = 0
    timeout_s: float = 60.0
    output_bytes: Count = 100 * 1024 * 1024
    actions: list[Label] = []
    pin: Label = ""
    note: Label = ""
    created_at: Timestamp
    created_by: Label = ""


class RevocationEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A revoked broker key; the entry may be deleted after `not_after`."""

    user_nkey: Label
    name: Label
    at: Timestamp
    not_after: Timestamp


class MeshEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The mesh itself. epoch: greater with each start of a master."""

    mesh: Label
    epoch: int = 0
