"""Tests that each connector passes, for built-in ones and for plug-ins alike.

A test module of a plug-in makes a subclass, which pytest collects:

    class TestGauge(ConnectorContract):
        connector = CONNECTOR

        def settings(self):
            return {"host": "127.0.0.1", "port": 7000}

        def reading(self):
            return "sql.query", SqlQueryArgs(sql="select 1")
"""

import gc
import os
import resource
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import SkipTest

import msgspec

from broker_agent.connectors.api import Call, CallFailed, Out, Session

CANCEL_S: Final = 2.0
OPENS: Final = 100
LARGE_BYTES: Final = 100 * 1000 * 1000
MEMORY_BYTES: Final = 64 * 1024 * 1024
RESULT_BYTES: Final = 32 * 1024
CODES: Final = frozenset({"target_unreachable", "login_refused", "tls_failed", "target_timeout"})
Action = tuple[str, msgspec.Struct]


class CountingOut:
    """Output that is counted and dropped, up to `most` bytes."""

    def __init__(self, most: int = 1 << 40) -> None:
        self._most = most
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.written + len(data) > self._most:
            raise CallFailed("result_too_large", f"more than {self._most} bytes")
        self.written += len(data)


class ConnectorContract:
    """The tests. The first three are given by each connector, the others if its kind has such.

    connector: the one under test. No test takes longer than a minute, whatever the system does.
    """

    connector: Any

    def settings(self) -> Mapping[str, Any]:
        """Return settings of a profile, by which the system is reached."""
        raise NotImplementedError

    def secrets(self) -> Mapping[str, str]:
        """Return values of the secrets of these settings."""
        return {}

    def reading(self) -> Action:
        """Return an action that succeeds and changes nothing, with its arguments."""
        raise NotImplementedError

    def endless(self) -> Action:
        """Return an action that takes longer than ten minutes."""
        raise SkipTest("no action of this kind takes that long")

    def large(self) -> Action:
        """Return an action with more than 100 MB of output."""
        raise SkipTest("no action of this kind has that much output")

    def unreachable(self) -> Mapping[str, Any]:
        """Return settings of a system that is not there."""
        raise SkipTest("this kind reaches nothing that could be away")

    def wrong_secrets(self) -> Mapping[str, str]:
        """Return values that the system refuses."""
        raise SkipTest("this kind has no secrets")

    # What subclasses may use.

    def open(self, settings: Mapping[str, Any] | None = None) -> Session:
        """Open a session, with the secrets of the settings."""
        session: Session = self.connector.open(self._profile(settings), self.secrets())
        return session

    def _profile(self, settings: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        return msgspec.convert(dict(settings or self.settings()), self.connector.profile)

    # Settings and arguments.

    def test_settings_are_accepted_and_unknown_ones_refused(self) -> None:
        wrong: Sequence[str] = self.connector.check(self._profile())
        assert not wrong, wrong
        try:
            self._profile({**self.settings(), "of_tomorrow": 1})
        except msgspec.ValidationError:
            return
        raise AssertionError("a setting that does not exist is ignored")

    def test_unknown_arguments_are_refused(self) -> None:
        for name, action in self.connector.actions.items():
            assert action.args.__struct_config__.forbid_unknown_fields, name
            assert action.effect in {"reads", "writes"}, name

    # Calls.

    def test_action_succeeds_with_a_small_result(self) -> None:
        session = self.open()
        try:
            for _ in range(2):  # a session is used again
                result = _call(session, self.reading())
                assert len(msgspec.msgpack.encode(result)) <= RESULT_BYTES
                assert not session.is_broken
        finally:
            session.close()

    def test_system_is_tried_in_steps(self) -> None:
        session, steps = self.open(), list[str]()
        try:
            assert session.test(steps.append)
        finally:
            session.close()
        order = ["resolve", "connect", "tls", "login", "query"]
        assert steps == [step for step in order if step in steps]
        assert steps

    def test_output_limit_ends_the_call(self) -> None:
        session = self.open()
        try:
            _call(session, self.reading(), CountingOut(most=0))
        except CallFailed as fault:
            assert fault.code == "result_too_large", fault
        else:
            raise SkipTest("this action has no output")
        finally:
            session.close()

    def test_cancel_interrupts_a_call(self) -> None:
        action, session = self.endless(), self.open()
        faults: list[CallFailed] = []
        began = threading.Event()

        def run() -> None:
            began.set()
            try:
                _call(session, action)
            except CallFailed as fault:
                faults.append(fault)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        began.wait()
        # Before the request is on its way there is nothing to interrupt.
        thread.join(CANCEL_S)
        assert thread.is_alive(), f"it was to take ten minutes: {faults}"
        session.cancel()
        thread.join(CANCEL_S)
        assert not thread.is_alive(), f"the call goes on {CANCEL_S:g} s after cancel()"
        assert len(faults) == 1
        session.close()

    def test_memory_of_a_large_output_is_bounded(self) -> None:
        action, session = self.large(), self.open()
        try:
            _call(session, self.reading())
            before, out = _peak_bytes(), CountingOut()
            _call(session, action, out)
        finally:
            session.close()
        assert out.written > LARGE_BYTES
        assert _peak_bytes() - before < MEMORY_BYTES

    # Faults.

    def test_system_that_is_away_is_told_without_effect(self) -> None:
        self._fails_to_open(self.unreachable(), self.secrets())

    def test_wrong_secrets_are_refused_and_not_told(self) -> None:
        self._fails_to_open(self.settings(), self.wrong_secrets())

    def _fails_to_open(self, settings: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        try:
            session = self.connector.open(self._profile(settings), secrets)
        except CallFailed as fault:
            assert fault.code in CODES, fault.code
            assert fault.effect == "none"
            found = [name for name, value in secrets.items() if value and value in fault.message]
            assert not found, f"the message contains {found}"
        else:
            session.close()
            raise AssertionError("it was opened")

    def test_hundred_sessions_leave_nothing(self) -> None:
        self.open().close()  # loads what is loaded once
        before = _left()
        for _ in range(OPENS):
            self.open().close()
        until = time.monotonic() + CANCEL_S
        while _left() > before and time.monotonic() < until:
            gc.collect()
            time.sleep(0.05)
        assert _left() <= before, "sessions leave descriptors or threads"


def _call(session: Session, action: Action, out: Out | None = None) -> Mapping[str, Any]:
    name, args = action
    call = Call(id="contract", key="contract", deadline=time.monotonic() + 600)
    return session.call(name, args, CountingOut() if out is None else out, call)


def _left() -> int:
    return len(os.listdir("/proc/self/fd")) + threading.active_count()  # noqa: PTH208


def _peak_bytes() -> int:
    """Peak of this process's memory: of now, if the host can forget the one before."""
    status = Path("/proc/self/status").read_text()
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    peak = int(found[0]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * peak
