"""Starts the process that checks a plug-in's settings, or tries a profile once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

import msgspec

from broker_agent.connectors.secrets import CREDENTIALS
from broker_agent.connectors.trial import TrialEnd, TrialOrder, TrialStep
from broker_agent.core.lines import Place
from broker_agent.core.profiles import Checked, ProfileProblem, UsableProfile
from broker_agent.core.references import without_values

CHECK_S: Final = 10.0
ANSWER_BYTES: Final = 1024 * 1024
ANSWERS: Final = 100
# Variables of the agent that a trial gets, beside those that the profile refers to.
_PASSED: Final = ("PATH", "HOME", "LANG", "TZ", "PYTHONPATH", "VIRTUAL_ENV", CREDENTIALS)


def check_plugin(
    others: set[int], kind: str, settings: Mapping[str, Any], places: Sequence[Place]
) -> Checked:
    """Check settings in a process that imports the plug-in. Raises ProfileProblem.

    others: pids of children of this process that are no tasks. A value in the file itself (`plain`)
    does not travel.
    """
    profile = UsableProfile(
        name="check", kind=kind, hash="", settings=without_values(settings), path="", is_plugin=True
    )
    said = [*run_trial("check", profile, others=others, timeout_s=CHECK_S, places=places)]
    last = said[-1] if said else None
    if not isinstance(last, TrialEnd):
        raise ProfileProblem(f"the plug-in of {kind} has not answered within {CHECK_S:g} s")
    if last.checked is None:
        raise ProfileProblem(last.message, last.line)
    return last.checked


def run_trial(
    what: Literal["check", "test"],
    profile: UsableProfile,
    *,
    others: set[int],
    timeout_s: float,
    places: Sequence[Place] = (),
) -> Iterator[TrialStep | TrialEnd]:
    """Yield what the process says; without a `TrialEnd` it was killed after `timeout_s` or died."""
    names = {*_PASSED, *profile.variables}
    order = TrialOrder(what=what, order=profile.order(), places=list(places))
    process = subprocess.Popen(
        [sys.executable, "-m", "broker_agent.connectors.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in names if name in os.environ},
        start_new_session=True,
    )
    others.add(process.pid)
    alarm = threading.Timer(timeout_s, _kill, (process.pid,))
    alarm.daemon = True
    alarm.start()
    try:
        yield from _answers(process, msgspec.msgpack.encode(order))
    finally:
        alarm.cancel()
        _kill(process.pid)
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            with suppress(OSError):
                pipe.close()
        others.discard(process.pid)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _answers(process: "subprocess.Popen[bytes]", order: bytes) -> Iterator[TrialStep | TrialEnd]:
    """Yield up to the end, whatever processes of its own a plug-in leaves behind."""
    assert process.stdin  # noqa: S101  (they are pipes)
    assert process.stdout  # noqa: S101
    with suppress(BrokenPipeError):
        process.stdin.write(order)
        process.stdin.close()
    for _ in range(ANSWERS):
        line = process.stdout.readline(ANSWER_BYTES)
        if not line:
            return
        try:
            answer = msgspec.json.decode(line, type=TrialStep | TrialEnd)
        except msgspec.MsgspecError:
            return
        yield answer
        if isinstance(answer, TrialEnd):
            return
