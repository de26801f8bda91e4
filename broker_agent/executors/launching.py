"""Has programs started by the launcher: for one thread at a time each, without the loop."""

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

from broker_agent.executors.manner import Manner
from broker_agent.executors.spawn import NOT_EXECUTABLE, NOT_FOUND, CannotStart, Order, said
from broker_agent.launcher import birth
from broker_agent.warden.kin import look

_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv.pop(1));"
    " from broker_agent.launcher.birth import main; main()"
)
# A launcher that does not answer is stuck for good: its part of a start takes a millisecond.
ANSWER_S: Final = 30.0

log = structlog.get_logger(__name__)


class Launcher:
    """One process, started with the first order and again when it has died.

    on_pid: told of that process. The programs are children of the thread that has started it, which
    must not be the first one: see `Kinship`.
    """

    def __init__(self, manner: Manner, on_pid: Callable[[int], object] = lambda _: None) -> None:
        self._manner = manner
        self._on_pid = on_pid
        self._lock = threading.Lock()  # guards all below
        self._orders: socket.socket | None = None
        self._is_closed = False
        self.pid = 0
        self.starts = 0

    def spawn(self, order: Order) -> int:
        """As `spawn.spawn`, in the manner of this launcher; also born in its cell if it has one."""
        told, report = os.pipe()
        cell = _make_cell(order.cell)
        try:
            try:
                fds = [*order.files, report, *([cell] if cell >= 0 else [])]
                pid = self._ask(_packed(order), fds, has_cell=cell >= 0)
            except OSError as error:
                _end_unknown(order)
                raise CannotStart(f"its launcher has ended: {said(error)}") from error
            finally:
                os.close(report)
                if cell >= 0:
                    os.close(cell)
            failure = os.read(told, birth.FAILED.size)
        finally:
            os.close(told)
        if failure:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
            raise self._fault(order, *birth.FAILED.unpack(failure))
        return pid

    def _ask(self, order: bytes, fds: list[int], *, has_cell: bool) -> int:
        """The new child. Raises OSError if the launcher is gone, CannotStart if there is none."""
        with self._lock:
            if self._is_closed:
                raise CannotStart("the agent is ending")
            if self._orders is None:
                self._orders = self._start()
            try:
                _send(self._orders, order, fds, has_cell=has_cell)
                answer = self._orders.recv(birth.BORN.size, socket.MSG_WAITALL)
                if len(answer) < birth.BORN.size:
                    raise ConnectionResetError("no answer")
            except OSError:
                self._drop()
                raise
        pid, number = birth.BORN.unpack(answer)
        if not pid:
            error = OSError(number, os.strerror(number))
            raise CannotStart(f"no process could be made: {said(error)}")
        return int(pid)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        try:
            with theirs:
                self.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, root],
                    {},
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), birth.ORDERS_FD),
                        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                    ],
                    setsid=True,
                    setsigmask=(),
                    setsigdef=set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP},
                )
            self._on_pid(self.pid)
            ours.settimeout(ANSWER_S)
            _send(ours, marshal.dumps((_told(self._manner),)), [], has_cell=False)
        except BaseException:
            ours.close()
            raise
        self.starts += 1
        log.info("launcher_started", pid=self.pid)
        return ours

    def _drop(self) -> None:
        """It is of no use any more: another takes its place with the next order."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
            log.warning("launcher_ended", pid=self.pid)
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)

    def _fault(self, order: Order, stage: int, number: int) -> CannotStart:
        error = OSError(number, os.strerror(number))
        name = order.argv[0]
        if stage == birth.USER:
            return CannotStart(f"cannot become uid {self._manner.account.uid}: {said(error)}")
        if stage == birth.LIMITS:
            return CannotStart(f"cannot set its limits (tasks.limits): {said(error)}")
        if stage == birth.FOLDER:
            return CannotStart(f"cannot enter {order.cwd or order.folder}: {said(error)}")
        if stage == birth.NOT_FOUND:
            return CannotStart(f"cannot run {name}: not found in PATH", NOT_FOUND)
        if stage == birth.DENIED:
            return CannotStart(f"cannot run {name}: permission denied", NOT_EXECUTABLE)
        is_missing = isinstance(error, FileNotFoundError)
        code = NOT_FOUND if is_missing else NOT_EXECUTABLE
        return CannotStart(f"cannot run {name}: {said(error)}", code)

    def close(self) -> None:
        """It ends by itself, once it has no orders to wait for."""
        with self._lock:
            self._is_closed = True
            if self._orders is not None:
                self._orders.close()
                self._orders = None
                with suppress(ChildProcessError):
                    os.waitpid(self.pid, 0)


def _told(manner: Manner) -> dict[str, object]:
    account = manner.account
    user = (account.uid, account.gid, list(account.groups)) if account.is_other else None
    return {
        "user": user,
        "umask": manner.umask,
        "nice": manner.nice,
        "oom_score_adj": manner.oom_score_adj,
        "limits": list(manner.limits),
    }


def _packed(order: Order) -> bytes:
    argv = [os.fsencode(text) for text in order.argv]
    path = os.fsdecode(order.env.get(b"PATH", b"")) or os.defpath
    cwd = None if order.cwd is None else os.fsencode(order.cwd)
    return marshal.dumps((argv, dict(order.env), os.fsencode(order.folder), cwd, path))


def _send(orders: socket.socket, order: bytes, fds: list[int], *, has_cell: bool) -> None:
    socket.send_fds(orders, [birth.HEADER.pack(len(order), has_cell)], fds)
    orders.sendall(order)


def _make_cell(path: str) -> int:
    """The folder of a new control group, or -1 if there is to be none, or none can be made."""
    if not path:
        return -1
    try:
        os.mkdir(path)  # noqa: PTH102  (text and os: this runs for every task)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def _end_unknown(order: Order) -> None:
    """The launcher died with it half done: nobody knows whether it runs, and as what."""
    marks = {name + b"=" + value for name, value in order.env.items() if name.startswith(b"MESH_")}
    for process in look().values():
        if marks and marks <= process.marks:
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
