"""Failpoints cost nothing until a test arms them, and nobody else can."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_client.runtime import failpoints
from schemas.faults import Refused
from tests.harness import program

ALLOWED = {"MESH_ALLOW_FAILPOINTS": "tests"}


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.reach = failpoints._nothing


def test_reaching_does_nothing_until_armed() -> None:
    failpoints.arm({})
    assert failpoints.reach is failpoints._nothing
    failpoints.reach("anywhere")


@pytest.mark.parametrize("allow", [{}, {"MESH_ALLOW_FAILPOINTS": "1"}])
def test_orders_outside_of_tests_are_refused(allow: dict[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        failpoints.arm({"MESH_FAILPOINTS": "a=kill", **allow})
    assert caught.value.code == "settings_invalid"
    assert failpoints.reach is failpoints._nothing


@pytest.mark.parametrize("order", ["a", "=kill", "a=explode", "a=sleep:x", "a=kill@x", "a=kill|"])
def test_order_that_cannot_be_read_is_refused(order: str) -> None:
    with pytest.raises(Refused, match="is no order"):
        failpoints.arm({"MESH_FAILPOINTS": order, **ALLOWED})


def test_sleep_begins_with_the_nth_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    failpoints.arm({"MESH_FAILPOINTS": "a=sleep:0.05@2|b=stop", **ALLOWED})
    failpoints.reach("a")
    failpoints.reach("elsewhere")
    assert slept == []
    failpoints.reach("a")
    assert slept == [0.05]


def test_kill_ends_this_very_process() -> None:
    script = (
        "import os; from broker_client.runtime import failpoints;"
        "failpoints.arm(os.environ); failpoints.reach('here'); print('alive')"
    )
    env = {**os.environ, "MESH_FAILPOINTS": "here=kill", **ALLOWED}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


@pytest.mark.parametrize(("name", "verb"), [("broker-master", "serve"), ("broker-agent", "run")])
def test_program_refuses_to_start_with_orders(tmp_path: Path, name: str, verb: str) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MESH_")}
    argv = program(name, verb, "--state-dir", str(tmp_path))
    env = {**clean, "MESH_FAILPOINTS": "a=kill"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "MESH_FAILPOINTS is set" in done.stderr
