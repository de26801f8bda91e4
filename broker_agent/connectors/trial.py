"""A short-lived process that checks settings of a plug-in, or tries a profile once.

  python -m broker_agent.connectors.trial

It reads a `TrialOrder` in msgpack from stdin, and writes JSON lines: a `TrialStep` for each step,
then a `TrialEnd`. Connectors may print: their output goes nowhere.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from broker_agent.connectors import kinds
from broker_agent.connectors.api import CallFailed
from broker_agent.connectors.confine import confine, die_with_agent
from broker_agent.connectors.ready import Ready, take_up
from broker_agent.core.lines import Place
from broker_agent.core.profiles import Checked, ProfileProblem, WorkerOrder

ORDER_BYTES: Final = 1024 * 1024


class TrialOrder(msgspec.Struct, frozen=True, kw_only=True):
    """order: a `WorkerOrder` in msgpack. places: of its file, for lines of faults."""

    what: Literal["check", "test"]
    order: bytes
    places: list[Place] = []


class TrialStep(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    step: str
    seconds: float


class TrialEnd(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """code: of a fault, or empty. checked: of a check. server: name and version, of a test."""

    code: str = ""
    message: str = ""
    line: int = 0
    checked: Checked | None = None
    server: str = ""


Say: TypeAlias = Callable[[TrialStep | TrialEnd], None]


def main() -> None:
    """Carry out one order; the exit code is 0 whenever there is an answer."""
    confine("")
    die_with_agent(at_once=True)
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)

    def say(answer: TrialStep | TrialEnd) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()

    trial = msgspec.msgpack.decode(sys.stdin.buffer.read(ORDER_BYTES), type=TrialOrder)
    say(_check(trial) if trial.what == "check" else _test(trial, say))


def _check(trial: TrialOrder) -> TrialEnd:
    order = msgspec.msgpack.decode(trial.order, type=WorkerOrder)
    try:
        return TrialEnd(checked=kinds.check_plugin(order.kind, order.settings, trial.places))
    except ProfileProblem as problem:
        return TrialEnd(code="profile_problem", message=problem.text, line=problem.line)
    except Exception as error:  # noqa: BLE001  (of the plug-in)
        return TrialEnd(code="profile_problem", message=f"the plug-in failed: {error!r}"[:300])


def _test(trial: TrialOrder, say: Say) -> TrialEnd:
    try:
        ready = take_up(trial.order)
    except CallFailed as error:
        return TrialEnd(code=error.code, message=error.message)
    try:
        return TrialEnd(server=_try(ready, say))
    except CallFailed as error:
        return TrialEnd(code=error.code, message=ready.secrets.scrub(error.message))
    except Exception as error:  # noqa: BLE001  (of a driver)
        return TrialEnd(code="internal", message=ready.secrets.scrub(repr(error)))


def _try(ready: Ready, say: Say) -> str:
    began = time.monotonic()

    def step(name: str) -> None:
        nonlocal began
        now = time.monotonic()
        say(TrialStep(step=name, seconds=now - began))
        began = now

    secrets = ready.secrets.values()
    began = time.monotonic()
    session = ready.connector.open(ready.profile, secrets)
    try:
        return ready.secrets.scrub(session.test(step))
    finally:
        session.close()


if __name__ == "__main__":
    main()
