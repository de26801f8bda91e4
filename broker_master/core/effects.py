"""Effects: actions that services perform after a decision of `core/attempts.py`."""

from typing import NamedTuple, TypeAlias

from broker_master.core.commands import Attempt
from schemas.messages.facts import Outcome, Started


class Send(NamedTuple):
    """Transmit the attempt, for the first time or again."""

    attempt: Attempt


class Unanswered(NamedTuple):
    """Note that the newest transmission was not answered in time; another one follows."""

    attempt: Attempt


class Acknowledged(NamedTuple):
    """Measure how long the first acknowledgement took."""

    attempt: Attempt


class Cancel(NamedTuple):
    """Ask the agent to end the attempt, until it has ended."""

    attempt: Attempt


class Declined(NamedTuple):
    """Note that the agent has refused. code: from the agent."""

    agent: str
    code: str


class Remember(NamedTuple):
    """Make durable that the agent has accepted the attempt: it must not be sent again."""

    number: int
    started: Started


class Settle(NamedTuple):
    """Make the end of attempt `number` durable; 0: of a command that no agent has."""

    number: int
    outcome: Outcome


Effect: TypeAlias = Send | Unanswered | Acknowledged | Cancel | Declined | Settle
