"""Signals: one part tells, any number of others are called, and neither knows the other."""

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Signal(Generic[P]):
    """Calls its listeners on the caller's stack, in the order in which they began to listen.

    A listener begins in its own constructor, which is given the signal: none can be forgotten.
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[P, object]] = []

    def listen(self, listener: Callable[P, object]) -> None:
        self._listeners.append(listener)

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call all listeners; what one raises goes to the caller, and the rest is not called."""
        for listener in self._listeners:
            listener(*args, **kwargs)
