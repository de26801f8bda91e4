"""The status of an agent: one table with the status, its reason, and the next step.

Each row stands for one cause: the condition, the status that follows from it, the reason, the
advice, and a word for lists. The first row whose condition holds decides, so the rows stand in the
order of the published description of statuses. Lists, metrics, groups, dispatch and events all
derive from `classify`; nothing else combines these conditions.
"""

from collections.abc import Callable
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from broker_master.core.certificates import is_shut_out, newest_confirmed
from broker_master.core.liveness import Presence, Silence
from schemas.counting import counted
from schemas.messages.registry import AgentEntry, CertificateEntry
from schemas.moments import rfc3339
from schemas.states import Admin, AgentStatus, Lack, Liveness

LACK_WORDS: Final = MappingProxyType(
    {
        Lack.SPOOL: "spool full",
        Lack.DISK: "disk low",
        Lack.FDS: "few descriptors",
        Lack.JOURNAL: "journal fault",
        Lack.REPORTS: "reports waiting",
        Lack.OTHER: "no room",
    }
)


class Cause(StrEnum):
    """Machine-readable reason of a status; stable, so that programs may compare it."""

    NOT_STARTED = "not_started"
    NO_TOKEN = "no_token"  # noqa: S105  (the name of a state)
    TOKEN_EXPIRED = "token_expired"  # noqa: S105  (the name of a state)
    TOKEN_OPEN = "token_open"  # noqa: S105  (the name of a state)
    REVOKED = "revoked"
    DELETED = "deleted"
    PAUSED = "paused"
    DISABLED = "disabled"
    CERTIFICATE_EXPIRED = "certificate_expired"
    OBEYS_ANOTHER = "obeys_another"
    DUPLICATE = "duplicate"
    STUCK = "stuck"
    DEAF = "deaf"
    HANDSHAKE = "handshake"
    READMITTED = "readmitted"
    SHUT_DOWN = "shut_down"
    LOST = "lost"
    UNHEARD = "unheard"
    NO_BEAT = "no_beat"
    DISCONNECTED = "disconnected"
    STOPPING = "stopping"
    RESUMING = "resuming"
    MOVING = "moving"
    NO_ROOM = "no_room"
    BUSY = "busy"
    READY = "ready"


class AgentCase(NamedTuple):
    """Inputs of a row. tasks_left: open attempts on the agent. at, given_up_at: wall time."""

    entry: AgentEntry
    seen: Presence
    at: float
    tasks_left: int
    given_up_at: float

    @property
    def is_live(self) -> bool:
        return self.seen.liveness is Liveness.LIVE

    @property
    def certificate_ended_at(self) -> float:
        """End of the certificate in use; 0 while it is valid, or there is none."""
        certificate = current_certificate(self.entry, self.seen)
        if certificate is None or certificate.not_after > self.at:
            return 0.0
        return certificate.not_after

    @property
    def token_ends_at(self) -> float:
        """When an unused activation token ends, or has ended; 0 where there is none."""
        token = self.entry.token
        return 0.0 if token is None or token.used_key else token.expires_at

    @property
    def has_open_token(self) -> bool:
        return self.token_ends_at > self.at

    @property
    def slots(self) -> int:
        """Tasks that the agent may have at once; 0 if that is not known."""
        limit = self.entry.traits.limit
        return min(self.seen.slots, limit) if limit else self.seen.slots


Words = Callable[[AgentCase], str]


class StatusRow(NamedTuple):
    """One cause of a status.

    brief: why an active agent gets no new work, in two words; empty where it gets some.
    """

    cause: Cause
    holds: Callable[[AgentCase], bool]
    reason: Words
    advice: Words
    brief: Words = lambda _: ""


class Standing(NamedTuple):
    """An agent's status with its cause; texts are made when they are read."""

    status: AgentStatus
    row: StatusRow
    case: AgentCase

    @property
    def cause(self) -> Cause:
        return self.row.cause

    @property
    def reason(self) -> str:
        return self.row.reason(self.case)

    @property
    def next(self) -> str:
        return self.row.advice(self.case)

    @property
    def brief(self) -> str:
        return self.row.brief(self.case)

    @property
    def takes_work(self) -> bool:
        """Whether new commands may be given to it, now or when a task of it ends."""
        return self.row.cause in _TAKE_WORK

    @property
    def is_passing(self) -> bool:
        """Whether it is active, and takes no work just for a moment."""
        return self.row.cause in _PASSING


def _says(text: str) -> Words:
    return lambda _: text


def _always(_: AgentCase) -> bool:
    return True


def _token(case: AgentCase) -> str:
    return f"mesh agent token {case.entry.name}"


def _set_up_again(case: AgentCase) -> str:
    return f"set it up again: {_token(case)}"


def _by(case: AgentCase) -> str:
    return f" by {case.entry.admin_by}" if case.entry.admin_by else ""


