"""Calls through connections, made by real worker processes, without a broker."""

import asyncio
import hashlib
import json
import os
import secrets
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from broker_agent.core.profiles import UsableProfile
from broker_agent.core.program import Ending
from broker_agent.executors import registry
from broker_agent.executors.base import Executor, Job, Task, Way
from broker_agent.executors.conditions import own_conditions
from broker_agent.executors.connection import ConnectionExecutor
from broker_agent.executors.registry import ExecutorPorts
from broker_agent.services.carrier import CarrierPost
from broker_agent.store.folders import Folders, TaskFolder
from broker_agent.warden.table import WardenTable
from schemas.faults import Refused
from schemas.messages.actions import ActionArgs, action_of
from schemas.messages.actions.sql import SqlExecuteArgs, SqlQueryArgs
from schemas.states import State

WAIT_S = 60.0


class Called(NamedTuple):
    """The end of a call. result: its map. out: all of its output."""

    ending: Ending
    result: dict[str, Any]
    out: bytes

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of output in JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Under:
    """A call under way."""

    def __init__(self, task: Task, ended: "asyncio.Future[Ending]", folder: TaskFolder) -> None:
        self.task = task
        self._ended = ended
        self.folder = folder

    async def end_only(self) -> Ending:
        """Wait for its end, without its output."""
        async with asyncio.timeout(WAIT_S):
            return await asyncio.shield(self._ended)

    async def end(self) -> Called:
        ending = await self.end_only()
        result = msgspec.msgpack.decode(ending.result) if ending.result else {}
        size = self.folder.sizes()[0]
        return Called(ending, result, self.folder.read(0, size, 0))

    @property
    def has_ended(self) -> bool:
        return self._ended.done()


class CallBench:
    """Makes calls. Profiles are put into it by `put`."""

    def __init__(self, root: Path, grace_s: float = 5.0) -> None:
        root.mkdir(exist_ok=True)
        self.folders = Folders(root, keep=0)
        self._profiles: dict[str, UsableProfile] = {}
        self._count = 0
        self.is_spool_high = False
        others: set[int] = set()
        self._executors = registry.build(
            ExecutorPorts(
                loop=asyncio.get_running_loop(),
                grace_s=lambda: grace_s,
                elapsed=time.monotonic,
                marks={"MESH_AGENT": "a1", "MESH_INCARNATION": secrets.token_hex(8)},
                carrier=CarrierPost(others),
                table=WardenTable(64),
                others=others,
                conditions=own_conditions(),
                find_profile=self._find,
                is_spool_high=lambda: self.is_spool_high,
            )
        )
        executor = self._executors.find("sql.query")
        assert isinstance(executor, ConnectionExecutor)
        self.executor = executor

    def put(self, name: str, kind: str, *, is_plugin: bool = False, **settings: object) -> None:
        hash_ = hashlib.blake2b(repr(sorted(settings.items())).encode()).hexdigest()[:16]
        self._profiles[name] = UsableProfile(
            name=name, kind=kind, hash=hash_, settings=settings, path="", is_plugin=is_plugin
        )

    def _find(self, name: str) -> UsableProfile:
        if name not in self._profiles:
            raise Refused("profile_unknown", f"no profile {name}")
        return self._profiles[name]

    def start(
        self,
        name: str,
        args: ActionArgs,
        *,
        timeout_s: float = WAIT_S,
        output_bytes: int = 1 << 30,
        key: str = "",
    ) -> Under:
        self._count += 1
        folder = self.folders.make(f"c{self._count}", 1)
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        way = Way(name, timeout_s, key or f"k{self._count}")
        job = Job(f"c{self._count}", 1, args, folder, "", 600.0, way, output_bytes)
        executor = self._executors.find(action_of(args).name)
        assert isinstance(executor, Executor)
        executor.admit(args, way)
        task = executor.start(job, lambda: None, ended.set_result)
        return Under(task, ended, folder)

    async def call(self, name: str, args: ActionArgs, **options: Any) -> Called:  # noqa: ANN401
        return await self.start(name, args, **options).end()

    async def query(self, name: str, sql: str, **params: Any) -> Called:  # noqa: ANN401
        return await self.call(name, SqlQueryArgs(sql=sql, params=params))

    async def execute(self, name: str, sql: str, **params: Any) -> Called:  # noqa: ANN401
        return await self.call(name, SqlExecuteArgs(sql=sql, params=params))

    @property
    def pids(self) -> list[int]:
        """Pids of the worker processes."""
        return [worker.pid for worker in self.executor.pool.workers]

    def close(self) -> None:
        self._executors.kill_all()
        self._executors.close()
        self.folders.close()


# Ways in which a call ends before its system has answered.
STOPS = ("cancel", "time-out", "fence", "stopped worker", "killed worker")


def stop_by(task: Task, end: str) -> State:
    """Stop a call in one of these ways; returns the state of its end."""
    match end:
        case "cancel":
            task.stop(State.CANCELLED, "asked")
        case "fence":
            task.fence("lease expired", 1.0)
            return State.KILLED_FENCED
        case "stopped worker":
            os.kill(task.pid, signal.SIGSTOP)
            task.stop(State.CANCELLED, "asked")
        case "killed worker":
            os.kill(task.pid, signal.SIGKILL)
            return State.FAILED
        case _:
            return State.TIMED_OUT
    return State.CANCELLED
