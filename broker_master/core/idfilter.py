"""Filter of known ids, so that a new one costs no look-up.

A Bloom filter: `may_hold` is never False for an added id; for others it is rarely True, and then
the look-up decides. Sized for `capacity` ids at about one false positive in a hundred.
"""

from typing import Final

_BITS_PER_ID: Final = 10


class IdFilter:
    """Ids are hashed with a secret of the process, so no client can choose ids that collide."""

    def __init__(self, capacity: int) -> None:
        bits = 1 << max(16, (capacity * _BITS_PER_ID - 1).bit_length())
        self._mask = bits - 1
        self._bits = bytearray(bits // 8)
        self.capacity = bits // _BITS_PER_ID
        self.count = 0

    @property
    def is_full(self) -> bool:
        """More ids than its capacity: false positives become frequent, and a larger one is due."""
        return self.count > self.capacity

    def add(self, name: str) -> None:
        self.count += 1
        for bit in self._places(name):
            self._bits[bit >> 3] |= 1 << (bit & 7)

    def may_hold(self, name: str) -> bool:
        bits = self._bits
        return all(bits[bit >> 3] & 1 << (bit & 7) for bit in self._places(name))

    def _places(self, name: str) -> tuple[int, int, int, int]:
        """Four places from one 64-bit hash and its mix."""
        first = hash(name) & 0xFFFFFFFFFFFFFFFF
        second = (first * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mask = self._mask
        return first & mask, (first >> 32) & mask, second & mask, (second >> 32) & mask
