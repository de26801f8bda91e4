"""The epoch of a master that starts: greater than every earlier one, also after a restore.

    epoch = generation · 2³² + moment          at most 2⁵³ - 1

The moment is the time of day in seconds, so a master on a copy of the state has a greater epoch
than the masters that ran since the copy, though it does not know of them. The generation grows with
each restore, so a master on the state of before the restore is refused, whenever it starts. Both
only grow from the stored value: a clock that was set back makes no epoch smaller.
"""

from typing import Final

MOMENTS: Final = 2**32
EPOCH_MAX: Final = 2**53 - 1
_HOUR_S: Final = 3600
# Generations are hours since this moment at least: two restores of one backup differ.
_FIRST_HOUR_S: Final = 1_577_836_800  # 2020-01-01


def next_epoch(known: int, now_s: float, *, is_restored: bool = False) -> int:
    """The epoch after `known`, the greatest one known to the state or the operator.

    now_s: time of day, Unix seconds. is_restored: begin a new generation. An impossible clock is
    corrected: the result is at most `EPOCH_MAX`, and greater than `known` below that.
    """
    moment = min(max(int(now_s), 0), MOMENTS - 1)
    generation = generation_of(known)
    if is_restored:
        hours = max(moment - _FIRST_HOUR_S, 0) // _HOUR_S
        generation = max(generation + 1, hours)
    return min(max(known + 1, generation * MOMENTS + moment), EPOCH_MAX)


def generation_of(epoch: int) -> int:
    """Generation of an epoch; 0 until the state was restored for the first time."""
    return epoch // MOMENTS
