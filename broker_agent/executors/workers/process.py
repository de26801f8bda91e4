"""One worker process, as the agent sees it: its socket, its signals, its end."""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec
import structlog

from broker_agent.connectors.frames import Answered, Opened, Order, hear, send_order
from broker_agent.executors.process_groups import signal_group
from broker_agent.warden import cell
from broker_agent.warden.processes import look, process_start, send, task_processes

# Variable that all processes of one worker have in their environment.
MARK: Final = "MESH_WORKER"

log = structlog.get_logger(__name__)


class Caller(Protocol):
    """The owner of a call that a worker serves. The loop calls one of these once."""

    def on_answer(self, said: Answered) -> None: ...

    def on_gone(self, why: str) -> None:
        """Handle the end of the worker without an answer."""


class Worker:
    """A process. profile: name and hash of what it serves. born_at, idle_since: monotonic times.

    server_id: of its session at the server, or empty. caller: None while it is idle.
    """

    def __init__(
        self, pid: int, sock: socket.socket, profile: tuple[str, str], name: str, path: str
    ) -> None:
        self.pid = pid
        self.start = process_start(pid)
        self.profile = profile
        self.server_id = ""
        self.caller: Caller | None = None
        self.born_at = 0.0
        self.idle_since = 0.0
        self.is_gone = False
        self.is_retired = False
        self.is_on_hold = False
        self._sock = sock
        self._mark = {f"{MARK}={name}".encode()}
        self._cell = path

    def fileno(self) -> int:
        return self._sock.fileno()

    def order(self, order: Order, fds: Sequence[int] = ()) -> bool:
        """Send an order; False if it takes none, so that the caller is told of its end soon."""
        try:
            send_order(self._sock, order, fds)
        except OSError as error:
            log.warning("worker_takes_no_order", pid=self.pid, error=str(error))
            self.kill()
            return False
        return True

    def on_readable(self) -> bool:
        """Read one message, and tell the caller of an answer. False: no more will come."""
        try:
            said = hear(self._sock)
        except BlockingIOError:
            return True
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("worker_says_nonsense", pid=self.pid, error=str(error)[:200])
            self.kill()
            return False
        match said:
            case Opened():
                self.server_id = said.server_id
            case Answered() if self.caller is not None:
                caller, self.caller = self.caller, None
                caller.on_answer(said)
            case _:
                # It has closed its end, or speaks without a call.
                if not self.is_retired:
                    self.kill()
                return False
        return True

    def read_rest(self) -> None:
        """Read what it has said before its end."""
        while self.caller is not None:
            try:
                said = hear(self._sock)
            except (OSError, msgspec.MsgspecError):
                return
            if isinstance(said, Answered):
                caller, self.caller = self.caller, None
                caller.on_answer(said)
            elif said is None:
                return

    def terminate(self) -> None:
        if not self.is_gone:
            signal_group(self.pid, signal.SIGTERM)
            # A stopped process takes it only when it goes on.
            signal_group(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and what it has started. Callable from any thread."""
        if not self.is_gone:
            signal_group(self.pid, signal.SIGKILL)
        if self._cell:
            cell.kill(self._cell)

    def close(self) -> None:
        """Close the socket: an idle worker ends then."""
        self.is_retired = True
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def reap(self) -> str:
        """Collect its end, kill what it has left; returns how it ended, for people."""
        self.is_gone = True
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            code = 255
        self._sock.close()
        for process in task_processes(look(), self.pid, self.start, self._mark, {os.getpid()}):
            send(process, signal.SIGKILL)
        if self._cell:
            cell.kill(self._cell)
            cell.remove(self._cell)
        if code < 0:
            return f"was ended by signal {-code}"
        return f"ended with {code}"
