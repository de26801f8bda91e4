"""Heartbeats, echoes and the handshake; and the effects of silence on an agent's commands."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from broker_master.core import admin, attempts, ends
from broker_master.core.commands import Attempt, Command
from broker_master.core.liveness import Change, Presence, Silence
from broker_master.core.measures import missed_beats
from broker_master.core.meetings import OPEN, Meeting
from broker_master.core.phases import Phase
from broker_master.core.standing import current_certificate
from broker_master.plane import Plane
from broker_master.services.aftermath import Aftermath
from broker_master.services.assign import Assigner
from broker_master.services.forgotten import Forgotten
from broker_master.services.recall import Recall
from broker_master.services.settle import Settler
from schemas import codec, subjects
from schemas.faults import MeshError, Unreachable
from schemas.messages.actions import COMMON
from schemas.messages.liveness import (
    PROTOCOL,
    Beat,
    Details,
    Echo,
    Hello,
    TaskDecision,
    TaskStatus,
    Verdict,
    Welcome,
)
from schemas.messages.registry import AgentEntry
from schemas.states import BARRED, STATES, Liveness, State

log = structlog.get_logger()

_TICKS_PER_BEAT = 5
_SOON_S = 0.01
# Share of work of a flapping agent, as a part of its own.
_UNSTABLE_PART = 0.5


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Called with events of agents.

    want_address: an agent is back, perhaps with another address. on_change: the group of an agent
    whose status may have changed. on_trust: an agent and the digest of the authorities that it
    trusts. on_greeted: the first step of a handshake of an admitted agent.
    """

    want_address: Callable[[], None]
    on_change: Callable[[str], None]
    on_trust: Callable[[str, str], None]
    on_greeted: Callable[[subjects.Up, Hello], None]


