"""The launcher's process: reads orders from a socket and clones one child for each.

order ─▶ clone ─▶ child: changes user ─▶ exec of its program ──────▶ answer: pid
                      └─ failure ──────────────────────────────────▶ answer: stage and errno

The launcher is suspended until the child has called exec, since each page that it wrote meanwhile
would be copied. It loads only the standard library, and has one thread: a clone is complete.
"""

import ctypes
import gc
import marshal
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from broker_agent.launcher.find import find

ORDERS_FD = 3
# Bytes of the order; whether its control group is among the descriptors.
HEADER = struct.Struct("=I?")
# Pid, or 0; stage of the failure, and its errno. UNCELLED: it runs, but outside of its cell.
BORN = struct.Struct("=iii")
_FAILED = struct.Struct("=ii")
NONE, CLONE, USER, LIMITS, FOLDER, NOT_FOUND, DENIED, LOAD, UNCELLED = range(9)
_FDS_MAX = 4

# Source: clone(2), clone3(2). The number of clone3 is the same everywhere, those of clone are not.
_CLONE_PARENT = 0x8000
_CLONE_VFORK = 0x4000
_CLONE_INTO_CGROUP = 0x2_0000_0000
_CLONE3 = 435
_CLONE = {"x86_64": 56, "aarch64": 220}
_ENOSYS, _EPERM = 38, 1
# PyDLL keeps the interpreter's lock: nothing may run between the clone and its first step.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack"),
            *("stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
        )
    ]


def _clone(cell: int) -> int:
    """Clone this process with the same parent; 0 in the child. cell: a cgroup's descriptor, or -1.

    Raises OSError.
    """
    flags = _CLONE_PARENT | _CLONE_VFORK | (_CLONE_INTO_CGROUP if cell >= 0 else 0)
    wanted = _CloneArgs(flags=flags, cgroup=max(cell, 0))
    pid = int(_syscall(ctypes.c_long(_CLONE3), ctypes.byref(wanted), ctypes.sizeof(wanted)))
    if pid < 0 and cell < 0 and ctypes.get_errno() in {_ENOSYS, _EPERM}:
        # Older container runtimes refuse unknown system calls.
        number = _CLONE.get(os.uname().machine)
        if number is not None:
            told = (number, _CLONE_PARENT | _CLONE_VFORK, 0, 0, 0, 0)
            pid = int(_syscall(*(ctypes.c_long(each) for each in told)))
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


class ChildConditions:
    """Start conditions of tasks. user: uid, gid and all groups, or None: the user of this process.

    limits: number of the resource, soft, hard.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        self.user: tuple[int, int, list[int]] | None = told["user"]
        self.limits: list[tuple[int, int, int]] = told["limits"]
        os.umask(told["umask"])
        # Python ignores SIGPIPE. Set it here once: each step of a clone copies memory.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        _try(lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)))
        _try(lambda: os.setpriority(os.PRIO_PROCESS, 0, told["nice"]))
        _try(lambda: _write("/proc/self/oom_score_adj", told["oom_score_adj"]))


def _try(step: Callable[[], object]) -> None:
    """Run `step`; one that only root may do is skipped, and `doctor` reports it."""
    try:
        step()
    except OSError:
        return


def _write(path: str, number: int) -> None:
    with open(path, "w") as file:  # noqa: PTH123  (no pathlib in a small process)
        file.write(str(number))


def _load(
    order: tuple[Any, ...], conditions: ChildConditions, files: list[int], report: int
) -> NoReturn:
    """Exec the task in the clone, or report the failure."""
    argv, env, folder, cwd, path = order
    stage, number = USER, 0
    try:
        os.setsid()
        for target, source in enumerate(files):
            os.dup2(source, target)
        stage = LIMITS
        for kind, soft, hard in conditions.limits:
            resource.setrlimit(kind, (soft, hard))
        # As the agent's user: the task's user may not be able to reach the folder.
        stage = FOLDER
        os.chdir(folder)
        stage = USER
        if conditions.user is not None:
            _become(*conditions.user)
        if cwd is not None:
            stage = FOLDER
            os.chdir(cwd)
        program, is_denied = find(os.fsdecode(argv[0]), path, ".")
        stage = DENIED if is_denied else NOT_FOUND
        if program is not None:
            stage = LOAD
            os.execve(program, argv, env)  # noqa: S606  (no shell, as ordered)
    except OSError as error:
        number = error.errno or 0
    except BaseException:  # noqa: BLE001  a clone must never go on as a launcher
        number = 0
    try:
        os.write(report, _FAILED.pack(stage, number))
    finally:
        os._exit(127)


def _become(uid: int, gid: int, groups: list[int]) -> None:
    """Change to another user permanently, and drop all rights of the agent."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if uid == 0:
        return
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return
    raise OSError(_EPERM, "it can become root again")


def _receive(orders: socket.socket) -> tuple[tuple[Any, ...], list[int], bool] | None:
    data, fds, _, _ = socket.recv_fds(orders, HEADER.size, _FDS_MAX)
    if len(data) < HEADER.size:
        return None
    size, has_cell = HEADER.unpack(data)
    parts = []
    while size:
        part = orders.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return marshal.loads(b"".join(parts)), fds, has_cell  # noqa: S302  (our agent's, and only its)


def serve(orders: socket.socket, conditions: ChildConditions) -> None:
    failures, report = os.pipe()
    os.set_blocking(failures, False)
    while (received := _receive(orders)) is not None:
        order, fds, has_cell = received
        for fd in fds:
            os.set_inheritable(fd, False)
        pid, stage, number = 0, CLONE, 0
        try:
            pid, refused = _clone_somewhere(fds[3] if has_cell else -1)
        except OSError as error:
            number = error.errno or 0
        else:
            if pid == 0:
                _load(order, conditions, fds[:3], report)
            stage, number = _failure(failures)
            if stage == NONE and refused:
                stage, number = UNCELLED, refused
        for fd in fds:
            os.close(fd)
        try:
            orders.sendall(BORN.pack(pid, stage, number), socket.MSG_NOSIGNAL)
        except OSError:
            # The agent is gone, and no other process would end the task.
            if pid:
                _try(partial(os.kill, pid, signal.SIGKILL))
            return


def _clone_somewhere(cell: int) -> tuple[int, int]:
    """Clone into the cell if possible; without a cell the task is found through /proc.

    Returns the pid, and the errno of the cell's refusal or 0. Raises OSError.
    """
    if cell < 0:
        return _clone(-1), 0
    try:
        return _clone(cell), 0
    except OSError as error:
        return _clone(-1), error.errno or _EPERM


def _failure(failures: int) -> tuple[int, int]:
    """Stage and errno that the last clone reported; 0, 0 if it has called exec or is gone."""
    try:
        stage, number = _FAILED.unpack(os.read(failures, _FAILED.size))
    except BlockingIOError:
        return NONE, 0
    return stage, number


def main() -> None:
    # Tasks must not inherit descriptors and locks of the agent's parent.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  (no pathlib in a small process)
        if int(name) > ORDERS_FD:
            _try(partial(os.close, int(name)))
    os.set_inheritable(ORDERS_FD, False)
    orders = socket.socket(fileno=ORDERS_FD)
    received = _receive(orders)
    if received is None:
        return
    os.chdir("/")
    conditions = ChildConditions(received[0][0])
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        serve(orders, conditions)
    except ConnectionError:
        sys.exit(0)


if __name__ == "__main__":
    main()
