"""Hears what agents say, and hands each message to whom it is for."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from broker_client.runtime.frames import Msg
from broker_master.plane import Plane
from broker_master.services.gate import Gate
from broker_master.services.presence import PresenceService
from broker_master.services.reports import Reports
from schemas import subjects
from schemas.faults import MeshError, Refused

log = structlog.get_logger()

Handler = Callable[[subjects.Up, bytes], None]


class Upstream:
    """Output is not among it: that goes straight into its stream."""

    name = "upstream"

    def __init__(
        self, plane: Plane, gate: Gate, presence: PresenceService, reports: Reports
    ) -> None:
        self._plane = plane
        self._gate = gate
        self._handlers: dict[str, Handler] = {
            "beat": presence.on_beat,
            "hello": presence.on_hello,
            "report": reports.on_report,
            "reply.*": reports.on_reply,
        }

    async def run(self, ready: asyncio.Event) -> None:
        link = self._plane.link
        for kind, handler in self._handlers.items():
            link.subscribe(subjects.up("*", "*", kind), self._taking(handler, kind))
        await link.flush()
        ready.set()
        await asyncio.Event().wait()

    def _taking(self, handler: Handler, kind: str) -> Callable[[Msg], None]:
        is_urgent = kind != "beat"
        gate, count = self._gate, self._plane.count

        def shed(_: MeshError) -> None:
            """Agents say it again."""

        def take(msg: Msg) -> None:
            up = subjects.parse_up(msg.subject)
            if up is None:
                count("malformed", "subject")
                return
            hand_on = partial(self._hand_on, handler, up, msg.data)
            gate.guard(up.agent, len(msg.data), hand_on, shed, is_urgent=is_urgent)

        return take

    def _hand_on(self, handler: Handler, up: subjects.Up, payload: bytes) -> None:
        try:
            handler(up, payload)
        except Refused as error:
            # One agent's bad message: counted and dropped, nobody else notices.
            self._plane.count("malformed", error.code)
            log.warning("message_refused", agent=up.agent, kind=up.kind, error=str(error))
