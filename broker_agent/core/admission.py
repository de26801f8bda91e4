"""Whether a run request is carried out. Every request gets exactly one of three answers."""

from typing import NamedTuple

from broker_agent.core.tasks import Refusal
from schemas.messages.work import Run, RunAnswer


class Standing(NamedTuple):
    """Where the agent stands when a request comes.

    age_s: the most that the request can be old, None if it names a beat too old to be known.
    known: the state of this attempt if the agent has it, else empty.
    refused: what was said against the attempt before: it was cancelled, or turned away.
    full: no slot is free. why_full: what else there is no room for: reports, disk, output,
    descriptors; empty if there is. expired: the agent's certificate has ended.
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
    """code and message only with `rejected`; state only with `duplicate`."""

    answer: RunAnswer
    state: str = ""
    code: str = ""
    message: str = ""


ACCEPTED = Admission("accepted")


def _rejected(code: str, message: str) -> Admission:
    return Admission("rejected", code=code, message=message)


def is_foreign(run: Run, standing: Standing) -> bool:
    """Whether it was meant for another session of this identity: an earlier start, or a copy.

    A refusal of ours would be taken for the word of that one, which may have accepted it.
    """
    return run.incarnation != standing.incarnation and not standing.known


def judge(run: Run, standing: Standing) -> Admission:
    """Decide on `run`, which is no foreign one. A master that was replaced is refused.

    What is known is answered before anything else is asked, so that a request sent again gets the
    answer that got lost, also from an agent that is full or draining by now. So does one that was
    rejected, when there is room by now: the master may have given it to somebody else.
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


def _judge_room(standing: Standing) -> Admission:
    if standing.draining:
        return _rejected("agent_draining", "the agent is draining")
    if standing.full:
        return _rejected("agent_full", "no slot is free")
    if standing.why_full:
        return _rejected("agent_full", standing.why_full)
    return ACCEPTED
