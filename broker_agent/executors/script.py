"""The action `script.run`: a program that the host's profile names, run as any program.

Without secrets: argv is made of the profile's and the values of the command. With secrets: a worker
writes their values into a file in memory, which becomes the input of `connectors.masking`; this
process never reads it.

start ─▶ worker ─▶ file in memory ─▶ program, below the mask ─▶ end
"""

import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from broker_agent.connectors.api import CallFailed
from broker_agent.connectors.frames import SCRIPT_SECRETS, Answered, CallOrder
from broker_agent.core.profiles import UsableProfile
from broker_agent.core.program import Ending
from broker_agent.executors.base import Executor, Job, Mark, OnEnd, OnStart, Task, Way
from broker_agent.executors.spawn import CannotStart
from broker_agent.executors.workers.pool import PoolPorts, WorkerPool
from broker_agent.executors.workers.process import Worker
from schemas import codec
from schemas.faults import MeshError, Refused
from schemas.messages.actions import ActionArgs, ProcessArgs
from schemas.messages.actions.script import ScriptRunArgs
from schemas.states import State

if TYPE_CHECKING:
    from broker_agent.connectors.script import Script, ScriptProfile

# The kind `script` is imported for the first script alone: agents are small.
T = TypeVar("T")

# Longest time in which a worker reads the secrets of a script, and their size.
SECRETS_S: Final = 30.0
SECRETS_BYTES: Final = 1024 * 1024
_KIND: Final = "script"
_MASKING: Final = "broker_agent.connectors.masking"


class ScriptPorts(PoolPorts, Protocol):
    """The part of `ExecutorPorts` that scripts need."""

    @property
    def find_profile(self) -> Callable[[str], UsableProfile]: ...
    @property
    def programs(self) -> Executor | None: ...


class ScriptTask:
    """A script whose secrets are read before it starts. Then its program does all the work."""

    def __init__(
        self, owner: "ScriptExecutor", job: Job, args: ProcessArgs, on_start: OnStart, on_end: OnEnd
    ) -> None:
        self._owner = owner
        self._job = job
        self._args = args
        self._on_start = on_start
        self._on_end = on_end
        self._program: Task | None = None
        self._worker: Worker | None = None
        self._is_over = False
        self._outlives_s = job.outlives_s
        self._file = os.memfd_create("secrets", os.MFD_CLOEXEC)
        self._limit = owner.loop.call_later(SECRETS_S, self._fail, "its secrets took too long")

    # Its secrets.

    def begin(self, worker: Worker, script: str) -> None:
        if self._is_over:
            self._owner.pool.give_back(worker)
            return
        worker.caller = self
        self._worker = worker
        order = CallOrder(
            id=self._job.command,
            key=self._job.command,
            action=SCRIPT_SECRETS,
            args=codec.encode(ScriptRunArgs(script=script)),
            timeout_s=SECRETS_S,
            output_bytes=SECRETS_BYTES,
        )
        worker.order(order, [self._file])

    def on_no_worker(self, why: str) -> None:
        self._fail(why)

    def on_gone(self, why: str) -> None:
        self._worker = None
        self._fail(why)

    def on_answer(self, said: Answered) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            self._owner.pool.give_back(worker)
        if said.code:
            self._end(Ending(State.FAILED, None, said.message, effect="none", code=said.code))
        elif not self._is_over:
            self._run()

    def _run(self) -> None:
        """Start the program, whose input are its secrets, then that of the command."""
        stdin, self._file = self._file, -1
        self._limit.cancel()
        os.lseek(stdin, 0, os.SEEK_END)
        view = memoryview(self._args.stdin)
        while view:
            view = view[os.write(stdin, view) :]
        os.lseek(stdin, 0, os.SEEK_SET)
        argv = [sys.executable, "-I", "-B", "-m", _MASKING, "--", *self._args.argv]
        args = ProcessArgs(
            argv=argv, env=self._args.env, cwd=self._args.cwd, timeout_s=self._args.timeout_s
        )
        job = self._job._replace(args=args, stdin=stdin, outlives_s=self._outlives_s)
        try:
            self._program = self._owner.programs.start(job, self._on_start, self._on_end)
        except MeshError as fault:
            os.close(stdin)
            code = fault.exit_code if isinstance(fault, CannotStart) else None
            self._end(Ending(State.FAILED, code, fault.message, effect="none"))
        self._is_over = True

    def _fail(self, why: str) -> None:
        self._end(Ending(State.FAILED, None, why, effect="none", code="secret_unreadable"))

    def _end(self, ending: Ending) -> None:
        """End before the program has started."""
        if self._is_over:
            return
        self._is_over = True
        self._limit.cancel()
        if self._file >= 0:
            os.close(self._file)
        self._owner.loop.call_soon(self._on_end, ending)

    # A running task.

    @property
    def pid(self) -> int:
        return self._program.pid if self._program is not None else 0

    def identify(self) -> Mark:
        return self._program.identify() if self._program is not None else (0, 0)

    def stop(self, state: State, reason: str, grace_s: float | None = None) -> None:
        if self._program is not None:
            self._program.stop(state, reason, grace_s)
        else:
            self._end(Ending(state, None, reason, effect="none"))

    def fence(self, reason: str, grace_s: float) -> None:
        if self._program is not None:
            self._program.fence(reason, grace_s)
        else:
            self.stop(State.KILLED_FENCED, reason, grace_s)

    def outlive(self, after_s: float) -> None:
        self._outlives_s = after_s
        if self._program is not None:
            self._program.outlive(after_s)

    def kill(self) -> None:
        if self._program is not None:
            self._program.kill()
        else:
            self.stop(State.FAILED, "the agent is ending")

    def force(self) -> None:
        if self._program is not None:
            self._program.force()


