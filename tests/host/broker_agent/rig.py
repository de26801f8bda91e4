"""The parts of an agent around an in-memory connection; the test plays the master."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec

from broker_agent.core.lease import Lease
from broker_agent.core.tasks import TaskBook
from broker_agent.executors.cells import Cells
from broker_agent.executors.conditions import own_conditions
from broker_agent.executors.noop import Noop
from broker_agent.executors.process import ProcessExecutor
from broker_agent.executors.registry import ExecutorPorts, Executors
from broker_agent.services.wire import Address, Station
from broker_agent.settings import AgentSettings
from broker_agent.store.folders import Folders
from broker_agent.store.identity_slots import AgentFacts
from broker_agent.store.journal import open_journal
from broker_agent.warden.table import WardenTable
from broker_agent.wiring.parts import build
from broker_agent.wiring.ports import Ports
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.frames import Msg
from broker_client.runtime.notify import ServiceManager
from broker_client.runtime.supervise import Service
from schemas import codec, subjects
from schemas.faults import MeshError, Unreachable
from schemas.messages.liveness import Beat, Details, Echo, Hello, TaskDecision, Welcome
from schemas.messages.work import (
    AttemptReport,
    Control,
    ControlReply,
    LogChunk,
    Release,
    Released,
    Report,
    Run,
    RunReply,
)
from schemas.timers import Timers
from tests.waiting import eventually

M = TypeVar("M")
WAIT_S = 60.0
# End of the certificate in use, in Unix seconds: later than any clock of a test.
NOT_AFTER = 4e9
IN_USE = Path("in-use")
ACK = b'{"stream":"MESH_LOGS","seq":1}'


class FakeWire:
    """Published messages by subject, in order. `answer` is the log stream's, or none."""

    def __init__(self) -> None:
        self.is_connected = True
        self.connected_url: str | None = None
        self.published: list[tuple[str, bytes]] = []
        self.listeners: list[Callable[[str, bytes], None]] = []
        self.answer: Callable[[], bytes] = lambda: ACK
        self.rebuilt: list[str] = []
        self._to_inbox: Callable[[Msg], object] = lambda _: None
        self.in_flight = 0
        self.most_in_flight = 0
        self.bytes_in_flight = 0
        self.most_bytes = 0
        self.reconnects = 0
        self.subscribed: dict[str, Callable[[Msg], None]] = {}
        self.flushed = 0
        self._comes: list[Callable[[], object]] = []
        self._goes: list[Callable[[MeshError], object]] = []

    def subscribe(self, subject: str, callback: Callable[[Msg], None]) -> None:
        self.subscribed[subject] = callback

    def on_connected(self, listener: Callable[[], object]) -> None:
        self._comes.append(listener)

    def on_disconnected(self, listener: Callable[[MeshError], object]) -> None:
        self._goes.append(listener)

    async def flush(self, _timeout_s: float) -> None:
        self.flushed += 1

    def come(self) -> None:
        self.is_connected = True
        for listener in self._comes:
            listener()

    def go(self) -> None:
        self.is_connected = False
        for listener in self._goes:
            listener(Unreachable("broker_unreachable", "cut"))

    def publish_nowait(
        self,
        subject: str,
        payload: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not self.is_connected:
            raise Unreachable("broker_unreachable", "not connected", effect="none")
        if headers is not None:
            self._on_chunk(subject, payload, reply)
            return
        self._note(subject, payload)

    def _note(self, subject: str, payload: bytes) -> None:
        self.published.append((subject, payload))
        for listener in self.listeners:
            listener(subject, payload)

    def open_inbox(self, callback: Callable[[Msg], object]) -> tuple[str, Callable[[], None]]:
        self._to_inbox = callback
        return "_INBOX_a1.1", lambda: None

    def rebuild(self, reason: str) -> None:
        self.rebuilt.append(reason)

    def _on_chunk(self, subject: str, payload: bytes, reply: str) -> None:
        """Acknowledge as the log stream does, a turn of the loop later; None: no stream exists."""
        self.in_flight += 1
        self.bytes_in_flight += len(payload)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.most_bytes = max(self.most_bytes, self.bytes_in_flight)
        asyncio.get_running_loop().call_soon(self.answer_chunk, subject, payload, reply)

    def answer_chunk(self, subject: str, payload: bytes, reply: str) -> None:
        self.in_flight -= 1
        self.bytes_in_flight -= len(payload)
        try:
            answer, headers = self.answer(), b""
            self._note(subject, payload)
        except Unreachable:
            answer, headers = b"", b"NATS/1.0 503\r\n\r\n"
        self._to_inbox(Msg(reply, "", answer, headers))

    def sent(self, kind: type[M], subject: str) -> list[M]:
        return [
            codec.decode(kind, payload) for to, payload in list(self.published) if to == subject
        ]


def make_executors(ports: ExecutorPorts) -> Executors:
    """Build executors as the registry does, but without a subreaper."""
    return Executors({"process": ProcessExecutor(ports), "noop": Noop()})


class FakeWays:
    """Identities of which the broker accepts the one in use."""

    def __init__(self, link: FakeWire) -> None:
        self.link = link
        self.are_all_refused = False
        self.urls: tuple[str, ...] = ()
        self.looked_at: list[tuple[str, ...]] = []

    def look_at(self, urls: tuple[str, ...]) -> None:
        self.looked_at.append(urls)

    def take_way(self) -> Path:
        return IN_USE


class FakeSlots:
    """An identity in use, whose certificate ends at `NOT_AFTER`, and nothing beside it."""

    is_unconfirmed = False
    in_use = IN_USE
    next = Path("next")
    old = Path("old")

    def __init__(self) -> None:
        self.trusted: list[bytes] = []
        self.urls: tuple[str, ...] = ()

    def facts(self) -> AgentFacts:
        return AgentFacts(
            agent="a1", group="g1", mesh="m1", urls=self.urls, serial="1", not_after=NOT_AFTER
        )

    def look_at(self, urls: tuple[str, ...]) -> None:
        self.urls = urls

    def identity(self) -> Any:  # noqa: ANN401  the used part of `Identity`
        return SimpleNamespace(claims=SimpleNamespace(issued_at=0.0))

    def candidate(self) -> None:
        return None

    def pending(self) -> None:
        return None

    def ca_pem(self) -> bytes:
        return b"the authorities"

    def trust(self, ca_pem: bytes) -> None:
        self.trusted.append(ca_pem)


class Rig:
    """One agent `a1` of group `g1`. Close it with `close`; `boot` again on the same directory."""

    def __init__(
        self,
        state_dir: Path,
        *,
        slots: int = 8,
        clock: Clock | None = None,
        timers: Timers | None = None,
        settings: AgentSettings | None = None,
        manager: ServiceManager | None = None,
        executors: Callable[[ExecutorPorts], Executors] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.timers = timers or Timers(beat_s=1, suspect_s=5, ack_s=1, grace_s=0.3, lost_s=60)
        self.wire = FakeWire()
        self.journal = open_journal(state_dir / "journal.db")
        tasks = state_dir / "tasks"
        tasks.mkdir(exist_ok=True)
        clock = clock or SystemClock()
        lease = Lease(
            f"inc-{self.journal.boots}-{secrets.token_hex(4)}",
            self.timers,
            now=clock.elapsed(),
            epoch=self.journal.epoch,
        )
        self.station = Station(
            wire=self.wire,
            address=Address("g1", "a1"),
            lease=lease,
            clock=clock,
            book=TaskBook(slots),
        )
        self.lease = lease
        self.clock = clock
        self.lease = lease
        self.clock = clock
        self.folders = Folders(tasks, keep=0)
        self.table = WardenTable(slots)
        self.ready = 0
        self.relocated = 0
        self.slots = FakeSlots()
        self.ways = FakeWays(self.wire)
        self.ports = Ports(
            state_dir=state_dir,
            settings=settings or AgentSettings(spool_bytes=1 << 30, disk_free=0.0),
            facts=self.slots.facts(),
            details=Details(version="1.2.3"),
            line=self.wire,
            ways=cast("Any", self.ways),
            slots=cast("Any", self.slots),
            journal=self.journal,
            folders=self.folders,
            table=self.table,
            conditions=own_conditions(),
            make_executors=executors or make_executors,
            cells=Cells(None, "a1", lease.incarnation),
            manager=manager or ServiceManager(),
            chance=lambda: 0.5,
            on_ready=self._on_ready,
            on_relocated=self._on_relocated,
        )
        self.parts = parts = build(self.station, self.ports)
        self.journal.start(loop.call_soon_threadsafe, parts.is_patient)
        self.carrier = parts.work.carrier
        self.executors = parts.work.executors
        self.processes = cast("ProcessExecutor", parts.work.executors.find("process"))
        self.reporter = parts.work.reporter
        self.shipper = parts.work.shipper
        self.running = parts.work.running
        self.runner = parts.work.runner
        self.heartbeats = parts.contact.heartbeats
        self.handshake = parts.contact.handshake
        self.watchdog = parts.work.watchdog
        self.inbox = parts.inbound.inbox
        self._services: list[asyncio.Task[None]] = []
        self.serve(self.carrier)

    def _on_ready(self) -> None:
        self.ready += 1

    def _on_relocated(self) -> None:
        self.relocated += 1

    def serve(self, *services: Service) -> None:
        for service in services or (self.reporter, self.shipper):
            self._services.append(asyncio.create_task(service.run(asyncio.Event())))

    async def close(self) -> None:
        for service in self._services:
            service.cancel()
        await asyncio.gather(*self._services, return_exceptions=True)
        self.executors.kill_all()
        self.journal.close()
        self.folders.close()
        self.table.close()

    async def die(self) -> None:
        """Crash as by kill -9: tasks get no signal, and all descriptors are closed."""
        self.processes.kill_all = lambda: None  # type: ignore[method-assign]
        await self.close()
        self.processes.exits.close()
        for active in self.running.active.values():
            if active.timer is not None:
                active.timer.cancel()
            if active.folder is not None:
                active.folder.close()

    def recover(self) -> None:
        """Recover as the application does at start, before it serves."""
        self.parts.recovery.recover()

    # The master's part.

    def send(self, kind: str, message: object) -> None:
        self.inbox.on_message(Msg(subjects.down("g1", "a1", kind), "", codec.encode(message)))

    def link(self, epoch: int = 1) -> None:
        """Link the lease as after a heartbeat, a handshake and an echo."""
        self.lease.on_welcome(epoch, self.timers)
        self.lease.on_done()
        self.echo(epoch)

    def echo(self, epoch: int = 1, *, reconciled: bool = True) -> None:
        self.heartbeats.send()
        inc, seq = self.lease.incarnation, self.lease.seq
        self.send("echo", Echo(epoch=epoch, incarnation=inc, seq=seq, reconciled=reconciled))

    def run(
        self,
        command: str,
        argv: list[str] | None = None,
        *,
        attempt: int = 1,
        **fields: Any,  # noqa: ANN401
    ) -> None:
        """Request a process, or a noop without argv."""
        args = fields.pop("args", {} if argv is None else {"argv": argv})
        values: dict[str, Any] = {
            "epoch": self.lease.epoch,
            "incarnation": self.lease.incarnation,
            "beat_seq": self.lease.seq,
            "token": f"t-{command}",
            "action": "noop" if argv is None else "process",
        } | fields
        raw = msgspec.Raw(msgspec.msgpack.encode(args))
        self.send("run", Run(command=command, attempt=attempt, args=raw, **values))

    def cancel(self, command: str, attempt: int = 1) -> None:
        epoch = self.lease.epoch
        self.send(
            "control",
            Control(kind="cancel", epoch=epoch, token="ctl", command=command, attempt=attempt),
        )

    def release(self, *reports: AttemptReport) -> None:
        items = [Released(command=r.command, attempt=r.attempt, seq=r.seq) for r in reports]
        self.send("release", Release(epoch=self.lease.epoch, items=items))

    def welcome(
        self,
        decisions: list[TaskDecision] | None = None,
        *,
        epoch: int = 1,
        recall: tuple[str, ...] = (),
        urls: Sequence[str] = (),
    ) -> None:
        inc = self.lease.incarnation
        message = Welcome(
            epoch=epoch,
            incarnation=inc,
            timers=self.timers,
            decisions=decisions or [],
            recall=[*recall],
            urls=[*urls],
        )
        self.send("welcome", message)

    # Messages of the agent.

    def replies(self, command: str) -> list[RunReply]:
        return self.wire.sent(RunReply, subjects.reply("g1", "a1", f"t-{command}"))

    def control_replies(self) -> list[ControlReply]:
        return self.wire.sent(ControlReply, subjects.reply("g1", "a1", "ctl"))

    def reports(self, command: str, kind: str = "ended") -> list[AttemptReport]:
        sent = self.wire.sent(Report, subjects.up("g1", "a1", "report"))
        return [i for r in sent for i in r.items if i.command == command and i.kind == kind]

    def hellos(self) -> list[Hello]:
        return self.wire.sent(Hello, subjects.up("g1", "a1", "hello"))

    def beats_sent(self) -> list[Beat]:
        return self.wire.sent(Beat, subjects.up("g1", "a1", "beat"))

    def chunks(self, command: str, stream: str, attempt: int = 1) -> list[LogChunk]:
        return self.wire.sent(LogChunk, subjects.log("g1", "a1", command, attempt, stream))

    def stored(self, command: str, stream: str, attempt: int = 1) -> bytes:
        """Bytes of a stream, assembled by offset as a reader does."""
        whole = bytearray()
        for chunk in self.chunks(command, stream, attempt):
            end = chunk.offset + len(chunk.data)
            if len(whole) < end:
                whole.extend(bytes(end - len(whole)))
            whole[chunk.offset : end] = chunk.data
        return bytes(whole)

    async def reply_to(self, command: str) -> RunReply:
        await eventually(lambda: self.replies(command), WAIT_S, what=f"a reply for {command}")
        return self.replies(command)[-1]

    async def end_of(self, command: str) -> AttemptReport:
        await eventually(lambda: self.reports(command), WAIT_S, what=f"the end of {command}")
        return self.reports(command)[-1]
