"""`events.list`: what has happened lately, and what happens next."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.api.base import Request
from schemas.messages.fields import Label, Timestamp

# gap: in the place of events that are not known any more.
EventKind = Literal["agent", "group", "connection", "command", "certificate", "gap"]

# Longest detail of an event, in characters.
EVENT_DETAIL_LEN: Final = 300


class EventList(Request, frozen=True, kw_only=True):
    """`events.list`, the oldest first. Each word of the filter must hold.

    filter: words as `kind:command what:failed,lost group:web`. cursor: as the answer before gave
    it; without one, from the oldest that is kept, from `since` (unix time), or with `from_now` only
    what happens after this request. wait_s: how long the answer may wait for a first event.
    """

    filter: Annotated[str, Meta(max_length=limits.FILTER_LEN)] = ""
    cursor: Label | None = None
    since: Timestamp | None = None
    from_now: bool = False
    limit: Annotated[int, Meta(ge=1, le=100)] = 100
    wait_s: Annotated[float, Meta(ge=0, le=30)] = 0.0


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One event: `name` is now `what`.

    what: of agents, groups and connections the new status; of commands `submitted`, or the new
    state; of certificates `warning`, `expired`, `issued`, `renewed`, `refused` or `revoked`; of a
    gap `restarted` or `overflowed`. was: the status before. agent, client: of commands. cause: the
    stable name of a status' reason. detail: for people.
    """

    at: str
    kind: EventKind
    name: str
    group: str
    what: str
    was: str = ""
    agent: str = ""
    client: str = ""
    cause: str = ""
    detail: str = ""


class EventsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Events from the cursor on; none: there is none yet. cursor: for the next request.

    The first event is of kind `gap` if events that the caller asked for may be missing before the
    others: the master keeps a bounded number in memory, and none across a restart.
    """

    events: list[EventRecord]
    cursor: str
