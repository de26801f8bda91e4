"""The output of a call: writes into the task's file, up to the limit of the command."""

import errno
import os
import threading
import time
from typing import Final

from broker_agent.connectors.api import CallFailed

# Pause before the next try on a full disk, and the time after which the call fails.
AGAIN_S: Final = 0.1
FULL_S: Final = 5.0


class FileOut:
    """Output into the file `fd`, at most `most` bytes. goes_on: unset while the agent's disk fills.

    deadline: reading of the monotonic clock, until which it waits for either.
    """

    def __init__(self, fd: int, most: int, goes_on: threading.Event, deadline: float) -> None:
        self._fd = fd
        self._most = most
        self._goes_on = goes_on
        self._deadline = deadline
        self._written = 0

    @property
    def written(self) -> int:
        return self._written

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`. Raises CallFailed: `result_too_large`, `disk_full`."""
        if self._written + len(data) > self._most:
            message = f"more output than output_bytes ({self._most}) allow"
            raise CallFailed("result_too_large", message)
        if not self._goes_on.is_set():
            self._wait()
        view = memoryview(data)
        while view:
            moved = self._move(view)
            self._written += moved
            view = view[moved:]

    def _wait(self) -> None:
        if not self._goes_on.wait(max(0.0, self._deadline - time.monotonic())):
            raise CallFailed("target_timeout", "output waits for the broker, until the deadline")

    def _move(self, view: memoryview) -> int:
        since = time.monotonic()
        while True:
            try:
                return os.write(self._fd, view)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise CallFailed("disk_full", f"no output on the agent: {error}") from error
                if time.monotonic() - since > FULL_S:
                    raise CallFailed("disk_full", "the agent's disk is full") from error
            time.sleep(AGAIN_S)
