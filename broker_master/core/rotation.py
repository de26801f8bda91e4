"""How a key that others rely on is replaced: the old and the new one side by side, in four steps.

    settled ──prepare──▶ prepared ──activate──▶ activated ──taint──▶ tainted ──revoke──▶ settled

prepared: everybody learns to trust the new one. activated: it signs what is issued from now on.
tainted: whoever holds something of the old one gets anew what it holds. settled: the old one is
trusted no more. Each step may be asked for again, which changes nothing here; whoever carries it
out does it all again then, so that a step that was cut short is completed.
"""

from typing import Final

import msgspec

from schemas.faults import Refused

SETTLED: Final = "settled"
PREPARED: Final = "prepared"
ACTIVATED: Final = "activated"
TAINTED: Final = "tainted"
STEPS: Final = ("prepare", "activate", "taint", "revoke")
_MOVES: Final = {
    "prepare": (SETTLED, PREPARED),
    "activate": (PREPARED, ACTIVATED),
    "taint": (ACTIVATED, TAINTED),
    "revoke": (TAINTED, SETTLED),
}


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """Generations count from 1 and are never used again.

    active: the one that signs. other: the one that comes or goes, 0 for none. newest: the highest
    there ever was. since: of the stage, unix seconds.
    """

    stage: str = SETTLED
    active: int = 1
    other: int = 0
    newest: int = 1
    since: float = 0.0

    @property
    def trusted(self) -> tuple[int, ...]:
        """The generations that are good, the oldest first."""
        return tuple(sorted(each for each in (self.active, self.other) if each))

    @property
    def next_step(self) -> str:
        return next(step for step, (before, _) in _MOVES.items() if before == self.stage)


def is_again(rotation: Rotation, step: str) -> bool:
    """Whether `step` was the last one taken, so that it may be completed."""
    return rotation.newest > 1 and _MOVES[step][1] == rotation.stage


def advance(rotation: Rotation, step: str, *, at: float) -> Rotation:
    """The rotation after `step`; the same if that was taken already.

    Raises Refused (`step_refused`) if another step is due. `prepare` of a settled one begins.
    """
    before, after = _MOVES[step]
    if rotation.stage != before:
        if is_again(rotation, step):
            return rotation
        raise Refused(
            "step_refused", f"{step} is not due: it is {rotation.stage}, {rotation.next_step} is"
        )
    active, other, newest = rotation.active, rotation.other, rotation.newest
    if step == "prepare":
        other = newest = newest + 1
    elif step == "activate":
        active, other = other, active
    elif step == "revoke":
        other = 0
    return Rotation(stage=after, active=active, other=other, newest=newest, since=at)
