"""Starts the process that checks a plug-in's settings, or tries a profile once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal

import msgspec

from broker_agent.connectors.secrets import CREDENTIALS
from broker_agent.connectors.trial import TrialEnd, TrialOrder, TrialStep
from broker_agent.core.profiles import Checked, ProfileProblem, UsableProfile

CHECK_S: Final = 10.0
ANSWER_BYTES: Final = 1024 * 1024
# Variables of the agent that a trial gets, beside those that the profile refers to.
_PASSED: Final = ("PATH", "HOME", "LANG", "TZ", "PYTHONPATH", "VIRTUAL_ENV", CREDENTIALS)


def check_plugin(others: set[int], kind: str, settings: Mapping[str, Any], text: str) -> Checked:
    """Check settings in a process that imports the plug-in. Raises ProfileProblem.

    others: pids of children of this process that are no tasks. A value in the file itself (`plain`)
    does not travel.
    """
    profile = UsableProfile(
        name="check", kind=kind, hash="", settings=settings, path="", is_plugin=True
    )
    said = [*run_trial("check", profile, others=others, timeout_s=CHECK_S, text=text)]
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
    text: str = "",
) -> Iterator[TrialStep | TrialEnd]:
    """Yield what the process says; without a `TrialEnd` it was killed after `timeout_s` or died."""
    names = {*_PASSED, *profile.variables}
    order = TrialOrder(what=what, order=profile.order(), text=text)
    process = subprocess.Popen(
        [sys.executable, "-m", "broker_agent.connectors.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in names if name in os.environ},
        start_new_session=True,
    )
    others.add(process.pid)
    try:
        said, _ = process.communicate(msgspec.msgpack.encode(order), timeout_s)
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        others.discard(process.pid)
    for line in said[:ANSWER_BYTES].splitlines():
        with suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(line, type=TrialStep | TrialEnd)
