"""Child processes of tests and benchmarks: started, watched, measured, and surely ended.

Their output goes to files, never through a pipe: what a killed process leaves behind could hold
the other end open for ever.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

READY_S: Final = 60.0
STOP_S: Final = 60.0
GONE_S: Final = 60.0
STEP_S: Final = 0.005


class Child:
    """One program that may be started again and again with the same arguments and files.

    ready: how the line begins by which it says on stdout that it is up; empty if it says nothing.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        logs: Path,
        *,
        env: Mapping[str, str] | None = None,
        ready: str = "",
    ) -> None:
        self.name = name
        self.argv = [*argv]
        self.env = dict(os.environ if env is None else env)
        self.stdout_path = logs / f"{name}.out"
        self.stderr_path = logs / f"{name}.err"
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self._said_before = 0
        # What it had started when it was ended by force: nobody else ends those.
        self._orphans: list[psutil.Process] = []

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text(errors="replace") if self.stdout_path.exists() else ""

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace") if self.stderr_path.exists() else ""

    def launch(self) -> None:
        """Start it and return at once; `start` also waits until it is ready."""
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        self.stdout_path.parent.mkdir(parents=True, exist_ok=True)
        with self.stdout_path.open("ab") as out, self.stderr_path.open("ab") as err:
            self._said_before = out.tell()
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.env,
                # A signal to the test's own group is not one to the product.
                start_new_session=True,
            )

    async def start(self, *, ready_s: float = READY_S) -> str:
        """Start it and return its line; RuntimeError with its last words if it ends before that."""
        self.launch()
        return await self.wait_ready(within_s=ready_s)

    async def wait_ready(self, *, within_s: float = READY_S) -> str:
        give_up_at = time.monotonic() + within_s
        while (line := self._ready_line()) is None:
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended before it was ready:\n{self.last_words()}")
            if time.monotonic() > give_up_at:
                self.kill()
                raise RuntimeError(f"{self.name} not ready in {within_s:g} s:\n{self.last_words()}")
            await asyncio.sleep(STEP_S)
        return line

    async def wait(self, within_s: float = STOP_S) -> int:
        """Its exit code, negative for a signal; TimeoutError if it still runs after `within_s`."""
        process = self._process
        if process is None:
            raise RuntimeError(f"{self.name} was never started")
        async with asyncio.timeout(within_s):
            while process.poll() is None:
                await asyncio.sleep(STEP_S)
        return process.returncode

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def stop(self, within_s: float = STOP_S) -> int:
        """End it in order; by force after `within_s`. Returns the exit code, None becomes 0."""
        if self._process is None:
            return 0
        self._note_descendants()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            return await self.wait(within_s)
        self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """End it at once, as a crash does, and return when it is gone. Its children may live on."""
        if self._process is None or self._process.poll() is not None:
            return
        self._note_descendants()
        self._process.kill()
        self._process.wait(GONE_S)

    def end_orphans(self) -> None:
        """End what it had started when it was stopped or killed, and what still lives of it."""
        end_now(self._orphans)
        self._orphans.clear()

    def last_words(self, size: int = 2000) -> str:
        return f"{self.stdout[-size:]}{self.stderr[-size:]}" or "(it said nothing)"

    # what it costs

    @property
    def rss_bytes(self) -> int:
        return rss_bytes(self.pid)

    @property
    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes(self.pid)

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def _ready_line(self) -> str | None:
        """Its first whole line of this start that begins as announced."""
        with self.stdout_path.open("rb") as file:
            file.seek(self._said_before)
            said = file.read().decode(errors="replace")
        for line in said.splitlines(keepends=True):
            if line.startswith(self._ready) and line.endswith("\n"):
                return line.strip()
        return "" if not self._ready else None

    def _note_descendants(self) -> None:
        with suppress(psutil.Error):
            self._orphans += psutil.Process(self.pid).children(recursive=True)


def rss_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def peak_rss_bytes(pid: int) -> int:
    """The most it has held since its start, or since `reset_peak_rss`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")


def reset_peak_rss(pid: int) -> None:
    """Source: proc(5), clear_refs: 5 resets the peak resident set size to the present one."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_s(pid: int) -> float:
    """Seconds on a core, of all its threads: in nanoseconds, where the usual counters have ticks.

    Threads that have ended are missed, which a process at rest has none of.
    """
    spent_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            spent_ns += int((task / "schedstat").read_text().split()[0])
    return spent_ns / 1e9


def processes_below(directory: Path) -> list[psutil.Process]:
    """Every process that names `directory` or works in it, whoever started it; never a parent."""
    here = str(directory.absolute())
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        with suppress(psutil.Error):
            if _mentions(process.cwd(), here) or any(
                _mentions(argument, here) for argument in process.cmdline()
            ):
                found.append(process)
    return found


def end_now(processes: Sequence[psutil.Process]) -> None:
    """Kill them and wait until they are gone; one whose pid has been taken over is left alone."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=GONE_S)


def _mentions(text: str, here: str) -> bool:
    return text == here or text.startswith(f"{here}/")
