"""The services of a master with everything real but the broker, the clock and the disk."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from broker_client.runtime.signals import Signal
from broker_client.runtime.stream_answers import SequenceConflict
from broker_client.runtime.supervise import TaskSet
from broker_master.ca.mesh import Mesh
from broker_master.core.commands import Attempt, Command
from broker_master.plane import Plane
from broker_master.services.orders import Orders
from broker_master.settings import MasterSettings
from broker_master.wiring.keys import Keys
from broker_master.wiring.ports import Ports
from broker_master.wiring.work import build_work
from schemas import codec, subjects
from schemas.faults import MeshError, Refused, Unreachable
from schemas.messages.facts import Accepted, CommandRecord, Fact
from schemas.messages.liveness import Beat, Hello, TaskStatus, Welcome
from schemas.messages.work import AttemptReport, Release, Report, Run, RunReply
from schemas.states import State
from tests.fake_clock import FakeClock
from tests.planes import FakeLink, add_agent, add_client, add_group, beat, connect, make_plane
from tests.unit.broker_master.deeds import accepted


class HeardLink(FakeLink):
    """Keeps what is published; says no while it is not connected."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[tuple[str, bytes]] = []

    def publish_nowait(self, subject: str, payload: bytes, *_: object, **__: object) -> None:
        if not self.is_connected:
            raise Unreachable("broker_unreachable", "not connected")
        self.published.append((subject, payload))

    def subscribe(self, *_: object, **__: object) -> "Subscribed":
        return Subscribed()


class Subscribed:
    """To a subject on which nothing comes."""

    def unsubscribe(self) -> None:
        return None


class FactsInMemory:
    """The promises of the fact store: one fact of a kind per attempt, durable or refused."""

    def __init__(self) -> None:
        self.stored: dict[subjects.Fact, Fact] = {}
        self.fault: MeshError | None = None
        self.takes_bytes = 1 << 20
        self.refused = 0
        self.appended_bytes = 0

    def append(self, fact: subjects.Fact, body: Fact) -> "asyncio.Future[int]":
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.fault is not None:
            self.refused += 1
            future.set_exception(self.fault)
        elif len(codec.encode(body)) > self.takes_bytes:
            self.refused += 1
            future.set_exception(Refused("too_large", "more than this broker takes"))
        elif fact in self.stored:
            future.set_exception(SequenceConflict(subjects.fact(*fact), "is there"))
        else:
            self.stored[fact] = body
            future.set_result(len(self.stored))
        return future

    def append_many(
        self, facts: Sequence[tuple[subjects.Fact, Fact]]
    ) -> "asyncio.Future[list[int]]":
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        future.set_result([self.append(fact, body).result() for fact, body in facts])
        return future

    async def read(self, fact: subjects.Fact) -> tuple[int, Fact] | None:
        body = self.stored.get(fact)
        return None if body is None else (list(self.stored).index(fact) + 1, body)

    def kinds(self, command_id: str) -> list[str]:
        return [f"{fact.attempt}.{fact.kind}" for fact in self.stored if fact.command == command_id]


class NobodyKnown:
    def known(self, command_id: str) -> None:
        return None


class SilentWriter:
    """The writer of a stream; it is told when writes stall, and stores nothing by itself."""

    def __init__(self) -> None:
        self.on_stalled: Signal[[]] = Signal()
        self.stalled_since: float | None = None
        self.is_crowded = False


class SilentStreams:
    """Streams that do not answer."""

    async def insist(self, *_: object) -> None:
        await asyncio.Event().wait()


class MemoryBucket:
    """Takes every write."""

    def __init__(self) -> None:
        self._revision = 0

    async def create(self, _key: str, _value: bytes) -> int:
        self._revision += 1
        return self._revision

    async def update(self, key: str, value: bytes, _revision: int) -> int:
        return await self.create(key, value)

    async def delete(self, _key: str) -> None:
        return None

    async def get(self, _key: str) -> None:
        return None


class SilentKeys:
    """Authorities that nobody asks."""

    def __init__(self, plane: Plane) -> None:
        self.orders = Orders(plane)
        self.rotator = SimpleNamespace(note_trust=lambda _agent, _digest: None)
        self.revoker = SimpleNamespace(refused=set())
        self.gate = SimpleNamespace(on_gone=Signal())


class SilentSystem:
    """A broker that does what it is told, and has no connections."""

    async def update_account(self, _token: str) -> None:
        return None

    async def connections(self) -> list[object]:
        return []

    async def operators(self) -> dict[str, set[str]]:
        return {}

    async def reload(self) -> None:
        return None