class ScriptExecutor(Executor):
    """Runs scripts by the executor of programs, which looks after their processes."""

    def __init__(self, ports: ScriptPorts) -> None:
        if ports.programs is None:
            raise ValueError("scripts need the executor of programs")
        self.loop = ports.loop
        self.programs = ports.programs
        self._ports = ports
        self._find_profile = ports.find_profile
        self._pool: WorkerPool | None = None
        # Of each connection and script.
        self._running: Counter[tuple[str, str]] = Counter()

    @property
    def pool(self) -> WorkerPool:
        """Workers that read secrets; made for the first script that has some."""
        if self._pool is None:
            self._pool = WorkerPool(self._ports)
        return self._pool

    def admit(self, args: ActionArgs, way: Way) -> None:
        script = self._find(cast("ScriptRunArgs", args), way)
        self._argv(cast("ScriptRunArgs", args), script)
        name = cast("ScriptRunArgs", args).script
        if script.at_once and self._running[way.connection, name] >= script.at_once:
            raise Refused(
                "agent_full", f"script {name}: {script.at_once} at once, the profile's limit"
            )

    def start(self, job: Job, on_start: OnStart, on_end: OnEnd) -> Task:
        args = cast("ScriptRunArgs", job.args)
        script = self._find(args, job.way)
        limits = [each for each in (script.timeout_s, job.way.timeout_s) if each]
        program = ProcessArgs(
            argv=self._argv(args, script),
            env=script.env,
            cwd=script.cwd,
            stdin=args.stdin,
            timeout_s=min(limits),
        )
        key = (job.way.connection, args.script)

        has_started = False

        def started() -> None:
            nonlocal has_started
            has_started = True
            on_start()

        def ended(ending: Ending) -> None:
            self._running[key] -= 1
            on_end(_with_effect(ending, has_started=has_started))

        if not script.secrets:
            task: Task = self.programs.start(job._replace(args=program), started, ended)
            self._running[key] += 1
            return task
        waiting = ScriptTask(self, job, program, started, ended)
        self._running[key] += 1
        profile = self._find_profile(job.way.connection)
        self.loop.call_soon(
            self.pool.take,
            profile,
            lambda worker: waiting.begin(worker, args.script),
            waiting.on_no_worker,
        )
        return waiting

    def _find(self, args: ScriptRunArgs, way: Way) -> "Script":
        if not way.connection:
            raise Refused("connection_needed", "script.run works through a connection")
        found = self._find_profile(way.connection)
        if found.kind != _KIND:
            raise Refused("profile_problem", f"profile {found.name} is of kind {found.kind}")
        from broker_agent.connectors import kinds, script

        profile = cast("ScriptProfile", kinds.typed(kinds.find_builtin(_KIND), found.settings))
        return _refused(lambda: script.find_script(profile, args.script))

    @staticmethod
    def _argv(args: ScriptRunArgs, script: "Script") -> list[str]:
        from broker_agent.connectors.script import argv_of

        return _refused(lambda: argv_of(args.script, script, args.params))

    def reap(self) -> None:
        if self._pool is not None:
            self._pool.keep(self._hash_of)

    def _hash_of(self, name: str) -> str | None:
        try:
            return self._find_profile(name).hash
        except MeshError:
            return None

    def kill_all(self) -> None:
        if self._pool is not None:
            self._pool.kill_all()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()


def _refused(work: Callable[[], T]) -> T:
    """Return what `work` does; a failed call becomes a refusal."""
    try:
        return work()
    except CallFailed as fault:
        raise Refused(fault.code, fault.message) from fault


def _with_effect(ending: Ending, *, has_started: bool) -> Ending:
    """A script that ended well has had its effect; of others it is not known."""
    if ending.effect:
        return ending
    if ending.state is State.SUCCEEDED:
        return ending._replace(effect="done")
    return ending._replace(effect="unknown" if has_started else "none")


def build(ports: ScriptPorts) -> ScriptExecutor:
    return ScriptExecutor(ports)
