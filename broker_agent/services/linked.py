"""Reacts to echoes that report this agent as reconciled."""

from collections.abc import Callable

from broker_agent.services.status import StatusFile
from broker_agent.services.watchdog import Watchdog


class Linked:
    """Handler of such echoes. on_first: called once, at the first one."""

    def __init__(
        self, watchdog: Watchdog, status: StatusFile, on_first: Callable[[], None]
    ) -> None:
        self._watchdog = watchdog
        self._status = status
        self._on_first = on_first
        self._is_first = True

    def on_linked(self) -> None:
        """Handle each such echo."""
        self._watchdog.nudge()
        if self._is_first:
            self._is_first = False
            self._on_first()
        self._status.write_if_changed()
