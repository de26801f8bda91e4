"""Staged inputs: which parts are stored, and how much each client holds.

Sizes are counted in whole parts: the last part of an input may be shorter.
"""

from typing import Final

from schemas.faults import Refused
from schemas.limits import INPUT_PART_BYTES
from schemas.messages.actions import StagedInput

_CLIENT_PART: Final = 4
Key = tuple[str, str]


class InputTable:
    """Parts in the store by client and input.

    total_bytes: of all inputs; one client gets a quarter. most_bytes: of one input. kept_s: seconds
    after which the store forgets an input.
    """

    def __init__(self, *, total_bytes: int, most_bytes: int, kept_s: float) -> None:
        self._total_bytes = total_bytes
        self._most_bytes = most_bytes
        self._kept_s = kept_s
        self._parts: dict[Key, set[int]] = {}
        self._since: dict[Key, float] = {}
        self._claimed: set[Key] = set()

    def check_room(self, key: Key, part: int, size: int, *, now_s: float) -> None:
        """Raise Refused (`too_large`, `queue_full`) if the part must not be stored."""
        if part * INPUT_PART_BYTES + size > self._most_bytes:
            raise Refused(
                "too_large",
                f"input {key[1]}: more than {self._most_bytes} bytes,"
                " limits.input_bytes_per_command",
            )
        if part in self._parts.get(key, ()):
            return
        self._expire(now_s)
        held = sum(len(parts) for each, parts in self._parts.items() if each[0] == key[0])
        share = self._total_bytes // _CLIENT_PART
        if (held + 1) * INPUT_PART_BYTES > share:
            raise Refused(
                "queue_full",
                f"inputs of {key[0]} hold {held * INPUT_PART_BYTES} bytes; its share of"
                f" limits.input_bytes is {share}",
            )

    def note(self, key: Key, part: int, *, now_s: float) -> int:
        """Note a stored part; returns the number of parts of its input."""
        self._since[key] = now_s
        parts = self._parts.setdefault(key, set())
        parts.add(part)
        return len(parts)

    def claim(self, key: Key) -> None:
        """Keep an input for an open command, until `release`."""
        self._claimed.add(key)

    def release(self, key: Key) -> None:
        self._claimed.discard(key)

    def is_claimed(self, key: Key) -> bool:
        return key in self._claimed

    def check_whole(self, client: str, input: StagedInput) -> None:
        """Raise Refused (`input_missing`) unless all parts of the input are stored."""
        parts = self._parts.get((client, input.id), set())
        missing = input.parts - len(parts.intersection(range(input.parts)))
        if missing:
            raise Refused(
                "input_missing",
                f"input {input.id}: {missing} of {input.parts} parts are not stored (any more)",
            )

    def drop(self, key: Key) -> bool:
        """Forget an input; returns whether it was known."""
        self._since.pop(key, None)
        return self._parts.pop(key, None) is not None

    def idle(self, now_s: float, idle_s: float) -> list[Key]:
        """Return inputs that no open command has, and that got no part for `idle_s`."""
        return [
            key
            for key, at in self._since.items()
            if at + idle_s < now_s and key not in self._claimed
        ]

    def _expire(self, now_s: float) -> None:
        """Forget inputs that the store has forgotten."""
        for key in [each for each, at in self._since.items() if at + self._kept_s < now_s]:
            self.drop(key)
