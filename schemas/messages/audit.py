"""The audit trail: who did what to what, from where, when, and what came of it (`MESH_AUDIT`)."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.messages.fields import Count, Label, Name, Text, Timestamp

# Who acted: a client, an agent, whoever shows an activation token, or the master by itself.
Actor = Literal["client", "agent", "token", "master"]
# unchanged: it was as asked for already. alarm: something was noticed, and nobody asked for it.
Result = Literal["done", "unchanged", "refused", "failed", "alarm"]

# From this length on a text is cut: an entry is a line, not a document.
DETAIL_LEN: Final = 1000
# A fan-out over more is of the whole mesh.
GROUPS_MAX: Final = 64


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One act. Written once and never changed; the stream refuses deletion.

    action: `noun.verb` of the api, or an event such as `agent.enrolled`. target: its name or id.
    address: the hosts from which the actor was connected then, as the broker saw them. code: of
    the fault, if it was refused or failed. detail: what else was asked for; never a secret.
    groups: of a fan-out over several, which have no `group`.
    """

    at: Timestamp
    by: Label
    action: Label
    actor: Actor = "client"
    address: Label = ""
    target: Label = ""
    group: Label = ""
    result: Result = "done"
    code: Label = ""
    detail: Text = ""
    epoch: Count = 0
    groups: Annotated[list[Name], Meta(max_length=GROUPS_MAX)] = []
