"""Presence of agents: heartbeats, handshakes, and the meaning of silence.

The master counts from the receipt of the newest beat; an agent counts from the send time of the
beat that was echoed to it, so the agent's deadline always falls first.

    never ──hello, done──▶ live ──silence of suspect_s──▶ silent ──silence of lost_s──▶ given up
                            ▲                               │
                            └──────── handshake ────────────┘
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Literal

import msgspec

from broker_master.core.meetings import Meeting
from schemas.messages.actions import COMMON
from schemas.messages.liveness import FETCHES_INPUT, Beat, Details, Hello
from schemas.messages.work import INPUT_ABILITY
from schemas.states import Lack, Liveness
from schemas.timers import Timers

Event = Literal[
    "suspected",
    "given_up",
    "returned",
    "goodbye",
    "incarnation",
    "deaf",
    "hears",
    "duplicate",
    "expired",
    "stuck",
    "takes",
    "closed",
]

CONTEST_S = 60.0
FLAPPING_S = 300.0
UNSTABLE_S = 900.0
_CONTESTS_MAX = 3
_FLAPS_MAX = 3

_LACKS = {str(lack): lack for lack in Lack}
# Ended incarnations of one agent to remember, so that their late beats are ignored.
_INCARNATIONS_KEPT = 8


class Silence(StrEnum):
    """Cause of an agent's silence. The second value: no beat since the master's start."""

    NONE = ""
    UNHEARD = "unheard"
    NO_BEAT = "no_beat"
    EXPIRED = "expired"
    LOST = "lost"
    SHUT_DOWN = "shut_down"


class Presence(msgspec.Struct, kw_only=True):
    """Presence of one agent. `*_s` clock readings are of the master's monotonic clock.

    reconciled: the handshake of this incarnation with this master's epoch is complete. deaf: its
    beats arrive, but it reports that no echo has reached it for long. since: wall time of
    `liveness`. silence: its cause; silent_for_s: length of silence at which the agent was judged.
    hosts: by incarnation. contests: times at which a superseded session beat beside its successor.
    changes: times at which it connected or disconnected lately. predecessor_s: last beat of the
    incarnation before the present one; None if there was none, or it said goodbye. valid_until:
    wall time at which the certificate in use ends, 0 while it is not known. renewal: why its
    certificate could not be renewed. unstable_until: wall time until which it counts as flapping.
    took_s: when it last took work, or a probe. stuck: it beats, but takes no work. lacks: resources
    without room, each with the agent's sentence; slots are not among them, the dispatcher counts
    them. obeys: the epoch of a newer master that it has obeyed, 0 if there is none. actions: those
    that it can run. addresses: digest of the addresses under which it looks for brokers, empty if
    it does not report them. is_moving: it joins another group, its handshake is no flapping.
    is_closed: its last connection has ended, and no beat or handshake has come since. left_empty:
    at its goodbye, after a handshake, it had no attempt left to run or to report. spoke_s: its last
    message, which no outage of the master itself moves; `heard_s` is what it is judged by. resumes:
    a live agent repeats its handshake: it has not been away. resumes_s: since then. profiles:
    digest of the profiles of its host, by its newest beat.
    """

    agent: str
    group: str
    liveness: Liveness = Liveness.NEVER
    since: float = 0.0
    silence: Silence = Silence.NONE
    silent_for_s: float = 0.0
    incarnation: str = ""
    reconciled: bool = False
    greeted: bool = False
    given_up: bool = False
    deaf: bool = False
    draining: bool = False
    lacks: dict[str, str] = {}
    heard_s: float = 0.0
    spoke_s: float = 0.0
    heard_at: float = 0.0
    beat_seq: int = 0
    started_at: float = 0.0
    uptime_s: float = 0.0
    rtt_s: float = 0.0
    clock_skew_s: float = 0.0
    running: int = 0
    slots: int = 0
    spool_bytes: int = 0
    details: Details = msgspec.field(default_factory=Details)
    address: str = ""
    certificate_serial: str = ""
    valid_until: float = 0.0
    renewal: str = ""
    older: list[str] = []
    returned: Meeting | None = None
    hosts: dict[str, str] = {}
    contests: list[float] = []
    is_contested: bool = False
    frozen: bool = False
    changes: list[float] = []
    predecessor_s: float | None = None
    unstable_until: float = 0.0
    took_s: float = 0.0
    stuck: bool = False
    is_moving: bool = False
    is_closed: bool = False
    left_empty: bool = False
    resumes: bool = False
    resumes_s: float = 0.0
    obeys: int = 0
    actions: frozenset[str] = COMMON
    addresses: str = ""
    profiles: str = ""

    @property
    def has_left(self) -> bool:
        """Whether its session said goodbye, or was given up: another session may take its place."""
        return self.liveness is Liveness.SILENT and (
            self.given_up or self.silence is Silence.SHUT_DOWN
        )

    def is_unstable(self, at: float) -> bool:
        """Whether it is flapping: several connects and disconnects within minutes, lately."""
        return at < self.unstable_until

    def note_change(self, at: float) -> None:
        """Note a connect or disconnect."""
        self.changes = [t for t in self.changes if at - t < FLAPPING_S] + [at]
        if len(self.changes) > _FLAPS_MAX:
            self.unstable_until = at + UNSTABLE_S

    @property
    def rival_host(self) -> str:
        """Host of a superseded session that still runs, or empty."""
        if not self.is_contested or not self.older:
            return ""
        return self.hosts.get(self.older[-1], "an unknown host")


class Change(msgspec.Struct, frozen=True):
    agent: str
    event: Event


class Roster:
    """The presence of every registered agent."""

    def __init__(self, timers: Timers, *, now_s: float) -> None:
        self.timers = timers
        self._presences: dict[str, Presence] = {}
        self._judge_from_s = now_s + timers.adopt_s
        # Beats sent while the master was away report that they heard nothing of it.
        self._echoes_from_s = float("-inf")
        self._cut_off = False

    def add(self, group: str, agent: str, *, connected: bool, at: float, now_s: float) -> Presence:
        """Enter an agent. One that connected in the past counts as silent until its first beat."""
        presence = Presence(agent=agent, group=group, since=at, heard_s=now_s, spoke_s=now_s)
        if connected:
            # Beats that reached the previous master, and their times, are not known.
            presence.predecessor_s = now_s
            presence.liveness, presence.silence = Liveness.SILENT, Silence.UNHEARD
        self._presences[agent] = presence
        return presence

    def is_superseded(self, agent: str, incarnation: str) -> bool:
        """Whether a newer session has superseded this one, and has not left since."""
        presence = self._presences.get(agent)
        return presence is not None and incarnation in presence.older and not presence.has_left

    def remove(self, agent: str) -> None:
        self._presences.pop(agent, None)

    def get(self, agent: str) -> Presence | None:
        return self._presences.get(agent)

    def __iter__(self) -> Iterator[Presence]:
        return iter(list(self._presences.values()))

    def on_beat(self, agent: str, beat: Beat, *, now_s: float, at: float) -> list[Change]:
        """Take in a beat. Beats of an older incarnation are ignored.

        The first beat of a new incarnation makes the presence unreconciled: the echo tells the
        agent so, and it says hello.
        """
        presence = self._presences.get(agent)
        if presence is None:
            return []
        self._readmit(presence, beat.incarnation)
        if beat.incarnation in presence.older:
            return [] if beat.goodbye else self._on_rival(presence, at)
        if beat.incarnation == presence.incarnation and beat.seq <= presence.beat_seq:
            return []
        changes = self._adopt(presence, beat.incarnation)
        presence.beat_seq = beat.seq
        presence.heard_s, presence.heard_at = now_s, at
        presence.spoke_s = now_s
        presence.uptime_s, presence.running = beat.uptime_s, beat.running
        presence.slots, presence.spool_bytes = beat.slots, beat.spool_bytes
        presence.draining, presence.lacks = beat.draining, _lacks(beat)
        presence.renewal, presence.profiles = beat.renewal, beat.profiles
        presence.rtt_s, presence.clock_skew_s = beat.rtt_s, beat.at - at if beat.at else 0.0
        if beat.goodbye:
            return [*changes, *self._on_goodbye(presence, at, beat)]
        if presence.is_closed:
            presence.is_closed = False
            changes = [*changes, Change(agent, "takes")]
        return [*changes, *self._on_lease_age(presence, beat.lease_age_s, now_s)]

    def on_closed(self, agent: str) -> list[Change]:
        """The last connection of the agent has ended: no new work until its next beat or its loss.

        Its tasks may go on, so they are judged by the silence alone.
        """
        presence = self._presences.get(agent)
        if presence is None or presence.is_closed or presence.liveness is not Liveness.LIVE:
            return []
        presence.is_closed = True
        return [Change(agent, "closed")]

    def _readmit(self, presence: Presence, incarnation: str) -> None:
        """Readmit a superseded session that outlives its successor."""
        if incarnation in presence.older and presence.has_left:
            presence.older = [each for each in presence.older if each != incarnation]

    def _adopt(self, presence: Presence, incarnation: str) -> list[Change]:
        if incarnation == presence.incarnation:
            return []
        first = not presence.incarnation
        if not first:
            has_left = presence.silence is Silence.SHUT_DOWN
            presence.predecessor_s = None if has_left else presence.heard_s
            presence.older = [*presence.older, presence.incarnation][-_INCARNATIONS_KEPT:]
        presence.incarnation = incarnation
        presence.is_contested = False
        presence.hosts = {
            known: host
            for known, host in presence.hosts.items()
            if known in presence.older or known == incarnation
        }
        presence.beat_seq = 0
        presence.started_at = 0.0
        presence.reconciled = presence.greeted = presence.resumes = False
        return [] if first else [Change(presence.agent, "incarnation")]

    def _on_rival(self, presence: Presence, at: float) -> list[Change]:
        """Handle a beat of a superseded session: the identity runs in two places.

        One is a copy. While they run side by side the newer one counts; if they supersede each
        other in turn, the original cannot be told from the copy, and neither gets work.
        """
        if presence.is_contested or presence.liveness is not Liveness.LIVE:
            return []
        presence.is_contested = True
        presence.contests = [t for t in presence.contests if at - t < CONTEST_S] + [at]
        presence.frozen = len(presence.contests) >= _CONTESTS_MAX
        return [Change(presence.agent, "duplicate")]

    def _on_goodbye(self, presence: Presence, at: float, beat: Beat) -> list[Change]:
        presence.left_empty = beat.empty and presence.reconciled
        presence.liveness, presence.since = Liveness.SILENT, at
        presence.silence = Silence.SHUT_DOWN
        presence.draining = False
        presence.reconciled = presence.greeted = presence.resumes = False
        return [Change(presence.agent, "goodbye")]

    def _on_lease_age(self, presence: Presence, lease_age_s: float, now_s: float) -> list[Change]:
        heard_s = min(lease_age_s, now_s - self._echoes_from_s)
        deaf = heard_s > self.timers.suspect_s
        if deaf == presence.deaf:
            return []
        presence.deaf = deaf
        return [Change(presence.agent, "deaf" if deaf else "hears")]

    def on_hello(self, agent: str, hello: Hello, *, now_s: float, at: float) -> list[Change]:
        """Take in the first step of a handshake; the caller answers."""
        presence = self._presences.get(agent)
        if presence is None:
            return []
        self._readmit(presence, hello.incarnation)
        if hello.incarnation in presence.older:
            return []
        is_live = presence.liveness is Liveness.LIVE and presence.incarnation == hello.incarnation
        if is_live and presence.reconciled:
            presence.resumes, presence.resumes_s = True, now_s
        changes = self._adopt(presence, hello.incarnation)
        presence.greeted, presence.reconciled = True, False
        presence.is_closed = False
        presence.heard_s, presence.heard_at = now_s, at
        presence.spoke_s = now_s
        presence.details, presence.uptime_s = hello.details, hello.uptime_s
        presence.hosts[hello.incarnation] = hello.details.host
        presence.started_at = hello.started_at
        presence.slots, presence.certificate_serial = hello.slots, hello.certificate_serial
        presence.actions = frozenset(hello.actions) or COMMON
        if FETCHES_INPUT in hello.features:
            presence.actions |= {INPUT_ABILITY}
        presence.addresses = hello.details.addresses
        return changes

    def on_done(self, agent: str, incarnation: str, *, now_s: float, at: float) -> list[Change]:
        """Take in the last step of a handshake: the agent is live and may be given work."""
        presence = self._presences.get(agent)
        if presence is None or presence.incarnation != incarnation or not presence.greeted:
            return []
        if presence.reconciled:
            return []
        presence.reconciled, presence.given_up, presence.deaf = True, False, False
        presence.heard_s, presence.heard_at = now_s, at
        presence.spoke_s = now_s
        presence.stuck, presence.took_s = False, now_s
        if not presence.resumes:
            presence.liveness, presence.since, presence.silence = Liveness.LIVE, at, Silence.NONE
            if not presence.is_moving:
                presence.note_change(at)
        presence.is_moving = presence.resumes = False
        return [Change(agent, "returned")]

    def on_took(self, agent: str, *, now_s: float, at: float) -> list[Change]:
        """The agent has answered a request to run a task."""
        presence = self._presences.get(agent)
        if presence is None:
            return []
        presence.took_s = now_s
        if not presence.stuck:
            return []
        presence.stuck, presence.since = False, at
        return [Change(agent, "takes")]

    def on_untaken(self, agent: str, *, at: float) -> list[Change]:
        """The agent has left several requests to run a task unanswered, though it beats."""
        presence = self._presences.get(agent)
        if presence is None or presence.stuck or presence.liveness is not Liveness.LIVE:
            return []
        presence.stuck, presence.since = True, at
        return [Change(agent, "stuck")]

    def tick(self, *, now_s: float, at: float) -> list[Change]:
        """Judge silence; not while the master itself is disconnected, or has just started."""
        if self._cut_off:
            return []
        changes: list[Change] = []
        for presence in self._presences.values():
            silence = now_s - presence.heard_s
            if presence.frozen and at - presence.contests[-1] >= CONTEST_S:
                presence.frozen = presence.is_contested = False
            if presence.liveness is Liveness.LIVE and 0 < presence.valid_until <= at:
                _fall_silent(presence, Silence.EXPIRED, silence, at)
                changes.append(Change(presence.agent, "expired"))
            if presence.liveness is Liveness.LIVE and silence >= self.timers.suspect_s:
                _fall_silent(presence, Silence.NO_BEAT, self.timers.suspect_s, at)
                changes.append(Change(presence.agent, "suspected"))
            if presence.resumes and now_s - presence.resumes_s >= self.timers.suspect_s:
                presence.resumes = False
            if self._is_given_up(presence, silence, now_s):
                presence.given_up = True
                if presence.silence is not Silence.SHUT_DOWN:
                    presence.silence = Silence.LOST
                    presence.silent_for_s = self.timers.lost_s
                changes.append(Change(presence.agent, "given_up"))
        return changes

    def _is_given_up(self, presence: Presence, silence: float, now_s: float) -> bool:
        return (
            presence.liveness is Liveness.SILENT
            and not presence.given_up
            and silence >= self.timers.lost_s
            and now_s >= self._judge_from_s
        )

    def given_up_in_s(self, presence: Presence, *, now_s: float) -> float:
        """Seconds until the tasks of a silent agent are given up."""
        due = max(presence.heard_s + self.timers.lost_s, self._judge_from_s)
        return max(0.0, due - now_s)

    def is_undecided(self, presence: Presence, *, now_s: float) -> bool:
        """Whether an inactive agent may well be alive.

        A master that has just started or reconnected waits for its beat; after a beat its handshake
        is about to complete.
        """
        if presence.liveness is Liveness.LIVE:
            return not (presence.reconciled or presence.deaf or presence.frozen)
        unheard = presence.liveness is Liveness.SILENT and not presence.incarnation
        return self._cut_off or (unheard and now_s < self._judge_from_s)

    @property
    def is_cut_off(self) -> bool:
        return self._cut_off

    def on_cut_off(self) -> None:
        """The master has lost the broker: it judges no agent, since the silence is its own."""
        self._cut_off = True

    def on_rejoined(self, *, now_s: float) -> None:
        """The master has reconnected: silence counts from now, with at least adopt_s to go."""
        self._cut_off = False
        self._judge_from_s = now_s + self.timers.adopt_s
        self._echoes_from_s = now_s
        for presence in self._presences.values():
            presence.heard_s = now_s

    def on_slept(self, for_s: float, *, now_s: float) -> None:
        """The master itself stood still: that time is no silence of the agents.

        What they have sent meanwhile is read first, before anything is concluded from it.
        """
        self._echoes_from_s = now_s
        for presence in self._presences.values():
            presence.heard_s = min(now_s, presence.heard_s + for_s)

    def next_expiry(self) -> float:
        """The next end of a live agent's certificate; wall time, infinite if none is known."""
        return min(
            (
                presence.valid_until
                for presence in self._presences.values()
                if presence.liveness is Liveness.LIVE and presence.valid_until
            ),
            default=float("inf"),
        )


def _lacks(beat: Beat) -> dict[str, str]:
    """Resources without room. Agents of 0.1.0 name none: any cause but slots counts."""
    if beat.lacks:
        return {_LACKS.get(name, Lack.OTHER): text for name, text in beat.lacks.items()}
    if beat.full and beat.running < beat.slots:
        return {Lack.OTHER: "it has no room, and does not say in what"}
    return {}


def _fall_silent(presence: Presence, why: Silence, for_s: float, at: float) -> None:
    presence.liveness, presence.since = Liveness.SILENT, at
    presence.silence, presence.silent_for_s = why, for_s
    presence.note_change(at)
    presence.reconciled = presence.greeted = presence.resumes = False
