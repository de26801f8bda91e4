"""The carrier's process: receives pipes and files from the agent, copies until the pipes close.

    agent ── take NUMBER: two pipes, two files ──▶ carrier
          ── leave NUMBER ──────────────────────▶
          ── (the end of its socket) ───────────▶ copies until all pipes are closed, then ends

The carrier is not the parent of the tasks and answers no requests: the agent reads pipes and files
itself. When the carrier dies, the agent hands all pipes to the next one.
"""

import os
import select
import signal
import socket
import struct
import sys
import time

from broker_agent.carrier.flow import ELSEWHERE, HELD, Flow, Flows, mark_whole

POST_FD = 3
TAKE, LEAVE = 1, 2
# Kind and number of a message. TAKE brings four descriptors: pipes and files of stdout and stderr.
MESSAGE = struct.Struct("=qq")
FDS = struct.Struct("4i")
# Shortest and longest pause between reads of a pipe; programs that print little get longer ones.
_PAUSE_MIN_S = 0.0005
_PAUSE_MAX_S = 0.008
# Delay before messages of the agent are read: most tasks have ended by then.
_POST_S = 0.01
# A program that has written this much at once is probably blocked on its pipe.
_MUCH_BYTES = 32 * 1024
# Pause before the retry on a full disk, or on a file that the agent had locked.
_AGAIN_S = 0.1
_POLL_MAX = 256


class CarriedTask:
    """Pipes and files of one task. The descriptors are closed once both pipes have ended."""

    __slots__ = ("_fds", "flows", "number")

    def __init__(self, number: int, fds: tuple[int, int, int, int]) -> None:
        self.number = number
        self._fds = fds
        self.flows = Flows(fds[:2], fds[2:])

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


class Carrier:
    """post: the agent's socket, which keeps the bounds of messages."""

    def __init__(self, post: socket.socket) -> None:
        self._post: socket.socket | None = post
        self._post_fd = post.fileno()
        post.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._post_fd, select.EPOLLIN)
        self._loads: dict[int, CarriedTask] = {}
        self._flows: dict[int, tuple[CarriedTask, Flow]] = {}
        self._watched: set[int] = set()
        # Pipes that are not polled until the next timer.
        self._waiting: set[int] = set()
        # Readings of the monotonic clock for that timer and for the agent's messages; 0: not set.
        self._again_at = 0.0
        self._post_at = 0.0

    def run(self) -> None:
        """Run until the agent is gone and all pipes have ended."""
        pause_s = _PAUSE_MIN_S
        while self._post is not None or self._loads:
            found = self._epoll.poll(self._wait_s(), _POLL_MAX)
            most = 0
            for fd, _ in found:
                if fd == self._post_fd:
                    self._post_at = time.monotonic() + _POST_S
                    self._epoll.unregister(fd)
                elif fd in self._flows:
                    most = max(most, self._carry(*self._flows[fd]))
            self._on_time(time.monotonic())
            if most >= _MUCH_BYTES:
                pause_s = _PAUSE_MIN_S
            elif found:
                time.sleep(pause_s)
                pause_s = min(_PAUSE_MAX_S, 2 * pause_s)

    def _wait_s(self) -> float | None:
        times = [at for at in (self._post_at, self._again_at) if at]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _on_time(self, now: float) -> None:
        if self._post_at and now >= self._post_at:
            self._post_at = 0.0
            self._read_post()
            if self._post is not None:
                self._epoll.register(self._post_fd, select.EPOLLIN)
        if self._again_at and now >= self._again_at:
            self._again_at = 0.0
            self._look_again()
        if self._waiting and not self._again_at:
            self._again_at = now + _AGAIN_S

    def _read_post(self) -> None:
        while self._post is not None:
            try:
                data, extra, flags, _ = self._post.recvmsg(
                    MESSAGE.size, socket.CMSG_SPACE(FDS.size)
                )
            except BlockingIOError:
                return
            except OSError:
                data, extra, flags = b"", [], 0
            if len(data) < MESSAGE.size:
                self._post.close()
                self._post, self._post_fd = None, -1
                return
            if flags & socket.MSG_CTRUNC:
                sys.exit(1)  # no descriptors are left: the agent starts another, with all of it
            kind, number = MESSAGE.unpack(data)
            if kind == TAKE:
                self._take(CarriedTask(number, FDS.unpack(extra[0][2])))
            elif (load := self._loads.get(number)) is not None:
                self._leave(load)

    def _take(self, load: CarriedTask) -> None:
        if load.flows.were_closed():
            self._end(load)
            return
        self._loads[load.number] = load
        for flow in (load.flows.stdout, load.flows.stderr):
            self._flows[flow.pipe] = (load, flow)
            self._carry(load, flow)

    def _carry(self, load: CarriedTask, flow: Flow) -> int:
        """Copy what a pipe holds; returns the number of bytes, or OVER, EMPTY, HELD, ELSEWHERE."""
        moved = load.flows.carry(flow)
        if flow.is_over:
            self._forget(flow)
            if load.flows.is_over:
                del self._loads[load.number]
                self._end(load)
        elif moved in {HELD, ELSEWHERE}:
            # Polling it would wake the carrier all the time.
            self._unwatch(flow.pipe)
            self._waiting.add(flow.pipe)
        elif flow.pipe not in self._watched:
            self._watched.add(flow.pipe)
            self._epoll.register(flow.pipe, select.EPOLLIN)
        return moved

    def _end(self, load: CarriedTask) -> None:
        """Close both pipes. A live agent notices the end without a message."""
        if self._is_alone():
            mark_whole(load.flows.stdout.file)
        load.close()

    def _is_alone(self) -> bool:
        """Whether the agent is gone, even if its last messages are still unread."""
        if self._post is None:
            return True
        look = select.poll()
        look.register(self._post_fd, select.POLLRDHUP)
        return bool(look.poll(0))

    def _look_again(self) -> None:
        pipes = list(self._waiting)
        self._waiting.clear()
        for pipe in pipes:
            self._carry(*self._flows[pipe])

    def _unwatch(self, pipe: int) -> None:
        if pipe in self._watched:
            self._watched.discard(pipe)
            self._epoll.unregister(pipe)

    def _forget(self, flow: Flow) -> None:
        self._flows.pop(flow.pipe, None)
        self._waiting.discard(flow.pipe)
        self._unwatch(flow.pipe)

    def _leave(self, load: CarriedTask) -> None:
        """Drop a task that has ended; a process that still holds its pipes has no reader now."""
        for flow in (load.flows.stdout, load.flows.stderr):
            self._forget(flow)
        del self._loads[load.number]
        load.close()


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal to the agent's group is for the agent
    os.chdir("/")
    Carrier(socket.socket(fileno=POST_FD)).run()


if __name__ == "__main__":
    main()
