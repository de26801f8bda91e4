"""`mesh.status`: the mesh at a glance."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.messages.fields import Text


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`mesh.status`: the mesh at a glance. at: the master's wall clock. notes: present problems."""

    mesh: str
    version: str
    epoch: int
    started_at: str
    agents: dict[str, int]
    groups: dict[str, int]
    commands: dict[str, int]
    broker: str
    history_lag_s: float = 0.0
    notes: Annotated[list[Text], Meta(max_length=64)] = []
    at: str = ""