class Stage:
    """A group `web` with agents that are live; commands enter as if they had been accepted."""

    def __init__(
        self, *agents: str, mesh: Mesh | None = None, settings: MasterSettings | None = None
    ) -> None:
        self.clock = FakeClock()
        self.plane = make_plane(self.clock, settings)
        self.link, self.facts = HeardLink(), FactsInMemory()
        self.plane.link, self.plane.facts = cast("Any", self.link), cast("Any", self.facts)
        self.plane.readmodel = cast("Any", NobodyKnown())
        self.plane.tasks = TaskSet("stage", limit=10)
        self.writer = SilentWriter()
        self.ports = self.build_ports(mesh)
        self.keys = self.build_keys()
        self.work = work = build_work(self.plane, self.ports, self.keys)
        self.settler = work.settler
        self.transmitter = work.transmitter
        self.assigner = work.assigner
        self.canceller = work.canceller
        self.reports = work.reports
        self.late = work.late
        self.presence = work.presence
        self.intake = work.intake
        self.fanouts = work.fanouts
        self.views = work.views
        add_client(self.plane, "ops")
        add_group(self.plane, "web")
        for agent in agents:
            add_agent(self.plane, agent, "web")
            connect(self.plane, agent)
            self.sync(agent)

    def build_ports(self, mesh: Mesh | None) -> Ports:
        """All of it in memory; what needs a mesh is given one."""
        return Ports(
            mesh=mesh or cast("Any", SimpleNamespace(directory=Path("no-state"))),
            streams=cast("Any", SilentStreams()),
            events=cast("Any", self.writer),
            history=cast("Any", SilentWriter()),
            audit=cast("Any", SilentWriter()),
            fanouts=cast("Any", MemoryBucket()),
            system=cast("Any", SilentSystem()),
            system_link=cast("Any", FakeLink()),
            broker=None,
            earlier=0,
            restored=None,
        )

    def build_keys(self) -> Keys:
        """Keys of a stage without enrolment: all agents are known, and no certificate is made."""
        return cast("Keys", SilentKeys(self.plane))

    @property
    def ended(self) -> list[CommandRecord]:
        """Records of the commands that have ended, as history gets them."""
        return [waiting.history.record for waiting in self.work.historian._queue]

    @property
    def timers(self) -> Any:  # noqa: ANN401
        return self.plane.timers

    def sync(self, agent: str) -> None:
        presence = self.plane.roster.get(agent)
        assert presence is not None
        self.presence.sync_member(presence)

    async def submit(self, command_id: str = "c1", **fields: Any) -> Command:  # noqa: ANN401
        fact, body = accepted(command_id, **{"submitted_at": self.clock.now(), **fields})
        assert isinstance(body, Accepted)
        _ = self.facts.append(fact, body)
        command = self.plane.book.open(body)
        self.assigner.wait(command)
        await self.rest()
        return command

    async def rest(self) -> None:
        """Let everything that is ready run."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def later(self, seconds: float, *, beats: tuple[str, ...] = ()) -> None:
        """Time passes, these agents beat, and what is due is done."""
        self.clock.advance(seconds)
        for agent in beats:
            beat(self.plane, agent)
        self.transmitter.tick()
        self.presence._forgotten.tick()
        self.presence._apply(
            self.plane.roster.tick(now_s=self.clock.elapsed(), at=self.clock.now())
        )
        self.assigner.tick()
        await self.rest()

    # what the agents got

    def runs(self, agent: str = "web-1") -> list[Run]:
        return [codec.decode(Run, data) for data in self.sent(agent, "run")]

    def sent(self, agent: str, kind: str) -> list[bytes]:
        wanted = subjects.down("web", agent, kind)
        return [data for subject, data in self.link.published if subject == wanted]

    def released(self, agent: str = "web-1") -> list[tuple[str, int, int]]:
        return [
            (item.command, item.attempt, item.seq)
            for data in self.sent(agent, "release")
            for item in codec.decode(Release, data).items
        ]

    # what the agents say

    async def reply(
        self,
        agent: str,
        command: str,
        answer: str,
        *,
        attempt: int = 1,
        token: str = "",
        code: str = "",
    ) -> None:
        token = token or self.runs(agent)[-1].token
        said = RunReply(command=command, attempt=attempt, answer=cast("Any", answer), code=code)
        self._say(agent, "reply", self.reports.on_reply, said, token)
        await self.rest()

    async def report(
        self,
        agent: str,
        command: str,
        state: str,
        *,
        incarnation: str = "i1",
        copies: int = 1,
        **fields: Any,  # noqa: ANN401
    ) -> None:
        """copies: so many in one message, as when it comes again before it is stored."""
        kind = "started" if state == "running" else "ended"
        made = {"attempt": 1, "seq": 1, "kind": kind, **fields}
        item = AttemptReport(command=command, state=state, **made)
        said = Report(incarnation=incarnation, items=[item] * copies)
        self._say(agent, "report", self.reports.on_report, said)
        await self.rest()

    async def hello(
        self,
        agent: str,
        *tasks: TaskStatus,
        incarnation: str = "i1",
        actions: Sequence[str] = (),
    ) -> Welcome:
        """The whole handshake; returns what the master answered."""
        for done in (False, True):
            said = Hello(
                incarnation=incarnation, slots=8, tasks=[*tasks], done=done, actions=[*actions]
            )
            self._say(agent, "hello", self.presence.on_hello, said)
        await self.rest()
        return codec.decode(Welcome, self.sent(agent, "welcome")[-1])

    async def beat(self, agent: str, *, seq: int = 100) -> None:
        self._say(agent, "beat", self.presence.on_beat, Beat(incarnation="i1", seq=seq, slots=8))
        await self.rest()

    def goodbye(self, agent: str, *, empty: bool = False) -> None:
        said = Beat(incarnation="i1", seq=1000, slots=8, goodbye=True, empty=empty)
        self._say(agent, "beat", self.presence.on_beat, said)

    def _say(self, agent: str, kind: str, hear: Any, said: msgspec.Struct, *rest: str) -> None:  # noqa: ANN401
        hear(subjects.Up("web", agent, kind, rest), codec.encode(said))


def attempt_of(command: Command) -> Attempt:
    attempt = command.attempt
    assert attempt is not None
    return attempt


def states(command: Command) -> list[State]:
    """Of the command, then of its attempts."""
    return [command.state, *(attempt.state for attempt in command.attempts)]
