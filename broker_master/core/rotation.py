"""Rotation of a key: the old and the new one overlap, in four steps.

    settled ──prepare──▶ prepared ──activate──▶ activated ──taint──▶ tainted ──revoke──▶ settled

prepared: all holders learn to trust the new one. activated: it signs from now on. tainted: holders
of credentials of the old one get new ones. settled: the old one is trusted no more. Each step may
be repeated, which changes nothing here; the service carries it out again, so that an interrupted
step is completed.
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

    active: the one that signs. other: the next or the former one, 0 for none. newest: the highest
    so far. since: of the stage, unix seconds.
    """

    stage: str = SETTLED
    active: int = 1
    other: int = 0
    newest: int = 1
    since: float = 0.0

    @property
    def trusted(self) -> tuple[int, ...]:
        """The trusted generations, the oldest first."""
        return tuple(sorted(each for each in (self.active, self.other) if each))

    @property
    def next_step(self) -> str:
        return next(step for step, (before, _) in _MOVES.items() if before == self.stage)


def is_again(rotation: Rotation, step: str) -> bool:
    """Whether `step` was the last one taken, so that it may be completed."""
    return rotation.newest > 1 and _MOVES[step][1] == rotation.stage


def advance(rotation: Rotation, step: str, *, at: float) -> Rotation:
    """The rotation after `step`; unchanged if that was taken already.

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
