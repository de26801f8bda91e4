"""Admission of run requests: each request gets one of three answers."""

from typing import NamedTuple

from broker_agent.core.tasks import Refusal
from schemas.messages.work import Run, RunAnswer


class AdmissionState(NamedTuple):
    """State of the agent when a request arrives.

    age_s: upper bound of the request's age in seconds; None if it names a heartbeat that is no
    longer remembered. known: state of this attempt in the book, else empty.
    refused: earlier refusal of the attempt, cancelled or rejected; None without one.
    full: no slot is free. why_full: the resource that is short (reports, disk, output,
    descriptors), else empty. expired: the agent's certificate has ended.
    """

    epoch: int
    incarnation: str
    linked: bool
    draining: bool
    full: bool
    age_s: float | None
    start_before_s: float
    known: str = ""
    refused: Refusal | None = None
    why_full: str = ""
    expired: bool = False


class Admission(NamedTuple):
    """Answer to a request; code and message only with `rejected`, state only with `duplicate`."""

    answer: RunAnswer
    state: str = ""
    code: str = ""
    message: str = ""


ACCEPTED = Admission("accepted")


def _rejected(code: str, message: str) -> Admission:
    return Admission("rejected", code=code, message=message)


def is_foreign(run: Run, standing: AdmissionState) -> bool:
    """Whether the request is for another incarnation of this identity: an earlier start, or a copy.

    A refusal from here would look like one of the other incarnation, which may have accepted it.
    """
    return run.incarnation != standing.incarnation and not standing.known


def judge(run: Run, standing: AdmissionState) -> Admission:
    """Decide on `run`, which is not foreign. The request of a replaced master is refused.

    Deduplication comes first: a redelivered request gets the answer that was lost, even if the
    agent is full or draining now. A rejected attempt stays rejected, even if there is room now:
    the master may have given the command to another agent.
    """
    if run.epoch < standing.epoch:
        return _rejected("epoch_stale", f"epoch {run.epoch}, the agent has seen {standing.epoch}")
    if standing.known:
        return Admission("duplicate", state=standing.known)
    if standing.refused is not None:
        return _rejected(*standing.refused)
    if standing.age_s is None or standing.age_s > standing.start_before_s:
        return _rejected("attempt_stale", f"may be older than {standing.start_before_s:g} s")
    if standing.expired:
        return _rejected("agent_expired", "the agent's certificate has ended")
    if not standing.linked or run.epoch > standing.epoch:
        return _rejected("agent_unleased", "the agent and this master are not reconciled")
    return _judge_room(standing)


def _judge_room(standing: AdmissionState) -> Admission:
    if standing.draining:
        return _rejected("agent_draining", "the agent is draining")
    if standing.full:
        return _rejected("agent_full", "no slot is free")
    if standing.why_full:
        return _rejected("agent_full", standing.why_full)
    return ACCEPTED
