"""A mesh whose every link can be cut and whose every process can die, watched all the while.

    async with World(tmp_path, template, "F21", seed, agents=2) as world:
        await world.submit(world.witness.sleeper(5))
        world.cut("a1")
        ...
        world.heal("a1")
        judgement = await world.finish()

Each agent reaches the broker through a proxy of its own, and so does the master. The broker is a
process of ours, so that it can stay away for as long as a fault asks for; with `embedded` it is
the master's child, as in most installations.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import psutil

from broker_client.api import MeshClient, SubmitFields
from broker_client.context import load_context
from broker_client.output import OutputPart
from broker_master.broker_child import choose_port
from broker_master.broker_config import BrokerLimits, render_config
from broker_master.ca.mesh import open_mesh
from schemas.faults import MeshError
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import AgentList, AgentRecord, AgentsAnswer, CommandList
from schemas.messages.facts import CommandRecord
from schemas.states import TERMINAL
from schemas.subjects import STREAMS
from tests.chaos.checker import ACTIVE_S, Judgement, judge
from tests.chaos.history import Event, History, now, read_history
from tests.chaos.netns import HOST, Namespace
from tests.chaos.report import write_verdict
from tests.chaos.sight import Sight
from tests.chaos.witness import Program, Witness
from tests.children import Child
from tests.harness import MeshProcesses, program
from tests.proxy import Direction, Proxy
from tests.servers import greets, server_binary

GROUP: Final = "web"
AGENTS: Final = ("a1", "a2", "a3")
STEP_S: Final = 0.02
POLL_S: Final = 0.15
READY_S: Final = 60.0
SETTLE_S: Final = 25.0
# Reports on their way are released within this time.
CLOSED_S: Final = 5.0
GONE_S: Final = 30.0
ASK_S: Final = 2.0
ANSWER_S: Final = 30.0

# A tenth of production: 5 s become 0.5. Unrecoverable after 3.5 s, given up after 5.
FAST: Final[Mapping[str, float]] = {
    "beat_s": 0.5,
    "suspect_s": 1.0,
    "ack_s": 0.5,
    "resends": 5,
    "grace_s": 1.0,
    "lost_s": 5.0,
    "adopt_s": 5.0,
    "handshake_s": 2.0,
}
# Where a process has to be started again meanwhile, which no profile makes ten times as fast.
PATIENT: Final[Mapping[str, float]] = {**FAST, "resends": 20, "lost_s": 13.0, "adopt_s": 13.0}
# Where it matters that nobody is called silent who is not: a busy machine may stand still for 1 s.
CALM: Final[Mapping[str, float]] = {**PATIENT, "suspect_s": 2.0, "lost_s": 14.0, "adopt_s": 14.0}
STRICT: Final[Mapping[str, float]] = {**FAST, "strict": 1}
TRUE: Final[Mapping[str, float]] = {
    "beat_s": 5.0,
    "suspect_s": 10.0,
    "ack_s": 5.0,
    "resends": 5,
    "grace_s": 10.0,
    "lost_s": 50.0,
    "adopt_s": 50.0,
    "handshake_s": 5.0,
}


async def make_template(directory: Path) -> Path:
    """A mesh with one group and three agents that are set up and have never been started."""
    mesh = MeshProcesses(directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        await mesh.init("127.0.0.1", HOST)
        await mesh.start_master()
        await mesh.add_group(GROUP)
        for name in AGENTS:
            await mesh.add_agent(name, group=GROUP, start=False)
    finally:
        await mesh.aclose()
    (directory / "master" / "broker" / "port").unlink(missing_ok=True)
    return directory


class World:
    """See the module. agents: how many of the three take part. slots: of each of them."""

    def __init__(
        self,
        directory: Path,
        template: Path,
        fault: str,
        seed: int,
        *,
        agents: int = 1,
        timers: Mapping[str, float] = FAST,
        slots: int = 32,
        embedded: bool = False,
        master_env: Mapping[str, str] | None = None,
        agent_env: Mapping[str, str] | None = None,
        broker_limits: BrokerLimits | None = None,
        mounts: Mapping[str, int] | None = None,
        namespace: Namespace | None = None,
    ) -> None:
        self.directory = directory / "mesh"
        self.fault = fault
        self.seed = seed
        self.chance = random.Random(f"{fault} {seed}")
        self.timers = dict(timers)
        self.names: tuple[str, ...] = AGENTS[:agents]
        self.embedded = embedded
        self.slots = slots
        self._template = template
        self._agent_env = dict(agent_env or {})
        self._master_env = dict(master_env or {})
        self._limits = broker_limits
        self._namespace = namespace
        self._mounts = dict(mounts or {})
        self._mounted: list[Path] = []
        self._stack = contextlib.AsyncExitStack()
        self._watchers: list[asyncio.Task[None]] = []
        self._states: dict[str, str] = {}
        self._shown: dict[str, tuple[str, str, int]] = {}
        self._usage_names: set[str] = set()
        self._expected: set[str] = set()
        self._counter = 0
        self._listed = 0
        self.accepted: set[str] = set()
        self.proxies: dict[str, Proxy] = {}
        self.agents: dict[str, Child] = {}
        history = directory / f"{fault}.{seed}.history.jsonl"
        self.history = History(history, fault=fault, seed=seed, timers=self.timers)
        self.witness = Witness(directory / "witness" / "lines")
        self.sight = Sight(self.history, str(self.witness.path))

    # life

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        if self._watchers:
            await asyncio.wait(self._watchers)
        try:
            await self._stack.aclose()
        finally:
            for child in (*self.agents.values(), *self._brokers()):
                child.kill()
            for pid, _ in list(self.sight.alive):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if hasattr(self, "mesh"):
                await self.mesh.aclose()
            for path in reversed(self._mounted):
                await _run("umount", "-l", str(path))
            self.history.close()

    def _brokers(self) -> tuple[Child, ...]:
        return (self.broker,) if hasattr(self, "broker") else ()

    async def _start(self) -> None:
        for part in ("master", *self.names):
            shutil.copytree(self._template / part, self.directory / part, symlinks=True)
        for part, size_bytes in self._mounts.items():
            await self._mount(self.directory / part, size_bytes)
        self.port = choose_port("127.0.0.1")
        for name in (*self.names, "master"):
            proxy = Proxy(self.port, seed=self.seed)
            self.proxies[name] = await self._stack.enter_async_context(proxy)
        env = {f"MESH_TIMERS__{name.upper()}": f"{value:g}" for name, value in self.timers.items()}
        if "strict" in self.timers:
            env["MESH_TIMERS__STRICT"] = "true"
        self.mesh = MeshProcesses(
            self.directory,
            env=env,
            master_env=self._master_env,
            nats_url="" if self.embedded else _url(self.proxies["master"].port),
        )
        if self.embedded:
            (self.directory / "master" / "broker" / "port").write_text(f"{self.port}\n")
        else:
            self._write_broker()
            await self.launch_broker()
        await self.mesh.start_master()
        self.client = await self._stack.enter_async_context(self._connect())
        self._add_agents()
        for child in self.agents.values():
            child.launch()
        for child in self.agents.values():
            await child.wait_ready(within_s=READY_S)
        self._expected = {"master", *self.names}
        self._watchers = [
            asyncio.create_task(watch(), name=watch.__name__)
            for watch in (
                self.sight.run,
                self._watch_agents,
                self._watch_commands,
                self._watch_results,
            )
        ]
        await self.wait_status(*self.names)
        await self.note_epoch()
        self.note_usage("before")

    def _connect(self) -> contextlib.AbstractAsyncContextManager[MeshClient]:
        """Past the master's proxy: a user's own way to the broker is never the one that is cut."""
        context = load_context(self.mesh.admin_context, {})
        context = msgspec.structs.replace(context, urls=(_url(self.port),))
        return MeshClient.connect(context, timeout_s=ANSWER_S)

    def _write_broker(self) -> None:
        mesh = open_mesh(self.mesh.state_dir)
        self._config = self.directory / "broker.conf"
        text = render_config(
            host="127.0.0.1" if self._namespace is None else "0.0.0.0",
            port=self.port,
            name=f"mesh-{mesh.id}",
            files=mesh.broker_files(),
            trust=mesh.broker_trust(),
            limit=self._limits,
        )
        self._config.write_text(text)
        self.broker = Child(
            "broker", [server_binary(), "-c", str(self._config)], self.mesh.logs, env=self.mesh.env
        )

    def _add_agents(self) -> None:
        for name in self.names:
            urls = _url(self.proxies[name].port)
            env = {
                **self.mesh.env,
                "MESH_URLS": urls,
                "MESH_SLOTS": str(self.slots),
                "MESH_KEEP_FOLDERS": "100000",
                **self._agent_env,
            }
            argv = program("broker-agent", "run", "--state-dir", str(self.mesh.agent_dir(name)))
            if self._namespace is not None:
                argv = self._namespace.inside(argv)
                env["MESH_URLS"] = f"tls://{HOST}:{self.port}"
            child = Child(f"agent-{name}", argv, self.mesh.logs, env=env, ready="ready ")
            self.agents[name] = self.mesh.agents[name] = child

    async def _mount(self, path: Path, size_bytes: int) -> None:
        """A small disk at `path`, with what was there before on it."""
        aside = path.with_name(f"{path.name}.aside")
        path.mkdir(parents=True, exist_ok=True)
        path.rename(aside)
        path.mkdir(mode=0o700)
        code = await _run(
            "mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(path)
        )
        if code:
            raise RuntimeError(f"no tmpfs at {path}")
        self._mounted.append(path)
        shutil.copytree(aside, path, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(aside)

    # links

    def cut(self, agent: str, *directions: Direction) -> None:
        """A black hole between an agent and the broker, both ways or one way."""
        self.proxies[agent].freeze(*directions)
        self.history.add("silence", agent=agent, cut=directions[0] if directions else "both")

    def heal(self, agent: str) -> None:
        self.proxies[agent].thaw()
        self.history.add("healed", agent=agent)

    def cut_master(self) -> None:
        self.proxies["master"].freeze()
        self.history.add("silence", agent="*", cut="master")

    def heal_master(self) -> None:
        self.proxies["master"].thaw()
        self.history.add("healed", agent="*")

    # processes

    def kill_agent(self, agent: str, *, cut: str = "killed") -> None:
        self._note(agent, "killed")
        self.history.add("silence", agent=agent, cut=cut)
        self._expected.discard(agent)
        self.agents[agent].kill()

    def launch_agent(self, agent: str) -> None:
        self.history.add("healed", agent=agent)
        self.agents[agent].launch()
        self._expected.add(agent)
        self._note(agent, "started")

    def stop_agent(self, agent: str) -> None:
        self.history.add("silence", agent=agent, cut="stopped")
        self.agents[agent].signal(signal.SIGSTOP)

    def continue_agent(self, agent: str) -> None:
        self.agents[agent].signal(signal.SIGCONT)
        self.history.add("healed", agent=agent)

    def kill_master(self) -> None:
        self.history.add("silence", agent="*", cut="master")
        self._note("master", "killed")
        self._expected.discard("master")
        self.mesh.master.kill()

    def expect_death(self, name: str) -> None:
        """A failpoint will end it: that is not a fault of the product."""
        self._expected.discard(name)

    async def start_master(self) -> None:
        for name in ("MESH_FAILPOINTS", "MESH_ALLOW_FAILPOINTS"):
            self.mesh.master.env.pop(name, None)
        await self.mesh.start_master()
        self.history.add("healed", agent="*")
        self._expected.add("master")
        self._note("master", "started")
        await self.note_epoch()

    def stop_master(self) -> None:
        self.history.add("silence", agent="*", cut="master")
        self.mesh.master.signal(signal.SIGSTOP)

    def continue_master(self) -> None:
        self.mesh.master.signal(signal.SIGCONT)
        self.history.add("healed", agent="*")

    def kill_broker(self) -> None:
        self.history.add("silence", agent="*", cut="broker")
        if self.embedded:
            os.kill(self.mesh.broker_pid, signal.SIGKILL)
        else:
            self.broker.kill()

    async def launch_broker(self) -> None:
        self.broker.launch()
        await self.broker_greets()

    async def start_broker(self) -> None:
        await self.launch_broker()
        self.history.add("healed", agent="*")

    async def broker_greets(self) -> None:
        async with asyncio.timeout(READY_S):
            while not await greets(self.port):
                await asyncio.sleep(STEP_S)

    def _note(self, name: str, event: str) -> None:
        self.history.add("process", name=name, event=event, pid=0)

    # work

    def next_id(self) -> str:
        self._counter += 1
        return f"{self.fault}-{self.seed}-{self._counter}".lower()

    async def submit(
        self,
        work: Program,
        *,
        id: str | None = None,
        agent: str | None = None,
        probe: bool = False,
        timeout_s: float = 30.0,
        **fields: Any,  # noqa: ANN401  as the client's own `submit`
    ) -> str:
        """Submit with an id of ours and as many tries as it takes; '' if it was refused.

        probe: it waits for an agent that cannot be heard now, and starts soon after it can.
        """
        id = id or self.next_id()
        options: SubmitFields = {"id": id, **fields}  # type: ignore[typeddict-item]
        options |= {"agent": agent} if agent else {"group": GROUP}
        self.history.add(
            "submit",
            id=id,
            program=work.name,
            probe=probe,
            loss=fields.get("loss", "kill"),
            hold_s=fields.get("hold_s"),
            on_lost=fields.get("on_lost", "error"),
        )
        args = ProcessArgs(argv=[*work.argv], env=work.env)
        try:
            answer = await self.client.submit(args, timeout_s=timeout_s, **options)
        except MeshError as error:
            self.history.add("refused", id=id, code=error.code, effect=error.effect)
            return ""
        self.history.add("accepted", id=id, duplicate=answer.duplicate)
        self.accepted.add(id)
        return id

    async def steady(self, rate: float, seconds: float, work: Program | None = None) -> None:
        """Submit `rate` a second, whatever becomes of the earlier ones."""
        work = work or self.witness.quick()
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                group.create_task(self.submit(work))

    @contextlib.asynccontextmanager
    async def under_load(self, rate: float = 20.0) -> AsyncIterator[None]:
        """Steady submissions for as long as the block lasts; ends when all have been answered."""
        ended = asyncio.Event()

        async def load() -> None:
            async with asyncio.TaskGroup() as group:
                while not ended.is_set():
                    group.create_task(self.submit(self.witness.quick()))
                    await asyncio.sleep(self.chance.expovariate(rate))

        task = asyncio.create_task(load())
        try:
            yield
        finally:
            ended.set()
            await task

    async def wait_started(self, *ids: str, within_s: float = 10.0) -> None:
        """Until the tasks themselves say that they run."""
        async with asyncio.timeout(within_s):
            while not set(ids) <= {each.id for each in self.witness.sightings()}:
                await asyncio.sleep(STEP_S)

    async def wait_seen(self, *ids: str, within_s: float = 5.0) -> None:
        """Until processes of these tasks were found."""
        async with asyncio.timeout(within_s):
            while not all(self.sight.of(id) for id in ids):
                await asyncio.sleep(STEP_S)

    async def wait_state(self, id: str, *states: str, within_s: float = 15.0) -> CommandRecord:
        told = "not known to any master that answers"
        try:
            async with asyncio.timeout(within_s):
                while True:
                    with contextlib.suppress(MeshError):
                        asked = now()
                        record = await self.client.show(id)
                        self._note_state(record, asked)
                        if record.state in states:
                            return record
                        told = f"{record.state} ({record.reason})"
                    await asyncio.sleep(STEP_S)
        except TimeoutError:
            raise AssertionError(f"{id} is {told}, not {states}") from None

    async def wait_status(
        self, *agents: str, status: str = "active", within_s: float = 15.0
    ) -> None:
        async with asyncio.timeout(within_s):
            while any(self._shown.get(name, ("",))[0] != status for name in agents):
                await asyncio.sleep(STEP_S)

    async def wait_reconnected(self, *agents: str, within_s: float) -> None:
        """Until each has been seen to be Active by a question that was asked after this call."""
        waiting = set(agents)
        async with asyncio.timeout(within_s):
            while waiting:
                with contextlib.suppress(MeshError):
                    for record in await self._look_at_agents():
                        if record.status == "active":
                            waiting.discard(record.agent)
                await asyncio.sleep(POLL_S)

    async def _look_at_agents(self) -> list[AgentRecord]:
        asked = now()
        found = await self._all_agents()
        for record in found:
            self._note_status(record)
        self.history.add("looked", asked=asked)
        return found

    async def _all_agents(self) -> list[AgentRecord]:
        found: list[AgentRecord] = []
        cursor: str | None = None
        while True:
            request = AgentList(cursor=cursor)
            answer = await self.client.ask("agent", "list", request, AgentsAnswer)
            found += answer.agents
            cursor = answer.cursor
            if cursor is None:
                return found

    def seen_statuses(self) -> list[Event]:
        """Every change of an agent's status that was seen so far."""
        return [event for event in read_history(self.history.path) if event["kind"] == "status"]

    def refusals(self) -> list[str]:
        """Why submissions were refused, in their order."""
        events = read_history(self.history.path)
        return [str(event["code"]) for event in events if event["kind"] == "refused"]

    async def wait_gone(self, *ids: str, within_s: float) -> bool:
        """Whether nothing of these tasks is seen any more within the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while any(self.sight.of(id) for id in ids):
                    await asyncio.sleep(STEP_S)
            return True
        return False

    # watching

    async def _watch_agents(self) -> None:
        while True:
            with contextlib.suppress(MeshError, TimeoutError):
                async with asyncio.timeout(ASK_S):
                    await self._look_at_agents()
            await asyncio.sleep(POLL_S)

    def _note_status(self, record: AgentRecord) -> None:
        if record.agent not in self.names:
            return
        shown = (record.status, record.reason, record.running)
        if self._shown.get(record.agent) != shown:
            self._shown[record.agent] = shown
            fields = dict(zip(("status", "reason", "running"), shown, strict=True))
            self.history.add("status", agent=record.agent, **fields)

    async def _watch_commands(self) -> None:
        while True:
            with contextlib.suppress(MeshError, TimeoutError):
                asked = now()
                async with asyncio.timeout(ASK_S):
                    page = await self.client.list(CommandList(limit=100))
                for record in page.commands:
                    self._note_state(record, asked)
            await asyncio.sleep(POLL_S)

    async def _watch_results(self) -> None:
        with self.client.results() as reader:
            async for record in reader:
                self.history.add("result", id=record.id, state=record.state)

    def _note_state(self, record: CommandRecord, asked: float | None = None) -> None:
        """An open state was true when it was asked for: a result may overtake the answer."""
        if self._states.get(record.id) == record.state:
            return
        self._states[record.id] = record.state
        moment = {} if asked is None or record.state in TERMINAL else {"mono": asked}
        fields = {"id": record.id, "state": record.state, "reason": record.reason}
        self.history.add("state", **fields, **moment)

    async def note_epoch(self) -> None:
        async with asyncio.timeout(READY_S):
            while True:
                with contextlib.suppress(MeshError):
                    status = await self.client.status()
                    self.history.add("epoch", epoch=status.epoch)
                    return
                await asyncio.sleep(STEP_S)

    async def _folders_closed(self) -> None:
        """Until the last ends are recorded: an open folder of a task holds files and pipes."""
        ends_at = now() + CLOSED_S
        pids = [child.pid for child in self.agents.values() if child.is_running]
        while now() < ends_at and any(_has_open_task(pid) for pid in pids):
            await asyncio.sleep(STEP_S)

    def note_usage(self, phase: str) -> None:
        children = {"master": self.mesh.master, **self.agents}
        for name, child in children.items():
            if not child.is_running:
                continue
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(child.pid)
                self.history.add(
                    "usage",
                    phase=phase,
                    name=name,
                    rss=process.memory_info().rss,
                    fds=_fds(child.pid),
                    threads=process.num_threads(),
                )

    # the end

    async def finish(self, *, settle_s: float = SETTLE_S) -> Judgement:
        """Let all accepted commands come to their end, gather what is left to know, and judge."""
        await self._settle(settle_s)
        await self._wait_empty()
        with contextlib.suppress(TimeoutError):
            running = [name for name in self.names if name in self._expected]
            await self.wait_reconnected(*running, within_s=ACTIVE_S)
        records = {id: await self._final(id) for id in sorted(self.accepted)}
        for record in records.values():
            if record is not None and (record.stdout_bytes or record.stderr_bytes):
                await self._note_output(record)
        for each in self.witness.sightings():
            self.history.add(
                each.kind,
                id=each.id,
                attempt=each.attempt,
                agent=each.agent,
                pid=each.pid,
                mono=each.mono,
            )
        await self.note_epoch()
        await self._folders_closed()
        self.note_usage("after")
        self._note_ends()
        judgement = judge(read_history(self.history.path))
        write_verdict(self.fault, self.seed, judgement, self.history.path)
        return judgement

    async def _settle(self, settle_s: float) -> None:
        waiting = set(self.accepted)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settle_s):
                while waiting:
                    for id in sorted(waiting):
                        with contextlib.suppress(MeshError):
                            asked = now()
                            record = await self.client.show(id)
                            self._note_state(record, asked)
                            if record.state in TERMINAL:
                                waiting.discard(id)
                    await asyncio.sleep(STEP_S if waiting else 0)

    async def _wait_empty(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GONE_S):
                while self.sight.alive:
                    await asyncio.sleep(STEP_S)

    async def _final(self, id: str) -> CommandRecord | None:
        record = None
        with contextlib.suppress(MeshError):
            record = await self.client.show(id, with_output=True)
        fields = None if record is None else msgspec.to_builtins(record)
        if fields is not None:
            fields.pop("output", None)
        self.history.add("final", id=id, record=fields)
        return record

    async def _note_output(self, record: CommandRecord) -> None:
        attempt = record.attempts[-1]
        found = {stream: bytearray() for stream in STREAMS}
        gaps: dict[str, list[tuple[int, int]]] = {stream: [] for stream in STREAMS}
        ends = dict.fromkeys(STREAMS, 0)
        error, cut = "", record.truncated
        folder = self.mesh.agent_dir(attempt.agent) / "tasks" / f"{record.id}.{attempt.attempt}"
        differs = dict.fromkeys(STREAMS, 0)
        try:
            async with asyncio.timeout(READY_S):
                async for part in self.client.logs(record.id, attempt=attempt.attempt):
                    if part.offset > ends[part.stream]:
                        gaps[part.stream].append((ends[part.stream], part.offset))
                    found[part.stream] += part.data
                    differs[part.stream] += _differs(folder, part)
                    ends[part.stream] = part.offset + len(part.data)
                    cut = cut or part.cut
        except (MeshError, TimeoutError) as fault:
            error = repr(fault)
        for stream in STREAMS:
            local = folder / f"{stream}.log"
            data = await asyncio.to_thread(local.read_bytes) if local.exists() else None
            self.history.add(
                "output",
                id=record.id,
                attempt=attempt.attempt,
                stream=stream,
                size=len(found[stream]),
                sha=hashlib.sha256(found[stream]).hexdigest(),
                local_size=None if data is None else len(data),
                local_sha=None if data is None else hashlib.sha256(data).hexdigest(),
                gaps=gaps[stream],
                truncated=cut,
                differs=differs[stream],
                error=error,
            )

    def _note_ends(self) -> None:
        children = {"master": self.mesh.master, **self.agents}
        for name, child in children.items():
            if name in self._expected:
                event = "alive" if child.is_running else "dead"
                words = "" if child.is_running else child.last_words(600)
                self.history.add("process", name=name, event=event, pid=child.pid, words=words)
            if "Traceback (most recent call last)" in child.stderr:
                words = child.stderr[child.stderr.index("Traceback (most") :][:1500]
                self.history.add("process", name=name, event="stumbled", pid=0, words=words)


def _differs(folder: Path, part: OutputPart) -> int:
    """How many bytes were told that the task's own file does not have there; 0 without a file.

    What was told and given up later, for its tail, is zeros there: tasks print none.
    """
    try:
        with (folder / f"{part.stream}.log").open("rb") as file:
            file.seek(part.offset)
            written = file.read(len(part.data))
    except OSError:
        return 0
    if written == part.data:
        return 0
    pairs = zip(written.ljust(len(part.data), b"\0"), part.data, strict=True)
    return sum(there not in (0, told) for there, told in pairs)


def _fds(pid: int) -> int:
    """Its open files, without those of the folders which it keeps for later tasks: those are few,
    and how many depends on how many tasks ever ended together."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += "/.spare-" not in str(entry.readlink())
    return count


def _has_open_task(pid: int) -> bool:
    with contextlib.suppress(OSError):
        links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
        return any("/tasks/" in link and "/.spare-" not in link for link in links)
    return False


def _url(port: int) -> str:
    return f"tls://127.0.0.1:{port}"


async def _run(*argv: str) -> int:
    process = await asyncio.create_subprocess_exec(*argv, stderr=sys.stderr)
    return await process.wait()
