"""Interrupts of the demo: Ctrl-C, SIGTERM or a terminal that closes, as one exception."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks the demo to end. Not an Exception, as KeyboardInterrupt is not."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Interrupts:
    """Raises Interrupted at the first signal; later ones do not disturb the clean-up."""

    def __init__(self) -> None:
        self._number = 0
        self._is_held = False
        self._is_over = False

    def install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._heard)

    def ignore(self) -> None:
        """From now on signals change nothing."""
        self._is_over = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise signals of the block at its end.

        Otherwise a process that was started but not yet registered would be an orphan.
        """
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            self._raise_pending()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self._number or self._is_over:
            return
        self._number = number
        if not self._is_held:
            self._raise_pending()

    def _raise_pending(self) -> None:
        if self._number:
            raise Interrupted(self._number)
