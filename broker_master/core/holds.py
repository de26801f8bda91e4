"""Holds agents back that refuse for want of room although they should have some.

Each refusal doubles the time, so that waiting commands are not sent again and again; a refusal long
after the last one starts with the shortest time.
"""

from typing import Final

import msgspec

FIRST_S: Final = 0.25
LONGEST_S: Final = 8.0


class _Hold(msgspec.Struct):
    until_s: float
    length_s: float
    over: bool = False


class Holds:
    def __init__(self) -> None:
        self._holds: dict[str, _Hold] = {}

    def refuse(self, agent: str, now_s: float) -> None:
        """Note a refusal of `agent`. Several refusals during one hold count once."""
        hold = self._holds.get(agent)
        if hold is not None and not hold.over:
            return
        length_s = FIRST_S if hold is None else min(LONGEST_S, hold.length_s * 2)
        self._holds[agent] = _Hold(now_s + length_s, length_s)

    def ended(self, now_s: float) -> list[str]:
        """Agents whose hold ends now. A hold is remembered for twice its length after that."""
        ended = []
        for agent, hold in list(self._holds.items()):
            if not hold.over and hold.until_s <= now_s:
                hold.over = True
                ended.append(agent)
            elif hold.over and hold.until_s + 2 * hold.length_s <= now_s:
                del self._holds[agent]
        return ended
