"""Keeps the event stream small: carries long-lived commands forward and purges ended ones."""

import asyncio
from typing import Final

import structlog

from broker_client.runtime.streams import Streams
from broker_master.core.checkpoint import Checkpoint, Plan
from broker_master.plane import Plane
from broker_master.store.facts import EVENTS, HISTORY
from schemas.faults import MeshError

log = structlog.get_logger()

# Part of the stream's limit that carried facts may occupy twice: less than the reserve for ends and
# cancels.
_TWICE_PART: Final = 0.01


class Checkpointer:
    name = "checkpoint"

    def __init__(self, plane: Plane, streams: Streams) -> None:
        self._plane = plane
        self._streams = streams
        self._checkpoint = Checkpoint(plane.settings.retention.facts_s)
        self._twice_bytes = int(plane.settings.limits.event_bytes * _TWICE_PART)

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        retention = self._plane.settings.retention
        while True:
            # Ten marks per window, so that little more than a window is kept.
            await asyncio.sleep(min(retention.checkpoint_s, retention.facts_s / 10))
            try:
                await self.step()
            except MeshError as error:
                # The stream only grows until then; the next round purges further.
                log.warning("checkpoint_delayed", error=str(error))

    async def step(self) -> None:
        """Mark the head of the stream, and purge facts older than the window."""
        now_s = self._plane.clock.elapsed()
        info = await self._streams.info(EVENTS)
        self._checkpoint.mark(now_s, info.last_seq)
        plan = self._checkpoint.plan(now_s, self._plane.book)
        if plan is None:
            return
        if plan.purge_to > info.first_seq and await self._carry(plan):
            await self._streams.purge_up_to(EVENTS, plan.purge_to - 1)
            log.debug("stream_purged", up_to=plan.purge_to, carried=len(plan.carry))
        history = await self._streams.info(HISTORY)
        await self._plane.readmodel.trim(history.first_seq)

    async def _carry(self, plan: Plan) -> bool:
        """Write the facts of long-lived commands again at the head; False if one could not be.

        Each is expected at the sequence of its old copy, so a fact is never doubled and a replaced
        master carries nothing. The old copy is removed soon after, so that carrying never fills a
        nearly full stream.
        """
        twice = self._twice_bytes
        for subject, sequence in plan.carry:
            if twice >= self._twice_bytes:
                await self._streams.purge_up_to(EVENTS, sequence - 1)
                twice = 0
            command = self._plane.book.get(subject.split(".")[3])
            if command is None or command.facts.get(subject) != sequence:
                continue
            payload = await self._plane.facts.payload_at(sequence)
            if payload is None:
                log.error("fact_missing", subject=subject, sequence=sequence)
                return False
            moved = await self._plane.facts.rewrite(subject, payload, sequence)
            command.keep_place(subject, moved)
            twice += len(payload)
        return True
