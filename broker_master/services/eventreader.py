"""Reads events for clients, and waits for the next ones; each transport of the API uses it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

from broker_master.core.eventlog import EventFilter, EventLog, Gap, MeshEvent
from broker_master.core.rights import check_right, may_see
from broker_master.plane import Plane
from schemas.faults import Refused
from schemas.listed import EVENTS
from schemas.messages.api import EventList, EventRecord, EventsAnswer
from schemas.messages.api.events import EVENT_DETAIL_LEN
from schemas.messages.audit import AuditEntry
from schemas.messages.registry import ClientEntry
from schemas.moments import rfc3339
from schemas.texts import cut_text
from schemas.verbs import EVENTS_LIST

# Requests that wait for events: of one client, and of all.
WAITS_PER_CLIENT: Final = 8
_WAITS_MAX: Final = 400
# Events of so many seconds are looked at together, so that a busy mesh wakes no reader for each.
_GATHER_S: Final = 0.1
# Acts of the audit trail on certificates, and the event that each is when it was done.
_CERTIFICATES: Final = {
    "agent.enrol": "issued",
    "agent.renew": "issued",
    "agent.confirm": "renewed",
    "agent.revoke": "revoked",
    "client.create": "issued",
    "client.renew": "renewed",
    "client.revoke": "revoked",
    "master.renew": "renewed",
}


class EventReader:
    """Answers requests for events, those that wait included, within a share per client."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._log: EventLog = plane.telemetry.eventlog
        self._waits: Counter[str] = Counter()
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_waking = False
        self._log.on_added.listen(self._on_added)

    async def read(self, caller: ClientEntry, request: EventList) -> EventsAnswer:
        """Events from the cursor on; waits up to `wait_s` for the first that matches.

        Raises Refused: `filter_invalid`, `field_invalid` for a cursor, `rate_limited` if too many
        of the caller's requests wait already, or that its rights have ended meanwhile.
        """
        wanted = EventFilter(
            EVENTS.parse(request.filter, self._plane.clock.now()),
            lambda group: may_see(caller, group),
            0.0 if request.cursor is not None else request.since or 0.0,
        )
        start, gap = self._log.start(request.cursor, wanted)
        if request.from_now and request.cursor is None:
            start, gap = self._log.next, None
        end_s = self._plane.clock.elapsed() + request.wait_s
        while True:
            found, start = await self._scan(start, wanted, request.limit)
            left_s = end_s - self._plane.clock.elapsed()
            if found or gap is not None or left_s <= 0 or self._is_first_of_follow(request):
                records = [*([] if gap is None else [self._gap(gap)]), *map(_record, found)]
                return EventsAnswer(events=records, cursor=self._log.cursor(start))
            await self._wait(caller.name, left_s)
            self._check_still(caller)

    @staticmethod
    def _is_first_of_follow(request: EventList) -> bool:
        """A reader of what comes has to hold a cursor before anything happens to its connection."""
        return request.from_now and request.cursor is None

    async def _scan(
        self, start: int, wanted: EventFilter, limit: int
    ) -> tuple[list[MeshEvent], int]:
        """Look on until something matches or the end is reached; the loop serves others between."""
        while True:
            part = self._log.read(start, wanted, limit)
            if part.events or part.is_end:
                return part.events, part.next
            start = part.next
            await asyncio.sleep(0)

    async def _wait(self, client: str, wait_s: float) -> None:
        if self._waits[client] >= WAITS_PER_CLIENT or len(self._waiting) >= _WAITS_MAX:
            count = self._waits[client]
            raise Refused("rate_limited", f"{client} has {count} requests that wait for events")
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits[client] += 1
        self._waiting.add(woken)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken, wait_s)
        finally:
            self._waiting.discard(woken)
            self._waits[client] -= 1
            if not self._waits[client]:
                del self._waits[client]

    def _check_still(self, caller: ClientEntry) -> None:
        """The client may have been revoked while it waited."""
        now = self._plane.registry.clients.get(caller.name)
        if now is None or now.groups != caller.groups:
            raise Refused("client_disabled", f"client {caller.name} has changed")
        check_right(now, EVENTS_LIST.noun, EVENTS_LIST.verb)

    def _on_added(self) -> None:
        if self._waiting and not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

    def _gap(self, gap: Gap) -> EventRecord:
        detail = (
            "the master started: events before are not known"
            if gap.what == "restarted"
            else "more happened than the master keeps: events before are missing"
        )
        return EventRecord(
            at=rfc3339(gap.at),
            kind="gap",
            name=self._plane.master.mesh,
            group="",
            what=gap.what,
            detail=detail,
        )


def _record(event: MeshEvent) -> EventRecord:
    return EventRecord(
        at=rfc3339(event.at),
        kind=event.kind,
        name=event.name,
        group=event.group,
        what=event.what,
        was=event.was,
        agent=event.agent,
        client=event.client,
        cause=event.cause,
        detail=cut_text(event.detail, EVENT_DETAIL_LEN),
    )


def certificate_events(plane: Plane) -> Callable[[AuditEntry], None]:
    """The listener that notes what the audit trail says of certificates as events."""

    def note(entry: AuditEntry) -> None:
        what = _CERTIFICATES.get(entry.action)
        if what is None or entry.result == "unchanged":
            return
        plane.telemetry.eventlog.add(
            "certificate",
            entry.target or (entry.by if entry.actor == "client" else plane.master.mesh),
            entry.group,
            what if entry.result == "done" else "refused",
            at=entry.at,
            client=entry.by if entry.actor == "client" else "",
            detail=entry.detail,
        )

    return note
