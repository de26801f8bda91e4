"""Runs the carrier, and hands it the pipes of tasks.

The agent also holds all pipes. When a carrier dies, the bytes that it had not copied are still in
the pipes, and the next carrier gets them. Programs with much output are blocked meanwhile.
"""

import asyncio
import os
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Final

from broker_agent.carrier.carry import FDS, LEAVE, MESSAGE, POST_FD, TAKE
from broker_agent.services.companion import Companion
from broker_agent.store.folders import TaskFolder

RESTART_S: Final = 0.1
RETRY_S: Final = 0.02
# Hundreds of tasks may start before the carrier reads on a busy host.
_POST_BYTES: Final = 1024 * 1024


class CarrierPost(Companion):
    """The carrier's parent. others: pids of children other than tasks, the carrier among them."""

    name = "carrier"
    restart_s = RESTART_S

    def __init__(self, others: set[int]) -> None:
        super().__init__(others)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # guards all attributes below
        self._numbers = 0
        self._post: socket.socket | None = None
        # Folders at the carrier. The agent's slots bound them, and the unsent messages.
        self._folders: dict[int, TaskFolder] = {}
        self._unsent: deque[tuple[int, int]] = deque()
        self._is_waiting = False

    def take(self, folder: TaskFolder) -> None:
        """Hand the folder's pipes to the carrier until `leave`. Callable from any thread."""
        with self._lock:
            self._numbers += 1
            folder.number = self._numbers
            self._folders[folder.number] = folder
            self._tell(TAKE, folder.number)

    def leave(self, folder: TaskFolder) -> None:
        """Take the pipes of an ended task back; a process that holds them has no reader now."""
        with self._lock:
            known = self._folders.pop(folder.number, None)
            if known is not None and not folder.is_closed:
                self._tell(LEAVE, folder.number)

    def _tell(self, kind: int, number: int) -> None:
        self._unsent.append((kind, number))
        self._send()

    def _send(self) -> None:
        while self._post is not None and self._unsent:
            kind, number = self._unsent[0]
            folder = self._folders.get(number)
            fds = folder.cargo if folder is not None and kind == TAKE else ()
            if kind == TAKE and not fds:
                self._unsent.popleft()  # the task has ended by now
                continue
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, FDS.pack(*fds))] if fds else []
            try:
                self._post.sendmsg([MESSAGE.pack(kind, number)], extra)
            except OSError:
                self._wait()  # the socket is full, or the carrier is dead and the next gets all
                return
            self._unsent.popleft()

    def _wait(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._loop.call_later, RETRY_S, self._send_again)

    def _send_again(self) -> None:
        with self._lock:
            self._is_waiting = False
            self._send()

    def _start(self) -> int:
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _POST_BYTES)
            files = [
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), POST_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            ]
            self._spawn("carrier.carry", "", [], files)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        with self._lock:
            self._post = ours
            self._unsent = deque((TAKE, number) for number in self._folders)
            self._send()
        return ours.fileno()

    def _end_life(self, life: int) -> None:
        with self._lock:
            if self._post is not None and self._post.fileno() == life:
                self._post.close()
                self._post = None
