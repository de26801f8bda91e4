"""Puts chunks of output together by their offsets."""

from typing import Final


class Assembly:
    """Collects what continues `data`, from an offset on, up to a number of bytes.

    Chunks may come twice and out of order. One that lies ahead is kept while it is in reach.
    resume_at: the stream sequence from which the next reader has to look, 0 if from the end on.
    """

    def __init__(self, offset: int, max_bytes: int) -> None:
        self.next = offset
        self.data = bytearray()
        self.resume_at = 0
        self._max_bytes: Final = max_bytes
        self._ahead: dict[int, tuple[int, bytes]] = {}

    @property
    def is_full(self) -> bool:
        return len(self.data) >= self._max_bytes

    def add(self, sequence: int, offset: int, chunk: bytes) -> None:
        if self.is_full or offset > self.next:
            self._keep(sequence, offset, chunk)
            return
        self._take(sequence, offset, chunk)
        while not self.is_full:
            found = next((at for at in self._ahead if at <= self.next), None)
            if found is None:
                return
            self._take(self._ahead[found][0], found, self._ahead.pop(found)[1])

    def _take(self, sequence: int, offset: int, chunk: bytes) -> None:
        room = self._max_bytes - len(self.data)
        fresh = chunk[self.next - offset :][:room]
        self.data += fresh
        self.next += len(fresh)
        if offset + len(chunk) > self.next:
            self._look_again(sequence)

    def _keep(self, sequence: int, offset: int, chunk: bytes) -> None:
        if offset + len(chunk) <= self.next:
            return
        self._look_again(sequence)
        if not self.is_full:
            self._ahead[offset] = (sequence, chunk)

    def _look_again(self, sequence: int) -> None:
        self.resume_at = min(self.resume_at or sequence, sequence)
