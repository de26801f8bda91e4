"""Keeps a small process beside the agent: starts it, starts another when it dies, lets it go."""

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
    """others: where the pid of a child that is no task is noted, for whoever buries orphans."""

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
                    # last one as well. The tasks are not to be ended for that: it is tried again.
                    log.exception(self._event("not_started"), error=str(error))
                await asyncio.sleep(self.restart_s)
        finally:
            self._let_go()

    async def _keep_one(self, ready: asyncio.Event) -> None:
        life = self._start()
        try:
            ready.set()
            await self._wait_end()
        finally:
            self._end_life(life)

    def _start(self) -> int:
        """Start it; its life ends with the descriptor that is returned, or soon after."""
        raise NotImplementedError

    def _end_life(self, life: int) -> None:
        os.close(life)

    def _let_go(self) -> None:
        """Nothing is left for it to do. It goes by itself; nobody waits for it."""

    def _spawn(self, module: str, call: str, arguments: list[str], files: Iterable[Any]) -> None:
        """files: what it opens and duplicates, as `posix_spawn` has it; its output goes nowhere."""
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
        self._bury()

    def _bury(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        self.others.discard(self.pid)
