"""The worker process: serves the calls of one profile, one at a time, until its agent closes it.

    reader (a thread)         main thread
    Setup, Call, EndSession ─▶ queue ─▶ open if needed ─▶ call ─▶ Answered ─▶ tidy
    Cancel ─▶ session.cancel
    Hold ──▶ output waits
    agent gone ─▶ session.cancel, then the end of this process

A driver may hang in either thread: the agent then kills the process.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final

import msgspec

from broker_agent.connectors.api import ActionSpec, Call, CallFailed, Session
from broker_agent.connectors.confine import confine, die_with_agent
from broker_agent.connectors.frames import (
    Answered,
    CallOrder,
    Cancel,
    EndSession,
    Hold,
    Opened,
    Order,
    Setup,
    receive_order,
    say,
)
from broker_agent.connectors.output import FileOut
from broker_agent.connectors.ready import Ready, take_up
from schemas import limits
from schemas.texts import cut_text

AGENT_FD: Final = 0
TEST: Final = "connection.test"
# Time for the driver to interrupt a call when the agent is gone.
LEAVE_S: Final = 2.0
# Bytes of a call's result, below the limit of the message.
RESULT_BYTES: Final = limits.RESULT_BYTES

Work = tuple[Setup | CallOrder | EndSession, list[int]]


class Worker:
    def __init__(self, agent: socket.socket) -> None:
        self._agent = agent
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._ready: Ready | CallFailed = CallFailed("worker_lost", "no setup", effect="none")
        self._profile = ""
        self._session: Session | None = None
        self._is_called = False
        self._is_cancelled = False

    def run(self) -> None:
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        while (work := self._work.get()) is not None:
            order, fds = work
            if isinstance(order, Setup):
                self._set_up(order)
                continue
            self._is_called = True
            die_with_agent(at_once=False)
            try:
                said = self._serve(order, fds)
            finally:
                for fd in fds:
                    os.close(fd)
            self._is_called = False
            die_with_agent(at_once=True)
            say(self._agent, said)
            self._tidy()
        self._close()

    # Orders of the agent.

    def _read(self) -> None:
        with suppress(OSError):
            while (received := receive_order(self._agent)) is not None:
                self._take(*received)
        if self._is_called:
            self._interrupt()
            time.sleep(LEAVE_S)
            os._exit(1)
        self._work.put(None)

    def _take(self, order: Order, fds: list[int]) -> None:
        match order:
            case Cancel():
                self._is_cancelled = True
                # In a thread: a server that is gone must not hold up the next order.
                threading.Thread(target=self._interrupt, daemon=True).start()
            case Hold():
                (self._goes_on.clear if order.on else self._goes_on.set)()
            case _:
                self._work.put((order, fds))

    def _interrupt(self) -> None:
        session = self._session
        if session is not None:
            with suppress(Exception):
                session.cancel()

    # Calls.

    def _set_up(self, order: Setup) -> None:
        self._profile = order.profile
        try:
            confine(order.cell)
            self._ready = take_up(order.order)
        except CallFailed as fault:
            self._ready = fault
        except Exception as error:  # noqa: BLE001  (of a plug-in that is imported)
            self._ready = CallFailed(
                "connector_missing", f"the connector cannot be loaded: {error!r}", effect="none"
            )

    def _serve(self, order: CallOrder | EndSession, fds: list[int]) -> Answered:
        ready = self._ready
        if isinstance(ready, CallFailed):
            return _failed(ready, reads=True, scrub=lambda text: text)
        if isinstance(order, EndSession):
            return self._guard(lambda: self._end_session(ready, order), reads=False, ready=ready)
        if order.action == TEST:
            return self._test(ready)
        spec = ready.connector.actions.get(order.action)
        if spec is None:
            message = f"{ready.connector.kind} has no action {order.action}"
            return Answered(code="action_unknown", message=message, effect="none")
        deadline = time.monotonic() + order.timeout_s
        out = FileOut(fds[0], order.output_bytes, self._goes_on, deadline)
        call = Call(id=order.id, key=order.key, deadline=deadline)
        reads = spec.effect == "reads"
        return self._guard(
            lambda: self._call(ready, spec, order, out, call), reads=reads, ready=ready
        )

    def _guard(
        self, act: Callable[[], Mapping[str, Any]], *, reads: bool, ready: Ready
    ) -> Answered:
        scrub = ready.secrets.scrub
        try:
            result = msgspec.msgpack.encode(act())
            if len(result) > RESULT_BYTES:
                message = f"the result has {len(result)} bytes, more than {RESULT_BYTES}"
                large = CallFailed("result_too_large", message, effect="done")
                return _failed(large, reads=reads, scrub=scrub)
            return Answered(result=result, effect="none" if reads else "done")
        except CallFailed as fault:
            return _failed(fault, reads=reads, scrub=scrub)
        except MemoryError:
            full = CallFailed("worker_lost", "the worker has no memory left")
            return _failed(full, reads=reads, scrub=scrub)
        except Exception as error:  # noqa: BLE001  (of a connector: it ends this call alone)
            message = f"the connector failed: {type(error).__name__}: {error}"
            return _failed(CallFailed("internal", message), reads=reads, scrub=scrub)

    def _call(
        self, ready: Ready, spec: ActionSpec, order: CallOrder, out: FileOut, call: Call
    ) -> Mapping[str, Any]:
        args = _decoded(spec, order)
        was_open = self._session is not None
        try:
            result = self._open(ready).call(order.action, args, out, call)
        except CallFailed as fault:
            if not was_open or out.written or not _is_stale(fault) or self._is_cancelled:
                raise
            # The server had closed a session that was idle: nothing has reached it.
            self._close()
            result = self._open(ready).call(order.action, args, out, call)
        if time.monotonic() > call.deadline:
            # Servers differ in what an interrupted statement gives, even a row without a word.
            raise CallFailed("target_timeout", "the answer came after the deadline", effect="done")
        return result

    def _open(self, ready: Ready) -> Session:
        session = self._session
        if session is not None and (session.is_broken or ready.secrets.are_stale):
            self._close()
            session = None
        if session is None:
            if self._is_cancelled:
                raise CallFailed("target_refused", "cancelled before it began", effect="none")
            session = ready.connector.open(ready.profile, ready.secrets.values())
            self._session = session
            say(self._agent, Opened(server_id=session.server_id))
            if self._is_cancelled:
                raise CallFailed("target_refused", "cancelled before it began", effect="none")
        return session

    def _end_session(self, ready: Ready, order: EndSession) -> Mapping[str, Any]:
        ready.connector.kill(ready.profile, ready.secrets.values(), order.server_id)
        return {}

    def _test(self, ready: Ready) -> Answered:
        """Open a session of its own, as a first call would. The result has the steps' times."""
        steps: dict[str, float] = {}
        told = {"steps": steps, "profile": self._profile}
        began = time.monotonic()

        def step(name: str) -> None:
            nonlocal began
            now = time.monotonic()
            steps[name] = round(1000 * (now - began), 3)
            began = now

        def act() -> Mapping[str, Any]:
            nonlocal began
            values = ready.secrets.values()
            began = time.monotonic()
            self._close()
            self._session = session = ready.connector.open(ready.profile, values)
            say(self._agent, Opened(server_id=session.server_id))
            return {**told, "server": ready.secrets.scrub(session.test(step))}

        answer = self._guard(act, reads=True, ready=ready)
        self._close()
        if not answer.code:
            return answer
        return msgspec.structs.replace(answer, result=msgspec.msgpack.encode(told))

    def _tidy(self) -> None:
        """Reset the session for the next call, perhaps another client's; close it if broken."""
        session = self._session
        if session is None:
            return
        tidy = getattr(session, "tidy", None)
        try:
            if tidy is not None and not session.is_broken:
                tidy()
        except Exception:  # noqa: BLE001  (a session that cannot be reset is not used again)
            self._close()
            return
        if session.is_broken:
            self._close()

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):
                session.close()


def _decoded(spec: ActionSpec, order: CallOrder) -> msgspec.Struct:
    try:
        return msgspec.msgpack.decode(order.args, type=spec.args)
    except msgspec.MsgspecError as error:
        message = f"args of {order.action}: {error}"
        raise CallFailed("field_invalid", message, effect="none") from error


def _is_stale(fault: CallFailed) -> bool:
    return fault.code == "target_lost" and fault.effect == "none"


def _failed(fault: CallFailed, *, reads: bool, scrub: Callable[[str], str]) -> Answered:
    return Answered(
        code=fault.code[: limits.LABEL_LEN],
        message=cut_text(scrub(fault.message), limits.REASON_LEN),
        effect="none" if reads else fault.effect,
    )


def main() -> None:
    die_with_agent(at_once=True)
    agent = socket.socket(fileno=os.dup(AGENT_FD))
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, AGENT_FD)
    os.close(null)
    Worker(agent).run()
    # Threads of drivers do not hold up the end.
    os._exit(0)


if __name__ == "__main__":
    main()
