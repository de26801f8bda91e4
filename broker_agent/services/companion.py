"""Supervises a small process beside the agent: starts it, and restarts it when it dies."""

import asyncio
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

RESTART_S: Final = 1.0

_ROOT: Final = str(Path(__file__).resolve().parents[2])

log = structlog.get_logger(__name__)


class Companion:
    """One companion process. others: pids of children other than tasks, which are no orphans."""

    name = ""
    restart_s = RESTART_S

    def __init__(self, others: set[int]) -> None:
        self.others = others
        self.pid = 0
        self.starts = 0

    async def run(self, ready: asyncio.Event) -> None:
        try:
            while True:
                try:
                    await self._keep_one(ready)
                    log.error(self._event("ended"), pid=self.pid)
                except OSError as error:
                    if not self.starts:
                        raise
                    # The host is out of processes, memory or descriptors, which may have ended the
                    # last process as well. The start is retried; tasks go on.
                    log.exception(self._event("not_started"), error=str(error))
                await asyncio.sleep(self.restart_s)
        finally:
            self._retire()

    async def _keep_one(self, ready: asyncio.Event) -> None:
        life = self._start()
        try:
            ready.set()
            await self._wait_end()
        finally:
            self._end_life(life)

    def _start(self) -> int:
        """Start the process; it ends when the returned descriptor is closed, or soon after."""
        raise NotImplementedError

    def _end_life(self, life: int) -> None:
        os.close(life)

    def _retire(self) -> None:
        """Leave the process without work when the agent ends; it then ends too, without a wait."""

    def _spawn(self, module: str, call: str, arguments: list[str], files: Iterable[Any]) -> None:
        """Spawn the process. files: file actions of `posix_spawn`. Its output is discarded."""
        program = (
            "import sys; sys.path.append(sys.argv.pop(1));"
            f" from broker_agent.{module} import main; main({call})"
        )
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-B", "-c", program, _ROOT, *arguments],
            {},
            file_actions=[
                *files,
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,
        )
        self.starts += 1
        self.others.add(self.pid)
        log.info(self._event("started"), pid=self.pid)

    def _event(self, word: str) -> str:
        return f"{self.name}_{word}"

    async def _wait_end(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        handle = os.pidfd_open(self.pid)
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        self._reap()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        self.others.discard(self.pid)
