"""Starts programs through launchers, in the threads of the starter."""

import marshal
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from broker_agent.executors.conditions import StartConditions
from broker_agent.executors.spawn import (
    NOT_EXECUTABLE,
    NOT_FOUND,
    CannotStart,
    Files,
    SpawnOrder,
    said,
)
from broker_agent.launcher import birth
from broker_agent.warden.processes import look

_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv.pop(1));"
    " from broker_agent.launcher.birth import main; main()"
)
log = structlog.get_logger(__name__)


class Launchers:
    """Launchers, one for each thread of the starter, since an exec may take long.

    on_pid: called with each launcher's pid. on_uncelled: called, in any thread, with the order of a
    program that runs without its cell, and the cause. Programs are children of the thread that
    orders them, which must not be the first thread: see `TaskProcesses`.
    """

    def __init__(
        self,
        conditions: StartConditions,
        on_pid: Callable[[int], object] = lambda _: None,
        on_uncelled: Callable[[SpawnOrder, OSError], object] = lambda _order, _error: None,
    ) -> None:
        self._conditions = conditions
        self._on_pid = on_pid
        self._on_uncelled = on_uncelled
        self._lock = threading.Lock()  # guards the attributes below
        self._all: dict[int, _Launcher] = {}
        self._is_closed = False
        self.starts = 0

    @property
    def pids(self) -> list[int]:
        return [launcher.pid for launcher in list(self._all.values())]

    def spawn(self, order: SpawnOrder) -> int:
        """Start a program as `spawn.spawn` does, with the launchers' conditions and in its cell."""
        cell, unmade = _make_cell(order.cell)
        try:
            pid, stage, number = self._own().ask(_packed(order), order.files, cell)
        except OSError as error:
            self._drop()
            _end_unknown(order)
            raise CannotStart(f"its launcher has ended: {said(error)}") from error
        finally:
            if cell >= 0:
                os.close(cell)
        if stage == birth.UNCELLED:
            unmade = OSError(number, os.strerror(number))
        elif stage != birth.NONE:
            if pid:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            raise self._fault(order, stage, number)
        if unmade is not None:
            self._on_uncelled(order, unmade)
        return pid

    def _own(self) -> "_Launcher":
        """Launcher of this thread, started on demand."""
        key = threading.get_ident()
        launcher = self._all.get(key)
        if launcher is None:
            launcher = _Launcher(self._conditions, self._on_pid)
            with self._lock:
                if self._is_closed:
                    launcher.close()
                    raise CannotStart("the agent is ending")
                self._all[key] = launcher
                self.starts += 1
        return launcher

    def _drop(self) -> None:
        """Drop a broken launcher: the next order starts another one."""
        with self._lock:
            launcher = self._all.pop(threading.get_ident(), None)
        if launcher is not None:
            log.warning("launcher_ended", pid=launcher.pid)
            launcher.close()

    def close(self) -> None:
        """Disconnect the launchers, which then end. A program under exec is killed when loaded."""
        with self._lock:
            self._is_closed = True
            launchers = list(self._all.values())
            self._all.clear()
        for launcher in launchers:
            launcher.close()

    def _fault(self, order: SpawnOrder, stage: int, number: int) -> CannotStart:
        error = OSError(number, os.strerror(number))
        name = order.argv[0]
        if stage == birth.CLONE:
            return CannotStart(f"no process could be made: {said(error)}")
        if stage == birth.USER:
            return CannotStart(f"cannot become uid {self._conditions.account.uid}: {said(error)}")
        if stage == birth.LIMITS:
            return CannotStart(f"cannot set its limits (tasks.limits): {said(error)}")
        if stage == birth.FOLDER:
            code = NOT_EXECUTABLE if order.cwd else None
            return CannotStart(f"cannot enter {order.cwd or order.folder}: {said(error)}", code)
        if stage == birth.NOT_FOUND:
            return CannotStart(f"cannot run {name}: not found in PATH", NOT_FOUND)
        if stage == birth.DENIED:
            return CannotStart(f"cannot run {name}: permission denied", NOT_EXECUTABLE)
        is_missing = isinstance(error, FileNotFoundError)
        code = NOT_FOUND if is_missing else NOT_EXECUTABLE
        return CannotStart(f"cannot run {name}: {said(error)}", code)


class _Launcher:
    """One launcher process and its socket, for one thread."""

    def __init__(self, conditions: StartConditions, on_pid: Callable[[int], object]) -> None:
        self._orders, theirs = socket.socketpair()
        self._is_busy = False
        try:
            with theirs:
                self.pid = _start(theirs.fileno())
            on_pid(self.pid)
            _send(self._orders, marshal.dumps((_told(conditions),)), [], has_cell=False)
        except BaseException:
            self._orders.close()
            raise
        log.info("launcher_started", pid=self.pid)

    def ask(self, order: bytes, files: Files, cell: int) -> tuple[int, int, int]:
        """Return pid, or 0; the stage of a failure, and its errno. Raises OSError."""
        fds = [*files, cell] if cell >= 0 else [*files]
        self._is_busy = True
        try:
            _send(self._orders, order, fds, has_cell=cell >= 0)
            answer = self._orders.recv(birth.BORN.size, socket.MSG_WAITALL)
        finally:
            self._is_busy = False
        if len(answer) < birth.BORN.size:
            raise ConnectionResetError("no answer")
        pid, stage, number = birth.BORN.unpack(answer)
        return pid, stage, number

    def close(self) -> None:
        with suppress(OSError):
            self._orders.shutdown(socket.SHUT_RDWR)
        is_busy = self._is_busy
        if not is_busy:
            self._orders.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG if is_busy else 0)


def _start(orders: int) -> int:
    root = str(Path(__file__).resolve().parents[2])
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, root],
        {},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, orders, birth.ORDERS_FD),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP},
    )


def _told(conditions: StartConditions) -> dict[str, object]:
    account = conditions.account
    user = (account.uid, account.gid, list(account.groups)) if account.is_other else None
    return {
        "user": user,
        "umask": conditions.umask,
        "nice": conditions.nice,
        "oom_score_adj": conditions.oom_score_adj,
        "limits": list(conditions.limits),
    }


def _packed(order: SpawnOrder) -> bytes:
    argv = [os.fsencode(text) for text in order.argv]
    path = os.fsdecode(order.env.get(b"PATH", b"")) or os.defpath
    cwd = None if order.cwd is None else os.fsencode(order.cwd)
    return marshal.dumps((argv, dict(order.env), os.fsencode(order.folder), cwd, path))


def _send(orders: socket.socket, order: bytes, fds: list[int], *, has_cell: bool) -> None:
    socket.send_fds(orders, [birth.HEADER.pack(len(order), has_cell)], fds)
    orders.sendall(order)


def _make_cell(path: str) -> tuple[int, OSError | None]:
    """Descriptor of a new control group; -1 without a path, or with the error if none is made."""
    if not path:
        return -1, None
    try:
        os.mkdir(path)  # noqa: PTH102  (text and os: this runs for every task)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), None
    except OSError as error:
        return -1, error


def _end_unknown(order: SpawnOrder) -> None:
    """Kill a program whose launcher died during the start: its state is unknown."""
    marks = {name + b"=" + value for name, value in order.env.items() if name.startswith(b"MESH_")}
    for process in look().values():
        if marks and marks <= process.marks:
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
