"""Reports skipped entries: in the log, and as an alarm in the audit trail."""

import asyncio
from typing import Final

import structlog

from broker_master.plane import Plane
from schemas.counting import counted

log = structlog.get_logger()

_LOOK_S: Final = 1.0
# After that there may be many more of them; they are one alarm.
_QUIET_S: Final = 60.0


class StrayAlarm:
    name = "strays"

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            told = self.tell()
            await asyncio.sleep(_QUIET_S if told else _LOOK_S)

    def tell(self) -> bool:
        found = self._plane.telemetry.strays.take_untold()
        for stray in found:
            detail = (
                f"{counted(stray.number, 'message')} skipped, the last one at sequence"
                f" {stray.seq} on {stray.subject}: {stray.why}"
            )
            log.error("entry_unreadable", stream=stray.stream, reason=detail)
            self._plane.note("store.unreadable", stray.stream, result="alarm", detail=detail)
        return bool(found)
