"""Hears what agents say, and hands each message to whom it is for."""

import asyncio
from collections.abc import Callable

import structlog

from broker_client.runtime.frames import Msg
from broker_master.plane import Plane
from broker_master.services.presence import PresenceService
from broker_master.services.reports import Reports
from schemas import subjects
from schemas.faults import Refused

log = structlog.get_logger()

Handler = Callable[[subjects.Up, bytes], None]


class Upstream:
    """Output is not among it: that goes straight into its stream."""

    name = "upstream"

    def __init__(self, plane: Plane, presence: PresenceService, reports: Reports) -> None:
        self._plane = plane
        self._handlers: dict[str, Handler] = {
            "beat": presence.on_beat,
            "hello": presence.on_hello,
            "report": reports.on_report,
            "reply.*": reports.on_reply,
        }

    async def run(self, ready: asyncio.Event) -> None:
        link = self._plane.link
        for kind, handler in self._handlers.items():
            link.subscribe(subjects.up("*", "*", kind), self._taking(handler))
        await link.flush()
        ready.set()
        await asyncio.Event().wait()

    def _taking(self, handler: Handler) -> Callable[[Msg], None]:
        def take(msg: Msg) -> None:
            up = subjects.parse_up(msg.subject)
            if up is None:
                self._plane.count("malformed", "subject")
                return
            try:
                handler(up, msg.data)
            except Refused as error:
                # One agent's bad message: counted and dropped, nobody else notices.
                self._plane.count("malformed", error.code)
                log.warning("message_refused", agent=up.agent, kind=up.kind, error=str(error))

        return take