def _held(case: AgentCase) -> str:
    """Return `; disabled by ann` for an agent that is held before it is set up; else nothing."""
    is_held = case.entry.admin in (Admin.DISABLED, Admin.PAUSED)
    return f"; {case.entry.admin}{_by(case)}" if is_held else ""


def _drains(case: AgentCase) -> str:
    """The operator's note, and the number of remaining tasks."""
    note = case.entry.admin_term.note
    heard = "live" if case.is_live else "silent"
    left = f"{counted(case.tasks_left, 'task')} left" if case.tasks_left else heard
    return f" ({note}), {left}" if note else f", {left}"


def _left(case: AgentCase) -> str:
    return f", {counted(case.tasks_left, 'task')} left" if case.tasks_left else ""


def _hosts(case: AgentCase) -> str:
    here = case.seen.details.host or "an unknown host"
    return f"{here} and {case.seen.rival_host or 'another'}"


def _until_given_up(case: AgentCase) -> str:
    """Time until the tasks of a silent agent are given up; without tasks it just returns."""
    if not case.tasks_left:
        return "active again once it returns"
    return f"its tasks are given up at {rfc3339(case.given_up_at)} unless it returns"


_BARRED: Final = (
    StatusRow(
        Cause.REVOKED,
        lambda c: c.entry.admin == Admin.REVOKED,
        lambda c: f"revoked{_by(c)}",
        _set_up_again,
    ),
    StatusRow(
        Cause.DELETED,
        lambda c: c.entry.admin == Admin.DELETED,
        lambda c: f"deleted{_by(c)}, {counted(c.tasks_left, 'task')} of it may still run",
        lambda c: f"gone once that is over, not before {rfc3339(c.given_up_at)}",
    ),
)

_AWAITING: Final = (
    *_BARRED,
    StatusRow(
        Cause.NOT_STARTED,
        lambda c: bool(c.entry.certificates) and not is_shut_out(c.entry.certificates),
        lambda c: f"enrolled, not connected yet{_held(c)}",
        _says("start it: broker-agent run"),
    ),
    StatusRow(
        Cause.TOKEN_OPEN,
        lambda c: c.has_open_token,
        lambda c: f"its activation token is open until {rfc3339(c.token_ends_at)}{_held(c)}",
        _says("use it: broker-agent setup"),
    ),
    StatusRow(
        Cause.TOKEN_EXPIRED,
        lambda c: c.token_ends_at > 0,
        lambda c: f"its activation token has expired{_held(c)}",
        _token,
    ),
    StatusRow(Cause.NO_TOKEN, _always, lambda c: f"no activation token is open{_held(c)}", _token),
)

_DISABLED: Final = (
    *_BARRED,
    StatusRow(
        Cause.PAUSED,
        lambda c: c.entry.admin == Admin.PAUSED,
        lambda c: f"paused{_by(c)}{_drains(c)}",
        lambda c: (
            f"enabled at {rfc3339(c.entry.admin_term.until)},"
            f" or before: mesh agent enable {c.entry.name}"
        ),
    ),
    StatusRow(
        Cause.DISABLED,
        _always,
        lambda c: f"disabled{_by(c)}{_drains(c)}",
        lambda c: f"mesh agent enable {c.entry.name}",
    ),
)

_NO_RESPONSE: Final = (
    StatusRow(
        Cause.CERTIFICATE_EXPIRED,
        lambda c: c.certificate_ended_at > 0,
        lambda c: f"certificate expired at {rfc3339(c.certificate_ended_at)}",
        _set_up_again,
    ),
    StatusRow(
        Cause.OBEYS_ANOTHER,
        lambda c: bool(c.seen.obeys) and not c.is_live,
        lambda c: f"it refuses this master: it has obeyed a newer one, of epoch {c.seen.obeys}",
        lambda c: (
            "end this master if another is in charge; if its state was put back:"
            f" broker-master restore --state-dir D --above {c.seen.obeys}"
        ),
    ),
    StatusRow(
        Cause.DUPLICATE,
        lambda c: c.seen.frozen,
        lambda c: f"duplicate identity: it lives on {_hosts(c)}, in turn",
        lambda c: f"stop one of them; or mesh agent revoke {c.entry.name}, then set one up again",
    ),
    StatusRow(
        Cause.STUCK,
        lambda c: c.seen.stuck and c.is_live,
        _says("not taking work: it beats, but answers no request to run anything"),
        _says("active again as soon as it answers one; if it does not, restart it"),
    ),
    StatusRow(
        Cause.DEAF,
        lambda c: c.is_live and c.seen.deaf,
        _says("cannot hear the master"),
        _says("active again after the handshake"),
    ),
    StatusRow(
        Cause.HANDSHAKE,
        lambda c: c.is_live and not c.seen.reconciled and not c.seen.resumes,
        _says("the handshake is not complete"),
        _says("active again after the handshake"),
    ),
    StatusRow(
        Cause.READMITTED,
        lambda c: not c.is_live and is_shut_out(c.entry.certificates),
        _says("revoked, and not set up again yet"),
        lambda c: "use its token: broker-agent setup" if c.has_open_token else _set_up_again(c),
    ),
    StatusRow(
        Cause.SHUT_DOWN,
        lambda c: c.seen.silence is Silence.SHUT_DOWN,
        _says("shut down"),
        _says("active again once it is started"),
    ),
    StatusRow(
        Cause.LOST,
        lambda c: c.seen.silence is Silence.LOST,
        lambda c: f"lost: no beat for {c.seen.silent_for_s:g} s",
        _says("active again once it is started"),
    ),
    StatusRow(
        Cause.UNHEARD,
        lambda c: c.seen.silence is Silence.UNHEARD,
        _says("not heard since the master started"),
        _until_given_up,
    ),
    StatusRow(
        Cause.NO_BEAT,
        lambda c: not c.is_live,
        lambda c: f"no beat for {c.seen.silent_for_s:g} s",
        _until_given_up,
    ),
)

