"""Rows of a list, as many as fit into one answer."""

from typing import Generic, TypeVar

import msgspec

from schemas import codec, limits

R = TypeVar("R", bound=msgspec.Struct)


class Rows(Generic[R]):
    """Takes rows up to a limit of number and size.

    most_bytes: of all rows together. The first row is taken whatever its size, so that every page
    makes progress; a row is bounded by its own type.
    """

    def __init__(self, limit: int, most_bytes: int = limits.PAGE_BYTES) -> None:
        self._limit = limit
        self._left_bytes = most_bytes
        self.taken: list[R] = []

    def add(self, row: R) -> bool:
        """Whether the row was taken; after a refusal the page is full."""
        self._left_bytes -= len(codec.encode(row))
        if self.taken and (len(self.taken) >= self._limit or self._left_bytes < 0):
            return False
        self.taken.append(row)
        return True
