"""The action `noop`: succeeds at once."""

from broker_agent.core.program import Ending
from broker_agent.executors.base import Instant
from schemas.messages.actions import ActionArgs
from schemas.states import State


class Noop(Instant):
    def run(self, args: ActionArgs) -> Ending:
        del args
        return Ending(State.SUCCEEDED, 0, "")


def build(_ports: object) -> Instant:
    return Noop()