class PresenceService:
    """Passes messages to the roster, answers agents, and applies changes to commands."""

    name = "presence"

    def __init__(
        self,
        plane: Plane,
        settler: Settler,
        assigner: Assigner,
        aftermath: Aftermath,
        listeners: Listeners,
    ) -> None:
        self._plane = plane
        self._settler = settler
        self._assigner = assigner
        self._want_address = listeners.want_address
        self.aftermath = aftermath
        self._forgotten = Forgotten(plane, settler)
        self._recall = Recall(plane, aftermath, self._on_unknown)
        # Given-up agents with tasks that may run on.
        self._held: set[str] = set()
        self._meetings: dict[str, Meeting] = {}
        # Lengths of silence of agents that beat again, before their handshake.
        self._silences: dict[str, float] = {}
        self._on_change = listeners.on_change
        self._on_trust = listeners.on_trust
        self._on_greeted = listeners.on_greeted

    # -- from the wire

    def on_beat(self, up: subjects.Up, payload: bytes) -> None:
        entry = self._entry(up)
        if entry is None:
            return
        beat = codec.decode(Beat, payload)
        plane = self._plane
        now_s = plane.clock.elapsed()
        self._measure(up, beat, now_s)
        self._apply(plane.roster.on_beat(up.agent, beat, now_s=now_s, at=plane.clock.now()))
        presence = plane.roster.get(up.agent)
        if presence is not None and beat.epoch != plane.master.epoch:
            self._on_other_epoch(presence, beat.epoch)
        elif presence is not None:
            presence.obeys = 0
        if presence is None or presence.incarnation != beat.incarnation or beat.goodbye:
            return
        self.sync_member(presence)
        self._echo(up, presence)

    def _on_other_epoch(self, presence: Presence, epoch: int) -> None:
        """Handle an agent that has obeyed another master: an earlier one, or a newer one."""
        if epoch > self._plane.master.epoch and presence.obeys != epoch:
            presence.obeys = epoch
            self._plane.count("epoch_refused")
            log.error("refused_by_agent", agent=presence.agent, obeys=epoch)
        elif self.aftermath.is_past(epoch):
            self.aftermath.note_past(presence)

    def call(self) -> None:
        """Announce the master's return: agents answer now, not with the next beat."""
        for presence in self._plane.roster:
            if presence.incarnation:
                self._echo(subjects.Up(presence.group, presence.agent, "beat", ()), presence)

    def _echo(self, up: subjects.Up, presence: Presence) -> None:
        echo = Echo(
            epoch=self._plane.master.epoch,
            incarnation=presence.incarnation,
            seq=presence.beat_seq,
            reconciled=presence.reconciled,
            profiles=self._plane.profiles.wants(presence),
        )
        self._publish(up, "echo", codec.encode(echo))

    def _measure(self, up: subjects.Up, beat: Beat, now_s: float) -> None:
        """Called before the roster takes in the beat, so that the ended silence is still known."""
        plane = self._plane
        presence = plane.roster.get(up.agent)
        missed = 0
        if presence is not None and presence.liveness is Liveness.LIVE:
            missed = missed_beats(now_s - presence.heard_s, plane.timers.beat_s)
        elif presence is not None:
            away_s = _away_s(presence, now_s, plane.clock.now())
            self._silences[up.agent] = max(away_s, self._silences.get(up.agent, 0.0))
        plane.telemetry.measures.on_beat(up.group, missed, beat.rtt_s)

    def on_hello(self, up: subjects.Up, payload: bytes) -> None:
        if self._is_arriving(up):
            self._plane.spawn(self._arrive(up, payload), up.agent)
            return
        entry = self._entry(up)
        hello = codec.decode(Hello, payload)
        if entry is None:
            self._refuse(up, hello, "agent_unknown", self._stranger(up))
            return
        if hello.protocol != PROTOCOL:
            reason = f"protocol {hello.protocol}; this master speaks {PROTOCOL}"
            self._refuse(up, hello, "protocol", reason)
        elif entry.admin in BARRED:
            self._refuse(up, hello, "agent_revoked", f"agent {up.agent} is {entry.admin}")
        elif self._has_expired(entry, hello.certificate_serial):
            self._refuse(up, hello, "certificate_expired", f"that of {up.agent} has ended")
        elif self._plane.roster.is_superseded(up.agent, hello.incarnation):
            self._refuse(up, hello, "superseded", self._successor(up.agent))
        elif hello.done:
            self._on_done(up, hello)
        else:
            self._on_hello(up, hello)

    def _on_hello(self, up: subjects.Up, hello: Hello) -> None:
        plane = self._plane
        now_s, at = plane.clock.elapsed(), plane.clock.now()
        before = plane.roster.get(up.agent)
        if before is not None and not before.greeted:
            self._meet(before, now_s, at)
        self._apply(plane.roster.on_hello(up.agent, hello, now_s=now_s, at=at))
        presence = plane.roster.get(up.agent)
        if presence is None or presence.incarnation != hello.incarnation:
            return
        entry = plane.registry.agent(up.agent)
        self.note_certificate(presence, entry, hello.certificate_serial)
        self._on_trust(up.agent, hello.trust)
        self._on_greeted(up, hello)
        decisions = [self._decide(up.agent, task) for task in hello.tasks]
        if meeting := self._meetings.get(up.agent):
            meeting.judge(hello.tasks, decisions)
        welcome = Welcome(
            epoch=plane.master.epoch,
            incarnation=hello.incarnation,
            timers=plane.timers,
            decisions=decisions,
            recall=self._recall.ask(up.agent, hello),
            urls=plane.master.urls,
        )
        asked = self._recall.still_asked(up.agent)
        self._forgotten.judge(presence, hello, self._open_attempts(up.agent), asked)
        self._publish(up, "welcome", codec.encode(welcome))

    def _meet(self, before: Presence, now_s: float, at: float) -> None:
        """Note the return of an agent, unless only the master has been away."""
        earlier_s = self._silences.pop(before.agent, 0.0)
        if before.silence is not Silence.UNHEARD:
            away_s = max(earlier_s, _away_s(before, now_s, at))
            self._meetings[before.agent] = Meeting(away_s, before.spool_bytes)

    def _on_done(self, up: subjects.Up, hello: Hello) -> None:
        plane = self._plane
        presence = plane.roster.get(up.agent)
        is_answer = presence is not None and presence.incarnation == hello.incarnation
        if is_answer and not self._recall.on_done(up.agent, hello):
            return  # the next echo carries no agreement, and the agent says hello again
        if presence is not None and is_answer:
            presence.addresses = hello.details.addresses
        self.aftermath.on_done(up.agent)
        changes = plane.roster.on_done(
            up.agent, hello.incarnation, now_s=plane.clock.elapsed(), at=plane.clock.now()
        )
        if changes:
            self._apply(changes)

    def _on_unknown(self, agent: str, command: Command, attempt: Attempt) -> None:
        presence = self._plane.roster.get(agent)
        if presence is not None:
            self._forgotten.deny(presence, command, attempt)

    def _refuse(self, up: subjects.Up, hello: Hello, code: str, reason: str) -> None:
        self._plane.count("handshake_refused", code)
        welcome = Welcome(
            epoch=self._plane.master.epoch,
            incarnation=hello.incarnation,
            refused=code,
            reason=reason,
        )
        self._publish(up, "welcome", codec.encode(welcome))

    def _successor(self, agent: str) -> str:
        """For a superseded session: where the newer one runs."""
        presence = self._plane.roster.get(agent)
        said = presence.details if presence is not None else Details()
        where = f"{said.host or 'an unknown host'} (pid {said.pid})"
        return f"a newer session of {agent} runs on {where}"

    def _stranger(self, up: subjects.Up) -> str:
        """For credentials of this mesh that are not in the registry, and the way back."""
        known = self._plane.registry.agents.get(up.agent)
        if known is not None:
            return (
                f"agent {up.agent} is of group {known.group} here, not of {up.group}: set it up"
                f" again with a token: mesh agent token {up.agent}, broker-agent setup"
            )
        return (
            f"the registry has no agent {up.agent}: it was deleted, or the master's state was"
            " restored from a backup that is older than the agent. Set it up again:"
            f" mesh agent create {up.agent} --group {up.group}, broker-agent setup"
        )

    def _entry(self, up: subjects.Up) -> AgentEntry | None:
        """The registry's entry of the sender, whose group must be that of the subject."""
        entry = self._plane.registry.agents.get(up.agent)
        if entry is None or entry.group != up.group:
            self._plane.count("unknown_agent")
            return None
        return entry

    def _has_expired(self, entry: AgentEntry, serial: str) -> bool:
        """By the master's clock; the agent's clock is not trusted."""
        now = self._plane.clock.now()
        return any(each.serial == serial and each.not_after <= now for each in entry.certificates)

    def note_certificate(self, presence: Presence, entry: AgentEntry, serial: str) -> None:
        """Note that the agent uses the certificate of this serial from now on."""
        presence.certificate_serial = serial
        certificate = current_certificate(entry, presence)
        presence.valid_until = certificate.not_after if certificate is not None else 0.0

    # -- moves to another group

    def _is_arriving(self, up: subjects.Up) -> bool:
        entry = self._plane.registry.agents.get(up.agent)
        return entry is not None and entry.group != up.group and entry.moving_to == up.group

    async def _arrive(self, up: subjects.Up, payload: bytes) -> None:
        """Complete a move: only credentials of the new group can send a hello there."""
        before = self._plane.registry.agent(up.agent).group
        try:
            await self._plane.registry.change_agent(
                up.agent, lambda entry: admin.arrive(entry, up.group)
            )
        except MeshError as error:
            # The agent says hello again.
            log.warning("arrival_delayed", agent=up.agent, error=str(error))
            return
        presence = self._plane.roster.get(up.agent)
        if presence is not None:
            presence.group, presence.is_moving = up.group, True
            self.sync_member(presence)
        log.info("agent_moved", agent=up.agent, from_group=before, group=up.group)
        for group in (before, up.group):
            self._on_change(group)
        self.on_hello(up, payload)

    # -- decisions of the handshake

    def _decide(self, agent: str, task: TaskStatus) -> TaskDecision:
        """Decide on one attempt of the agent. The facts decide, not the agent."""
        self.aftermath.adopt(agent, task)
        command = self._plane.book.get(task.command)
        attempt = command.find(task.attempt) if command is not None else None
        verdict: Verdict
        if command is None or attempt is None or attempt.agent != agent or not attempt.is_open:
            verdict = "kill" if task.state in OPEN else "report"
        elif task.state in OPEN:
            verdict = "keep"
            is_running = task.state != "accepted"
            before = command.state
            attempts.on_kept(command, attempt, self._plane.clock.now(), is_running=is_running)
            self._tell_move(command, before)
        else:
            verdict = "report"
            attempts.on_named_ended(command, attempt, STATES.get(task.state))
        return TaskDecision(command=task.command, attempt=task.attempt, verdict=verdict)

    # -- effects of changes

    def _apply(self, changes: list[Change]) -> None:
        for change in changes:
            presence = self._plane.roster.get(change.agent)
            if presence is None:
                continue
            log.info(
                "presence_changed",
                agent=change.agent,
                event_kind=change.event,
                silence=str(presence.silence),
            )
            plane = self._plane
            plane.telemetry.measures.on_change(
                change, presence, plane.timers, plane.clock.elapsed()
            )
            self.sync_member(presence)
            self._on_change(presence.group)
            if change.event == "goodbye":
                self._on_left(presence)
            if change.event in ("suspected", "goodbye", "expired"):
                self._on_silent(presence)
            elif change.event == "given_up":
                self._give_up_due(presence)
            elif change.event == "returned":
                self._on_returned(presence)
            elif change.event == "takes":
                self._assigner.fill(presence.agent)
            elif change.event == "duplicate":
                self._on_duplicate(presence)

    def _on_duplicate(self, presence: Presence) -> None:
        """Alarm: one identity runs in two places; one of them is a copy or a thief."""
        agent = presence.agent
        here, there = presence.details.host or "an unknown host", presence.rival_host
        frozen = "; it gets no work while they supersede each other" if presence.frozen else ""
        self._plane.count("duplicate_identity")
        log.warning(
            "duplicate_identity", agent=agent, newer=here, older=there, frozen=presence.frozen
        )
        self._plane.note(
            "agent.duplicate",
            agent,
            by=agent,
            actor="agent",
            result="alarm",
            detail=f"its identity lives on {here} (newer) and on {there}{frozen}; stop one, or"
            f" shut both out and set one up: mesh agent revoke {agent}, mesh agent token {agent}",
        )

    def sync_member(self, presence: Presence) -> None:
        """Update the dispatcher: whether this agent may be given work, and how much."""
        entry = self._plane.registry.agents.get(presence.agent)
        if entry is None:
            return
        ready = self._plane.judge(entry).takes_work
        unstable = presence.is_unstable(self._plane.clock.now())
        self._plane.dispatcher.set_member(
            presence.group,
            presence.agent,
            slots=presence.slots,
            ready=ready,
            traits=entry.traits,
            part=_UNSTABLE_PART if unstable else 1.0,
            actions=presence.actions - COMMON,
            profiles=self._plane.profiles.usable(presence),
        )

    def on_took(self, agent: str) -> None:
        plane = self._plane
        self._apply(plane.roster.on_took(agent, now_s=plane.clock.elapsed(), at=plane.clock.now()))

    def on_closed(self, name: str) -> None:
        """The last connection of an agent, or of a client, has ended."""
        self._apply(self._plane.roster.on_closed(name))

    def on_untaken(self, agent: str) -> None:
        self._apply(self._plane.roster.on_untaken(agent, at=self._plane.clock.now()))

    def _on_left(self, presence: Presence) -> None:
        """Requeue unacknowledged attempts of an agent that left without any work in hand."""
        if not presence.left_empty:
            return
        plane, now = self._plane, self._plane.clock.now()
        for command, attempt in self._open_attempts(presence.agent):
            # An attempt without a transmission is requeued once its record is durable.
            if command.phase is Phase.SENT and attempt.sent and command.id not in plane.doubtful:
                self._assigner.perform(command, ends.on_left(command, attempt, now))

    def _on_silent(self, presence: Presence) -> None:
        now = self._plane.clock.now()
        for command, attempt in self._open_attempts(presence.agent):
            before = command.state
            attempts.on_silent(command, attempt, now)
            self._tell_move(command, before)

    def _tell_move(self, command: Command, before: State) -> None:
        """Note the event that a command became `unknown`, or is known again."""
        if command.state is not before and State.UNKNOWN in (command.state, before):
            self._plane.tell_command(command)

    def _give_up_due(self, presence: Presence) -> None:
        """End attempts that cannot be running any more; others may outlive the silence."""
        silence_s = self._plane.clock.elapsed() - presence.heard_s
        self._held.discard(presence.agent)
        for command, attempt in self._open_attempts(presence.agent):
            if silence_s < self._plane.timers.lost_after_s(command.accepted.kill_after_s):
                self._held.add(presence.agent)
            else:
                self._settler.give_up(command, attempt)

    def _on_returned(self, presence: Presence) -> None:
        """Send unacknowledged attempts, deliver cancels, and note the first connection."""
        entry = self._plane.registry.agents.get(presence.agent)
        if entry is not None and not entry.connected:
            self._plane.spawn(self._mark_connected(presence.agent), presence.agent)
        self._want_address()
        meeting = self._meetings.pop(presence.agent, None)
        if meeting is not None and entry is not None and entry.connected:
            presence.returned = meeting
            log.info("agent_returned", agent=presence.agent, story=meeting.told())
        now = self._plane.clock.now()
        for command, attempt in self._open_attempts(presence.agent):
            is_doubtful = command.id in self._plane.doubtful
            before = command.state
            effects = attempts.on_returned(command, attempt, now, is_doubtful=is_doubtful)
            self._tell_move(command, before)
            self._assigner.perform(command, effects)
        self._assigner.fill(presence.agent)

    async def _mark_connected(self, agent: str) -> None:
        try:
            at = self._plane.clock.now()
            await self._plane.registry.change_agent(
                agent, lambda entry: msgspec.structs.replace(entry, connected=True, joined_at=at)
            )
        except MeshError as error:
            # Shown as awaiting setup until the next handshake tries it again.
            log.warning("first_connection_unrecorded", agent=agent, error=str(error))

    def _open_attempts(self, agent: str) -> list[tuple[Command, Attempt]]:
        return [
            (command, attempt)
            for command in self._plane.book
            if (attempt := command.open_attempt) is not None and attempt.agent == agent
        ]

    def _publish(self, up: subjects.Up, kind: str, payload: bytes) -> None:
        try:
            self._plane.link.publish_nowait(subjects.down(up.group, up.agent, kind), payload)
        except Unreachable:
            # The agent beats, or says hello, again.
            self._plane.count("publish_failed", kind)

    # -- time

    def _note_own_pause(self, since_look_s: float, now_s: float) -> None:
        """Whether this process was stopped, or its host suspended: the silence is its own then."""
        timers, roster = self._plane.timers, self._plane.roster
        if since_look_s < timers.beat_s or roster.is_cut_off:
            return
        roster.on_slept(since_look_s, now_s=now_s)
        if since_look_s >= timers.suspect_s:
            log.warning("master_slept", for_s=round(since_look_s, 1))
            roster.on_rejoined(now_s=now_s)

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        clock, roster, timers = self._plane.clock, self._plane.roster, self._plane.timers
        looked_s = clock.elapsed()
        while True:
            # An agent whose certificate has ended gets no new work from that moment on.
            ends_s = max(_SOON_S, roster.next_expiry() - clock.now())
            await asyncio.sleep(min(timers.beat_s / _TICKS_PER_BEAT, ends_s))
            now_s = clock.elapsed()
            self._note_own_pause(now_s - looked_s, now_s)
            looked_s = now_s
            self._apply(roster.tick(now_s=now_s, at=clock.now()))
            self._forgotten.tick()
            self.aftermath.tick()
            for agent in list(self._held):
                presence = roster.get(agent)
                if presence is None or not presence.given_up:
                    self._held.discard(agent)
                elif not roster.is_cut_off:
                    self._give_up_due(presence)


def _away_s(presence: Presence, now_s: float, at: float) -> float:
    """Seconds since the last message of an agent; before a start of the master by wall time."""
    if presence.incarnation:
        return now_s - presence.spoke_s
    return max(0.0, at - presence.heard_at) if presence.heard_at else 0.0
