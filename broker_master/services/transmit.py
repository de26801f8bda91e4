"""Sends attempts to their agents, and again until they are acknowledged."""

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog

from broker_client.runtime import tracing
from broker_client.runtime.signals import Signal
from broker_master.core import attempts, ends
from broker_master.core.budgets import Budgets
from broker_master.core.commands import Attempt, Command
from broker_master.core.connections import call_limits
from broker_master.core.effects import (
    Acknowledged,
    Cancel,
    Declined,
    Effect,
    Send,
    Settle,
    Unanswered,
)
from broker_master.core.liveness import Presence
from broker_master.core.phases import HELD
from broker_master.core.refusals import is_passing
from broker_master.plane import Plane
from broker_master.services.permits import note_objection, objection
from broker_master.services.settle import Done, Settler
from schemas import codec, subjects
from schemas.faults import Unreachable, known_code
from schemas.messages.work import Control, Run
from schemas.states import Liveness

log = structlog.get_logger()

# Unanswered transmissions after which an agent gets nothing else until it answers one.
_UNANSWERED = 2


class Transmitter:
    """One transmission and `resends` more, `ack_s` apart; then the attempt is undeliverable.

    A silent agent gets nothing: its attempts are unknown until it returns or is given up.
    """

    name = "transmit"

    def __init__(self, plane: Plane, settler: Settler, budgets: Budgets) -> None:
        self._plane = plane
        self._budgets = budgets
        self._settler = settler
        self._due: deque[tuple[float, str, int, int]] = deque()
        self._token = 0
        self._is_cut_off = False
        # With an agent that beats and leaves transmissions unanswered.
        self.on_untaken: Signal[[str]] = Signal()

    def perform(
        self, command: Command, effects: Iterable[Effect], done: Done | None = None
    ) -> None:
        """Perform the effects of an event of `command`. done: called once its end is durable."""
        for effect in effects:
            match effect:
                case Send():
                    self._send(command, effect.attempt)
                case Cancel():
                    self._cancel(command, effect.attempt)
                case Settle():
                    self._settler.settle(command, effect, done)
                case Acknowledged():
                    now = self._plane.clock.now()
                    self._plane.telemetry.measures.on_acknowledged(command, effect.attempt, now)
                case Unanswered():
                    self._plane.count("resent")
                    if effect.attempt.sent >= _UNANSWERED:
                        self.on_untaken(effect.attempt.agent)
                case Declined():
                    self._plane.count("rejected", known_code(effect.code))
                    if is_passing(effect.code):
                        self._settler.on_refused(effect.agent)

    def send(self, command: Command) -> None:
        """Send the newest attempt, or end it if it was cancelled or barred before."""
        self.perform(command, attempts.on_ready(command, self._plane.clock.now()))

    def _send(self, command: Command, attempt: Attempt) -> None:
        """Transmit an attempt whose `assigned` is durable, and await its acknowledgement."""
        plane = self._plane
        refused = objection(plane, command) if attempt.sent == 0 else None
        if refused is not None:
            reason = note_objection(plane, command, refused)
            self.perform(command, ends.on_barred(command, reason, plane.clock.now()))
            return
        presence = plane.roster.get(attempt.agent)
        if presence is None:
            return
        if attempt.sent == 0 and presence.has_left:
            self.perform(command, ends.on_left(command, attempt, plane.clock.now()))
            return
        attempts.on_transmitted(command, attempt, self._next_token())
        self._budgets.earn(attempt.agent)
        plane.telemetry.measures.on_sent(command, attempt, plane.clock.now())
        self._due.append(
            (plane.clock.elapsed() + plane.timers.ack_s, command.id, attempt.number, attempt.sent)
        )
        run = self._run(command, attempt, presence)
        self._publish(presence.group, attempt.agent, "run", codec.encode(run))

    def _run(self, command: Command, attempt: Attempt, presence: Presence) -> Run:
        accepted = command.accepted
        call = call_limits(accepted, self._plane.registry.connections.get(accepted.connection))
        return Run(
            command=command.id,
            attempt=attempt.number,
            epoch=self._plane.master.epoch,
            incarnation=presence.incarnation,
            beat_seq=presence.beat_seq,
            token=attempt.token,
            action=accepted.action,
            args=accepted.args,
            output_limit_bytes=(
                call.output_bytes or self._plane.settings.limits.output_bytes_per_attempt
            ),
            client=accepted.client,
            trace=tracing.checked(accepted.labels.get(tracing.HEADER, "")),
            kill_after_s=accepted.kill_after_s,
            connection=accepted.connection,
            timeout_s=call.timeout_s,
            key=(accepted.key or accepted.id) if accepted.connection else "",
        )

    def _cancel(self, command: Command, attempt: Attempt) -> None:
        """Ask the agent to end an attempt; repeated with each tick until it has ended."""
        presence = self._plane.roster.get(attempt.agent)
        if presence is None or presence.liveness is not Liveness.LIVE:
            return
        control = Control(
            kind="cancel",
            epoch=self._plane.master.epoch,
            token=self._next_token(),
            command=command.id,
            attempt=attempt.number,
        )
        self._publish(presence.group, attempt.agent, "control", codec.encode(control))
        due = self._plane.clock.elapsed() + self._plane.timers.ack_s
        self._due.append((due, command.id, attempt.number, 0))

    def _publish(self, group: str, agent: str, kind: str, payload: bytes) -> None:
        try:
            self._plane.link.publish_nowait(subjects.down(group, agent, kind), payload)
        except Unreachable:
            # Not lost: the deadline noted above sends it again.
            self._plane.count("publish_failed", kind)

    def _next_token(self) -> str:
        self._token += 1
        return f"{self._token:x}"

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await asyncio.sleep(min(0.5, self._plane.timers.ack_s / 5))
            self.tick()

    def tick(self) -> None:
        """Send again, or end as undeliverable, each attempt past its deadline."""
        now_s = self._plane.clock.elapsed()
        if not self._plane.link.is_connected:
            self._is_cut_off = True
            return
        if self._is_cut_off:
            self._is_cut_off = False
            self._begin_anew(now_s)
        while self._due and self._due[0][0] <= now_s:
            _, command_id, number, sent = self._due.popleft()
            command = self._plane.book.get(command_id)
            attempt = command.find(number) if command is not None else None
            if command is None or attempt is None or command.phase not in HELD:
                continue
            if sent == 0 and attempt.is_open:
                self._cancel(command, attempt)
            elif sent and self._is_live(attempt.agent):
                self._on_unanswered(command, attempt, sent)

    def _begin_anew(self, now_s: float) -> None:
        """Restart every deadline: the master was disconnected and could not receive.

        An attempt after its last transmission may have been acknowledged meanwhile: it is sent once
        more before it is undeliverable.
        """
        due_s, resends = now_s + self._plane.timers.ack_s, self._plane.timers.resends
        entries, self._due = self._due, deque()
        for _, command_id, number, sent in entries:
            command = self._plane.book.get(command_id)
            attempt = command.find(number) if command is not None else None
            if attempt is not None:
                attempts.on_cut_off(attempt, sent=sent, resends=resends)
            self._due.append((due_s, command_id, number, min(sent, resends)))

    def _is_live(self, agent: str) -> bool:
        presence = self._plane.roster.get(agent)
        return presence is not None and presence.liveness is Liveness.LIVE

    def _on_unanswered(self, command: Command, attempt: Attempt, sent: int) -> None:
        now, resends = self._plane.clock.now(), self._plane.timers.resends
        effects = attempts.on_unanswered(command, attempt, sent=sent, resends=resends, now=now)
        self.perform(command, effects)
