"""Plug-ins that misbehave harm their own worker alone."""

import sqlite3
import textwrap
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from broker_agent.warden.processes import look
from schemas.messages.actions.sql import SqlQueryArgs
from schemas.states import State
from tests.calls import CallBench
from tests.waiting import eventually

_CODE: Final = '''
    """Connector that does what it should not."""

    import os
    import re
    import time

    from broker_agent.connectors.api import ActionSpec, Profile
    from schemas.messages.actions.sql import SqlQueryArgs


    class Wild(Profile, frozen=True):
        pass


    class Session:
        server_id = ""
        is_broken = False

        def call(self, action, args, out, call):
            getattr(self, args.sql)(out)
            return {"did": args.sql}

        def behave(self, out):
            out.write(b"well\\n")

        def loop(self, out):
            out.write(b"looping\\n")
            re.fullmatch("(a+)+b", "a" * 64)  # holds the interpreter, in C

        def fill(self, out):
            kept = []
            while True:
                kept.append(bytearray(1 << 24))

        def fork(self, out):
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        os.setsid()
                        time.sleep(3600)
                    os._exit(0)
            out.write(b"forked\\n")
            time.sleep(3600)

        def crash(self, out):
            os.kill(os.getpid(), 11)

        def flood(self, out):
            while True:
                out.write(bytes(1 << 20))

        def cancel(self):
            time.sleep(3600)

        def test(self, step):
            return "wild"

        def close(self):
            pass


    class Connector:
        kind = "wild"
        capability = "sql"
        profile = Wild
        actions = {"sql.query": ActionSpec(args=SqlQueryArgs, effect="reads")}

        def check(self, profile):
            return []

        def open(self, profile, secrets):
            return Session()

        def kill(self, profile, secrets, server_id):
            pass


    CONNECTOR = Connector()
'''


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CallBench]:
    folder = tmp_path / "installed"
    facts = folder / "wild_connector-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "wild_connector.py").write_text(textwrap.dedent(_CODE))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: wild-connector\nVersion: 1.0\n")
    points = "[agent_mesh.connectors]\nwild = wild_connector:CONNECTOR\n"
    (facts / "entry_points.txt").write_text(points)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with closing(sqlite3.connect(tmp_path / "tame.sqlite")) as database:
        database.execute("create table t (a)")
    made = CallBench(tmp_path / "tasks", grace_s=1.0)
    made.put("wild", "wild", is_plugin=True)
    made.put("tame", "sqlite", file=str(tmp_path / "tame.sqlite"))
    yield made
    made.close()


def of_worker(pid: int) -> list[int]:
    """Worker `pid` and all processes that come from it, by their marks."""
    seen = look()
    marks = seen[pid].marks if pid in seen else set()
    return [each.pid for each in seen.values() if marks and marks <= each.marks]


async def behaves(bench: CallBench) -> bool:
    called = await bench.call("wild", SqlQueryArgs(sql="behave"))
    return called.out == b"well\n" and called.ending.state is State.SUCCEEDED


async def test_connections_f17_loop_in_c_is_killed(bench: CallBench) -> None:
    assert await behaves(bench)
    under = bench.start("wild", SqlQueryArgs(sql="loop"), timeout_s=2.0)
    await eventually(lambda: under.folder.sizes()[0] > 0)
    # Calls of others go on meanwhile.
    assert (await bench.query("tame", "select 1 as a")).rows == [{"a": 1}]
    called = await under.end()
    assert (called.ending.state, called.ending.code) == (State.TIMED_OUT, "target_timeout")
    assert await behaves(bench)


async def test_connections_f17_forked_processes_end_with_the_worker(bench: CallBench) -> None:
    under = bench.start("wild", SqlQueryArgs(sql="fork"))
    await eventually(lambda: under.folder.sizes()[0] > 0)
    await eventually(lambda: len(of_worker(under.task.pid)) == 4)
    left = set(of_worker(under.task.pid))
    under.task.stop(State.CANCELLED, "asked")
    assert (await under.end()).ending.state is State.CANCELLED
    await eventually(lambda: not left & look().keys())
    assert await behaves(bench)


async def test_connections_f17_memory_is_bounded(bench: CallBench) -> None:
    called = await bench.call("wild", SqlQueryArgs(sql="fill"))
    assert (called.ending.state, called.ending.code) == (State.FAILED, "worker_lost")
    assert await behaves(bench)


async def test_connections_f17_crash_ends_the_call(bench: CallBench) -> None:
    called = await bench.call("wild", SqlQueryArgs(sql="crash"))
    assert (called.ending.code, called.ending.effect) == ("worker_lost", "none")
    assert await behaves(bench)


async def test_output_of_a_plugin_is_bounded(bench: CallBench) -> None:
    called = await bench.call("wild", SqlQueryArgs(sql="flood"), output_bytes=5_000_000)
    assert called.ending.code == "result_too_large"
    assert len(called.out) <= 5_000_000


async def test_fault_of_a_plugin_ends_its_call_alone(bench: CallBench) -> None:
    called = await bench.call("wild", SqlQueryArgs(sql="no_such_method"))
    assert (called.ending.state, called.ending.code) == (State.FAILED, "internal")
    assert "AttributeError" in called.ending.reason
    assert await behaves(bench)
