"""The processes of the demonstration: starts them, waits until they are ready, ends them."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from broker_master.demo.interrupts import Interrupts

READY_S: Final = 30.0
# A whole command: a `mesh` that waits for its program, or a setup that waits for the master.
COMMAND_S: Final = 45.0
# A first TERM lets a running task finish, a second one ends it; after the last the kernel does.
STOP_STEPS: Final = ((signal.SIGTERM, 3.0), (signal.SIGTERM, 12.0), (signal.SIGKILL, 5.0))
LOG_TAIL_BYTES: Final = 4096
SAID_CHARACTERS: Final = 300


class DemoFailed(Exception):
    """The failure, in one line, and the place of the rest."""


class Crew:
    """Processes in sessions of their own, so that Ctrl-C at a terminal reaches only the demo.

    settings: variables of the environment for all of them.
    """

    def __init__(
        self, folder: Path, interrupts: Interrupts, settings: Mapping[str, str] | None = None
    ) -> None:
        self._interrupts = interrupts
        self.folder = folder
        self.logs = folder / "logs"
        self.context = folder / "mesh" / "contexts" / "admin.toml"
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._commands: list[subprocess.Popen[str]] = []
        self._environment = {**_clean(os.environ, self.context), **(settings or {})}

    def start(self, name: str, program: Sequence[str]) -> None:
        """Start a process that stays; `wait_ready` returns once it can be used."""
        self.logs.mkdir(exist_ok=True)
        with self._log_of(name).open("ab") as log, self._interrupts.held():
            self._running[name] = subprocess.Popen(
                _command(program),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def wait_ready(self, name: str) -> str:
        """The ready line of process `name`, or DemoFailed."""
        stdout = self._running[name].stdout
        assert stdout is not None  # noqa: S101  started above
        readable, _, _ = select.select([stdout], [], [], READY_S)
        line = stdout.readline().strip() if readable else ""
        if not line.startswith("ready "):
            said = line or self._last_words(name) or f"not ready in {READY_S:g} s"
            raise DemoFailed(f"{name} did not start: {said}\n  log: {self._log_of(name)}")
        return line

    def lines_of(self, name: str) -> Iterator[str]:
        """The output of a started process, until its end; for a thread of its own."""
        stdout = self._running[name].stdout
        assert stdout is not None  # noqa: S101  started above
        for line in stdout:
            yield line.rstrip("\n")

    def wait_ended(self, name: str, timeout_s: float) -> int:
        """The exit code of a process that was started and ends by itself, or DemoFailed."""
        try:
            return self._running[name].wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(
                f"{name} has not ended in {timeout_s:g} s\n  logs: {self.logs}"
            ) from error

    def show(self, program: Sequence[str], *, expect: int = 0) -> None:
        """Run a command whose output is shown as it comes."""
        sys.stdout.flush()
        self._finish(program, self._begin(program), "", expect)

    def take(self, program: Sequence[str], text: str = "") -> str:
        """Run a command with `text` on its stdin; its stdout, stripped."""
        process = self._begin(program, stdin=subprocess.PIPE, output=subprocess.PIPE)
        return self._finish(program, process, text, 0).strip()

    def ended(self) -> list[tuple[str, int]]:
        """Names and exit codes of processes that have ended since the last call."""
        gone = [(name, process.poll()) for name, process in self._running.items()]
        ended = [(name, code) for name, code in gone if code is not None]
        for name, _ in ended:
            self._forget(name)
        return ended

    def stop(self) -> None:
        """Stop the agents, then the master with its broker; returns when they are gone."""
        for process in self._commands:
            process.kill()
            process.communicate()
        self._end([name for name in self._running if name != "master"])
        self._end([*self._running])

    def _end(self, names: Sequence[str]) -> None:
        left = list(names)
        for number, patience_s in STOP_STEPS:
            for name in left:
                self._running[name].send_signal(number)
            left = [name for name in left if not self._is_gone(name, patience_s)]

    def _begin(
        self, program: Sequence[str], *, stdin: int = subprocess.DEVNULL, output: int | None = None
    ) -> subprocess.Popen[str]:
        with self._interrupts.held():
            process = subprocess.Popen(
                _command(program),
                cwd=self.folder,
                env=self._environment,
                stdin=stdin,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
            self._commands.append(process)
        return process

    def _finish(
        self, program: Sequence[str], process: subprocess.Popen[str], text: str, expect: int
    ) -> str:
        name = " ".join(program[:3])
        try:
            stdout, stderr = process.communicate(text or None, timeout=COMMAND_S)
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"`{name}` took over {COMMAND_S:g} s\n  logs: {self.logs}") from error
        self._commands.remove(process)
        if process.returncode != expect:
            said = f": {self._kept(stderr)}" if stderr else ""
            raise DemoFailed(f"`{name}` ended with {process.returncode}{said}\n  logs: {self.logs}")
        return stdout or ""

    def _is_gone(self, name: str, patience_s: float) -> bool:
        try:
            self._running[name].wait(patience_s)
        except subprocess.TimeoutExpired:
            return False
        self._forget(name)
        return True

    def _forget(self, name: str) -> None:
        stdout = self._running.pop(name).stdout
        if stdout is not None:
            stdout.close()

    def _log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _kept(self, stderr: str) -> str:
        """The end of a command's output, on one line; all of it goes to a log."""
        self.logs.mkdir(exist_ok=True)
        with self._log_of("commands").open("a") as log:
            log.write(stderr)
        return " ".join(stderr.split())[-SAID_CHARACTERS:]

    def _last_words(self, name: str) -> str:
        text = self._log_of(name).read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        # Below a fault is what to do about it, indented.
        said = [line for line in text.strip().splitlines() if not line.startswith(" ")]
        return (said or [""])[-1]


def _command(program: Sequence[str]) -> list[str]:
    """Console scripts are beside Python, whether or not that folder is on the PATH."""
    script = Path(sys.executable).with_name(program[0])
    if not script.is_file():
        raise DemoFailed(f"{script} is missing: make it with `make .venv`")
    return [str(script), *program[1:]]


def _clean(environ: Mapping[str, str], context: Path) -> dict[str, str]:
    """The environment without settings of another mesh."""
    kept = {name: value for name, value in environ.items() if not name.startswith("MESH_")}
    return {**kept, "MESH_CONTEXT": str(context)}


def wait_for_signal(crew: Crew, every_s: float = 0.5) -> None:
    """Stay until a signal interrupts; reports each process that ends in the meantime."""
    while True:
        for name, code in crew.ended():
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            print(f"{name} has ended ({how}); its log: {crew.logs / name}.log", flush=True)
        time.sleep(every_s)
