"""Finds agents that beat but take no work: idle ones get a no-op from time to time.

A probe is a `run` request like any other, through the agent's journal and its reports, but belongs
to no command: the master stores nothing of it. Any answer to it is a sign of life.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from broker_master.core.liveness import Presence
from broker_master.plane import Plane
from schemas import codec, subjects
from schemas.faults import Unreachable
from schemas.messages.work import PROBE_ATTEMPT, Run
from schemas.states import Liveness

# Unanswered probes, each for `ack_s`, before an agent is called stuck.
_UNANSWERED: Final = 2
_NO_ARGS: Final = msgspec.Raw(codec.encode({}))


class _Asked(msgspec.Struct):
    since_s: float
    incarnation: str
    sent_s: float
    sent: int = 1


class Prober:
    """Sends probes to idle agents.

    on_untaken: called with an agent that has left its probes unanswered.
    """

    name = "probe"

    def __init__(self, plane: Plane, on_untaken: Callable[[str], None]) -> None:
        self._plane = plane
        self._on_untaken = on_untaken
        self._asked: dict[str, _Asked] = {}
        self._number = 0

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        timers = self._plane.timers
        while True:
            period_s = min(timers.ack_s, timers.probe_s) / 2
            await asyncio.sleep(period_s)
            if self._plane.link.is_connected:
                self.tick(period_s)

    def tick(self, period_s: float) -> None:
        """Probe the due agents, at a rate that gives each its turn within the period."""
        now_s, timers = self._plane.clock.elapsed(), self._plane.timers
        presences = list(self._plane.roster)
        at_once = 1 + int(2 * len(presences) * period_s / timers.probe_s)
        for presence in presences:
            asked = self._asked.get(presence.agent)
            if asked is not None:
                self._follow(presence, asked, now_s)
            elif _is_idle(presence) and now_s - presence.took_s >= timers.probe_s and at_once > 0:
                at_once -= 1
                self._asked[presence.agent] = _Asked(now_s, presence.incarnation, now_s)
                self._send(presence)

    def _follow(self, presence: Presence, asked: _Asked, now_s: float) -> None:
        answered = presence.took_s >= asked.since_s or presence.incarnation != asked.incarnation
        if answered or not _is_idle(presence):
            del self._asked[presence.agent]
        elif now_s - asked.sent_s >= self._plane.timers.ack_s:
            if asked.sent >= _UNANSWERED:
                self._on_untaken(presence.agent)
            asked.sent += 1
            asked.sent_s = now_s
            self._send(presence)

    def _send(self, presence: Presence) -> None:
        self._number += 1
        name = f"probe-{self._plane.master.epoch}-{self._number}"
        run = Run(
            command=name,
            attempt=PROBE_ATTEMPT,
            epoch=self._plane.master.epoch,
            incarnation=presence.incarnation,
            beat_seq=presence.beat_seq,
            token=name,
            action="noop",
            args=_NO_ARGS,
        )
        try:
            subject = subjects.down(presence.group, presence.agent, "run")
            self._plane.link.publish_nowait(subject, codec.encode(run))
        except Unreachable:
            self._plane.count("publish_failed", "run")


def _is_idle(presence: Presence) -> bool:
    """Whether it ought to answer: silent and draining agents have a known reason."""
    return (
        presence.liveness is Liveness.LIVE
        and presence.reconciled
        and not (presence.deaf or presence.draining)
    )
