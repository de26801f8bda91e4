"""Meaning of an agent's refusal: temporary or permanent."""

from broker_master.core.commands import Command
from schemas.faults import FAULTS
from schemas.states import State


def refusers(command: Command) -> set[str]:
    """Agents that will refuse it again: their reason was the command, not the moment."""
    return {
        attempt.agent
        for attempt in command.attempts
        if attempt.state is State.REJECTED and not is_passing(attempt.code)
    }


def is_passing(code: str) -> bool:
    """Whether an agent that refuses with this code may take the same command later."""
    return code == "epoch_stale" or (code in FAULTS and FAULTS[code].retry != "never")