_ACTIVE: Final = (
    StatusRow(
        Cause.DISCONNECTED,
        lambda c: c.seen.is_closed,
        lambda c: f"its connection has ended: takes no new work{_left(c)}",
        _says("takes work again once it is heard; no_response if it stays silent"),
        _says("not connected"),
    ),
    StatusRow(
        Cause.RESUMING,
        lambda c: not c.seen.reconciled,
        lambda c: f"its handshake is being repeated: takes no new work{_left(c)}",
        _says("takes work again after the handshake; no_response if that does not end"),
        _says("in its handshake"),
    ),
    StatusRow(
        Cause.STOPPING,
        lambda c: c.seen.draining,
        lambda c: f"stopping: takes no new work{_left(c)}",
        _says("ends by itself"),
        _says("stopping"),
    ),
    StatusRow(
        Cause.MOVING,
        lambda c: bool(c.entry.moving_to),
        lambda c: f"takes no new work, {counted(c.tasks_left, 'task')} left",
        lambda c: f"moves to group {c.entry.moving_to} once none is left",
        _says("moving"),
    ),
    StatusRow(
        Cause.NO_ROOM,
        lambda c: bool(c.seen.lacks),
        lambda c: f"no room, takes no new work: {'; '.join(c.seen.lacks.values())}",
        _says("takes work again as soon as there is room; what runs goes on"),
        lambda c: LACK_WORDS[Lack(next(iter(c.seen.lacks)))],
    ),
    StatusRow(
        Cause.BUSY,
        lambda c: 0 < c.slots <= c.tasks_left,
        lambda c: f"{c.slots} of {c.slots} slots taken",
        _says("takes the next command when a task ends"),
    ),
    StatusRow(Cause.READY, _always, _says("beats arrive and are answered"), _says("")),
)

TABLE: Final = MappingProxyType(
    {
        AgentStatus.AWAITING_SETUP: _AWAITING,
        AgentStatus.DISABLED: _DISABLED,
        AgentStatus.NO_RESPONSE: _NO_RESPONSE,
        AgentStatus.ACTIVE: _ACTIVE,
    }
)
_TAKE_WORK: Final = frozenset({Cause.BUSY, Cause.READY})
# A connection or a handshake of a moment, which work waits for.
_PASSING: Final = frozenset({Cause.DISCONNECTED, Cause.RESUMING})
_UNSEEN: Final = Presence(agent="", group="")


def classify(
    entry: AgentEntry,
    presence: Presence | None,
    at: float,
    *,
    tasks_left: int = 0,
    given_up_in_s: float = 0.0,
) -> Standing:
    """The status of an agent at the wall time `at`, with its cause.

    tasks_left: attempts on it that have not ended. given_up_in_s: seconds until a silent agent's
    tasks are given up. The status itself depends on neither.
    """
    case = AgentCase(entry, presence or _UNSEEN, at, tasks_left, at + given_up_in_s)
    if case.seen.liveness is Liveness.NEVER:
        return _first(AgentStatus.AWAITING_SETUP, case)
    if entry.admin != Admin.ENABLED:
        return _first(AgentStatus.DISABLED, case)
    for row in _NO_RESPONSE:
        if row.holds(case):
            return Standing(AgentStatus.NO_RESPONSE, row, case)
    return _first(AgentStatus.ACTIVE, case)


def _first(status: AgentStatus, case: AgentCase) -> Standing:
    return Standing(status, next(row for row in TABLE[status] if row.holds(case)), case)


def current_certificate(entry: AgentEntry, presence: Presence | None) -> CertificateEntry | None:
    """The certificate in use, or else the newest that was confirmed."""
    if presence is not None:
        for certificate in reversed(entry.certificates):
            if certificate.serial == presence.certificate_serial:
                return certificate
    return newest_confirmed(entry.certificates)
