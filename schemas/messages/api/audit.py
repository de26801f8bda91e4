"""`audit.list`: the audit trail."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.messages.api.base import Request
from schemas.messages.fields import Count, Label, Name, Timestamp


class AuditQuery(Request, frozen=True, kw_only=True):
    """`audit.list`, the newest first. All filters must match.

    action: `noun.verb`, or a noun for all of its verbs. since, until: unix times. cursor: from the
    previous page.
    """

    by: Label | None = None
    action: Label | None = None
    target: Label | None = None
    group: Name | None = None
    result: Label | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Count | None = None


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One act. by: name of the actor. actor: its kind. address: its hosts. at: RFC 3339 in UTC."""

    seq: int
    at: str
    by: str
    actor: str
    address: str
    action: str
    target: str
    group: str
    result: str
    code: str
    detail: str


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: of the next page; None: this is the last one.

    A page with a cursor may be short or empty: each request searches a limited part of the trail.
    """

    entries: list[AuditRecord]
    cursor: int | None = None
