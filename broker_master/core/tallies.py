"""Names of what the master counts apart from groups: the one list for writers and readers.

A type checker compares names with `Tally`, and a test compares labels with `LABELS`.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Tally: TypeAlias = Literal[
    "audit",
    "comparison",
    "cut",
    "discovery_refused",
    "duplicate",
    "duplicate_identity",
    "enrolment",
    "epoch_refused",
    "fanout",
    "forged_reply",
    "forged_report",
    "handshake_refused",
    "history",
    "late_result",
    "malformed",
    "publish_failed",
    "receipts_dropped",
    "refused",
    "rejected",
    "renewal",
    "reply_forbidden",
    "resent",
    "restore",
    "restored",
    "shed",
    "shut_out",
    "stale_incarnation",
    "unknown_agent",
    "unknown_state",
]
# The labels of a tally whose series are shown from the start, at 0.
LABELS: Final[Mapping[Tally, tuple[str, ...]]] = {
    "audit": ("lost",),
    "fanout": ("succeeded", "partial", "failed", "cancelled"),
    "history": ("cut", "set_aside"),
    "restore": ("announced", "noticed"),
    "restored": ("adopted", "recalled", "lost"),
    "shed": ("unproved", "rate", "share"),
    "shut_out": ("agent", "client", "token"),
}
