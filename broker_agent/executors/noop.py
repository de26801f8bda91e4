"""The action `noop`: it has succeeded before it could be asked to stop.

Having no effect, it needs no moment between being recorded as accepted and as ended: one write
stands for both, and it takes no slot.
"""

from typing import Final

from broker_agent.executors.base import Ending
from schemas.states import State

NAME: Final = "noop"
ENDING: Final = Ending(State.SUCCEEDED, 0, "")
