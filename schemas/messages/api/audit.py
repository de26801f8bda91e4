"""`audit.list`: the trail of who did what."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.messages.api.base import Request
from schemas.messages.fields import Count, Label, Name, Timestamp


class AuditQuery(Request, frozen=True, kw_only=True):
    """`audit.list`, the newest first. Each filter narrows it down.

    action: `noun.verb`, or a noun for all of its verbs. since, until: unix times. cursor: as the
    page before gave it.
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
    """One act: when, by whom (`actor` says what that is), from which hosts, and what to what."""

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
    """cursor: pass it to get the next page, which may hold more; None: there is no more.

    A page may be short, or empty, and have a cursor: so much of the trail is searched at a time.
    """

    entries: list[AuditRecord]
    cursor: int | None = None
