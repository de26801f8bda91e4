"""Receives messages of agents, and passes each to its service."""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

import structlog

from broker_client.runtime.frames import Msg
from broker_master.core.budgets import Budgets, DroppedMessages, Kind
from broker_master.plane import Plane
from broker_master.services.gate import Gate
from broker_master.services.inputs import Inputs
from broker_master.services.presence import PresenceService
from broker_master.services.profiles import ProfileReceiver
from broker_master.services.reports import Reports
from schemas import subjects
from schemas.faults import MeshError, Refused

log = structlog.get_logger()

# Interval of looks for agents far above their limits.
_LOOK_S: Final = 10.0
# Subjects in the cache, of each kind.
_SUBJECTS: Final = 4096
_BUDGETS: Final[dict[str, Kind]] = {
    "beat": "beat",
    "hello": "hello",
    "report": "work",
    "reply.*": "work",
    "profiles": "rest",
    "input": "work",
}

Handler = Callable[[subjects.Up, bytes], None]


class Upstream:
    """Receives all but output, which goes straight into its stream."""

    name = "upstream"

    def __init__(
        self,
        plane: Plane,
        gate: Gate,
        presence: PresenceService,
        reports: Reports,
        profiles: ProfileReceiver,
        budgets: Budgets,
        inputs: Inputs,
    ) -> None:
        self._plane = plane
        self._budgets = budgets
        self._gate = gate
        self._handlers: dict[str, Handler] = {
            "beat": presence.on_beat,
            "hello": presence.on_hello,
            "report": reports.on_report,
            "reply.*": reports.on_reply,
            "profiles": profiles.on_profiles,
            "input": inputs.on_wanted,
        }

    async def run(self, ready: asyncio.Event) -> None:
        link = self._plane.link
        for kind, handler in self._handlers.items():
            link.subscribe(subjects.up("*", "*", kind), self._taking(handler, kind))
        await link.flush()
        ready.set()
        while True:
            await asyncio.sleep(_LOOK_S)
            for flood in self._budgets.dropped():
                self._tell(flood)

    def _tell(self, flood: DroppedMessages) -> None:
        kinds = ", ".join(f"{count} of kind {kind}" for kind, count in flood.dropped.items())
        detail = f"says more than it may: not looked at {kinds}; see what runs on its host, or shut"
        self._plane.note(
            "agent.flood",
            flood.agent,
            by=flood.agent,
            actor="agent",
            result="alarm",
            detail=f"{detail} it out: mesh agent revoke {flood.agent}",
        )

    def _taking(self, handler: Handler, kind: str) -> Callable[[Msg], None]:
        is_urgent = kind != "beat"
        budget = _BUDGETS[kind]
        gate, count, clock = self._gate, self._plane.count, self._plane.clock
        budgets, shut_out = self._budgets, self._plane.shut_out
        parse = subjects.parse_up
        if "*" not in kind:
            # An agent has one such subject, and a flood of them costs less.
            parse = lru_cache(maxsize=_SUBJECTS)(parse)

        def shed(_: MeshError) -> None:
            """Drop a message: agents send it again."""

        def take(msg: Msg) -> None:
            up = parse(msg.subject)
            if up is None:
                count("malformed", "subject")
                return
            size = len(msg.data)
            if up.agent in shut_out:
                count("shed", "rate")
                return
            if not budgets.take(up.agent, budget, size, clock.elapsed()):
                count("shed", "rate")
                return
            hand_on = partial(self._hand_on, handler, up, msg.data)
            gate.guard(up.agent, size, hand_on, shed, is_urgent=is_urgent)

        return take

    def _hand_on(self, handler: Handler, up: subjects.Up, payload: bytes) -> None:
        try:
            handler(up, payload)
        except Refused as error:
            # A bad message of one agent: counted and dropped, no other agent is affected.
            self._plane.count("malformed", error.code)
            log.warning("message_refused", agent=up.agent, kind=up.kind, error=str(error))
