"""The audit trail (`MESH_AUDIT`): actor, host, action, target, time and result of each act."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.messages.fields import Count, Label, Name, Text, Timestamp

# Kind of the actor: a client, an agent, the bearer of an activation token, or the master itself.
Actor = Literal["client", "agent", "token", "master"]
# unchanged: the target already was as requested. alarm: the master noticed something by itself.
Result = Literal["done", "unchanged", "refused", "failed", "alarm"]

# Characters of a text; a longer one is cut.
DETAIL_LEN: Final = 1000
# Groups of a fan-out; with more groups its entry belongs to the whole mesh.
GROUPS_MAX: Final = 64


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One act. Written once and never changed; the stream refuses deletion.

    action: `noun.verb` of the API, or an event such as `agent.enrolled`. target: its name or id.
    address: hosts from which the actor was connected, as the broker saw them. code: of the fault,
    if the act was refused or failed. detail: further parameters of the request; never a secret.
    groups: the groups of a fan-out over several; `group` is empty then.
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
