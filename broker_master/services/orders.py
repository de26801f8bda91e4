"""Orders to agents with answers that a caller awaits."""

import asyncio
import math
from typing import Final, NamedTuple

from broker_master.plane import Plane
from schemas import codec, subjects
from schemas.faults import FAULTS, Refused, Unreachable
from schemas.messages.work import Control, ControlReply
from schemas.states import Liveness

# Tells these tokens from the transmitter's, whose answers are not awaited.
_PREFIX: Final = "o-"
# A ping without an answer for this time may be lost: the next caller sends another.
_PING_SHARED_S: Final = 1.0


class _Ping(NamedTuple):
    """A ping under way. sent_s: a reading of the monotonic clock."""

    sent_s: float
    answer: "asyncio.Future[ControlReply]"


class Orders:
    """Sends one `control` and, like a run, repeats it until it is answered."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._waiting: dict[tuple[str, str], asyncio.Future[ControlReply]] = {}
        self._pings: dict[str, _Ping] = {}
        self._count = 0

    async def give(
        self, agent: str, kind: str, *, ca_pem: str = "", within_s: float = math.inf
    ) -> ControlReply:
        """Return the agent's answer to an idempotent order.

        within_s: deadline of the answer, where the caller has one before the last resend is due.
        Raises Refused: `agent_silent`, or the agent's own fault; Unreachable (`no_answer`).
        """
        presence = self._plane.roster.get(agent)
        if presence is None or presence.liveness is not Liveness.LIVE:
            raise Refused("agent_silent", f"agent {agent} is not connected")
        token, payload = self._order(kind, ca_pem)
        answer = self._expect(agent, token)
        ack_s, left_s = self._plane.timers.ack_s, within_s
        try:
            for _ in range(1 + self._plane.timers.resends):
                self._send(presence.group, agent, payload)
                done, _ = await asyncio.wait({answer}, timeout=min(ack_s, left_s))
                if done:
                    return _checked(answer.result())
                left_s -= ack_s
                if left_s <= 0:
                    break
        finally:
            del self._waiting[agent, token]
        raise Unreachable(
            "no_answer", f"agent {agent} does not answer, and may still get the order later"
        )

    async def ping(self, agent: str, group: str, timeout_s: float) -> float | None:
        """Seconds until the agent answers; None if it does not in `timeout_s`.

        Any answer counts: an agent of 0.1.0 does not know the order. Concurrent callers share one
        ping per agent.
        """
        now_s = self._plane.clock.elapsed()
        shared = self._pings.get(agent)
        if shared is not None and now_s - shared.sent_s < _PING_SHARED_S:
            return await self._answered_after(shared, timeout_s)
        token, payload = self._order("ping")
        ping = self._pings[agent] = _Ping(now_s, self._expect(agent, token))
        try:
            self._send(group, agent, payload)
            return await self._answered_after(ping, timeout_s)
        finally:
            del self._waiting[agent, token]
            if self._pings.get(agent) is ping:
                del self._pings[agent]

    async def _answered_after(self, ping: _Ping, timeout_s: float) -> float | None:
        """Seconds from the sending of `ping` to its answer, if that comes in time."""
        done, _ = await asyncio.wait({ping.answer}, timeout=timeout_s)
        return self._plane.clock.elapsed() - ping.sent_s if done else None

    def _order(self, kind: str, ca_pem: str = "") -> tuple[str, bytes]:
        """The token of an order, and its message."""
        self._count += 1
        token = f"{_PREFIX}{self._count:x}"
        control = Control(kind=kind, epoch=self._plane.master.epoch, token=token, ca_pem=ca_pem)
        return token, codec.encode(control)

    def _expect(self, agent: str, token: str) -> "asyncio.Future[ControlReply]":
        answer: asyncio.Future[ControlReply] = asyncio.get_running_loop().create_future()
        self._waiting[agent, token] = answer
        return answer

    def _send(self, group: str, agent: str, payload: bytes) -> None:
        try:
            self._plane.link.publish_nowait(subjects.down(group, agent, "control"), payload)
        except Unreachable:
            self._plane.count("publish_failed", "control")

    def on_reply(self, agent: str, token: str, reply: ControlReply) -> bool:
        """Pass an answer on; False if no caller awaits it."""
        answer = self._waiting.get((agent, token))
        if answer is None or answer.done():
            return False
        answer.set_result(reply)
        return True


def _checked(reply: ControlReply) -> ControlReply:
    if reply.code:
        # An unknown code of the agent would have no advice.
        raise Refused(reply.code if reply.code in FAULTS else "internal", reply.message)
    return reply
